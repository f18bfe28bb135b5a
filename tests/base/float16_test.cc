#include "base/float16.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace conclave {
namespace {

bool IsNan16(uint16_t h, uint16_t infinity) {
  return (h & 0x7FFF) > infinity;
}

// The law that defines rounding: `to(value)` is the neighbour of least distance, ties to the even pattern. Checked on the float halfway
// between every pair of neighbours and on the floats just beside it; 2^overflow stands where the format has infinity.
template <typename To, typename From>
void CheckRounding(To to, From from, uint16_t infinity, double overflow) {
  for (uint32_t h = 0; h < infinity; ++h) {
    const double low = from(static_cast<uint16_t>(h)), high = h + 1 == infinity ? overflow : from(static_cast<uint16_t>(h + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(static_cast<double>(middle), (low + high) / 2) << h;  // halves of neighbours are exact in float
    const uint32_t even = (h & 1) == 0 ? h : h + 1;
    for (const uint32_t sign : {0u, 0x8000u}) {
      const float s = sign == 0 ? 1.0f : -1.0f;
      ASSERT_EQ(to(s * static_cast<float>(low)), sign | h);
      ASSERT_EQ(to(s * middle), sign | even) << h;
      ASSERT_EQ(to(s * std::nextafter(middle, 0.0f)), sign | h) << h;
      ASSERT_EQ(to(s * std::nextafter(middle, std::numeric_limits<float>::infinity())), sign | (h + 1)) << h;
    }
  }
}

TEST(Float16Test, Bf16RoundsToNearestEven) {
  CheckRounding(FloatToBf16, Bf16ToFloat, 0x7F80, std::ldexp(1.0, 128));
}

TEST(Float16Test, Fp16RoundsToNearestEven) {
  CheckRounding(FloatToFp16, Fp16ToFloat, 0x7C00, 65536.0);
}

TEST(Float16Test, EveryPatternComesBack) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const auto h = static_cast<uint16_t>(i);
    if (IsNan16(h, 0x7F80)) {
      EXPECT_EQ(FloatToBf16(Bf16ToFloat(h)), h | 0x0040);
    } else {
      EXPECT_EQ(FloatToBf16(Bf16ToFloat(h)), h);
    }
    if (IsNan16(h, 0x7C00)) {
      EXPECT_EQ(FloatToFp16(Fp16ToFloat(h)), h | 0x0200);
    } else {
      EXPECT_EQ(FloatToFp16(Fp16ToFloat(h)), h);
    }
  }
}

TEST(Float16Test, KnownValues) {
  EXPECT_EQ(FloatToFp16(1.0f), 0x3C00);
  EXPECT_EQ(FloatToFp16(-2.0f), 0xC000);
  EXPECT_EQ(FloatToFp16(65504.0f), 0x7BFF);
  EXPECT_EQ(FloatToFp16(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToFp16(0x1p-24f), 0x0001);
  EXPECT_EQ(FloatToFp16(0x1p-25f), 0x0000);
  EXPECT_EQ(Fp16ToFloat(0x3555), 0.333251953125f);
  EXPECT_EQ(FloatToBf16(1.0f), 0x3F80);
  EXPECT_EQ(Bf16ToFloat(0x4049), 3.140625f);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(FloatToBf16(-infinity), 0xFF80);
  EXPECT_EQ(FloatToFp16(1e9f), 0x7C00);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::signbit(Fp16ToFloat(FloatToFp16(-0.0f))));
}

TEST(Float16Test, NanStaysNanWhateverItsPayload) {
  for (const uint32_t bits : {0x7F800001u, 0xFF800001u, 0x7FC00000u, 0x7FFFFFFFu, 0x7F80FFFFu}) {
    const float nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(nan))));
    EXPECT_TRUE(std::isnan(Fp16ToFloat(FloatToFp16(nan))));
    EXPECT_EQ(FloatToBf16(nan) >> 15, bits >> 31);
    EXPECT_EQ(FloatToFp16(nan) >> 15, bits >> 31);
  }
}

}  // namespace
}  // namespace conclave
