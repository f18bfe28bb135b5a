// EF21 (Richtarik, Sokolov, Fatkhullin, arXiv 2106.05203): c_m = C(v_m - g_m), g_m = g_m + c_m; the aggregate is g = mean of g_m, kept as
// g = g + mean of c_m. Both start from zero. With servers g is what they have sent of it.
// EF21-SGDM (Fatkhullin, Tyurin, Richtarik, arXiv 2305.15155): the same of the momenta u_m = (1 - eta) u_m + eta v_m, from u_m = the first
// v_m. With a lossless codec: the mean of the momenta.
#include <optional>

#include "comm/exchanges.h"
#include "comm/memory_exchange.h"
#include "comm/served_estimate.h"

namespace conclave {
namespace {

class Ef21Exchange final : public MemoryExchange {
 public:
  // eta: of the momentum; none: no momentum.
  Ef21Exchange(std::optional<double> eta, const ExchangeContext& context, BlockCodecs codecs)
      : MemoryExchange(context, std::move(codecs)),
        eta_(eta.value_or(1)),
        g_m_(context, lossy()),
        g_(context.layout, context.dtype),
        g_new_(context.layout, context.dtype) {
    if (eta) u_m_.emplace(context, std::vector<bool>(lossy().size(), true));
    if (!mean().codecs().served()) return;
    server_.emplace(context, mean().codecs(), &g_);
    mean().SetServer(&*server_);
  }

  void Commit() override {
    if (u_m_) u_m_->Commit();
    g_m_.Commit();
    g_.CopyFrom(g_new_);
    if (server_) server_->Commit();
    started_ = 1;
  }
  void Register(StateDict& state, const std::string& part) override {
    if (u_m_) u_m_->Register(state, part + ".u_m");
    g_m_.Register(state, part + ".g_m");
    RegisterLossy(state, part + ".g", g_);
    if (server_) server_->Register(state, part);
    if (u_m_) state.AddScalar(part + ".started", &started_);
  }

 private:
  // What is sent: v_m, or the new momentum.
  Tensor Momentum(WorkerId worker, BlockId block, const Tensor& v) {
    if (!u_m_) return v;
    const Tensor u = u_m_->At(worker, block), u_new = u_m_->Pending(worker, block), share = Delta(block);
    if (started_ == 0) {
      u_new.CopyFrom(v);
      return u_new;
    }
    ScaleInto(v.dtype(), 1 - eta_, u.raw(), u_new.raw(), v.elements());
    ScaleInto(v.dtype(), eta_, v.raw(), share.raw(), v.elements());
    AddInto(v.dtype(), share.raw(), u_new.raw(), v.elements());
    return u_new;
  }

  absl::Status SendExact(WorkerId worker, BlockId block, const Tensor& v) override {
    return mean().Put(worker, block, Momentum(worker, block, v));
  }

  absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) override {
    const Tensor u = Momentum(worker, block, v), delta = Delta(block);
    const Tensor g = g_m_.At(worker, block), g_new = g_m_.Pending(worker, block);
    Difference(v.dtype(), u.raw(), g.raw(), delta.raw(), v.elements());
    RETURN_IF_ERROR(mean().Put(worker, block, delta, &g_new));
    AddInto(v.dtype(), g.raw(), g_new.raw(), v.elements());
    return absl::OkStatus();
  }

  absl::StatusOr<Aggregate> Aggregated() override {
    ASSIGN_OR_RETURN(const Aggregate mean_c, mean().Finish());
    g_new_.CopyFrom(*mean_c);
    AddCoded(g_, g_new_);
    return &g_new_;
  }

  const double eta_;
  std::optional<WorkerMemory> u_m_;
  WorkerMemory g_m_;
  FlatVector g_, g_new_;
  std::optional<ServedEstimate> server_;
  int64_t started_ = 0;  // whether u_m holds anything
};

}  // namespace

ExchangeOr MakeEf21Exchange(const ExchangeConfig& config, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  return std::make_unique<Ef21Exchange>(std::nullopt, context, std::move(codecs));
}

ExchangeOr MakeEf21SgdmExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  const double eta = config.ef21_sgdm().eta();
  if (!(eta > 0 && eta <= 1)) return InvalidArgument("ef21_sgdm: eta must be in (0, 1], got %g", eta);
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  return std::make_unique<Ef21Exchange>(eta, context, std::move(codecs));
}

}  // namespace conclave
