// Sign descent with a majority vote (Bernstein et al., arXiv 1810.05291): each worker sends sign(v_m), a bit a coordinate; the aggregate is
// the sign that more workers sent. sign(0) and ties are +. No memory and no bias correction: a control, which need not converge where
// workers differ, for how much they disagree is lost.
#include "base/simd.h"
#include "comm/exchanges.h"
#include "comm/memory_exchange.h"

namespace conclave {
namespace {

// What is not a number stays so: it poisons the mean.
template <typename T>
CONCLAVE_INLINE void VoteLoop(const T* x, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] >= 0 ? T{1} : (x[i] < 0 ? T{-1} : x[i]);
}
CONCLAVE_SIMD void Vote(const float* x, float* out, int64_t n) { VoteLoop(x, out, n); }
CONCLAVE_SIMD void Vote(const double* x, double* out, int64_t n) { VoteLoop(x, out, n); }

void VoteInto(const Tensor& x, const Tensor& out) {
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    Vote(x.data<T>(), out.data<T>(), x.elements());
  });
}

class MajorityVote final : public MemoryExchange {
 public:
  MajorityVote(const ExchangeContext& context, BlockCodecs codecs)
      : MemoryExchange(context, std::move(codecs)), aggregate_(context.layout, context.dtype) {}

  void Commit() override {}
  void Register(StateDict&, const std::string&) override {}

 private:
  absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) override {
    const Tensor vote = Delta(block);
    VoteInto(v, vote);
    return mean().Put(worker, block, vote);  // one magnitude, 1, and the signs: nothing is lost
  }

  absl::StatusOr<Aggregate> Aggregated() override {
    ASSIGN_OR_RETURN(const Aggregate votes, mean().Finish());
    for (const BlockId id : context().layout->local_blocks()) {
      if (coded(id)) {
        VoteInto(votes->block(id), aggregate_.block(id));
      } else {
        aggregate_.block(id).CopyFrom(votes->block(id));
      }
    }
    return &aggregate_;
  }

  FlatVector aggregate_;
};

}  // namespace

ExchangeOr MakeMajorityVoteExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  if (config.has_downlink()) {
    return InvalidArgument("majority_vote exchange: every rank counts the votes itself; leave downlink out");
  }
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  return std::make_unique<MajorityVote>(context, std::move(codecs));
}

}  // namespace conclave
