#include "trainer/expert_cache.h"

#include <string>

#include <gtest/gtest.h>

namespace conclave {
namespace {

// "+3": entry 3 was fetched, "=3": hit, "-3": evicted, "w3": written back, "!3": served uncached.
std::string Text(ExpertCache::Events events) {
  std::string text;
  for (const CacheEvent& event : events) {
    text += "=+!w-"[static_cast<int>(event.kind)] + std::to_string(event.entry) + " ";
  }
  return text;
}

TEST(ExpertCache, AScriptGivesItsLogExactly) {
  ExpertCache cache({.entries = 6, .room = 2, .threshold = 1, .decay = 0.5, .decay_every = 2, .write_back_every = 3});
  std::string log;
  const auto access = [&](std::initializer_list<int> entries) {
    for (const int e : entries) log += Text(cache.Access(e));
  };
  const auto end_step = [&] { log += "| " + Text(cache.EndStep()); };
  access({4, 1, 4, 5});  // 4 has two hits, 1 has one: 1 goes
  end_step();
  cache.MarkDirty(5);
  access({4, 5, 2, 5});  // both have more than one: 2 is not cached
  end_step();            // hits: 4: 1.5, 5: 1.5
  access({0});
  cache.MarkDirty(4);
  end_step();  // both are written back and stay
  access({4});
  end_step();  // 4: 1.25, 5: 0.75
  cache.MarkDirty(5);
  access({3, 0});  // 5 goes, dirty; then 3 with one hit
  EXPECT_EQ(log, "+4 +1 =4 -1 +5 | =4 =5 !2 =5 | !0 | w4 w5 =4 | w5 -5 +3 -3 +0 ");
  EXPECT_DOUBLE_EQ(cache.hits(4), 1.25);
  EXPECT_FALSE(cache.cached(5));
}

TEST(ExpertCache, TiesGoToTheLowerEntry) {
  ExpertCache cache({.entries = 4, .room = 3});
  for (const int e : {3, 1, 2}) cache.Access(e);
  EXPECT_EQ(Text(cache.Access(0)), "-1 +0 ");
  EXPECT_EQ(Text(cache.Access(1)), "-0 +1 ");
}

TEST(ExpertCache, RoomForAllFetchesOnceAndRoomForNoneNever) {
  ExpertCache all({.entries = 3, .room = 3}), none({.entries = 3, .room = 0});
  EXPECT_EQ(Text(all.Access(2)), "+2 ");
  EXPECT_EQ(Text(all.Access(2)), "=2 ");
  EXPECT_EQ(Text(none.Access(2)), "!2 ");
  EXPECT_EQ(Text(none.Access(2)), "!2 ");
}

}  // namespace
}  // namespace conclave
