// DIANA (Mishchenko, Gorbunov, Takac, Richtarik, arXiv 1901.09269): c_m = Q(v_m - h_m), h_m = h_m + alpha c_m; the aggregate is h + mean of
// c_m with h = mean of h_m, kept as h = h + alpha mean of c_m. alpha <= 1 / q. Both start from zero.
// With servers, only they know h and the aggregate g = h + mean of c_m. They send b = Q_s(g - h_s); everyone takes h_s + b for the
// aggregate and learns h_s = h_s + alpha_s b, alpha_s = 1 / q_s: DIANA on the way back too, with one sender.
#include <optional>

#include "comm/exchanges.h"
#include "comm/memory_exchange.h"
#include "comm/part_server.h"

namespace conclave {
namespace {

class DianaServer final : public PartServer {
 public:
  // alpha: by block id; heard: h_s.
  DianaServer(const ExchangeContext& context, const BlockCodecs& codecs, const std::vector<double>* alpha, const FlatVector* heard)
      : alpha_(alpha), heard_(heard), h_(context, codecs) {}

  void BeforeDown(const PartId& part, const Tensor& x) override {
    const Tensor h = h_.At(part), h_new = h_.Pending(part), heard = heard_->block(part.block).Flat().Slice(part.first, x.elements());
    ScaleInto(x.dtype(), (*alpha_)[static_cast<size_t>(part.block.value)], x.raw(), h_new.raw(), x.elements());
    AddInto(x.dtype(), h.raw(), h_new.raw(), x.elements());
    AddInto(x.dtype(), h.raw(), x.raw(), x.elements());
    Difference(x.dtype(), x.raw(), heard.raw(), x.raw(), x.elements());
  }
  void AfterDown(const PartId&, const Tensor&, const Tensor&) override {}
  void Commit() { h_.Commit(); }
  void Register(StateDict& state, const std::string& part) const { h_.Register(state, part + ".server"); }

 private:
  const std::vector<double>* alpha_;
  const FlatVector* heard_;
  PartMemory h_;
};

class DianaExchange final : public MemoryExchange {
 public:
  DianaExchange(std::vector<double> alpha, const ExchangeContext& context, BlockCodecs codecs)
      : MemoryExchange(context, std::move(codecs)),
        alpha_(std::move(alpha)),
        alpha_down_(alpha_),
        h_m_(context, lossy()),
        h_(context.layout, context.dtype),
        h_new_(context.layout, context.dtype),
        aggregate_(context.layout, context.dtype) {
    const BlockCodecs& made = mean().codecs();
    if (!made.served()) return;
    for (const BlockId id : context.layout->local_blocks()) alpha_down_[id.value] = 1 / made.DownQ(id);
    server_.emplace(context, made, &alpha_, &h_);
    mean().SetServer(&*server_);
  }

  void Commit() override {
    h_m_.Commit();
    h_.CopyFrom(h_new_);
    if (server_) server_->Commit();
  }
  void Register(StateDict& state, const std::string& part) override {
    h_m_.Register(state, part + ".h_m");
    RegisterLossy(state, part + ".h", h_);
    if (server_) server_->Register(state, part);
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
    ASSIGN_OR_RETURN(const Aggregate mean_c, mean().Finish());  // or b
    aggregate_.CopyFrom(*mean_c);
    AddCoded(h_, aggregate_);
    for (const BlockId id : context().layout->local_blocks()) {
      const Tensor c = mean_c->block(id);
      ScaleInto(c.dtype(), alpha_down_[id.value], c.raw(), h_new_.block(id).raw(), c.elements());
    }
    AddCoded(h_, h_new_);
    return &aggregate_;
  }

  const std::vector<double> alpha_;  // by block id
  std::vector<double> alpha_down_;   // of h_: alpha_, or alpha_s
  WorkerMemory h_m_;
  FlatVector h_, h_new_, aggregate_;  // h_: h, or h_s
  std::optional<DianaServer> server_;
};

}  // namespace

ExchangeOr MakeDianaExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  std::vector<double> alpha(codecs.size(), config.diana().alpha());
  for (size_t i = 0; i < codecs.size(); ++i) {
    const double most = 1 / codecs.UpQ({static_cast<int>(i)});
    if (config.diana().alpha() < 0 || config.diana().alpha() > most) {
      return InvalidArgument("diana exchange: alpha must be in [0, 1 / q] = [0, %g] for the codec of block %s, got %g; 0 takes 1 / q", most,
                             context.layout->parameters()[{static_cast<int>(i)}].name, config.diana().alpha());
    }
    if (config.diana().alpha() == 0) alpha[i] = most;
  }
  return std::make_unique<DianaExchange>(std::move(alpha), context, std::move(codecs));
}

}  // namespace conclave
