// FreeSpans: memory of an arena that is needed no longer before the arena is reset.
#ifndef CONCLAVE_TENSOR_FREE_SPANS_H_
#define CONCLAVE_TENSOR_FREE_SPANS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace conclave {

// Spans given back, neighbours joined. Cost of a call: linear in the spans held, which are few. Allocates once, and beyond 64 spans.
class FreeSpans {
 public:
  void Give(void* memory, int64_t bytes);
  // 64-byte aligned if all that was given is; null: no span is long enough. The shortest that is, and of equal ones the one given last.
  void* Take(int64_t bytes);
  void Clear() { spans_.clear(); }

 private:
  struct Span {
    std::byte* begin;
    int64_t bytes;
  };
  std::vector<Span> spans_;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_FREE_SPANS_H_
