#include "optim/step_size.h"

#include <algorithm>
#include <cmath>

#include "comm/block_codecs.h"

namespace conclave {
namespace {

struct CodecFactor {
  double q = 1;
  double q_s = 1;         // of the servers' codec, on the way back
  bool permuted = false;  // perm_k: errors of equal vectors cancel
  bool common = false;    // one mask for all: errors do not average out
};

absl::StatusOr<CodecFactor> FactorOf(const ExchangeConfig& config, const ExchangeContext& context) {
  const CodecConfig& codec = config.quantized().codec();
  ASSIGN_OR_RETURN(const BlockCodecs codecs, BlockCodecs::Make(config, codec, CodecNeed::kUnbiased, context, "quantized"));
  CodecFactor factor;
  for (int i = 0; i < static_cast<int>(codecs.size()); ++i) {
    factor.q = std::max(factor.q, codecs.UpQ({i}));
    factor.q_s = std::max(factor.q_s, codecs.DownQ({i}));
    for (const CodedPiece& piece : codecs[{i}]) {
      factor.permuted |= piece.up->Contract().correlated && codec.has_perm_k();
      factor.common |= piece.up->Contract().correlated && !codec.has_perm_k();
    }
  }
  return factor;
}

absl::StatusOr<double> Known(const std::optional<double>& constant, const char* name) {
  if (constant && *constant > 0) return *constant;
  return FailedPrecondition("optim.step: PROVABLE: the model does not declare %s; give gamma, or let AUTO_TUNE find one", name);
}

absl::StatusOr<double> ProvableMasha1(const Masha1Config& config, const OperatorConstants& constants, const ExchangeContext& context) {
  if (config.variance_reduced()) {
    return FailedPrecondition(
        "optim.step: PROVABLE: variance-reduced steps need the samples' mean-square Lipschitz constant, which no model declares");
  }
  ASSIGN_OR_RETURN(const double cq, CompressedLipschitz(config, constants, context));
  const double mu = constants.strong_monotonicity.value_or(0), p = config.p();
  if (mu > 0 && p <= 0.5) return std::min(std::sqrt(p / 2) / cq, p / (2 * mu));
  return std::sqrt(p) / cq;
}

}  // namespace

absl::StatusOr<double> CompressedLipschitz(const Masha1Config& config, const OperatorConstants& constants, const ExchangeContext& context) {
  ASSIGN_OR_RETURN(const double lipschitz, Known(constants.lipschitz, "its Lipschitz constant"));
  const double mean_square = std::max(lipschitz, constants.mean_square_lipschitz.value_or(lipschitz));
  const double workers = context.workers.workers;
  const double b = config.participants() > 0 ? static_cast<double>(config.participants()) : workers;
  CodecFactor factor;
  if (config.exchange().has_quantized()) {
    ASSIGN_OR_RETURN(factor, FactorOf(config.exchange(), context));
  } else if (config.exchange().kind_case() != ExchangeConfig::kExact && config.exchange().kind_case() != ExchangeConfig::KIND_NOT_SET) {
    return InvalidArgument("optim.masha1.exchange: only exact and quantized exchanges have a proven step");
  }
  const double own = lipschitz * lipschitz, spread = mean_square * mean_square;
  if (factor.common) return std::sqrt(factor.q_s * factor.q * spread);
  if (factor.permuted && b == workers) return std::sqrt(factor.q_s * factor.q / workers * spread);
  const double absent = workers > 1 ? (workers - b) / (b * (workers - 1)) : 0;
  return std::sqrt(factor.q_s * (own + (absent + (factor.q - 1) / b) * spread));
}

namespace {

// The proofs of uncompressed methods have exact means.
absl::Status ExpectExactMeans(const OptimConfig& config) {
  const google::protobuf::Reflection& reflection = *config.GetReflection();
  const auto* member = reflection.GetOneofFieldDescriptor(config, OptimConfig::descriptor()->FindOneofByName("scheme"));
  const google::protobuf::Message& scheme = reflection.GetMessage(config, member);
  const auto& exchange =
      dynamic_cast<const ExchangeConfig&>(scheme.GetReflection()->GetMessage(scheme, scheme.GetDescriptor()->FindFieldByName("exchange")));
  const bool exact = exchange.kind_case() == ExchangeConfig::kExact || exchange.kind_case() == ExchangeConfig::KIND_NOT_SET;
  const bool identity = exchange.has_quantized() && exchange.quantized().codec().has_identity() && !exchange.has_downlink();
  if (exact || identity) return absl::OkStatus();
  const auto* kind = exchange.GetReflection()->GetOneofFieldDescriptor(exchange, ExchangeConfig::descriptor()->FindOneofByName("kind"));
  return InvalidArgument(
      "optim.step: PROVABLE: the proof of %s has exact means, and optim.%s.exchange is %s; make it exact, take masha1 (proven for unbiased "
      "codecs), give gamma, or let AUTO_TUNE find one",
      std::string(member->name()), std::string(member->name()), std::string(kind->name()));
}

}  // namespace

absl::StatusOr<double> ProvableStep(const OptimConfig& config, const OperatorConstants& constants, const ExchangeContext& context) {
  if (config.scheme_case() == OptimConfig::kMasha1) return ProvableMasha1(config.masha1(), constants, context);
  double share = 0;  // of 1 / L
  switch (config.scheme_case()) {
    case OptimConfig::kExtragradient:
    case OptimConfig::kFbf:
      share = 0.9;
      break;
    case OptimConfig::kOgda:
      share = 0.45;
      break;
    case OptimConfig::kPastExtragradient:
      share = 0.3;
      break;
    case OptimConfig::kReflectedGradient:
      share = 0.37;
      break;
    case OptimConfig::kAnchored:
      share = 0.12;
      break;
    case OptimConfig::kGda: {
      RETURN_IF_ERROR(ExpectExactMeans(config));
      ASSIGN_OR_RETURN(const double lipschitz, Known(constants.lipschitz, "its Lipschitz constant"));
      ASSIGN_OR_RETURN(const double mu, Known(constants.strong_monotonicity, "a positive strong monotonicity, without which gda diverges"));
      return mu / (lipschitz * lipschitz);
    }
    default:
      return InvalidArgument("optim.step: PROVABLE: no step of this scheme is proven; give its gamma, or use AUTO_TUNE");
  }
  RETURN_IF_ERROR(ExpectExactMeans(config));
  ASSIGN_OR_RETURN(const double lipschitz, Known(constants.lipschitz, "its Lipschitz constant"));
  return share / lipschitz;
}

bool SetStep(double gamma, OptimConfig* config) {
  const auto* descriptor = OptimConfig::descriptor()->FindOneofByName("scheme");
  const auto* member = config->GetReflection()->GetOneofFieldDescriptor(*config, descriptor);
  if (member == nullptr) return false;
  google::protobuf::Message* scheme = config->GetReflection()->MutableMessage(config, member);
  const auto* field = scheme->GetDescriptor()->FindFieldByName("gamma");
  if (field == nullptr) return false;
  scheme->GetReflection()->SetDouble(scheme, field, gamma);
  return true;
}

}  // namespace conclave
