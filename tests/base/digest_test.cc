#include "base/digest.h"

#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

// Values of `xxhsum -H64`.
TEST(DigestTest, EqualsXxh64) {
  EXPECT_EQ(DigestOf(""), 0xef46db3751d8e999u);
  EXPECT_EQ(DigestOf("a"), 0xd24ec4f1a98c6e5bu);
  EXPECT_EQ(DigestOf("abc"), 0x44bc2cf5ad770999u);
  EXPECT_EQ(DigestOf("Nobody inspects the spammish repetition"), 0xfbcea83c8a378bf1u);
}

TEST(DigestTest, PiecesDoNotMatter) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += static_cast<char>(i * 37);
  for (size_t size = 0; size <= text.size(); ++size) {
    const std::string_view whole(text.data(), size);
    for (const size_t piece : {1, 3, 8, 31, 32, 33, 100}) {
      Digest64 digest;
      for (size_t at = 0; at < size; at += piece) digest.Update(whole.substr(at, piece));
      ASSERT_EQ(digest.Value(), DigestOf(whole)) << size << ' ' << piece;
    }
  }
}

TEST(DigestTest, EveryBitOfTheValuesCounts) {
  std::array<float, 9> values = {0.0f, 1.0f, 2.0f};
  const auto digest = [&] {
    Digest64 d;
    d.Update(std::span<const float>(values));
    return d.Value();
  };
  const uint64_t before = digest();
  values[8] = -0.0f;  // compares equal to +0, has other bits
  EXPECT_NE(digest(), before);
}

}  // namespace
}  // namespace conclave
