// A config written out in full, its hash, and what changed between two of them.
#ifndef CONCLAVE_TRAINER_CONFIG_RESOLVED_H_
#define CONCLAVE_TRAINER_CONFIG_RESOLVED_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/experiment.pb.h"
#include "proto/options.pb.h"
#include "trainer/config_loader.h"

namespace conclave {

// The 64-bit digest of the deterministic serialisation. Equal configs have equal hashes, whatever layers they came from.
uint64_t ConfigHash(const Experiment& config);

// Text format with every field explicit, each line commented with its origin; what stays unset is a comment. Loading it gives an equal
// config.
std::string ResolvedText(const LoadedConfig& loaded);

// A config without its sources, such as one read back from a run folder or a checkpoint. Errors: DataLoss where `text` is no config.
absl::StatusOr<Experiment> ParseResolvedConfig(const std::string& text);

struct ConfigChange {
  std::string path;       // "optim.first_order.lr"; a oneof whose member changed: the block and the oneof's name, "optim.scheme"
  std::string old_value;  // text format; "unset" where there is none
  std::string new_value;
  FieldSpec::Resume resume = FieldSpec::FORBIDDEN;
};

// Every field in which two complete configs differ, in schema order, with what it means for resuming: the class of the field or of the
// nearest block around it that has one, else FORBIDDEN.
std::vector<ConfigChange> DiffForResume(const Experiment& old_config, const Experiment& new_config);

// OK if a run under `old_config` may go on under `new_config`; else FailedPrecondition listing all forbidden changes.
absl::Status CheckResume(const Experiment& old_config, const Experiment& new_config);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_RESOLVED_H_
