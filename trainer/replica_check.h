// Replicas that drifted apart are found by what they hash to.
#ifndef CONCLAVE_TRAINER_REPLICA_CHECK_H_
#define CONCLAVE_TRAINER_REPLICA_CHECK_H_

#include "base/status.h"
#include "comm/communicator.h"
#include "tensor/state_dict.h"

namespace conclave {

// Whether tensors of equal name are the same bytes on all ranks that hold them. Errors, the same on every rank: DataLoss that names the
// first tensor in the order of names that differs, and the ranks whose bytes fewer ranks share than any others; where it is a draw, all
// groups of equal bytes. Collective. Cost: one pass over the state, 8 bytes a tensor gathered from every rank and 16 reduced.
absl::Status CheckReplicas(const StateDict& state, Communicator& world);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_REPLICA_CHECK_H_
