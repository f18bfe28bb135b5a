// MARINA (Gorbunov, Burlachenko, Li, Richtarik, arXiv 2102.07845): with probability p, and in the first exchange, g = mean of v_m, exactly;
// else g = g + mean of Q(v_m - v_m of the exchange before). The coin is a shared draw: zero bytes. The difference of two evaluations should
// hold no sampling noise: meant for operators that are evaluated in full.
#include "base/rng.h"
#include "comm/exchanges.h"
#include "comm/memory_exchange.h"

namespace conclave {
namespace {

constexpr uint32_t kCoinSite = 1;  // schemes toss at site 0

class MarinaExchange final : public MemoryExchange {
 public:
  MarinaExchange(double p, const ExchangeContext& context, BlockCodecs codecs)
      : MemoryExchange(context, std::move(codecs)),
        p_(p),
        full_mean_(context, BlockCodecs::Identity(context)),
        v_m_(context, lossy()),
        g_(context.layout, context.dtype),
        g_new_(context.layout, context.dtype) {}

  void Begin(uint32_t step, uint32_t draw) override {
    const RngKey coin{.seed = context().seed, .site = kCoinSite, .step = step, .kind = RngKind::kCoin, .draw = draw};
    full_ = started_ == 0 || coin.UniformDouble(0) < p_;
    MemoryExchange::Begin(step, draw);
    full_mean_.Begin(step, draw);
  }
  void Commit() override {
    v_m_.Commit();
    g_.CopyFrom(g_new_);
    started_ = 1;
  }
  void Register(StateDict& state, const std::string& part) override {
    v_m_.Register(state, part + ".v_m");
    RegisterLossy(state, part + ".g", g_);
    state.AddScalar(part + ".started", &started_);
  }

 private:
  absl::Status SendExact(WorkerId worker, BlockId block, const Tensor& v) override {
    return full_ ? full_mean_.Put(worker, block, v) : mean().Put(worker, block, v);
  }

  absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) override {
    v_m_.Pending(worker, block).CopyFrom(v);
    if (full_) return full_mean_.Put(worker, block, v);
    const Tensor delta = Delta(block);
    Difference(v.dtype(), v.raw(), v_m_.At(worker, block).raw(), delta.raw(), v.elements());
    return mean().Put(worker, block, delta);
  }

  absl::StatusOr<Aggregate> Aggregated() override {
    ASSIGN_OR_RETURN(const Aggregate shipped, full_ ? full_mean_.Finish() : mean().Finish());
    g_new_.CopyFrom(*shipped);
    if (!full_) AddCoded(g_, g_new_);
    return &g_new_;
  }

  const double p_;
  CodedMean full_mean_;
  WorkerMemory v_m_;
  FlatVector g_, g_new_;
  int64_t started_ = 0;  // whether v_m and g hold anything
  bool full_ = true;     // this exchange is a full one
};

}  // namespace

ExchangeOr MakeMarinaExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  if (!(config.marina().p() > 0 && config.marina().p() <= 1))
    return InvalidArgument("marina: p must be in (0, 1], got %g", config.marina().p());
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  return std::make_unique<MarinaExchange>(config.marina().p(), context, std::move(codecs));
}

}  // namespace conclave
