// Errors the world can cause: absl::Status, with messages that say what, where, expected, got and what to do.
#ifndef CONCLAVE_BASE_STATUS_H_
#define CONCLAVE_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"

namespace conclave {

// Builders that take a format and its values: InvalidArgument("experts %d not divisible by %d", e, p).
template <typename... Args>
absl::Status InvalidArgument(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::InvalidArgumentError(absl::StrFormat(format, args...));
}
template <typename... Args>
absl::Status FailedPrecondition(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::FailedPreconditionError(absl::StrFormat(format, args...));
}
template <typename... Args>
absl::Status NotFound(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::NotFoundError(absl::StrFormat(format, args...));
}
template <typename... Args>
absl::Status DataLoss(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::DataLossError(absl::StrFormat(format, args...));
}
template <typename... Args>
absl::Status Unavailable(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::UnavailableError(absl::StrFormat(format, args...));
}
template <typename... Args>
absl::Status Unimplemented(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::UnimplementedError(absl::StrFormat(format, args...));
}
template <typename... Args>
absl::Status Internal(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::InternalError(absl::StrFormat(format, args...));
}

// The same status with `context` in front of its message.
absl::Status Annotate(const absl::Status& status, const std::string& context);

}  // namespace conclave

#define CONCLAVE_JOIN_INNER(a, b) a##b
#define CONCLAVE_JOIN(a, b) CONCLAVE_JOIN_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                 \
  do {                                                              \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define ASSIGN_OR_RETURN(target, expression) ASSIGN_OR_RETURN_IMPL(CONCLAVE_JOIN(result_, __LINE__), target, expression)
#define ASSIGN_OR_RETURN_IMPL(result, target, expression) \
  auto result = (expression);                             \
  if (!result.ok()) return result.status();               \
  target = *std::move(result)

#endif  // CONCLAVE_BASE_STATUS_H_
