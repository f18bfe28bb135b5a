// Time, replaceable in tests.
#ifndef CONCLAVE_BASE_CLOCK_H_
#define CONCLAVE_BASE_CLOCK_H_

#include <atomic>
#include <cstdint>
#include <string>

namespace conclave {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds of CLOCK_MONOTONIC: for durations and deadlines within this machine.
  virtual int64_t MonotonicNanos() const = 0;
  // Nanoseconds since 1970-01-01 UTC: for dates only; it may jump.
  virtual int64_t WallNanos() const = 0;
  // Seconds of MonotonicNanos.
  double Seconds() const { return static_cast<double>(MonotonicNanos()) * 1e-9; }
};

// The machine's clock.
const Clock& RealClock();

// Seconds that the calling thread has run on a core: waiting for one, or for anything else, does not count. Cost: a system call.
double ThreadCpuSeconds();

// Stands still until told otherwise.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(int64_t monotonic_ns = 0, int64_t wall_ns = 0) : monotonic_ns_(monotonic_ns), wall_ns_(wall_ns) {}
  int64_t MonotonicNanos() const override { return monotonic_ns_.load(); }
  int64_t WallNanos() const override { return wall_ns_.load(); }
  // Moves both clocks on.
  void Advance(int64_t nanos) {
    monotonic_ns_ += nanos;
    wall_ns_ += nanos;
  }
  // Sets the wall clock alone, as an administrator may.
  void SetWall(int64_t wall_ns) { wall_ns_ = wall_ns; }

 private:
  std::atomic<int64_t> monotonic_ns_, wall_ns_;
};

// "2026-11-21T23:44:25.123Z".
std::string FormatUtc(int64_t wall_ns);

}  // namespace conclave

#endif  // CONCLAVE_BASE_CLOCK_H_
