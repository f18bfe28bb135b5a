// DIANA (Mishchenko, Gorbunov, Takac, Richtarik, arXiv 1901.09269): c_m = Q(v_m - h_m), h_m = h_m + alpha c_m; the aggregate is h + mean of
// c_m with h = mean of h_m, kept as h = h + alpha mean of c_m. alpha <= 1 / q. Both start from zero.
#include "comm/exchanges.h"
#include "comm/memory_exchange.h"

namespace conclave {
namespace {

class DianaExchange final : public MemoryExchange {
 public:
  DianaExchange(std::vector<double> alpha, const ExchangeContext& context, BlockCodecs codecs)
      : MemoryExchange(context, std::move(codecs)),
        alpha_(std::move(alpha)),
        h_m_(context, lossy()),
        h_(context.layout, context.dtype),
        h_new_(context.layout, context.dtype),
        aggregate_(context.layout, context.dtype) {}

  void Commit() override {
    h_m_.Commit();
    h_.CopyFrom(h_new_);
  }
  void Register(StateDict& state, const std::string& part) override {
    h_m_.Register(state, part + ".h_m");
    RegisterLossy(state, part + ".h", h_);
  }

 private:
  absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) override {
    const Tensor delta = Delta(block), h = h_m_.At(worker, block), h_new = h_m_.Pending(worker, block);
    Difference(v.dtype(), v.raw(), h.raw(), delta.raw(), v.elements());
    RETURN_IF_ERROR(mean().Put(worker, block, delta, &h_new));
    ScaleInto(v.dtype(), alpha_[block.value], h_new.raw(), h_new.raw(), v.elements());
    AddInto(v.dtype(), h.raw(), h_new.raw(), v.elements());
    return absl::OkStatus();
  }

  absl::StatusOr<Aggregate> Aggregated() override {
    ASSIGN_OR_RETURN(const Aggregate mean_c, mean().Finish());
    aggregate_.CopyFrom(*mean_c);
    AddLossy(h_, aggregate_);
    for (const BlockId id : context().layout->local_blocks()) {
      const Tensor c = mean_c->block(id);
      ScaleInto(c.dtype(), alpha_[id.value], c.raw(), h_new_.block(id).raw(), c.elements());
    }
    AddLossy(h_, h_new_);
    return &aggregate_;
  }

  const std::vector<double> alpha_;  // by block id
  WorkerMemory h_m_;
  FlatVector h_, h_new_, aggregate_;
};

}  // namespace

ExchangeOr MakeDianaExchange(const DianaConfig& config, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(BlockCodecs codecs, MakeBlockCodecs(config.codec(), CodecNeed::kUnbiased, context, "diana"));
  std::vector<double> alpha(codecs.size(), config.alpha());
  for (size_t i = 0; i < codecs.size(); ++i) {
    const double most = 1 / codecs[i]->Contract().q;
    if (config.alpha() < 0 || config.alpha() > most) {
      return InvalidArgument("diana exchange: alpha must be in [0, 1 / q] = [0, %g] for the codec of block %s, got %g; 0 takes 1 / q", most,
                             context.layout->parameters()[{static_cast<int>(i)}].name, config.alpha());
    }
    if (config.alpha() == 0) alpha[i] = most;
  }
  return std::make_unique<DianaExchange>(std::move(alpha), context, std::move(codecs));
}

}  // namespace conclave
