#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "base/clock.h"
#include "base/file_system.h"

namespace conclave {
namespace {

// Where the lines of this process go. The descriptors are written to directly, one call a line, so that the lines of several ranks that
// share a terminal or a pipe do not mix and nothing is lost in a buffer when the process ends at once.
struct LogState {
  std::mutex mutex;
  int rank = 0;
  LogLevel stderr_level = LogLevel::kInfo;
  int file = -1;
  void (*before_line)() = nullptr;
};

LogState& TheLog() {
  static LogState* const state = new LogState;  // never destroyed: destructors of other objects may log
  return *state;
}

void WriteFully(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // a log that cannot be written must not end a run
    text.remove_prefix(static_cast<size_t>(n));
  }
}

// "2026-11-21T23:44:25.123Z I rank 0: message\n".
std::string Format(LogLevel level, int rank, std::string message) {
  while (!message.empty() && message.back() == '\n') message.pop_back();
  return absl::StrFormat("%s %c rank %d: %s\n", FormatUtc(RealClock().WallNanos()), "DIWE"[static_cast<int>(level)], rank, message);
}

}  // namespace

absl::Status InitLog(const LogOptions& options) {
  int file = -1;
  if (!options.file.empty()) {
    file = open(options.file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) return FileError("open log", options.file, errno);
  }
  LogState& state = TheLog();
  const std::lock_guard lock(state.mutex);
  if (state.file >= 0) close(state.file);
  state.file = file;
  state.rank = options.rank;
  state.stderr_level = options.rank == 0 ? options.stderr_level : std::max(options.stderr_level, LogLevel::kWarning);
  return absl::OkStatus();
}

void SetLogInterlude(void (*before_line)()) {
  LogState& state = TheLog();
  const std::lock_guard lock(state.mutex);
  state.before_line = before_line;
}

LogLine::~LogLine() {
  LogState& state = TheLog();
  const std::lock_guard lock(state.mutex);
  const bool to_stderr = level_ >= state.stderr_level;
  if (!to_stderr && state.file < 0) return;
  const std::string line = Format(level_, state.rank, stream_.str());
  if (state.file >= 0) WriteFully(state.file, line);
  if (!to_stderr) return;
  if (state.before_line != nullptr) state.before_line();
  WriteFully(STDERR_FILENO, line);
}

}  // namespace conclave
