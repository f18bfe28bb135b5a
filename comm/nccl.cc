#include "comm/nccl.h"

#include <nccl.h>

namespace conclave {

bool NcclAvailable() { return true; }

std::string NcclVersion() {
  int code = 0;
  if (ncclGetVersion(&code) != ncclSuccess) return "";
  // Since 2.9 the code is major * 10000 + minor * 100 + patch.
  return absl::StrFormat("%d.%d.%d", code / 10000, code / 100 % 100, code % 100);
}

absl::Status RequireNccl() {
  if (NcclVersion().empty()) {
    return FailedPrecondition("NCCL is built in, but its library does not answer: install the version it was built with");
  }
  return absl::OkStatus();
}

}  // namespace conclave
