// Files and folders that are made once and may be made by several processes at the same time: whoever is first wins, nobody sees a half
// one.
#ifndef CONCLAVE_DATA_CACHE_H_
#define CONCLAVE_DATA_CACHE_H_

#include <string>
#include <string_view>

#include "base/file_system.h"

namespace conclave {

// A name beside `path` that no other process of this host uses.
std::string PrivateName(const std::string& path);

// Writes the file durably under a private name and renames it to `path`, replacing what is there. Makes missing folders.
absl::Status WriteOnce(const std::string& path, std::string_view content, const FileSystem& files);

// Gives the finished folder `private_path` the name `path`. Where `path` exists already (another process was faster), `private_path` is
// removed instead: the contents of both must be equal by construction.
absl::Status PublishFolder(const std::string& private_path, const std::string& path, const FileSystem& files);

}  // namespace conclave

#endif  // CONCLAVE_DATA_CACHE_H_
