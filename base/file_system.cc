#include "base/file_system.h"

#include <cerrno>
#include <system_error>

namespace conclave {
namespace {

const char* Advice(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space there or choose another folder";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; check the owner and the permissions, or choose another folder";
    case ENOENT:
      return "; check the path";
    case EMFILE:
    case ENFILE:
      return "; raise the limit of open files (ulimit -n)";
    case EIO:
      return "; the device may be failing";
    default:
      return "";
  }
}

std::string_view StripSlashes(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return path;
}

}  // namespace

absl::Status FileError(std::string_view call, const std::string& path, int error_number) {
  return absl::Status(absl::ErrnoToStatusCode(error_number),
                      absl::StrFormat("cannot %s '%s': %s (errno %d)%s", call, path, std::generic_category().message(error_number),
                                      error_number, Advice(error_number)));
}

std::string JoinPath(std::string_view folder, std::string_view name) {
  if (folder.empty() || name.starts_with('/')) return std::string(name);
  std::string path(folder);
  if (path.back() != '/') path += '/';
  return path.append(name);
}

std::string ParentPath(std::string_view path) {
  path = StripSlashes(path);
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return std::string(StripSlashes(path.substr(0, slash + 1)));
}

std::string BaseName(std::string_view path) {
  path = StripSlashes(path);
  return std::string(path.size() > 1 ? path.substr(path.rfind('/') + 1) : path);
}

bool FileSystem::Exists(const std::string& path) const {
  const absl::StatusOr<FileKind> kind = Kind(path);
  return kind.ok() && *kind != FileKind::kMissing;
}

absl::Status FileSystem::CreateDirs(const std::string& path) const {
  ASSIGN_OR_RETURN(const FileKind kind, Kind(path));
  if (kind == FileKind::kDirectory) return absl::OkStatus();
  if (kind == FileKind::kFile) return FileError("create directory", path, ENOTDIR);
  const std::string parent = ParentPath(path);
  if (parent != path) RETURN_IF_ERROR(CreateDirs(parent));
  const absl::Status created = CreateDir(path);
  if (absl::IsAlreadyExists(created)) {  // another process was faster
    ASSIGN_OR_RETURN(const FileKind now, Kind(path));
    if (now != FileKind::kDirectory) return created;
  } else if (!created.ok()) {
    return created;
  }
  return SyncDir(parent);
}

absl::Status FileSystem::RemoveTree(const std::string& path) const {
  // Unlink first and ask afterwards: a link to a directory is removed, never walked into.
  const absl::Status removed = RemoveFile(path);
  if (removed.ok() || absl::IsNotFound(removed)) return absl::OkStatus();
  if (!absl::IsFailedPrecondition(removed)) return removed;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(path));
  for (const std::string& name : names) RETURN_IF_ERROR(RemoveTree(JoinPath(path, name)));
  return RemoveDir(path);
}

absl::StatusOr<std::string> FileSystem::ReadAll(const std::string& path) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, OpenForRead(path));
  ASSIGN_OR_RETURN(const int64_t size, file->Size());
  std::string content(static_cast<size_t>(size), '\0');
  RETURN_IF_ERROR(file->Read(0, std::as_writable_bytes(std::span(content.data(), content.size()))));
  return content;
}

absl::Status FileSystem::WriteAtomically(const std::string& path, std::string_view content) const {
  const std::string temporary = path + ".tmp";
  const auto write = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, OpenForWrite(temporary, WriteMode::kTruncate));
    RETURN_IF_ERROR(file->Write(content));
    RETURN_IF_ERROR(file->Sync());
    RETURN_IF_ERROR(file->Close());
    return Rename(temporary, path);
  };
  if (const absl::Status written = write(); !written.ok()) {
    RemoveFile(temporary).IgnoreError();  // the first error is the one to report
    return written;
  }
  return SyncDir(ParentPath(path));
}

}  // namespace conclave
