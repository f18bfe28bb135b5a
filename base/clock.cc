#include "base/clock.h"

#include <time.h>

#include "absl/strings/str_format.h"

namespace conclave {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;

int64_t Read(clockid_t id) {
  timespec now;
  clock_gettime(id, &now);
  return int64_t{now.tv_sec} * kNanosPerSecond + now.tv_nsec;
}

class SystemClock final : public Clock {
 public:
  int64_t MonotonicNanos() const override { return Read(CLOCK_MONOTONIC); }
  int64_t WallNanos() const override { return Read(CLOCK_REALTIME); }
};

}  // namespace

double ThreadCpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

const Clock& RealClock() {
  static const SystemClock* const clock = new SystemClock;  // never destroyed: usable until the last line of the process
  return *clock;
}

std::string FormatUtc(int64_t wall_ns) {
  int64_t fraction = wall_ns % kNanosPerSecond;
  if (fraction < 0) fraction += kNanosPerSecond;
  const time_t seconds = static_cast<time_t>((wall_ns - fraction) / kNanosPerSecond);
  tm date;
  gmtime_r(&seconds, &date);
  return absl::StrFormat("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", date.tm_year + 1900, date.tm_mon + 1, date.tm_mday, date.tm_hour,
                         date.tm_min, date.tm_sec, fraction / 1'000'000);
}

}  // namespace conclave
