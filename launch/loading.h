// What commands that open a run folder or a config share.
#ifndef CONCLAVE_LAUNCH_LOADING_H_
#define CONCLAVE_LAUNCH_LOADING_H_

#include <string>

#include "trainer/assembly.h"
#include "trainer/run_folder.h"

namespace conclave {

// Prints the diagnostics of a config as they are, or why its file cannot be read, and returns 2.
int FailConfig(const absl::Status& status);

// The config of a run folder, with the mesh axes set for `ranks` ranks: experts are split only as far as that divides.
absl::StatusOr<Experiment> ConfigForReading(const RunFolder& folder, int ranks);

// Assembles the run and loads the weights of its newest checkpoint (of its averaged weights where it keeps them). Collective.
absl::Status OpenTrained(const RunFolder& folder, const Experiment& config, Communicator& world, Assembly* assembly);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_LOADING_H_
