#include "tensor/arena.h"

#include <cstring>
#include <set>

#include <gtest/gtest.h>

namespace conclave {

TEST(Arena, PiecesAreAlignedAndDisjoint) {
  Arena arena;
  std::byte* end = nullptr;
  for (const int64_t bytes : {1, 63, 64, 65, 0, 1000}) {
    std::byte* p = static_cast<std::byte*>(arena.Allocate(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    if (end != nullptr) {
      EXPECT_GE(p, end);
    }
    std::memset(p, 1, bytes);
    end = p + bytes;
  }
  EXPECT_EQ(arena.used_bytes(), 64 * (1 + 1 + 1 + 2 + 1 + 16));
}

// From the second round on the same addresses come back: nothing is allocated.
TEST(Arena, SettlesAfterOneRound) {
  Arena arena;
  const auto round = [&] {
    std::vector<void*> places;
    for (int i = 0; i < 50; ++i) places.push_back(arena.Allocate(100'000 + i * 1'000));
    return places;
  };
  const auto first = round();
  arena.Reset();
  EXPECT_EQ(arena.used_bytes(), 0);
  const auto second = round();
  arena.Reset();
  EXPECT_EQ(round(), second);
  EXPECT_EQ(std::set<void*>(first.begin(), first.end()).size(), 50u);
  EXPECT_GE(arena.peak_bytes(), 50 * 100'000);
}

TEST(Arena, RewindGivesBackWhatCameAfter) {
  Arena arena(1 << 12);
  arena.Allocate(100);
  const Arena::Mark mark = arena.Here();
  void* scratch = arena.Allocate(200);
  arena.Allocate(1 << 20);  // another chunk
  arena.Rewind(mark);
  EXPECT_EQ(arena.used_bytes(), 128);
  EXPECT_EQ(arena.Allocate(200), scratch);
}

TEST(Arena, NewZeroed) {
  Arena arena;
  std::memset(arena.Allocate(4096), 0xFF, 4096);
  arena.Reset();
  const Tensor t = arena.NewZeroed({100}, DType::kF32);
  for (const float v : t.span<float>()) ASSERT_EQ(v, 0.0f);
}

}  // namespace conclave
