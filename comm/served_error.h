// The server's half of error feedback: it does with the mean as a worker with its vector: sends C(mean + e_s) and keeps the rest.
#ifndef CONCLAVE_COMM_SERVED_ERROR_H_
#define CONCLAVE_COMM_SERVED_ERROR_H_

#include <string>

#include "comm/part_server.h"
#include "comm/sums.h"

namespace conclave {

class ServedError final : public PartServer {
 public:
  ServedError(const ExchangeContext& context, const BlockCodecs& codecs) : e_s_(context, codecs) {}

  void BeforeDown(const PartId& part, const Tensor& x) override { AddInto(x.dtype(), e_s_.At(part).raw(), x.raw(), x.elements()); }
  void AfterDown(const PartId& part, const Tensor& sent, const Tensor& decoded) override {
    Difference(sent.dtype(), sent.raw(), decoded.raw(), e_s_.Pending(part).raw(), sent.elements());
  }
  void Commit() { e_s_.Commit(); }
  void Register(StateDict& state, const std::string& part) const { e_s_.Register(state, part + ".e_s"); }

 private:
  PartMemory e_s_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_SERVED_ERROR_H_
