// Files that options of the commands name for output.
#ifndef CONCLAVE_LAUNCH_OUTPUT_FILE_H_
#define CONCLAVE_LAUNCH_OUTPUT_FILE_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace conclave {

// Files of the real system are replaced whole (FileSystem::WriteAtomically), at the end of a link where the path is one. Anything else that
// has the name, a device or a pipe, is written into; where it is this process's standard output, behind what was printed.
absl::Status WriteOutput(const std::string& path, std::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_OUTPUT_FILE_H_
