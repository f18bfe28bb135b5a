// The exchanges a config can name. Each is one file in comm/exchanges.
#ifndef CONCLAVE_COMM_EXCHANGES_H_
#define CONCLAVE_COMM_EXCHANGES_H_

#include <memory>

#include "comm/exchange.h"
#include "proto/comm.pb.h"

namespace conclave {

using ExchangeOr = absl::StatusOr<std::unique_ptr<Exchange>>;

// Errors: InvalidArgument for an exchange that cannot be, with the values.
ExchangeOr MakeExchange(const ExchangeConfig& config, const ExchangeContext& context);

// One that keeps its codecs only where they pay: config.when_it_pays().
ExchangeOr MakeDecidingExchange(const ExchangeConfig& config, const ExchangeContext& context);

// In comm/exchanges, for a config of their kind; the exact one is declared in comm/exchange.h.
ExchangeOr MakeQuantizedExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeEf14Exchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeEf21Exchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeEf21SgdmExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeDianaExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakePowerSgdExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeOneBitExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeMarinaExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeMajorityVoteExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeHierarchicalExchange(const ExchangeConfig& config, const ExchangeContext& context);
ExchangeOr MakeOkTopKExchange(const ExchangeConfig& config, const ExchangeContext& context);

}  // namespace conclave

#endif  // CONCLAVE_COMM_EXCHANGES_H_
