#include "bench/exchange_of_one_block.h"

#include "base/rng.h"

namespace conclave {

ExchangeOfOneBlock::ExchangeOfOneBlock(Communicator& world, int64_t elements)
    : worker_{world.rank()},
      block_(parameters_.Add({.name = "vector", .shape = {elements}})),
      layout_(ReplicatedLayout(&parameters_, world.rank(), world.size())),
      vector_(&layout_, DType::kF32) {
  const RngKey noise{.seed = 1, .worker = static_cast<uint32_t>(world.rank())};
  for (int64_t i = 0; i < elements; ++i) vector_.flat().data<float>()[i] = static_cast<float>(noise.Normal(static_cast<uint64_t>(i)));
}

absl::StatusOr<std::unique_ptr<ExchangeOfOneBlock>> ExchangeOfOneBlock::Make(Communicator& world, Communicator& self, int64_t elements,
                                                                             const ExchangeConfig& config) {
  auto made = std::unique_ptr<ExchangeOfOneBlock>(new ExchangeOfOneBlock(world, elements));
  ASSIGN_OR_RETURN(
      made->exchange_,
      MakeExchange(
          config, {.layout = &made->layout_, .workers = {.workers = world.size(), .ranks = world.size()}, .world = &world, .data = &self}));
  return made;
}

absl::Status ExchangeOfOneBlock::Run() {
  exchange_->Begin(step_++, 0);
  RETURN_IF_ERROR(exchange_->Put(worker_, block_, vector_.block(block_)));
  RETURN_IF_ERROR(exchange_->Finish().status());
  exchange_->Commit();
  return absl::OkStatus();
}

}  // namespace conclave
