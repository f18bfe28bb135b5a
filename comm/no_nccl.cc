#include "comm/nccl.h"

namespace conclave {

bool NcclAvailable() { return false; }

std::string NcclVersion() { return ""; }

absl::Status RequireNccl() {
  return FailedPrecondition(
      "this program was built without NCCL: collectives on device memory are refused; build with -DCONCLAVE_CUDA=ON where NCCL is "
      "installed, "
      "or use device: CPU");
}

}  // namespace conclave
