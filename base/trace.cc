#include "base/trace.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace conclave {

// The spans of one binding of one thread. The lock is uncontended but while a dump reads.
class Tracer::Ring {
 public:
  struct Span {
    const char* name;
    int64_t begin_ns, end_ns, value;
  };

  Ring(std::string name, int64_t capacity, const Clock& clock) : thread_name(std::move(name)), clock(clock), spans_(capacity) {}

  void Add(const Span& span) {
    const std::lock_guard lock(mutex_);
    spans_[static_cast<size_t>(count_++) % spans_.size()] = span;
  }
  std::vector<Span> Spans() const {  // oldest first
    const std::lock_guard lock(mutex_);
    const auto capacity = static_cast<int64_t>(spans_.size());
    std::vector<Span> spans;
    for (int64_t i = std::max<int64_t>(0, count_ - capacity); i < count_; ++i) spans.push_back(spans_[static_cast<size_t>(i % capacity)]);
    return spans;
  }
  int64_t dropped() const {
    const std::lock_guard lock(mutex_);
    return std::max<int64_t>(0, count_ - static_cast<int64_t>(spans_.size()));
  }

  const std::string thread_name;
  const Clock& clock;

 private:
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
  int64_t count_ = 0;
};

namespace {

std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<int>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

// Exact: nanoseconds as microseconds with three decimals.
std::string Micros(int64_t nanos) {
  return absl::StrFormat("%s%d.%03d", nanos < 0 ? "-" : "", std::abs(nanos) / 1000, std::abs(nanos) % 1000);
}

void AppendName(std::string* json, std::string_view kind, int pid, size_t tid, std::string_view name) {
  absl::StrAppendFormat(json, R"({"name":"%s","ph":"M","pid":%d,"tid":%d,"args":{"name":%s}})", kind, pid, tid, Quoted(name));
}

}  // namespace

Tracer::Tracer(int rank, int64_t spans_per_thread, const Clock& clock) : rank_(rank), spans_per_thread_(spans_per_thread), clock_(clock) {
  CHECK_GE(spans_per_thread, 1);
}

Tracer::~Tracer() = default;

std::string Tracer::ToJson(int64_t offset_ns) const {
  const std::lock_guard lock(mutex_);
  std::string json = R"({"displayTimeUnit":"ns","traceEvents":[)";
  AppendName(&json, "process_name", rank_, 0, absl::StrFormat("rank %d", rank_));
  for (size_t tid = 0; tid < rings_.size(); ++tid) {
    json += ",\n";
    AppendName(&json, "thread_name", rank_, tid, rings_[tid]->thread_name);
    for (const Ring::Span& span : rings_[tid]->Spans()) {
      absl::StrAppendFormat(&json,
                            ",\n"
                            R"({"name":%s,"ph":"X","pid":%d,"tid":%d,"ts":%s,"dur":%s)",
                            Quoted(span.name), rank_, tid, Micros(span.begin_ns + offset_ns), Micros(span.end_ns - span.begin_ns));
      if (span.value != TraceSpan::kNoValue) absl::StrAppendFormat(&json, R"(,"args":{"value":%d})", span.value);
      json += '}';
    }
  }
  return json + "\n]}\n";
}

std::vector<Tracer::Total> Tracer::Totals() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, Total> by_name;
  for (const auto& ring : rings_) {
    std::vector<Ring::Span> open;  // ended, and inside no span seen so far
    for (const Ring::Span& span : ring->Spans()) {
      Total& total = by_name[span.name];
      const int64_t length = span.end_ns - span.begin_ns;
      ++total.count;
      total.total_ns += length;
      total.self_ns += length;
      for (; !open.empty() && open.back().begin_ns >= span.begin_ns; open.pop_back()) {
        total.self_ns -= open.back().end_ns - open.back().begin_ns;
      }
      open.push_back(span);
    }
  }
  std::vector<Total> totals;
  for (auto& [name, total] : by_name) {
    totals.push_back(total);
    totals.back().name = name;
  }
  std::ranges::stable_sort(totals, std::greater<>(), &Total::self_ns);
  return totals;
}

int64_t Tracer::dropped() const {
  const std::lock_guard lock(mutex_);
  int64_t dropped = 0;
  for (const auto& ring : rings_) dropped += ring->dropped();
  return dropped;
}

constinit thread_local Tracer::Ring* TraceSpan::current_ring_ = nullptr;

ThreadTrace::ThreadTrace(Tracer* tracer, std::string_view thread_name) : outer_(TraceSpan::current_ring_) {
  if (tracer == nullptr) {
    TraceSpan::current_ring_ = nullptr;
    return;
  }
  const std::lock_guard lock(tracer->mutex_);
  tracer->rings_.push_back(std::make_unique<Tracer::Ring>(std::string(thread_name), tracer->spans_per_thread_, tracer->clock_));
  TraceSpan::current_ring_ = tracer->rings_.back().get();
}

ThreadTrace::~ThreadTrace() { TraceSpan::current_ring_ = outer_; }

void TraceSpan::Begin(const char* name, int64_t value) {
  name_ = name;
  value_ = value;
  begin_ns_ = ring_->clock.MonotonicNanos();
}

void TraceSpan::End() { ring_->Add({.name = name_, .begin_ns = begin_ns_, .end_ns = ring_->clock.MonotonicNanos(), .value = value_}); }

}  // namespace conclave
