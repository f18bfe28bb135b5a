// The schemes by config.
#ifndef CONCLAVE_OPTIM_SCHEMES_H_
#define CONCLAVE_OPTIM_SCHEMES_H_

#include <functional>
#include <initializer_list>
#include <memory>
#include <string_view>

#include "base/status.h"
#include "comm/exchange.h"
#include "optim/scheme.h"
#include "proto/optim.pb.h"

namespace conclave {

// What a scheme is built from. What `exchange` points to outlives the scheme.
struct SchemeContext {
  ExchangeContext exchange;                                   // layout, dtype, workers, communicators, seed
  std::function<void(BlockId, const Tensor& value)> initial;  // writes the initial value of a local block; called during construction only
  int64_t total_steps = 0;                                    // the length of the schedule
  std::function<void(BlockId)> updated = nullptr;             // FIRST_ORDER: told of a local block once its rule has moved it; may be empty
};

// Allocates all state. config: with all defaults filled in. Collective only as far as exchanges need it. Errors: InvalidArgument for a
// setting that the scheme has no use for (a rule's groups or clipping where z moves by gamma and prox; a prox under FIRST_ORDER), a pattern
// that matches nothing, or a field that should have been filled and is not.
absl::StatusOr<std::unique_ptr<Scheme>> MakeScheme(const OptimConfig& config, const SchemeContext& context);

// The iterate before step 0, for makers of schemes.
FlatVector InitialPoint(const SchemeContext& context);

// For makers of schemes whose theory asks for a class of codecs. Errors: InvalidArgument where `exchange`, the field `path` of the config,
// is of none of these kinds.
absl::Status CheckExchangeKind(const ExchangeConfig& exchange, std::initializer_list<std::string_view> kinds, std::string_view path);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_SCHEMES_H_
