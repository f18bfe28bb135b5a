// ParameterSet: the logical list of a model's parameter blocks. It knows nothing of ranks; Layout says where blocks live.
#ifndef CONCLAVE_TENSOR_PARAMETER_SET_H_
#define CONCLAVE_TENSOR_PARAMETER_SET_H_

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tensor/ids.h"
#include "tensor/tensor.h"

namespace conclave {

enum class Player { kMin, kMax };

// REPLICATED: on every rank. EXPERT: on the ranks that hold its expert. PER_SAMPLE: belongs to samples (perturbations).
enum class BlockKind { kReplicated, kExpert, kPerSample };

struct Init {
  enum class Kind { kZero, kConstant, kNormal };
  Kind kind = Kind::kZero;
  double value = 0;  // constant, or standard deviation
};

struct BlockSpec {
  std::string name;  // unique, e.g. "blocks.0.attention.qkv.weight", "blocks.1.experts.5.w1"
  Shape shape;
  Player player = Player::kMin;
  BlockKind kind = BlockKind::kReplicated;
  int expert = -1;     // EXPERT: logical id inside its layer
  int moe_layer = -1;  // EXPERT: index among the MoE layers; -1: a part of an embedding, at home where `expert` says
  Init init;
  bool of_mixture() const { return kind == BlockKind::kExpert && moe_layer >= 0; }
};

class ParameterSet {
 public:
  BlockId Add(BlockSpec spec);  // a duplicate name is our bug
  int size() const { return static_cast<int>(blocks_.size()); }
  const BlockSpec& operator[](BlockId id) const { return blocks_[id.value]; }
  const std::vector<BlockSpec>& blocks() const { return blocks_; }
  BlockId Find(std::string_view name) const;  // {-1}: unknown
  int64_t elements() const;                   // of the whole model, each block once

 private:
  std::vector<BlockSpec> blocks_;
  std::unordered_map<std::string, int> by_name_;
};

// Writes the initial value of a block: counter RNG keyed by (seed, block), so any rank that holds it writes the same bits. f32 draws equal
// f64 draws rounded. value: [spec.shape].
void Initialize(const BlockSpec& spec, BlockId id, uint64_t seed, const Tensor& value);

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_PARAMETER_SET_H_
