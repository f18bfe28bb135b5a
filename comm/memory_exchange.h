// MemoryExchange: what the exchanges with memory have in common. Every worker's vector of every block reaches Send exactly once an
// exchange, zeros where it was never put, in the order of each source rank's workers.
#ifndef CONCLAVE_COMM_MEMORY_EXCHANGE_H_
#define CONCLAVE_COMM_MEMORY_EXCHANGE_H_

#include <vector>

#include "comm/coded_mean.h"
#include "comm/sums.h"
#include "comm/worker_memory.h"

namespace conclave {

// Blocks with a lossless codec have nothing to remember: their vectors go exactly, and their aggregate is the exact mean.
class MemoryExchange : public Exchange {
 public:
  MemoryExchange(const ExchangeContext& context, BlockCodecs codecs);

  void Begin(uint32_t step, uint32_t draw) override;
  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) final;
  absl::StatusOr<Aggregate> Finish() final;
  void Discard() override {}  // nothing but second copies was written
  const PoisonCause* poison() const override { return mean_.poison(); }
  bool wants_each_worker() const final { return true; }

 protected:
  // Ships worker m's vector v of a coded block. v: [elements].
  virtual absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) = 0;
  // Of one that is.
  virtual absl::Status SendExact(WorkerId worker, BlockId block, const Tensor& v) { return mean_.Put(worker, block, v); }
  // The mean of what was shipped, by block; the default takes it as it is.
  virtual absl::StatusOr<Aggregate> Aggregated() { return mean_.Finish(); }

  const ExchangeContext& context() const { return context_; }
  CodedMean& mean() { return mean_; }
  const std::vector<bool>& lossy() const { return lossy_; }  // by block id: local and not lossless
  // From Begin on: the block is lossy, and its codec was not declined.
  bool coded(BlockId block) const { return lossy_[block.value] && !mean_.exact(block); }
  // Scratch vectors of the block's size; [elements].
  Tensor Delta(BlockId block) const { return Scratch(delta_, block); }
  Tensor Decoded(BlockId block) const { return Scratch(decoded_, block); }
  // y += x, coded blocks only.
  void AddCoded(const FlatVector& x, const FlatVector& y) const;
  // The lossy blocks of one vector of the parameter space.
  void RegisterLossy(StateDict& state, const std::string& part, const FlatVector& vector) const;

 private:
  // Workers of one source rank, and the one whose vector comes next.
  struct Lane {
    int first = 0, last = 0, next = 0;
  };
  Tensor Scratch(const Buffer& buffer, BlockId block) const;
  absl::Status SendAny(WorkerId worker, BlockId block, const Tensor& v);
  absl::Status SendZeros(Lane& lane, BlockId block, int end);

  const ExchangeContext context_;
  CodedMean mean_;
  std::vector<bool> lossy_;
  std::vector<std::vector<Lane>> lanes_;  // by block id
  Buffer zeros_, delta_, decoded_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_MEMORY_EXCHANGE_H_
