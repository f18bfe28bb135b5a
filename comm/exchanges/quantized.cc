// The quantized exchange: the mean over workers of Q_m(v_m), Q_m an unbiased codec with a draw of its own for every worker, block, step and
// draw. No memory.
#include "comm/coded_mean.h"
#include "comm/exchanges.h"

namespace conclave {
namespace {

class QuantizedExchange final : public Exchange {
 public:
  QuantizedExchange(const ExchangeContext& context, BlockCodecs codecs) : mean_(context, std::move(codecs)) {}

  void Begin(uint32_t step, uint32_t draw) override { mean_.Begin(step, draw); }

  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) override {
    CHECK(!folded) << "a codec needs each worker's own vector";
    return mean_.Put(worker, block, span);
  }

  absl::StatusOr<Aggregate> Finish() override { return mean_.Finish(); }
  void Commit() override {}
  void Discard() override {}
  const PoisonCause* poison() const override { return mean_.poison(); }
  bool wants_each_worker() const override { return true; }
  void Register(StateDict&, const std::string&) override {}

 private:
  CodedMean mean_;
};

}  // namespace

ExchangeOr MakeQuantizedExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  return std::make_unique<QuantizedExchange>(context, std::move(codecs));
}

}  // namespace conclave
