// What an exchange does with a mean on its server, between the way up and the way down, and what it remembers there.
#ifndef CONCLAVE_COMM_PART_SERVER_H_
#define CONCLAVE_COMM_PART_SERVER_H_

#include <string>
#include <vector>

#include "comm/block_codecs.h"
#include "tensor/state_dict.h"

namespace conclave {

struct PartId {
  BlockId block;
  int part = 0;
  int64_t first = 0;  // its first element in the block
};

// Called for each part that this rank serves, once an exchange.
class PartServer {
 public:
  virtual ~PartServer() = default;
  // x: [elements], the mean of the workers' decoded vectors. In place, it becomes what is encoded for everyone.
  virtual void BeforeDown(const PartId& part, const Tensor& x) = 0;
  // sent: what BeforeDown left; decoded: what every rank makes of it.
  virtual void AfterDown(const PartId& part, const Tensor& sent, const Tensor& decoded) = 0;
};

// One vector over the parts that this rank serves. Pending is a second copy that Commit takes over. Memory: twice the served bytes.
class PartMemory {
 public:
  PartMemory() = default;
  // Of lossy blocks.
  PartMemory(const ExchangeContext& context, const BlockCodecs& codecs);

  Tensor At(const PartId& part) const { return View(current_, part); }       // [elements]
  Tensor Pending(const PartId& part) const { return View(pending_, part); }  // [elements]
  void Commit();
  void Register(StateDict& state, const std::string& name) const;  // "<name>/part.<i>/<block>"

 private:
  struct Place {
    int64_t offset = -1, elements = 0;  // offset in bytes; -1: served elsewhere
  };
  Tensor View(const Buffer& memory, const PartId& part) const;

  const Layout* layout_ = nullptr;
  DType dtype_ = DType::kF32;
  std::vector<std::vector<Place>> places_;  // by block id
  Buffer current_, pending_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_PART_SERVER_H_
