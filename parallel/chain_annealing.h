// Annealing of the chain objective by moves and deals of whole columns.
#ifndef CONCLAVE_PARALLEL_CHAIN_ANNEALING_H_
#define CONCLAVE_PARALLEL_CHAIN_ANNEALING_H_

#include <cstdint>

#include "parallel/chain_state.h"

namespace conclave {

struct AnnealOptions {
  uint64_t seed = 1;
  uint32_t start = 0;    // which of several independent runs
  int64_t passes = 100;  // moves of all pairs of ranks
};

// For a state that starts at random. A short run, the temperature falling geometrically, shows where the instance freezes; then the table
// starts anew and every temperature gets the passes that its heat capacity asks for (constant thermodynamic speed). A pure function of
// state and options. Cost: passes * PassNanoseconds. Sources: Kirkpatrick, Gelatt, Vecchi, "Optimization by Simulated Annealing", Science
// 1983; Salamon et al., "Simulated annealing with constant thermodynamic speed", Computer Physics Communications 1988.
void Anneal(ChainState& state, const AnnealOptions& options);

// About how many nanoseconds a pass takes: what budgets are shared out by. Deals take less, 0.65 of it with two experts and 0.9 with four:
// half as many passes more made plans no better.
double PassNanoseconds(const PlacementProblem& problem);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_CHAIN_ANNEALING_H_
