// Arena: the memory of one evaluation.
#ifndef CONCLAVE_TENSOR_ARENA_H_
#define CONCLAVE_TENSOR_ARENA_H_

#include <vector>

#include "tensor/tensor.h"

namespace conclave {

// Bump allocator: memory lives until Reset, which merges the chunks, so that from the second evaluation on nothing is allocated.
// Memory is not cleared. Not thread-safe.
class Arena {
 public:
  explicit Arena(int64_t reserve_bytes = 0);
  void* Allocate(int64_t bytes);  // 64-byte aligned; bytes may be 0
  Tensor New(const Shape& shape, DType dtype) { return Tensor(Allocate(shape.elements() * SizeOf(dtype)), shape, dtype); }
  Tensor NewZeroed(const Shape& shape, DType dtype);
  void Reset();
  // Forgets everything, the peak too, and takes `bytes` at once: as long as they suffice, nothing is allocated. What is not used of them
  // costs address space only.
  void Reserve(int64_t bytes);
  int64_t used_bytes() const { return used_; }
  int64_t peak_bytes() const { return peak_; }  // largest use so far
  int64_t reserved_bytes() const;               // held from the system

  // A position; Rewind frees what was allocated after it (innermost first). For scratch inside an op.
  struct Mark {
    size_t chunk = 0;
    int64_t offset = 0;
    int64_t used = 0;
  };
  Mark Here() const { return {chunk_, offset_, used_}; }
  void Rewind(const Mark& mark);

 private:
  std::vector<Buffer> chunks_;
  size_t chunk_ = 0;    // the chunk in use
  int64_t offset_ = 0;  // first free byte in it
  int64_t used_ = 0, peak_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_ARENA_H_
