// Routing drawn from a Markov chain: the synthetic instances on which placement solvers are compared.
#ifndef CONCLAVE_PARALLEL_MARKOV_TRACE_H_
#define CONCLAVE_PARALLEL_MARKOV_TRACE_H_

#include <cstdint>

#include "parallel/routing_counts.h"

namespace conclave {

// A token enters at a uniform expert; from expert i of layer j it goes to expert p of layer j + 1 with probability proportional to
// exp(sigma * normal(j, i, p)). sigma 0: no affinity; 1.5: some; 3: a lot.
struct MarkovInstance {
  int layers = 24;
  int experts = 64;
  double sigma = 1.5;
  uint64_t seed = 1;
  int64_t tokens = 5000;
};

// Errors: InvalidArgument for sizes below 1 (layers below 2), a negative or infinite sigma, more than 2^16 experts.
absl::Status CheckMarkovInstance(const MarkovInstance& instance);
// Tokens drawn one by one, top_k = 1.
RoutingTrace MarkovTrace(const MarkovInstance& instance);
// The expected counts of `tokens` tokens, each rounded to an integer: an instance without sampling noise. Loads are rounded alike.
RoutingCounts MarkovCounts(const MarkovInstance& instance);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_MARKOV_TRACE_H_
