// Says where a vector stops being finite: looked for only once it has.
#ifndef CONCLAVE_OPTIM_NOT_FINITE_H_
#define CONCLAVE_OPTIM_NOT_FINITE_H_

#include <functional>
#include <string>

#include "comm/exchange.h"
#include "optim/operator.h"

namespace conclave {

// Where to look, in this order; what is null is left out.
struct Suspects {
  const Exchange* exchange = nullptr;                        // its messages, after Finish
  std::function<absl::Status(const OnBlock&)> vectors = {};  // hands over the workers' vectors seen here, each by itself
  const FlatVector* mean = nullptr;
};

// In words that are the same on every rank: the lowest worker whose vector is to blame, its lowest block, the first bad coordinate and what
// stands there; or the codec whose range a finite value is beyond; or, where every vector is finite, the mean's first bad coordinate.
// Collective. Cost: what `vectors` costs, a few all-gathers of 16 bytes a rank; none of the step's books.
absl::StatusOr<std::string> WhyNotFinite(const ParameterSet& parameters, Communicator& world, const Suspects& suspects);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_NOT_FINITE_H_
