#include "tensor/free_spans.h"

namespace conclave {
namespace {

// As the arena rounds.
int64_t WholeLines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

void FreeSpans::Give(void* memory, int64_t bytes) {
  constexpr size_t kUsual = 64;
  spans_.reserve(kUsual);  // once: what is held varies from step to step
  Span given{static_cast<std::byte*>(memory), WholeLines(bytes)};
  for (size_t i = 0; i < spans_.size();) {
    const Span& other = spans_[i];
    if (other.begin + other.bytes != given.begin && given.begin + given.bytes != other.begin) {
      ++i;
      continue;
    }
    given = {other.begin < given.begin ? other.begin : given.begin, other.bytes + given.bytes};
    spans_.erase(spans_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (given.bytes > 0) spans_.push_back(given);
}

void* FreeSpans::Take(int64_t bytes) {
  const int64_t wanted = WholeLines(bytes);
  Span* best = nullptr;
  for (Span& span : spans_) {
    if (span.bytes >= wanted && (best == nullptr || span.bytes <= best->bytes)) best = &span;
  }
  if (best == nullptr || wanted == 0) return nullptr;
  std::byte* const taken = best->begin;
  best->begin += wanted;
  best->bytes -= wanted;
  if (best->bytes == 0) spans_.erase(spans_.begin() + (best - spans_.data()));
  return taken;
}

}  // namespace conclave
