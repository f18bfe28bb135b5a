// Whether a mixture fits the memories of a cluster that keeps expert states on disk, works on the active ones in the host's memory and
// computes on a device. Source: Shen et al., 2022 (SE-MoE), hierarchical storage.
#ifndef CONCLAVE_TRAINER_MEMORY_TIERS_H_
#define CONCLAVE_TRAINER_MEMORY_TIERS_H_

#include <string>
#include <vector>

#include "models/model.h"

namespace conclave {

// Parameters by kind. A token uses top_k of a layer's experts, so alpha = top_k / experts of the sparse parameters are active.
struct MixtureSize {
  int64_t dense = 0, sparse = 0;
  int64_t experts = 1, top_k = 1;
  int64_t layers = 1;  // mixtures
};
// Errors: FailedPrecondition for a model without experts.
absl::StatusOr<MixtureSize> SizeOfMixture(const Model& model, int64_t top_k);

// Bytes of a machine, by tier; 0: not asked about.
struct MachineMemory {
  int64_t machines = 1;
  int64_t device = 0, host = 0, disk = 0;
};

// One tier of all machines together. Bytes rounded up.
struct TierDemand {
  std::string tier, formula;
  int64_t needed = 0, available = 0;
  bool fits = true;  // by exact arithmetic; equality fits
};
// device: 16 D + 4 alpha S / L, host: 16 alpha S, disk: 12 S; 16 bytes a parameter are weight and gradient in half precision, master and
// two moments in single, 12 the last three. Only the tiers asked about.
std::vector<TierDemand> DemandsOf(const MixtureSize& size, const MachineMemory& memory);

// FailedPrecondition that names every tier that is too small, with both sides; OK if all fit.
absl::Status CheckTiers(const std::vector<TierDemand>& demands, int64_t machines);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_MEMORY_TIERS_H_
