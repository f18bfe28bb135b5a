// EF14, error feedback (Seide et al., Interspeech 2014): c_m = C(v_m + e_m), e_m = v_m + e_m - c_m; the aggregate is the mean of c_m. Over
// any number of steps the c_m and the last e_m add up to the v_m. e_m is in units of v_m, not of a step size times v_m: with a changing
// step size what is left over is applied with the later one. A server does with the mean as a worker with its vector.
#include <optional>

#include "comm/exchanges.h"
#include "comm/memory_exchange.h"
#include "comm/served_error.h"

namespace conclave {
namespace {

class Ef14Exchange final : public MemoryExchange {
 public:
  Ef14Exchange(const ExchangeContext& context, BlockCodecs codecs) : MemoryExchange(context, std::move(codecs)), e_m_(context, lossy()) {
    if (!mean().codecs().served()) return;
    server_.emplace(context, mean().codecs());
    mean().SetServer(&*server_);
  }

  void Commit() override {
    e_m_.Commit();
    if (server_) server_->Commit();
  }
  void Register(StateDict& state, const std::string& part) override {
    e_m_.Register(state, part + ".e_m");
    if (server_) server_->Register(state, part);
  }

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
  std::optional<ServedError> server_;
};

}  // namespace

ExchangeOr MakeEf14Exchange(const ExchangeConfig& config, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(BlockCodecs codecs, BlockCodecs::Of(config, context));
  return std::make_unique<Ef14Exchange>(context, std::move(codecs));
}

}  // namespace conclave
