// ModelBuffers: state of a model that no gradient moves, such as the biases by which routers balance their experts.
#ifndef CONCLAVE_MODELS_MODEL_BUFFERS_H_
#define CONCLAVE_MODELS_MODEL_BUFFERS_H_

#include <span>
#include <string>
#include <vector>

#include "tensor/state_dict.h"

namespace conclave {

struct BufferSpec {
  std::string name;  // unique among the model's blocks and buffers
  int64_t elements = 0;
};

// The same on every rank: what updates it is. f32 whatever the model's dtype; starts at zero. Train state.
class ModelBuffers {
 public:
  explicit ModelBuffers(std::vector<BufferSpec> specs);

  int size() const { return static_cast<int>(specs_.size()); }
  const BufferSpec& spec(int index) const { return specs_[index]; }
  std::span<const float> values(int index) const { return tensors_[index]->span<float>(); }
  std::span<float> values(int index) { return tensors_[index]->span<float>(); }

  // Each buffer as "<part>/<name>"; one rank, the canonical, writes them.
  void Register(const std::string& part, bool canonical, StateDict& state) const;

 private:
  std::vector<BufferSpec> specs_;
  std::vector<OwnedTensor> tensors_;
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODEL_BUFFERS_H_
