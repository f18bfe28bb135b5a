#include "comm/block_codecs.h"

#include <algorithm>

#include "base/check.h"
#include "comm/codec_decisions.h"
#include "proto/comm.pb.h"

namespace conclave {
namespace {

absl::Status CheckContract(const CodecContract& contract, CodecNeed need, std::string_view exchange, const BlockSpec& spec) {
  if (need == CodecNeed::kUnbiased && !contract.unbiased) {
    return InvalidArgument(
        "%s exchange: the codec of block %s is biased, and nothing here makes up for it; choose an unbiased codec (identity, "
        "rand_k, natural, qsgd, block_int { rounding: STOCHASTIC }, perm_k, ternary, random_block)",
        exchange, spec.name);
  }
  if (need == CodecNeed::kContractive && !contract.contractive()) {
    return InvalidArgument(
        "%s exchange: the codec of block %s is not contractive (unbiased with q = %g, must be below 2), so its error memory "
        "would grow; choose a contractive codec (top_k, block_int { rounding: NEAREST }, scaled_sign, bf16, fp8, low_rank)",
        exchange, spec.name, contract.q);
  }
  return absl::OkStatus();
}

bool NamesCodec(const CodecConfig& config) {
  if (!config.has_blockwise()) return !config.has_identity();
  const auto& rules = config.blockwise().rules();
  return NamesCodec(config.blockwise().otherwise()) ||
         std::ranges::any_of(rules, [](const auto& rule) { return NamesCodec(rule.codec()); });
}

// Whether the codec may take fewer bytes than the values do.
bool MayShrink(const Compressor* codec, int64_t elements, DType dtype) {
  return codec != nullptr && (!codec->Contract().fixed_size || codec->MaxWireBytes() < elements * SizeOf(dtype));
}

}  // namespace

absl::StatusOr<BlockCodecs> BlockCodecs::Make(const ExchangeConfig& config, const CodecConfig& codec, CodecNeed need,
                                              const ExchangeContext& context, std::string_view exchange) {
  const ParameterSet& parameters = context.layout->parameters();
  const int workers = context.workers.workers;
  const bool served = config.has_downlink();
  std::vector<std::vector<BlockPart>> parts;
  if (served) parts = PlanParts(parameters, workers, config.downlink().servers() == DownlinkConfig::EACH_WORKER);
  const std::string back = absl::StrFormat("%s, downlink of", exchange);
  BlockCodecs codecs;
  codecs.served_ = served;
  for (int i = 0; i < parameters.size(); ++i) {
    const BlockSpec& spec = parameters[{i}];
    const auto make = [&](const CodecConfig& c, const Shape& shape, std::string_view who) -> CompressorOr {
      CompressorOr made = MakeCompressor(c, {.shape = shape, .dtype = context.dtype, .workers = workers, .name = spec.name});
      if (!made.ok()) return Annotate(made.status(), absl::StrFormat("%s exchange, block %s", who, spec.name));
      RETURN_IF_ERROR(CheckContract((*made)->Contract(), need, who, spec));
      return made;
    };
    std::vector<CodedPiece>& pieces = codecs.pieces_.emplace_back();
    if (!served) {
      CodedPiece& whole = pieces.emplace_back(CodedPiece{.range = {.elements = spec.shape.elements()}});
      ASSIGN_OR_RETURN(whole.up, make(codec, spec.shape, exchange));
      continue;
    }
    const std::vector<BlockPart>& cut = parts[static_cast<size_t>(i)];
    for (const BlockPart& part : cut) {
      const Shape shape = cut.size() == 1 ? spec.shape : Shape{part.elements};
      CodedPiece& piece = pieces.emplace_back(CodedPiece{.range = part});
      ASSIGN_OR_RETURN(piece.up, make(codec, shape, exchange));
      ASSIGN_OR_RETURN(piece.down, make(config.downlink().codec(), shape, back));
      if (piece.down->Contract().correlated) {
        return InvalidArgument(
            "%s exchange, downlink of block %s: perm_k and common masks share draws between workers, and a mean has one sender; choose "
            "natural, block_int, rand_k or another codec whose messages are independent",
            exchange, spec.name);
      }
    }
  }
  const auto shrinks = [&](bool up) {
    for (const std::vector<CodedPiece>& pieces : codecs.pieces_) {
      for (const CodedPiece& piece : pieces) {
        if (MayShrink(up ? piece.up.get() : piece.down.get(), piece.range.elements, context.dtype)) return true;
      }
    }
    return false;
  };
  codecs.idle_ =
      (NamesCodec(codec) && !shrinks(/*up=*/true)) || (served && NamesCodec(config.downlink().codec()) && !shrinks(/*up=*/false));
  if (context.decisions != nullptr) context.decisions->Offer(context, codecs);
  return codecs;
}

absl::StatusOr<BlockCodecs> BlockCodecs::Of(const ExchangeConfig& config, const ExchangeContext& context) {
  const auto make = [&](const CodecConfig& codec, CodecNeed need, const char* name) { return Make(config, codec, need, context, name); };
  switch (config.kind_case()) {
    case ExchangeConfig::kQuantized:
      return make(config.quantized().codec(), CodecNeed::kUnbiased, "quantized");
    case ExchangeConfig::kDiana:
      return make(config.diana().codec(), CodecNeed::kUnbiased, "diana");
    case ExchangeConfig::kMarina:
      return make(config.marina().codec(), CodecNeed::kUnbiased, "marina");
    case ExchangeConfig::kEf14:
      return make(config.ef14().codec(), CodecNeed::kContractive, "ef14");
    case ExchangeConfig::kEf21:
      return make(config.ef21().codec(), CodecNeed::kContractive, "ef21");
    case ExchangeConfig::kEf21Sgdm:
      return make(config.ef21_sgdm().codec(), CodecNeed::kContractive, "ef21_sgdm");
    case ExchangeConfig::kMajorityVote: {
      CodecConfig signs;
      signs.mutable_blockwise()->mutable_otherwise()->mutable_scaled_sign();
      signs.mutable_blockwise()->set_exact_below(config.majority_vote().exact_below());
      return make(signs, CodecNeed::kContractive, "majority_vote");
    }
    case ExchangeConfig::kOneBit: {
      CodecConfig codec;
      codec.mutable_scaled_sign();
      if (config.one_bit().has_codec()) codec = config.one_bit().codec();
      ExchangeConfig both = config;
      if (!config.has_downlink()) *both.mutable_downlink()->mutable_codec() = codec;
      return Make(both, codec, CodecNeed::kContractive, context, "one_bit");
    }
    default:
      return Identity(context);
  }
}

BlockCodecs BlockCodecs::Identity(const ExchangeContext& context) {
  ExchangeContext own = context;
  own.decisions = nullptr;
  CodecConfig identity;
  identity.mutable_identity();
  absl::StatusOr<BlockCodecs> codecs = Make({}, identity, CodecNeed::kUnbiased, own, "exact");
  CHECK_OK(codecs.status());
  return *std::move(codecs);
}

bool BlockCodecs::lossless(BlockId block) const { return std::ranges::all_of((*this)[block], &CodedPiece::lossless); }

double BlockCodecs::UpQ(BlockId block) const {
  double most = 1;
  for (const CodedPiece& piece : (*this)[block]) most = std::max(most, piece.up->Contract().q);
  return most;
}

double BlockCodecs::DownQ(BlockId block) const {
  double most = 1;
  for (const CodedPiece& piece : (*this)[block]) most = std::max(most, piece.down != nullptr ? piece.down->Contract().q : 1);
  return most;
}

}  // namespace conclave
