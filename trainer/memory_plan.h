// MemoryPlan: what a run will hold in memory on this rank, foretold before its first step.
#ifndef CONCLAVE_TRAINER_MEMORY_PLAN_H_
#define CONCLAVE_TRAINER_MEMORY_PLAN_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "trainer/assembly.h"

namespace conclave {

// Bytes of this rank. Not in it: the program, its libraries and what they allocate, and the corpus (mapped files).
struct MemoryPlan {
  int64_t parameters = 0;
  int64_t scheme_state = 0;  // train state of the scheme beside the parameters: moments, reference points, compression memories
  int64_t exchange = 0;      // sums on their way, aggregates, scratch, averaged weights: whatever else stands in tensor memory
  int64_t gradients = 0;     // of the running leaf, and the sums of earlier ones
  int64_t samples = 0;
  int64_t node_memory = 0;       // shared with ranks of the node for short messages, see Communicator::NodeMemory
  int64_t activations = 0;       // at the peak of a leaf, scratch of its backward pass included; experts' rows dealt out evenly
  int64_t activation_bound = 0;  // where every token of a data column goes to this rank's experts; reserved, but touched only if it happens
  int64_t on_disk = 0;           // of the parameters and the state: experts that are on disk alone, see ExpertMemory
  // What activations depend on and nobody knows beforehand: rows that experts of this rank are sent of a leaf (ModelOperator::expert_rows),
  // an even share of them, and the bytes of one more.
  int64_t even_rows = 0;
  double bytes_of_row = 0;
  int64_t total() const { return parameters + scheme_state + exchange + gradients + samples + node_memory + activations - on_disk; }
  // With so many rows instead of an even share.
  int64_t TotalFor(int64_t rows) const;
};

// Builds up the plan and reserves the activations' memory. Everything but the activations is already there once a run is assembled, and is
// counted; activations are measured on two small cuts of a leaf and continued along a line to its size. What ranks were sent by chance
// differs, and so tells the bytes of a row. Changes no train state. Collective; call it before the first step. Cost: the work of a few
// samples.
absl::StatusOr<MemoryPlan> PlanMemory(Assembly& assembly);

// The same sum while the run goes on: memory of this rank as it stands, with the largest use of activations so far.
int64_t MeasuredMemory(const Assembly& assembly);

// A table of the plan, and a line that compares MeasuredMemory with it, for the rows that came, as text.
std::string MemoryTable(const Assembly& assembly, const MemoryPlan& plan);
std::string MemoryLine(const Assembly& assembly, const MemoryPlan& plan);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_MEMORY_PLAN_H_
