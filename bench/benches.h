// The benches of `conclave bench`. Each measures what training runs, through the interfaces that training uses.
#ifndef CONCLAVE_BENCH_BENCHES_H_
#define CONCLAVE_BENCH_BENCHES_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "bench/measure.h"
#include "comm/communicator.h"
#include "parallel/routing_trace.h"
#include "proto/experiment.pb.h"

namespace conclave {

// The multipliers' instructions, products at the quickstart's shapes, attention, norms, softmax, cross-entropy, GELU and AdamW on this
// thread. What memory bounds is also given as a share of the copying speed measured beside it ("of_copy"; bytes counted once per tensor
// read or written).
absl::StatusOr<BenchReport> BenchKernels();

// Encode plus decode of each codec on 2^20 f32 values: bytes of the vector a second, the share of the copying speed, wire bits a value.
absl::StatusOr<BenchReport> BenchCodecs();

// Affinity placement on 8, 16 and 32 ranks, of `trace` or, where it is null, of Markov chains of 24 layers with 64 experts: seconds of one
// plan, shares of tokens that change rank between layers (plan, contiguous blocks, lower bound), and where METIS was found when this was
// built also METIS with one balance constraint a layer and pair swaps, the best of 8 seeds ("less_than_metis": 1 - plan / metis).
// effort: of the search, see placement.affinity.effort; 0: its default.
absl::StatusOr<BenchReport> BenchPlacement(const RoutingTrace* trace = nullptr, int64_t effort = 0);

// The exact exchange and the communicator's all-reduce over all ranks, one worker a rank, on f32 vectors of 4 KiB, 64 KiB, ...: bytes of
// the vector a second; under MPI also MPI_Allreduce, in turn with ours; what crossed between ranks, by the ledger. A call's time is that of
// the slowest rank. Collective.
struct CollectiveBenchOptions {
  int64_t smallest_bytes = 4096;
  int64_t largest_bytes = int64_t{16} << 20;
  int samples = 9;
  std::string codec;  // proto text: an exchange through it, too (ExchangeOfOneBlock); empty: none
};
absl::StatusOr<BenchReport> BenchCollectives(Communicator& world, const CollectiveBenchOptions& options = {});

// The exchange of a vector of 8 MiB between two ranks (threads) through `codec` (proto text) against the exact one: the link rate
// below which it is faster ("modelled_mbit": bytes saved / seconds lost without a link), and where it really is on throttled links
// ("measured_mbit": between links of 2/3 and of 3/2 of the modelled rate), "apart": |measured / modelled - 1|. The rate is the vector's
// bytes by the seconds lost. Errors: InvalidArgument for a text that is no codec; FailedPrecondition where there is no crossover.
absl::StatusOr<BenchReport> BenchCrossover(const std::string& codec, int samples = 25);

// Training steps of a config (data, checkpoints and evaluation left out): tokens or samples a second (steps, where the model has no data),
// bytes between ranks a step. Collective.
//
// In f32 also the ceiling: the rate of a step that made its matrix products alone, each as fast as the best of the libraries makes it
// (bench/library_rates.h, measured in turn with the steps), and the step's share of it. Ceiling and share compare means, so that what else
// runs on the machine slows both alike; of_ceiling_cpu compares the time that the thread has run, which leaves out waiting for a core (and
// for other ranks: it says most with one rank). Then a line a product shape and a line an op: its time a step and share of the step, an
// op's without the products and ops inside it.
struct TrainingBenchOptions {
  int warmup_steps = 3;
  int steps = 20;
};
absl::StatusOr<BenchReport> BenchTraining(const Experiment& config, Communicator& world, const TrainingBenchOptions& options = {});

}  // namespace conclave

#endif  // CONCLAVE_BENCH_BENCHES_H_
