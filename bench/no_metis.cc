#include "bench/metis_partition.h"

namespace conclave {

bool HasMetis() { return false; }

absl::StatusOr<PlacementTable> MetisPartition(const PlacementProblem&, int) {
  return Unimplemented("this build has no METIS: install libmetis-dev and configure again");
}

}  // namespace conclave
