// Log lines with a level, a time and a rank tag, to stderr and (optionally) to one file a rank.
#ifndef CONCLAVE_BASE_LOG_H_
#define CONCLAVE_BASE_LOG_H_

#include <sstream>
#include <string>

#include "base/status.h"

namespace conclave {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogOptions {
  int rank = 0;
  LogLevel stderr_level = LogLevel::kInfo;  // ranks other than 0 print warnings and errors only
  std::string file;                         // empty: no file
};

// Sets where lines go. Not thread-safe against concurrent logging; call once at start. Errors: the file cannot be opened.
absl::Status InitLog(const LogOptions& options);

// Called before a line is printed, so that a progress bar can clear itself. Null: none.
void SetLogInterlude(void (*before_line)());

class LogLine {
 public:
  explicit LogLine(LogLevel level) : level_(level) {}
  ~LogLine();
  std::ostream& stream() { return stream_; }

 private:
  LogLevel level_;
  std::ostringstream stream_;
};

}  // namespace conclave

#define LOG_DEBUG ::conclave::LogLine(::conclave::LogLevel::kDebug).stream()
#define LOG_INFO ::conclave::LogLine(::conclave::LogLevel::kInfo).stream()
#define LOG_WARNING ::conclave::LogLine(::conclave::LogLevel::kWarning).stream()
#define LOG_ERROR ::conclave::LogLine(::conclave::LogLevel::kError).stream()

#endif  // CONCLAVE_BASE_LOG_H_
