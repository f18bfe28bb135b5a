// CHECK: for what only we can get wrong. Unreachable from any config, file or peer message.
#ifndef CONCLAVE_BASE_CHECK_H_
#define CONCLAVE_BASE_CHECK_H_

#include <sstream>

namespace conclave {

// Collects the streamed message of a failed CHECK; its destructor prints it and aborts.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

}  // namespace conclave

// A loop, not an if: no dangling else. The failure does not return.
#define CHECK(condition) \
  while (__builtin_expect(!(condition), 0)) ::conclave::CheckFailure(__FILE__, __LINE__, #condition).stream()
#define CHECK_EQ(a, b) CHECK((a) == (b)) << (a) << " vs " << (b) << ' '
#define CHECK_NE(a, b) CHECK((a) != (b)) << (a) << " vs " << (b) << ' '
#define CHECK_LT(a, b) CHECK((a) < (b)) << (a) << " vs " << (b) << ' '
#define CHECK_LE(a, b) CHECK((a) <= (b)) << (a) << " vs " << (b) << ' '
#define CHECK_GT(a, b) CHECK((a) > (b)) << (a) << " vs " << (b) << ' '
#define CHECK_GE(a, b) CHECK((a) >= (b)) << (a) << " vs " << (b) << ' '
#define CHECK_OK(expression)                                            \
  for (const absl::Status check_status_ = (expression); !check_status_.ok();) \
  ::conclave::CheckFailure(__FILE__, __LINE__, #expression).stream() << check_status_.ToString() << ' '

#endif  // CONCLAVE_BASE_CHECK_H_
