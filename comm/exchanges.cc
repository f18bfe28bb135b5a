#include "comm/exchanges.h"

namespace conclave {

ExchangeOr MakeExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  if (context.to_canonical && config.kind_case() != ExchangeConfig::kExact && config.kind_case() != ExchangeConfig::KIND_NOT_SET) {
    return InvalidArgument(
        "parallel.updates: SHARDED needs the exact exchange: with a codec every owner decodes the mean itself; choose exact or REPLICATED");
  }
  if (config.has_when_it_pays()) return MakeDecidingExchange(config, context);
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
