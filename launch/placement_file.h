// Placements in files: {"schema":"conclave.placement","version":1,"ranks":R,"nodes":N,"table":[[rank of expert 0, ...] of layer 0, ...]}.
#ifndef CONCLAVE_LAUNCH_PLACEMENT_FILE_H_
#define CONCLAVE_LAUNCH_PLACEMENT_FILE_H_

#include <string>

#include "base/file_system.h"
#include "parallel/placement_problem.h"

namespace conclave {

std::string RenderPlacement(const PlacementTable& table, const Topology& topology);
// Errors: InvalidArgument for another schema or version, for what is no table of integers, for other ranks or nodes than the topology's.
// Whether the table fits a trace is CheckPlacementProblem's to say.
absl::StatusOr<PlacementTable> ReadPlacement(const FileSystem& files, const std::string& path, const Topology& topology);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_PLACEMENT_FILE_H_
