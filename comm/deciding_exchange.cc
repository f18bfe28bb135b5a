// An exchange that keeps its codecs only where they pay: it decides when it is made, or goes on as the train state says, and hands
// everything else to the exchange it was made around. Memories are there for every block that has a codec; those of declined blocks are not
// read.
#include "comm/codec_decisions.h"
#include "comm/exchanges.h"

namespace conclave {
namespace {

bool HasCodecs(const ExchangeConfig& config) {
  switch (config.kind_case()) {
    case ExchangeConfig::kExact:
    case ExchangeConfig::KIND_NOT_SET:
    case ExchangeConfig::kPowerSgd:
    case ExchangeConfig::kOkTopk:
      return false;
    case ExchangeConfig::kHierarchical:
      return HasCodecs(config.hierarchical().exchange());
    default:
      return true;
  }
}

class DecidingExchange final : public Exchange {
 public:
  DecidingExchange(const WhenItPaysConfig& config, const ExchangeContext& context)
      : context_(context), decisions_(config, context.layout->parameters().size()) {
    context_.decisions = &decisions_;
  }
  absl::Status Make(ExchangeConfig config) {
    config.clear_when_it_pays();
    ASSIGN_OR_RETURN(inner_, MakeExchange(config, context_));
    return decisions_.Decide(context_);
  }

  void Begin(uint32_t step, uint32_t draw) override {
    if (!begun_) {
      begun_ = true;
      ready_ = decisions_.Decide(context_);
      if (ready_.ok() && context_.world->rank() == 0) decisions_.Log(context_.layout->parameters());
    }
    if (ready_.ok()) inner_->Begin(step, draw);
  }
  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) override {
    RETURN_IF_ERROR(ready_);
    return inner_->Put(worker, block, span, folded);
  }
  absl::StatusOr<Aggregate> Finish() override {
    RETURN_IF_ERROR(ready_);
    return inner_->Finish();
  }
  void Commit() override { inner_->Commit(); }
  void Discard() override { inner_->Discard(); }
  const PoisonCause* poison() const override { return inner_->poison(); }
  bool wants_each_worker() const override { return inner_->wants_each_worker(); }
  void Register(StateDict& state, const std::string& part) override {
    inner_->Register(state, part);
    decisions_.Register(state, part, context_.layout->parameters());
  }

 private:
  ExchangeContext context_;
  CodecDecisions decisions_;
  std::unique_ptr<Exchange> inner_;
  bool begun_ = false;  // and decided for good
  absl::Status ready_;
};

}  // namespace

ExchangeOr MakeDecidingExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  if (context.decisions != nullptr) {
    return InvalidArgument("exchange.when_it_pays: belongs to the outermost exchange, which decides for those inside");
  }
  if (!HasCodecs(config)) {
    return InvalidArgument("exchange.when_it_pays: exact, power_sgd and ok_topk have no codec that could be declined; leave it out");
  }
  auto exchange = std::make_unique<DecidingExchange>(config.when_it_pays(), context);
  RETURN_IF_ERROR(exchange->Make(config));
  return exchange;
}

}  // namespace conclave
