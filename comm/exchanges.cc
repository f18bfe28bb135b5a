#include "comm/exchanges.h"

#include <vector>

#include "base/log.h"

namespace conclave {
namespace {

// Whether a codec anywhere in the message has one mask for all workers. Exchanges inside say so themselves.
bool HasCommonMask(const google::protobuf::Message& message) {
  if (message.GetDescriptor() == RandKConfig::descriptor() && static_cast<const RandKConfig&>(message).common_mask()) return true;
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->message_type() == nullptr || field->message_type() == HierarchicalConfig::descriptor()) continue;
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (HasCommonMask(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i) : reflection.GetMessage(message, field))) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace

ExchangeOr MakeExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  if (context.to_canonical && config.kind_case() != ExchangeConfig::kExact && config.kind_case() != ExchangeConfig::KIND_NOT_SET) {
    return InvalidArgument(
        "parallel.updates: SHARDED needs the exact exchange: with a codec every owner decodes the mean itself; choose exact or REPLICATED");
  }
  if (config.has_when_it_pays()) return MakeDecidingExchange(config, context);
  if (HasCommonMask(config) && context.world->rank() == 0) {
    LOG_WARNING
        << "rand_k { common_mask: true }: the workers' errors do not average out; independent masks or perm_k usually need fewer bytes";
  }
  switch (config.kind_case()) {
    case ExchangeConfig::kExact:
    case ExchangeConfig::KIND_NOT_SET:
      if (config.has_downlink()) {
        return InvalidArgument("exchange.downlink: an exact exchange sends means as they are; choose another exchange or leave it out");
      }
      return MakeExactExchange(context);
    case ExchangeConfig::kQuantized:
      return MakeQuantizedExchange(config, context);
    case ExchangeConfig::kEf14:
      return MakeEf14Exchange(config, context);
    case ExchangeConfig::kEf21:
      return MakeEf21Exchange(config, context);
    case ExchangeConfig::kEf21Sgdm:
      return MakeEf21SgdmExchange(config, context);
    case ExchangeConfig::kDiana:
      return MakeDianaExchange(config, context);
    case ExchangeConfig::kMarina:
      return MakeMarinaExchange(config, context);
    case ExchangeConfig::kPowerSgd:
      return MakePowerSgdExchange(config, context);
    case ExchangeConfig::kOneBit:
      return MakeOneBitExchange(config, context);
    case ExchangeConfig::kMajorityVote:
      return MakeMajorityVoteExchange(config, context);
    case ExchangeConfig::kHierarchical:
      return MakeHierarchicalExchange(config, context);
    case ExchangeConfig::kOkTopk:
      return MakeOkTopKExchange(config, context);
  }
  return InvalidArgument(
      "exchange: kind %d is not known; known: exact, quantized, ef14, ef21, ef21_sgdm, diana, marina, power_sgd, one_bit, majority_vote, "
      "hierarchical, ok_topk",
      static_cast<int>(config.kind_case()));
}

}  // namespace conclave
