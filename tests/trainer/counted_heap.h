// Counts what a thread takes from the heap of C++ while it looks.
#ifndef CONCLAVE_TESTS_TRAINER_COUNTED_HEAP_H_
#define CONCLAVE_TESTS_TRAINER_COUNTED_HEAP_H_

#include <cstdint>

namespace conclave {

// Calls of operator new made by this thread since construction. One at a time in a thread.
class CountedHeap {
 public:
  CountedHeap();
  ~CountedHeap();
  int64_t ours() const;       // whoever called, but for
  int64_t products() const;   // the library of matrix products
  const void* first() const;  // where ours() began: the return address of the first call, or null
};

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_COUNTED_HEAP_H_
