// The server's half of EF21: it knows the mean G of the workers' estimates g_m and sends C(G - g), where g is what everyone has heard so
// far (EF21-BC, Fatkhullin, Sokolov, Gorbunov, Li, Richtarik, arXiv 2110.03294).
#ifndef CONCLAVE_COMM_SERVED_ESTIMATE_H_
#define CONCLAVE_COMM_SERVED_ESTIMATE_H_

#include <string>

#include "comm/part_server.h"
#include "comm/sums.h"
#include "tensor/layout.h"

namespace conclave {

class ServedEstimate final : public PartServer {
 public:
  // heard: g, by block; everyone adds the decoded messages to it. It outlives the object.
  ServedEstimate(const ExchangeContext& context, const BlockCodecs& codecs, const FlatVector* heard)
      : heard_(heard), mean_(context, codecs) {}

  // x: the mean of the workers' C(v_m - g_m).
  void BeforeDown(const PartId& part, const Tensor& x) override {
    const Tensor mean = mean_.Pending(part), heard = heard_->block(part.block).Flat().Slice(part.first, x.elements());
    mean.CopyFrom(mean_.At(part));
    AddInto(x.dtype(), x.raw(), mean.raw(), x.elements());
    Difference(x.dtype(), mean.raw(), heard.raw(), x.raw(), x.elements());
  }
  void AfterDown(const PartId&, const Tensor&, const Tensor&) override {}
  void Commit() { mean_.Commit(); }
  void Register(StateDict& state, const std::string& part) const { mean_.Register(state, part + ".server"); }

 private:
  const FlatVector* heard_;
  PartMemory mean_;  // G
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_SERVED_ESTIMATE_H_
