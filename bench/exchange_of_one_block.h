// What training's first-order schemes do with a gradient, for one block: the vector of each rank's one worker through an exchange.
#ifndef CONCLAVE_BENCH_EXCHANGE_OF_ONE_BLOCK_H_
#define CONCLAVE_BENCH_EXCHANGE_OF_ONE_BLOCK_H_

#include <memory>
#include <string>

#include "comm/exchanges.h"

namespace conclave {

class ExchangeOfOneBlock {
 public:
  // An f32 block of normal numbers, another on each rank, with the opposite sign in every other exchange: what memories hold never comes to
  // rest. The block is a matrix as near to a square as powers of two make it. codec (proto text): none, the exact exchange; unbiased,
  // `quantized` through it; biased, `ef21`. self: the group of this rank alone; no block is an expert's, but exchanges want the group that
  // would sum them. Both communicators must outlive it. Errors: InvalidArgument for a text that is no codec; those of MakeExchange.
  static absl::StatusOr<std::unique_ptr<ExchangeOfOneBlock>> Make(Communicator& world, Communicator& self, int64_t elements,
                                                                  const std::string& codec);
  absl::Status Run();  // one exchange. Collective

 private:
  ExchangeOfOneBlock(Communicator& world, const Shape& shape);

  const WorkerId worker_;
  ParameterSet parameters_;
  BlockId block_;
  Layout layout_;
  FlatVector vectors_[2];  // the second is the first with the opposite sign
  std::unique_ptr<Exchange> exchange_;
  uint32_t step_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_BENCH_EXCHANGE_OF_ONE_BLOCK_H_
