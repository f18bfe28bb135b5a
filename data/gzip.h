// Files that may be compressed.
#ifndef CONCLAVE_DATA_GZIP_H_
#define CONCLAVE_DATA_GZIP_H_

#include <string>

#include "base/file_system.h"

namespace conclave {

// The whole file, decompressed where it begins as a gzip file does. Errors: those of the file system; DataLoss naming the path where the
// compressed content is damaged, ends early, is followed by something else, or is larger than 4 GiB.
absl::StatusOr<std::string> ReadMaybeGzip(const std::string& path, const FileSystem& files);

}  // namespace conclave

#endif  // CONCLAVE_DATA_GZIP_H_
