// RecycledVector: a vector whose memory comes back to the thread that gives it up. For small results that are made anew in every step.
#ifndef CONCLAVE_BASE_RECYCLED_VECTOR_H_
#define CONCLAVE_BASE_RECYCLED_VECTOR_H_

#include <cstddef>
#include <new>
#include <vector>

namespace conclave {

// Keeps what it is given back, by powers of two of bytes, and hands it out again; the rest is the global heap's. One thread's lists never
// meet another's: memory goes to the list of the thread that frees it. What a thread keeps is freed when it ends.
void* TakeRecycled(size_t bytes);
void GiveRecycled(void* memory, size_t bytes);

template <typename T>
struct RecyclingAllocator {
  using value_type = T;
  RecyclingAllocator() = default;
  template <typename U>
  RecyclingAllocator(const RecyclingAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(TakeRecycled(n * sizeof(T))); }
  void deallocate(T* memory, size_t n) { GiveRecycled(memory, n * sizeof(T)); }
  template <typename U>
  bool operator==(const RecyclingAllocator<U>&) const {
    return true;
  }
};

template <typename T>
using RecycledVector = std::vector<T, RecyclingAllocator<T>>;

}  // namespace conclave

#endif  // CONCLAVE_BASE_RECYCLED_VECTOR_H_
