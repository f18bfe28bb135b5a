// Matches a checkpoint's tensors by name with a train state spread over ranks: strict accounting before a byte is read.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_MATCH_H_
#define CONCLAVE_TRAINER_CHECKPOINT_MATCH_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "proto/checkpoint.pb.h"
#include "tensor/state_dict.h"

namespace conclave {

struct LoadOptions {
  std::string_view prefix;  // only tensors of this prefix ("model/"), on both sides, and then no scalars; empty: everything
  bool strict = true;       // false: what does not fit is left alone and reported
};

// Names, sorted, over all ranks, equal on every rank. Empty after a strict load.
struct LoadReport {
  std::vector<std::string> missing;     // wanted here, absent in the checkpoint
  std::vector<std::string> unused;      // in the checkpoint, wanted by no rank
  std::vector<std::string> mismatched;  // "name: F32 [2, 3] in the checkpoint, F32 [2, 4] here"
};

// Fits whole into memory of its type and shape.
struct TensorMatch {
  const SavedTensor* saved = nullptr;
  Tensor destination;
};

struct StateMatch {
  std::vector<TensorMatch> tensors;                            // of this rank
  std::vector<std::pair<const StateScalar*, double>> scalars;  // and the values they get
  LoadReport report;
};

// Collective; refers to manifest and dict. Errors: the communicator's; FailedPrecondition if options.strict and the report is not empty,
// with up to five names of each kind; Unimplemented for a tensor that is not in host memory. `path` is for messages.
absl::StatusOr<StateMatch> MatchState(Communicator& control, const CheckpointManifest& manifest, const StateDict& dict,
                                      const LoadOptions& options, const std::string& path);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_MATCH_H_
