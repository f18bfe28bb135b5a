// ExpertMemory: parameters and optimizer states of experts on disk, with some of them in memory.
#ifndef CONCLAVE_TRAINER_EXPERT_MEMORY_H_
#define CONCLAVE_TRAINER_EXPERT_MEMORY_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/paged_memory.h"
#include "models/recorder.h"
#include "proto/parallel.pb.h"
#include "tensor/state_dict.h"
#include "trainer/expert_cache.h"

namespace conclave {

// What a scheme keeps of a local expert (weights, moments) lies in a file (base/paged_memory.h); an ExpertCache says which experts stay in
// memory. The rows that the gate sent are the requests: an expert without rows is not asked for. While a mixture computes, the disk reads
// the experts of the next one that had rows the last time; that may be late or wrong and changes no result, since what is missing is read
// when it is used. An update writes every expert; those that are not cached leave the memory block by block. Not thread-safe.
class ExpertMemory : public ExpertReader {
 public:
  ExpertMemory(const ExpertMemoryConfig& config, std::string folder) : config_(config), folder_(std::move(folder)) {}

  // Moves the experts' part of `state` to disk. Both must outlive the object. Before that every other call does nothing. Errors:
  // PagedMemory's.
  absl::Status Move(const Layout& layout, const StateDict& state);

  void Use(int layer, std::span<const BlockId> experts) override;
  // A gradient is final, or nothing will read the block soon.
  void Done(BlockId block);
  // The update wrote the block.
  void Updated(BlockId block);
  void EndStep();
  // Something else read many states, such as a checkpoint: those not cached leave.
  void Trim();

  struct Counts {
    int64_t hits = 0, fetched = 0, uncached = 0, written = 0;  // of experts, since the last call
  };
  Counts TakeCounts() { return std::exchange(counts_, {}); }
  int64_t bytes() const { return paged_ == nullptr ? 0 : paged_->bytes(); }  // on disk
  int64_t cached_bytes() const;                                              // of these, in memory at most between two layers

 private:
  struct Held {
    std::vector<BlockId> blocks;
    std::vector<PagedMemory::Range> ranges;
  };
  void Follow(ExpertCache::Events events);
  void Leave(int entry);
  // Index of the block's expert, -1: not an expert here.
  int EntryOf(BlockId block) const { return entry_.empty() ? -1 : entry_[block.value]; }

  ExpertMemoryConfig config_;
  std::string folder_;
  std::unique_ptr<PagedMemory> paged_;
  std::unique_ptr<ExpertCache> cache_;
  std::vector<int> entry_;                               // by block
  std::vector<std::vector<PagedMemory::Range>> ranges_;  // by block: parameters, moments, ...
  std::vector<PagedMemory::Range> weights_;              // by block: parameters alone
  std::vector<Held> experts_;                            // by entry: layer by layer
  std::vector<std::vector<int>> used_;                   // by layer: experts with rows the last time
  std::vector<int> passing_;                             // served uncached, still in memory
  int layer_ = -1;                                       // the last one that was used
  Counts counts_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_EXPERT_MEMORY_H_
