#include "optim/schemes.h"

#include <string>

#include "proto/options.pb.h"

namespace conclave {

using SchemeOr = absl::StatusOr<std::unique_ptr<Scheme>>;
SchemeOr MakeFirstOrder(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeExtragradient(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeGradientDescentAscent(const OptimConfig& config, const SchemeContext& context);
SchemeOr MakeMasha1(const OptimConfig& config, const SchemeContext& context);

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

// Schemes that move z by gamma and prox have no use for what belongs to update rules, and a rule has none for a prox.
absl::Status CheckSettings(const OptimConfig& config) {
  const bool by_rule = config.scheme_case() == OptimConfig::kFirstOrder;
  const bool has_prox = config.prox().kind_case() != ProxConfig::KIND_NOT_SET && config.prox().kind_case() != ProxConfig::kZero;
  if (by_rule && has_prox) {
    return InvalidArgument("optim.prox: first_order moves parameters by a rule and takes no prox; choose extragradient, gda or masha1");
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

SchemeOr MakeScheme(const OptimConfig& config, const SchemeContext& context) {
  if (config.scheme_case() == OptimConfig::SCHEME_NOT_SET) {
    return InvalidArgument("optim: a scheme must be chosen, one of first_order, extragradient, gda, masha1");
  }
  RETURN_IF_ERROR(CheckFilled(config, "optim"));
  RETURN_IF_ERROR(CheckSettings(config));
  switch (config.scheme_case()) {
    case OptimConfig::kFirstOrder:
      return MakeFirstOrder(config, context);
    case OptimConfig::kExtragradient:
      return MakeExtragradient(config, context);
    case OptimConfig::kGda:
      return MakeGradientDescentAscent(config, context);
    case OptimConfig::kMasha1:
      return MakeMasha1(config, context);
    case OptimConfig::SCHEME_NOT_SET:
      break;
  }
  return InvalidArgument("optim: unknown scheme %d", static_cast<int>(config.scheme_case()));
}

}  // namespace conclave
