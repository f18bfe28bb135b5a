// What training's first-order schemes do with a gradient, for one block: the vector of each rank's one worker through an exchange.
#ifndef CONCLAVE_BENCH_EXCHANGE_OF_ONE_BLOCK_H_
#define CONCLAVE_BENCH_EXCHANGE_OF_ONE_BLOCK_H_

#include <memory>

#include "comm/exchanges.h"

namespace conclave {

class ExchangeOfOneBlock {
 public:
  // An f32 vector of normal numbers, another on each rank. self: the group of this rank alone; no block is an expert's, but exchanges want
  // the group that would sum them. Both communicators must outlive it. Errors: those of MakeExchange.
  static absl::StatusOr<std::unique_ptr<ExchangeOfOneBlock>> Make(Communicator& world, Communicator& self, int64_t elements,
                                                                  const ExchangeConfig& config);
  absl::Status Run();  // one exchange. Collective

 private:
  ExchangeOfOneBlock(Communicator& world, int64_t elements);

  const WorkerId worker_;
  ParameterSet parameters_;
  BlockId block_;
  Layout layout_;
  FlatVector vector_;
  std::unique_ptr<Exchange> exchange_;
  uint32_t step_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_BENCH_EXCHANGE_OF_ONE_BLOCK_H_
