// StateTransfer: carries train state from one placement of the experts to another.
#ifndef CONCLAVE_TRAINER_STATE_TRANSFER_H_
#define CONCLAVE_TRAINER_STATE_TRANSFER_H_

#include <cstdint>

#include "base/status.h"
#include "comm/communicator.h"
#include "parallel/expert_placement.h"
#include "tensor/state_dict.h"

namespace conclave {

struct TransferOptions {
  const ParameterSet* parameters = nullptr;
  Communicator* group = nullptr;          // the ranks of one data coordinate: every expert is held by one of them
  const ExpertPlacement* from = nullptr;  // of `current`
  const ExpertPlacement* to = nullptr;    // of `next`
};

struct TransferReport {
  int64_t experts = 0;  // (layer, expert) pairs that change rank, the same on every rank
  int64_t bytes = 0;    // payload this rank sent: parameters, moments and compression state of its experts
};

// Makes the tensors and scalars of `next` hold the bits of `current`. Tensors of experts that change rank come over the wire, a layer at a
// time, each expert's with its length and CRC32C; all others are copied here. Raw bytes only: NaN payloads and negative zeros stay.
// `current` is never written to. Collective on the group, which no other rank of the job need be in step with; not a vote: the caller
// must make all ranks agree before `current` is given up. Errors: DataLoss for a damaged payload, Internal where the two dictionaries do
// not name the same state; every collective is entered in any case. Memory: what one layer sends and receives.
absl::StatusOr<TransferReport> TransferState(const TransferOptions& options, const StateDict& current, const StateDict& next);

// Bytes of a dictionary that belong to experts: what a migration of all of them would send.
int64_t ExpertBytes(const ParameterSet& parameters, const StateDict& state);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_STATE_TRANSFER_H_
