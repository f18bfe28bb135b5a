#include "base/crc32c.h"

#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
TEST(Crc32cTest, PublishedVectors) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string up(32, '\0'), down(32, '\0');
  std::iota(up.begin(), up.end(), 0);
  std::iota(down.rbegin(), down.rend(), 0);
  EXPECT_EQ(Crc32c(up), 0x46dd794eu);
  EXPECT_EQ(Crc32c(down), 0x113fdb5cu);
  const unsigned char read_command[48] = {0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
                                          0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0,    0};
  EXPECT_EQ(Crc32c(std::as_bytes(std::span(read_command))), 0xd9963a56u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
}

std::vector<std::byte> RandomBytes(size_t n) {
  const RngKey key{.seed = 1};
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(key.Bits(i));
  return bytes;
}

// A bit at a time, straight from the definition.
uint32_t Oracle(std::span<const std::byte> data) {
  uint32_t r = ~0u;
  for (const std::byte b : data) {
    r ^= static_cast<uint32_t>(b);
    for (int i = 0; i < 8; ++i) r = (r >> 1) ^ ((r & 1) ? 0x82F63B78u : 0);
  }
  return ~r;
}

TEST(Crc32cTest, EveryVariantEqualsTheDefinition) {
  const std::vector<std::byte> bytes = RandomBytes(30000);
  for (const size_t size : {0, 1, 7, 8, 9, 63, 767, 768, 769, 1536, 12287, 12288, 12289, 24576, 29990}) {
    for (const size_t offset : {0, 1, 5}) {
      const auto data = std::span(bytes).subspan(offset, size);
      const uint32_t expected = Oracle(data);
      EXPECT_EQ(Crc32c(data), expected) << size;
      EXPECT_EQ(ExtendCrc32cByTable(0, data), expected) << size;
      if (HasCrc32cInstruction()) {
        EXPECT_EQ(ExtendCrc32cByInstruction(0, data), expected) << size;
      }
    }
  }
}

TEST(Crc32cTest, ExtendJoinsAnySplit) {
  const std::vector<std::byte> bytes = RandomBytes(20000);
  const uint32_t whole = Crc32c(bytes);
  for (const size_t split : {0, 1, 3, 8, 100, 4096, 12288, 19999, 20000}) {
    const auto a = std::span(bytes).first(split), b = std::span(bytes).subspan(split);
    EXPECT_EQ(ExtendCrc32c(Crc32c(a), b), whole) << split;
  }
}

TEST(Crc32cTest, EveryFlippedBitShows) {
  std::vector<std::byte> bytes = RandomBytes(100);
  const uint32_t before = Crc32c(bytes);
  for (size_t i = 0; i < 800; ++i) {
    bytes[i / 8] ^= std::byte{1} << (i % 8);
    EXPECT_NE(Crc32c(bytes), before) << i;
    bytes[i / 8] ^= std::byte{1} << (i % 8);
  }
}

}  // namespace
}  // namespace conclave
