#include "tensor/free_spans.h"

#include <gtest/gtest.h>

namespace conclave {

TEST(FreeSpans, NeighboursAreJoinedInAnyOrder) {
  alignas(64) static std::byte memory[64 * 8];
  FreeSpans free;
  EXPECT_EQ(free.Take(64), nullptr);
  free.Give(memory, 128);
  free.Give(memory + 64 * 6, 100);  // two lines
  free.Give(memory + 64 * 2, 64 * 4);
  EXPECT_EQ(free.Take(64 * 9), nullptr);
  EXPECT_EQ(free.Take(64 * 8 - 10), memory);
  EXPECT_EQ(free.Take(1), nullptr);
}

TEST(FreeSpans, TheShortestThatFitsIsTaken) {
  alignas(64) static std::byte memory[64 * 16];
  FreeSpans free;
  free.Give(memory, 64 * 6);
  free.Give(memory + 64 * 8, 64 * 3);
  EXPECT_EQ(free.Take(64 * 2), memory + 64 * 8);
  EXPECT_EQ(free.Take(64 * 2), memory);
  EXPECT_EQ(free.Take(0), nullptr);
  free.Clear();
  EXPECT_EQ(free.Take(64), nullptr);
}

// Two spans of equal length: the one given last is still in the cache.
TEST(FreeSpans, OfEqualOnesTheLastGiven) {
  alignas(64) static std::byte memory[64 * 16];
  FreeSpans free;
  free.Give(memory + 64 * 8, 64);
  free.Give(memory, 64);
  EXPECT_EQ(free.Take(64), memory);
}

}  // namespace conclave
