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

// Schemes that move z by gamma and prox have no use for what belongs to update rules, and a rule has none for a prox.
absl::Status CheckSettings(const OptimConfig& config) {
  const bool by_rule = config.scheme_case() == OptimConfig::kFirstOrder;
  const bool has_prox = config.prox().kind_case() != ProxConfig::KIND_NOT_SET && config.prox().kind_case() != ProxConfig::kZero;
  if (by_rule && has_prox) {
    return InvalidArgument(
        "optim.prox: first_order moves parameters by a rule and takes no prox; choose a scheme that steps by gamma, such as extragradient");
  }
  if (!by_rule && config.groups_size() > 0) {
    return InvalidArgument("optim.groups: only first_order has groups; the other schemes move every block by gamma and prox");
  }
  if (!by_rule && config.clip_norm() > 0) {
    return InvalidArgument("optim.clip_norm: only first_order clips (got %g); clipping would change the field they follow",
                           config.clip_norm());
  }
  return absl::OkStatus();
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
    case OptimConfig::SCHEME_NOT_SET:
      break;
  }
  return InvalidArgument("optim: unknown scheme %d", static_cast<int>(config.scheme_case()));
}

}  // namespace conclave
