// RingMemory: inference with the parameters of a few layers in memory at a time. Source: Shen et al., 2022 (SE-MoE), ring memory.
#ifndef CONCLAVE_TRAINER_RING_MEMORY_H_
#define CONCLAVE_TRAINER_RING_MEMORY_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/paged_memory.h"
#include "tensor/layout.h"

namespace conclave {

// The layers (blocks named "blocks.<i>...") of a point lie in a file; layer i is used in slot i mod K of a ring of K slots. As soon as the
// next layer is asked for, layer i is over, and a thread reads the next one of that slot (i + K, or i mod K in the next pass) while the
// other layers compute. Layers that have their slot alone are read once, so with K = N nothing moves after the start. Values have the
// point's bits. Memory: K times the largest layer, the point's other blocks, and one block that is being copied.
class RingMemory {
 public:
  // Moves the layers of `point`, which must outlive the object and is not to be written any more, to a file in `folder`, and fills the
  // ring. Errors: InvalidArgument for resident below 1 or above the number of layers; PagedMemory's.
  static absl::StatusOr<std::unique_ptr<RingMemory>> Create(const FlatVector& point, int64_t resident, const std::string& folder);
  ~RingMemory();

  // The value of a local block, there until a block of a later layer is asked for. Waits until its layer is in its slot. One thread alone
  // may call it.
  Tensor At(BlockId id);

  int layers() const { return static_cast<int>(layers_.size()); }
  int resident() const { return static_cast<int>(slots_.size()); }
  int64_t layer_bytes() const { return layer_bytes_; }  // of all layers
  int64_t ring_bytes() const { return slot_bytes_ * static_cast<int64_t>(slots_.size()); }
  int64_t transfers() const { return transfers_; }  // layers asked for after the start

 private:
  struct Layer {
    std::vector<BlockId> blocks;
    int64_t bytes = 0;
    bool ready = false;
  };
  explicit RingMemory(const FlatVector& point)
      : point_(&point), layer_of_(point.layout().parameters().size(), -1), offset_(layer_of_.size()) {}
  absl::Status Sort(int64_t resident);
  void Load(int layer);
  void Ask(int layer);  // with the lock
  // The running layer is over.
  void Pass();
  void Serve();

  const FlatVector* point_;
  std::vector<int> layer_of_;    // by block; -1: no layer's
  std::vector<int64_t> offset_;  // by block, in its slot
  std::vector<Layer> layers_;
  std::vector<Buffer> slots_;
  std::vector<int> holds_;  // by slot: the layer in it or on its way
  std::unique_ptr<PagedMemory> paged_;
  int64_t slot_bytes_ = 0, layer_bytes_ = 0, transfers_ = 0;
  int running_ = -1;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> asked_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_RING_MEMORY_H_
