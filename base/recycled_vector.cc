#include "base/recycled_vector.h"

#include <array>
#include <bit>
#include <utility>

namespace conclave {
namespace {

constexpr int kRecycledSizes = 24;  // up to 16 MiB
constexpr size_t kLeastRecycled = 32;

struct FreePiece {
  FreePiece* next;
};

// Trivially destructible, so that it outlives all other objects of its thread; RecycleBin empties it.
thread_local constinit std::array<FreePiece*, kRecycledSizes> free_pieces = {};
thread_local constinit bool bin_is_gone = false;

struct RecycleBin {
  ~RecycleBin() {
    bin_is_gone = true;
    for (FreePiece*& list : free_pieces) {
      while (list != nullptr) ::operator delete(std::exchange(list, list->next));
    }
  }
};

int SizeClassOf(size_t bytes) { return std::bit_width(bytes <= kLeastRecycled ? 0 : (bytes - 1) / kLeastRecycled); }

}  // namespace

void* TakeRecycled(size_t bytes) {
  const int size = SizeClassOf(bytes);
  if (size >= kRecycledSizes || bin_is_gone) return ::operator new(size >= kRecycledSizes ? bytes : kLeastRecycled << size);
  thread_local RecycleBin bin;
  static_cast<void>(bin);
  if (free_pieces[size] == nullptr) return ::operator new(kLeastRecycled << size);
  return std::exchange(free_pieces[size], free_pieces[size]->next);
}

void GiveRecycled(void* memory, size_t bytes) {
  const int size = SizeClassOf(bytes);
  if (size >= kRecycledSizes || bin_is_gone) return ::operator delete(memory);
  free_pieces[size] = new (memory) FreePiece{free_pieces[size]};
}

}  // namespace conclave
