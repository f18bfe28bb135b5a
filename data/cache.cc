#include "data/cache.h"

#include <unistd.h>

namespace conclave {

std::string PrivateName(const std::string& path) {
  return absl::StrFormat("%s.tmp-%d", path, getpid());
}

absl::Status WriteOnce(const std::string& path, std::string_view content, const FileSystem& files) {
  RETURN_IF_ERROR(files.CreateDirs(ParentPath(path)));
  const std::string temporary = PrivateName(path);
  RETURN_IF_ERROR(files.WriteAtomically(temporary, content));
  if (const absl::Status renamed = files.Rename(temporary, path); !renamed.ok()) {
    files.RemoveFile(temporary).IgnoreError();  // the rename's error is the one to report
    return renamed;
  }
  return files.SyncDir(ParentPath(path));
}

absl::Status PublishFolder(const std::string& private_path, const std::string& path, const FileSystem& files) {
  RETURN_IF_ERROR(files.SyncDir(private_path));
  const absl::Status renamed = files.Rename(private_path, path);
  if (!renamed.ok()) {
    files.RemoveTree(private_path).IgnoreError();
    return files.Exists(path) ? absl::OkStatus() : renamed;
  }
  return files.SyncDir(ParentPath(path));
}

}  // namespace conclave
