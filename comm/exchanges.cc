#include "comm/exchanges.h"

namespace conclave {

ExchangeOr MakeExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  switch (config.kind_case()) {
    case ExchangeConfig::kExact:
    case ExchangeConfig::KIND_NOT_SET:
      return MakeExactExchange(context);
    case ExchangeConfig::kQuantized:
      return MakeQuantizedExchange(config.quantized(), context);
  }
  return InvalidArgument("exchange: kind %d is not known; known: exact, quantized", static_cast<int>(config.kind_case()));
}

}  // namespace conclave
