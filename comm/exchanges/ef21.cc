// EF21 (Richtarik, Sokolov, Fatkhullin, arXiv 2106.05203): c_m = C(v_m - g_m), g_m = g_m + c_m; the aggregate is g = mean of g_m, kept as
// g = g + mean of c_m. Both start from zero. With servers g is what they have sent of it.
#include <optional>

#include "comm/exchanges.h"
#include "comm/memory_exchange.h"
#include "comm/served_estimate.h"

namespace conclave {
namespace {

class Ef21Exchange final : public MemoryExchange {
 public:
  Ef21Exchange(const ExchangeContext& context, BlockCodecs codecs)
      : MemoryExchange(context, std::move(codecs)),
        g_m_(context, lossy()),
        g_(context.layout, context.dtype),
        g_new_(context.layout, context.dtype) {
    if (!mean().codecs().served()) return;
    server_.emplace(context, mean().codecs(), &g_);
    mean().SetServer(&*server_);
  }

  void Commit() override {
    g_m_.Commit();
    g_.CopyFrom(g_new_);
    if (server_) server_->Commit();
  }
  void Register(StateDict& state, const std::string& part) override {
    g_m_.Register(state, part + ".g_m");
    RegisterLossy(state, part + ".g", g_);
    if (server_) server_->Register(state, part);
  }

 private:
  absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) override {
    const Tensor delta = Delta(block), g = g_m_.At(worker, block), g_new = g_m_.Pending(worker, block);
    Difference(v.dtype(), v.raw(), g.raw(), delta.raw(), v.elements());
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

  WorkerMemory g_m_;
  FlatVector g_, g_new_;
  std::optional<ServedEstimate> server_;
};

}  // namespace

ExchangeOr MakeEf21Exchange(const ExchangeConfig& config, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Make(config, config.ef21().codec(), CodecNeed::kContractive, context, "ef21"));
  return std::make_unique<Ef21Exchange>(context, std::move(codecs));
}

}  // namespace conclave
