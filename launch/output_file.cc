#include "launch/output_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/file_system.h"

namespace conclave {
namespace {

absl::Status WriteToStandardOutput(const std::string& path, std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return absl::OkStatus();
  return FileError("write", path, errno);
}

absl::Status WriteInto(const std::string& path, std::string_view text) {
  ASSIGN_OR_RETURN(const auto file, RealFileSystem().OpenForWrite(path, WriteMode::kAppend));
  RETURN_IF_ERROR(file->Write(text));
  return file->Close();
}

}  // namespace

absl::Status WriteOutput(const std::string& path, std::string_view text) {
  struct stat named, printed;
  if (stat(path.c_str(), &named) != 0) return RealFileSystem().WriteAtomically(path, text);
  if (fstat(STDOUT_FILENO, &printed) == 0 && named.st_dev == printed.st_dev && named.st_ino == printed.st_ino) {
    return WriteToStandardOutput(path, text);
  }
  if (!S_ISREG(named.st_mode) && !S_ISDIR(named.st_mode)) return WriteInto(path, text);
  std::error_code error;
  const std::filesystem::path end = std::filesystem::canonical(path, error);
  return error ? FileError("resolve", path, error.value()) : RealFileSystem().WriteAtomically(end.string(), text);
}

}  // namespace conclave
