// NCCL, where it is built in. Without it the twin no_nccl.cc answers; callers need no conditional compilation.
#ifndef CONCLAVE_COMM_NCCL_H_
#define CONCLAVE_COMM_NCCL_H_

#include <string>

#include "base/status.h"

namespace conclave {

bool NcclAvailable();
// "2.19.3"; "" without NCCL.
std::string NcclVersion();
// OK, or FailedPrecondition with the reason why collectives on device memory cannot be had.
absl::Status RequireNccl();

}  // namespace conclave

#endif  // CONCLAVE_COMM_NCCL_H_
