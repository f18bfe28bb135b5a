#include "bench/exchange_of_one_block.h"

#include <bit>

#include "base/rng.h"
#include "comm/compressors.h"
#include "trainer/config_defaults.h"
#include "trainer/config_parse.h"

namespace conclave {
namespace {

Shape NearSquare(int64_t elements) {
  int64_t rows = int64_t{1} << (std::bit_width(static_cast<uint64_t>(elements)) / 2);
  while (elements % rows != 0) rows /= 2;
  return {rows, elements / rows};
}

absl::StatusOr<ExchangeConfig> ExchangeThrough(const std::string& codec, const CompressorContext& context) {
  ExchangeConfig config;
  if (codec.empty()) return config;
  CodecConfig parsed;
  if (const std::optional<ParseFault> fault = ParseConfigText(codec, ParseMode::kStrict, &parsed)) {
    return InvalidArgument("'%s' is not a codec: %s; expected a text such as: block_int { bits: 8 block: 64 }", codec, fault->message);
  }
  ConfigPlaces places;
  FillDefaults(&parsed, &places);
  ASSIGN_OR_RETURN(const std::unique_ptr<Compressor> compressor, MakeCompressor(parsed, context));
  *(compressor->Contract().unbiased ? config.mutable_quantized()->mutable_codec() : config.mutable_ef21()->mutable_codec()) = parsed;
  return config;
}

}  // namespace

ExchangeOfOneBlock::ExchangeOfOneBlock(Communicator& world, const Shape& shape)
    : worker_{world.rank()},
      block_(parameters_.Add({.name = "matrix", .shape = shape})),
      layout_(ReplicatedLayout(&parameters_, world.rank(), world.size())),
      vectors_{{&layout_, DType::kF32}, {&layout_, DType::kF32}} {
  const RngKey noise{.seed = 1, .worker = static_cast<uint32_t>(world.rank())};
  const std::span<float> ahead = vectors_[0].flat().span<float>(), back = vectors_[1].flat().span<float>();
  for (size_t i = 0; i < ahead.size(); ++i) {
    ahead[i] = static_cast<float>(noise.Normal(i));
    back[i] = -ahead[i];
  }
}

absl::StatusOr<std::unique_ptr<ExchangeOfOneBlock>> ExchangeOfOneBlock::Make(Communicator& world, Communicator& self, int64_t elements,
                                                                             const std::string& codec) {
  const Shape shape = NearSquare(elements);
  ASSIGN_OR_RETURN(const ExchangeConfig config, ExchangeThrough(codec, {.shape = shape, .workers = world.size()}));
  auto made = std::unique_ptr<ExchangeOfOneBlock>(new ExchangeOfOneBlock(world, shape));
  ASSIGN_OR_RETURN(
      made->exchange_,
      MakeExchange(
          config, {.layout = &made->layout_, .workers = {.workers = world.size(), .ranks = world.size()}, .world = &world, .data = &self}));
  return made;
}

absl::Status ExchangeOfOneBlock::Run() {
  const FlatVector& vector = vectors_[step_ % 2];
  exchange_->Begin(step_++, 0);
  RETURN_IF_ERROR(exchange_->Put(worker_, block_, vector.block(block_)));
  RETURN_IF_ERROR(exchange_->Finish().status());
  exchange_->Commit();
  return absl::OkStatus();
}

}  // namespace conclave
