// Spans of time for the Chrome trace viewer. Off unless a thread is bound to a Tracer: then a span costs one branch.
#ifndef CONCLAVE_BASE_TRACE_H_
#define CONCLAVE_BASE_TRACE_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace conclave {

// Collects the spans of one rank. Every bound thread has a ring of fixed size: the newest spans are kept, recording allocates nothing.
// Thread-safe; must outlive its ThreadTrace objects.
class Tracer {
 public:
  // spans_per_thread >= 1; 32 bytes each.
  explicit Tracer(int rank, int64_t spans_per_thread = 1 << 16, const Clock& clock = RealClock());
  ~Tracer();

  // Chrome trace JSON (an object with traceEvents; ts and dur in microseconds; pid = rank, tid = order of binding), spans by end time
  // within a thread. `offset_ns` is added to all times: this rank's offset to rank 0. May be called while threads record.
  std::string ToJson(int64_t offset_ns = 0) const;
  // Time by name over the spans that the rings hold, longest first. `self` leaves out what other spans of the thread took inside.
  struct Total {
    std::string name;
    int64_t count = 0;
    int64_t total_ns = 0, self_ns = 0;
  };
  std::vector<Total> Totals() const;
  // Spans recorded so far that rings have overwritten.
  int64_t dropped() const;

 private:
  friend class ThreadTrace;
  friend class TraceSpan;
  class Ring;

  const int rank_;
  const int64_t spans_per_thread_;
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Ring>> rings_;
};

// Binds the calling thread to a tracer (null: tracing off) until it is destroyed; bindings nest. Must be destroyed on the same thread.
class ThreadTrace {
 public:
  ThreadTrace(Tracer* tracer, std::string_view thread_name);
  ~ThreadTrace();
  ThreadTrace(const ThreadTrace&) = delete;
  ThreadTrace& operator=(const ThreadTrace&) = delete;

 private:
  Tracer::Ring* const outer_;
};

// Measures its own lifetime: TraceSpan span("forward"). `name` must live as long as the tracer (a literal); `value`, where given, is shown
// as the span's argument "value" (bytes, step, block, ...).
class TraceSpan {
 public:
  static constexpr int64_t kNoValue = std::numeric_limits<int64_t>::min();
  explicit TraceSpan(const char* name, int64_t value = kNoValue) : ring_(current_ring_) {
    if (ring_ != nullptr) Begin(name, value);
  }
  ~TraceSpan() {
    if (ring_ != nullptr) End();
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  friend class ThreadTrace;
  void Begin(const char* name, int64_t value);
  void End();

  static thread_local constinit Tracer::Ring* current_ring_;
  Tracer::Ring* const ring_;
  const char* name_;
  int64_t value_, begin_ns_;
};

}  // namespace conclave

#endif  // CONCLAVE_BASE_TRACE_H_
