// Routing of whole evaluations, as traces: recorded, and replayed.
#ifndef CONCLAVE_TRAINER_ROUTING_REPLAY_H_
#define CONCLAVE_TRAINER_ROUTING_REPLAY_H_

#include <cstdint>
#include <string>

#include "models/routing_log.h"
#include "parallel/routing_trace.h"
#include "trainer/assembly.h"

namespace conclave {

// What traces of this run's routing look like, its step left 0; corpus: its text. Errors: FailedPrecondition for a model without experts,
// or whose tokens have no fixed number of them.
absl::StatusOr<TraceHeader> RoutingHeader(const Assembly& assembly);

// What a recorded evaluation was of.
struct RoutingOrigin {
  int64_t step = 0;        // of the weights
  std::string checkpoint;  // their digest
  std::string batches;     // digest of what they read
};

// The trace that the ranks recorded together: pass i of rank 0, of rank 1, ..., then pass i + 1. Collective; on every rank. Errors:
// RoutingHeader's.
absl::StatusOr<RoutingTrace> GatherRouting(const Assembly& assembly, const RoutingLog& log, const RoutingOrigin& origin);

// Digest of the token ids of the first `batches` (0: all) held-out batches, 16 hexadecimal digits; the same however they are cut.
// Collective. Cost: every rank reads them once. Errors: those of reading.
absl::StatusOr<std::string> HeldOutDigest(const Assembly& assembly, int64_t batches);

// This rank's part of a trace of `batches` (0: all) held-out batches, to be replayed. A trace that does not say which tokens it is of is
// taken, with a warning. Collective. Errors: a trace of another number of tokens, layers, experts or experts a token, or of other tokens.
absl::StatusOr<RoutingLog> HeldOutRouting(const Assembly& assembly, const RoutingTrace& trace, int64_t batches);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_ROUTING_REPLAY_H_
