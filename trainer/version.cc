#include "trainer/version.h"

#include <google/protobuf/stubs/common.h>
#include <oneapi/dnnl/dnnl.h>

#include "absl/strings/str_format.h"
#include "comm/mpi_communicator.h"

namespace conclave {

std::vector<std::pair<std::string, std::string>> LibraryVersions() {
  const dnnl_version_t* dnnl = dnnl_version();
  return {{"MPI", MpiLibraryVersion()},
          {"oneDNN", absl::StrFormat("%d.%d.%d", dnnl->major, dnnl->minor, dnnl->patch)},
          {"Protobuf", google::protobuf::internal::VersionString(GOOGLE_PROTOBUF_VERSION)}};
}

}  // namespace conclave
