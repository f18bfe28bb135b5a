// What commands that open a run folder or a config share.
#ifndef CONCLAVE_LAUNCH_LOADING_H_
#define CONCLAVE_LAUNCH_LOADING_H_

#include <memory>
#include <string>
#include <vector>

#include "launch/arguments.h"
#include "trainer/assembly.h"
#include "trainer/ring_memory.h"
#include "trainer/run_folder.h"

namespace conclave {

// Prints the diagnostics of a config as they are, or why its file cannot be read, and returns 2.
int FailConfig(const absl::Status& status);

// The config of a run folder, with the mesh axes set for `ranks` ranks: experts are split only as far as that divides,
// and runs of fewer workers get one a rank.
absl::StatusOr<Experiment> ConfigForReading(const RunFolder& folder, int ranks);

// The weights that a command reads.
struct OpenedWeights {
  int64_t step = 0;
  std::string digest;  // of the checkpoint's manifest, which has the checksums of all its tensors; 16 hexadecimal digits
};

// Assembles the run and loads the weights of its newest checkpoint (of its averaged weights where it keeps them). placement: by mixture
// layer and expert, the coordinate that holds it; empty: consecutive experts. Collective. Errors also: a placement of other layers, experts
// or ranks.
absl::StatusOr<OpenedWeights> OpenTrained(const RunFolder& folder, const Experiment& config, Communicator& world, Assembly* assembly,
                                          const std::vector<std::vector<int>>& placement = {});

// Options --resident-layers and --scratch.
std::vector<OptionSpec> RingOptions();
// The ring that --resident-layers asks for, of the trained weights; null without it. Rank 0 says how much memory it takes.
absl::StatusOr<std::unique_ptr<RingMemory>> RingFrom(const Arguments& arguments, const RunFolder& folder, const Assembly& assembly);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_LOADING_H_
