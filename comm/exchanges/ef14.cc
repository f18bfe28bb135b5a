// EF14, error feedback (Seide et al., Interspeech 2014): c_m = C(v_m + e_m), e_m = v_m + e_m - c_m; the aggregate is the mean of c_m. Over
// any number of steps the c_m and the last e_m add up to the v_m. e_m is in units of v_m, not of a step size times v_m: with a changing
// step size what is left over is applied with the later one.
#include "comm/exchanges.h"
#include "comm/memory_exchange.h"

namespace conclave {
namespace {

class Ef14Exchange final : public MemoryExchange {
 public:
  Ef14Exchange(const ExchangeContext& context, BlockCodecs codecs) : MemoryExchange(context, std::move(codecs)), e_m_(context, lossy()) {}

  void Commit() override { e_m_.Commit(); }
  void Register(StateDict& state, const std::string& part) override { e_m_.Register(state, part + ".e_m"); }

 private:
  absl::Status Send(WorkerId worker, BlockId block, const Tensor& v) override {
    const Tensor u = Delta(block), c = Decoded(block), e_new = e_m_.Pending(worker, block);
    u.CopyFrom(v);
    AddInto(u.dtype(), e_m_.At(worker, block).raw(), u.raw(), u.elements());
    RETURN_IF_ERROR(mean().Put(worker, block, u, &c));
    Difference(u.dtype(), u.raw(), c.raw(), e_new.raw(), u.elements());
    return absl::OkStatus();
  }

  WorkerMemory e_m_;
};

}  // namespace

ExchangeOr MakeEf14Exchange(const Ef14Config& config, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(BlockCodecs codecs, MakeBlockCodecs(config.codec(), CodecNeed::kContractive, context, "ef14"));
  return std::make_unique<Ef14Exchange>(context, std::move(codecs));
}

}  // namespace conclave
