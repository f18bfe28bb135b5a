#include "optim/schemes.h"

#include <algorithm>
#include <string>

#include "proto/options.pb.h"

namespace conclave {

using SchemeOr = absl::StatusOr<std::unique_ptr<Scheme>>;
SchemeOr MakeFirstOrder(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeExtragradient(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeGradientDescentAscent(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeMasha1(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeMasha2(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeOptimisticMasha(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeOgda(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakePastExtragradient(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeForwardBackwardForward(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeReflectedGradient(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeAnchored(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeProxSkip(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeLocalExtragradient(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeDiloco(const OptimConfig& config, const SchemeContext& context);

namespace {

// A proto's unset number reads as 0, which would be a silent wrong setting: whatever has a default or is required must be there.
absl::Status CheckFilled(const google::protobuf::Message& message, const std::string& path) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = message.GetDescriptor()->field(i);
    const std::string name = path + "." + field->name();
    if (field->is_repeated()) {
      if (field->message_type() == nullptr) continue;
      for (int j = 0; j < reflection.FieldSize(message, field); ++j) {
        RETURN_IF_ERROR(CheckFilled(reflection.GetRepeatedMessage(message, field, j), absl::StrFormat("%s[%d]", name, j)));
      }
    } else if (reflection.HasField(message, field)) {
      if (field->message_type() != nullptr) RETURN_IF_ERROR(CheckFilled(reflection.GetMessage(message, field), name));
    } else if (const FieldSpec& spec = field->options().GetExtension(field_spec); spec.has_default_value() || spec.required()) {
      return InvalidArgument("%s is unset: fill in the defaults before making a scheme", name);
    }
  }
  return absl::OkStatus();
}

std::string KnownSchemes() {
  const auto* scheme = OptimConfig::descriptor()->FindOneofByName("scheme");
  std::string names;
  for (int i = 0; i < scheme->field_count(); ++i) names += (i > 0 ? ", " : "") + scheme->field(i)->name();
  return names;
}

// The aggregate of one_bit is a momentum after its warm-up: right for the rule that expects it, wrong for anything else.
absl::Status CheckOneBit(const OptimConfig& config) {
  const google::protobuf::Reflection& reflection = *config.GetReflection();
  const auto* member = reflection.GetOneofFieldDescriptor(config, OptimConfig::descriptor()->FindOneofByName("scheme"));
  const google::protobuf::Message& scheme = reflection.GetMessage(config, member);
  const auto* field = scheme.GetDescriptor()->FindFieldByName("exchange");
  ExchangeConfig exchange;
  if (field != nullptr && scheme.GetReflection()->HasField(scheme, field)) {
    exchange.CopyFrom(scheme.GetReflection()->GetMessage(scheme, field));
  }
  while (exchange.has_hierarchical()) exchange = ExchangeConfig(exchange.hierarchical().exchange());
  const AdamWConfig& adamw = config.first_order().rule().adamw();
  if (!exchange.has_one_bit()) {
    if (adamw.freeze_after() == 0) return absl::OkStatus();
    return InvalidArgument("optim.first_order.rule.adamw.freeze_after: goes with exchange { one_bit {} } only, which brings momenta");
  }
  if (config.has_first_order() && adamw.freeze_after() == exchange.one_bit().warmup_steps() &&
      adamw.beta1() == exchange.one_bit().beta1()) {
    return absl::OkStatus();
  }
  return InvalidArgument(
      "exchange { one_bit { warmup_steps: %d beta1: %g } }: needs first_order with rule { adamw { freeze_after: %d beta1: %g } }, which "
      "takes "
      "its aggregate for the first moment",
      exchange.one_bit().warmup_steps(), exchange.one_bit().beta1(), exchange.one_bit().warmup_steps(), exchange.one_bit().beta1());
}

// Schemes that move z by gamma and prox have no use for what belongs to update rules, and a rule has none for a prox.
absl::Status CheckSettings(const OptimConfig& config) {
  const bool by_rule = config.scheme_case() == OptimConfig::kFirstOrder || config.scheme_case() == OptimConfig::kDiloco;
  const bool has_prox = config.prox().kind_case() != ProxConfig::KIND_NOT_SET && config.prox().kind_case() != ProxConfig::kZero;
  RETURN_IF_ERROR(CheckOneBit(config));
  if (by_rule && has_prox) {
    return InvalidArgument(
        "optim.prox: first_order and diloco move parameters by a rule and take no prox; choose a scheme that steps by gamma, such as "
        "extragradient");
  }
  if (!by_rule && config.groups_size() > 0) {
    return InvalidArgument("optim.groups: only first_order and diloco have groups; the other schemes move every block by gamma and prox");
  }
  if (!by_rule && config.clip_norm() > 0) {
    return InvalidArgument("optim.clip_norm: only first_order and diloco clip (got %g); clipping would change the field they follow",
                           config.clip_norm());
  }
  return absl::OkStatus();
}

absl::Status CheckGamma(const OptimConfig& config) {
  const auto* member = config.GetReflection()->GetOneofFieldDescriptor(config, OptimConfig::descriptor()->FindOneofByName("scheme"));
  const google::protobuf::Message& scheme = config.GetReflection()->GetMessage(config, member);
  const auto* gamma = scheme.GetDescriptor()->FindFieldByName("gamma");
  if (gamma == nullptr || scheme.GetReflection()->GetDouble(scheme, gamma) > 0) return absl::OkStatus();
  return InvalidArgument("optim.%s.gamma must be positive, got %g; optim.step: PROVABLE or AUTO_TUNE finds one", member->name(),
                         scheme.GetReflection()->GetDouble(scheme, gamma));
}

}  // namespace

FlatVector InitialPoint(const SchemeContext& context) {
  FlatVector point(context.exchange.layout, context.exchange.dtype);
  for (const BlockId id : context.exchange.layout->local_blocks()) context.initial(id, point.block(id));
  return point;
}

absl::Status CheckExchangeKind(const ExchangeConfig& exchange, std::initializer_list<std::string_view> kinds, std::string_view path) {
  const auto* field = exchange.GetReflection()->GetOneofFieldDescriptor(exchange, ExchangeConfig::descriptor()->FindOneofByName("kind"));
  const std::string kind = field == nullptr ? "exact" : field->name();
  if (std::ranges::find(kinds, kind) != kinds.end()) return absl::OkStatus();
  std::string known;
  for (const std::string_view name : kinds) known += (known.empty() ? "" : " or ") + std::string(name);
  return InvalidArgument("%s: the method is made for %s, got %s: other exchanges have memories or codecs that its theory excludes", path,
                         known, kind);
}

SchemeOr MakeScheme(const OptimConfig& config, const SchemeContext& context) {
  if (config.scheme_case() == OptimConfig::SCHEME_NOT_SET) {
    return InvalidArgument("optim: a scheme must be chosen, one of %s", KnownSchemes());
  }
  RETURN_IF_ERROR(CheckFilled(config, "optim"));
  RETURN_IF_ERROR(CheckSettings(config));
  if (context.exchange.to_canonical && config.scheme_case() != OptimConfig::kFirstOrder) {
    return InvalidArgument("parallel.updates: SHARDED is for first_order, whose rules have state; the other schemes need F on every owner");
  }
  RETURN_IF_ERROR(CheckGamma(config));
  switch (config.scheme_case()) {
    case OptimConfig::kFirstOrder:
      return MakeFirstOrder(config, context);
    case OptimConfig::kExtragradient:
      return MakeExtragradient(config, context);
    case OptimConfig::kGda:
      return MakeGradientDescentAscent(config, context);
    case OptimConfig::kMasha1:
      return MakeMasha1(config, context);
    case OptimConfig::kMasha2:
      return MakeMasha2(config, context);
    case OptimConfig::kOptimisticMasha:
      return MakeOptimisticMasha(config, context);
    case OptimConfig::kOgda:
      return MakeOgda(config, context);
    case OptimConfig::kPastExtragradient:
      return MakePastExtragradient(config, context);
    case OptimConfig::kFbf:
      return MakeForwardBackwardForward(config, context);
    case OptimConfig::kReflectedGradient:
      return MakeReflectedGradient(config, context);
    case OptimConfig::kAnchored:
      return MakeAnchored(config, context);
    case OptimConfig::kProxskip:
      return MakeProxSkip(config, context);
    case OptimConfig::kLocalExtragradient:
      return MakeLocalExtragradient(config, context);
    case OptimConfig::kDiloco:
      return MakeDiloco(config, context);
    case OptimConfig::SCHEME_NOT_SET:
      break;
  }
  return InvalidArgument("optim: unknown scheme %d", static_cast<int>(config.scheme_case()));
}

}  // namespace conclave
