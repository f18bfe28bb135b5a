// The exchange of 1-bit Adam (Tang et al., arXiv 2102.02888). While it warms up the aggregate is the exact mean of v_m, and u its momentum
// u = beta1 u + (1 - beta1) mean of v_m. Then worker m sends c_m = C(u_m + e_m) of its momentum u_m = beta1 u + (1 - beta1) v_m and keeps
// e_m = u_m + e_m - c_m; the servers do alike with the mean, and what they send is the new u and the aggregate, for a rule that takes it
// for the first moment. Blocks with a lossless codec send their momenta exactly.
#include <optional>

#include "comm/exchanges.h"
#include "comm/memory_exchange.h"
#include "comm/served_error.h"

namespace conclave {
namespace {

class OneBitExchange final : public MemoryExchange {
 public:
  OneBitExchange(const OneBitConfig& config, const ExchangeContext& context, BlockCodecs codecs)
      : MemoryExchange(context, std::move(codecs)),
        beta1_(config.beta1()),
        warmup_(config.warmup_steps()),
        full_mean_(context, BlockCodecs::Identity(context)),
        server_(context, mean().codecs()),
        e_m_(context, lossy()),
        u_(context.layout, context.dtype),
        u_new_(context.layout, context.dtype) {
    mean().SetServer(&server_);
  }

  void Begin(uint32_t step, uint32_t draw) override {
    MemoryExchange::Begin(step, draw);
    full_mean_.Begin(step, draw);
  }
  void Commit() override {
    // While it warms up nothing was written to the second copies of memories.
    if (!warm()) {
      e_m_.Commit();
      server_.Commit();
    }
    u_.CopyFrom(u_new_);
    ++taken_;
  }
  void Register(StateDict& state, const std::string& part) override {
    e_m_.Register(state, part + ".e_m");
    server_.Register(state, part);
    state.Add(part + ".u", u_);
    state.AddScalar(part + ".taken", &taken_);
  }

 private:
  bool warm() const { return taken_ < warmup_; }

  // y = beta1 u + (1 - beta1) v.
  void Momentum(BlockId block, const Tensor& v, const Tensor& y) const {
    const Tensor share = Decoded(block);
    ScaleInto(v.dtype(), beta1_, u_.block(block).raw(), y.raw(), v.elements());
    ScaleInto(v.dtype(), 1 - beta1_, v.raw(), share.raw(), v.elements());
    AddInto(v.dtype(), share.raw(), y.raw(), v.elements());
  }

  absl::Status SendExact(WorkerId worker, BlockId block, const Tensor& v) override {
    if (warm()) return full_mean_.Put(worker, block, v);
    const Tensor u = Delta(block);
    Momentum(block, v, u);
    return mean().Put(worker, block, u);
  }

  absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) override {
    if (warm()) return full_mean_.Put(worker, block, v);
    const Tensor u = Delta(block), c = Decoded(block), e_new = e_m_.Pending(worker, block);
    Momentum(block, v, u);
    AddInto(u.dtype(), e_m_.At(worker, block).raw(), u.raw(), u.elements());
    RETURN_IF_ERROR(mean().Put(worker, block, u, &c));
    Difference(u.dtype(), u.raw(), c.raw(), e_new.raw(), u.elements());
    return absl::OkStatus();
  }

  absl::StatusOr<Aggregate> Aggregated() override {
    if (!warm()) {
      ASSIGN_OR_RETURN(const Aggregate momentum, mean().Finish());
      u_new_.CopyFrom(*momentum);
      return &u_new_;
    }
    ASSIGN_OR_RETURN(const Aggregate gradient, full_mean_.Finish());
    for (const BlockId id : context().layout->local_blocks()) Momentum(id, gradient->block(id).Flat(), u_new_.block(id).Flat());
    return gradient;
  }

  const double beta1_;
  const int64_t warmup_;
  CodedMean full_mean_;
  ServedError server_;
  WorkerMemory e_m_;
  FlatVector u_, u_new_;
  int64_t taken_ = 0;  // exchanges committed
};

}  // namespace

ExchangeOr MakeOneBitExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  const OneBitConfig& own = config.one_bit();
  if (own.warmup_steps() < 1) return InvalidArgument("one_bit: warmup_steps must be at least 1, got %d", own.warmup_steps());
  if (!(own.beta1() >= 0 && own.beta1() < 1)) return InvalidArgument("one_bit: beta1 must be in [0, 1), got %g", own.beta1());
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  return std::make_unique<OneBitExchange>(own, context, std::move(codecs));
}

}  // namespace conclave
