#include "base/float16.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace conclave {
namespace {

bool IsBf16Nan(uint16_t h) { return (h & 0x7FFF) > 0x7F80; }

// The law that defines rounding: the neighbour of least distance, ties to the even pattern. Checked on the float halfway between every pair
// of neighbours and on the floats just beside it; 2^128 stands where the format has infinity.
TEST(Float16Test, Bf16RoundsToNearestEven) {
  constexpr uint32_t kInfinity = 0x7F80;
  for (uint32_t h = 0; h < kInfinity; ++h) {
    const double low = Bf16ToFloat(static_cast<uint16_t>(h));
    const double high = h + 1 == kInfinity ? std::ldexp(1.0, 128) : Bf16ToFloat(static_cast<uint16_t>(h + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(static_cast<double>(middle), (low + high) / 2) << h;  // halves of neighbours are exact in float
    const uint32_t even = (h & 1) == 0 ? h : h + 1;
    for (const uint32_t sign : {0u, 0x8000u}) {
      const float s = sign == 0 ? 1.0f : -1.0f;
      ASSERT_EQ(FloatToBf16(s * static_cast<float>(low)), sign | h);
      ASSERT_EQ(FloatToBf16(s * middle), sign | even) << h;
      ASSERT_EQ(FloatToBf16(s * std::nextafter(middle, 0.0f)), sign | h) << h;
      ASSERT_EQ(FloatToBf16(s * std::nextafter(middle, std::numeric_limits<float>::infinity())), sign | (h + 1)) << h;
    }
  }
}

// Sign, exponent and mantissa of every finite half, as its format defines them.
TEST(Float16Test, Fp16IsWhatItsFieldsSay) {
  for (int h = 0; h < 0x7C00; ++h) {
    const int exponent = h >> 10, mantissa = h & 0x3FF;
    const double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 0x400, exponent - 25);
    ASSERT_EQ(Fp16ToFloat(static_cast<uint16_t>(h)), value) << h;
    ASSERT_EQ(Fp16ToFloat(static_cast<uint16_t>(h | 0x8000)), -value) << h;
  }
  EXPECT_TRUE(std::signbit(Fp16ToFloat(0x8000)));
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Fp16ToFloat(0x7C00), infinity);
  EXPECT_EQ(Fp16ToFloat(0xFC00), -infinity);
  for (const uint32_t h : {0x7C01u, 0x7FFFu, 0xFC01u, 0xFE00u}) {
    const float nan = Fp16ToFloat(static_cast<uint16_t>(h));
    EXPECT_TRUE(std::isnan(nan)) << h;
    EXPECT_EQ(std::signbit(nan), (h & 0x8000u) != 0) << h;
  }
}

TEST(Float16Test, EveryBf16ComesBack) {
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const auto h = static_cast<uint16_t>(i);
    if (IsBf16Nan(h)) {
      EXPECT_EQ(FloatToBf16(Bf16ToFloat(h)), h | 0x0040);
    } else {
      EXPECT_EQ(FloatToBf16(Bf16ToFloat(h)), h);
    }
  }
}

TEST(Float16Test, KnownValues) {
  EXPECT_EQ(Fp16ToFloat(0x3555), 0.333251953125f);
  EXPECT_EQ(FloatToBf16(1.0f), 0x3F80);
  EXPECT_EQ(Bf16ToFloat(0x4049), 3.140625f);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(FloatToBf16(-infinity), 0xFF80);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7F80);
}

TEST(Float16Test, NanStaysNanWhateverItsPayload) {
  for (const uint32_t bits : {0x7F800001u, 0xFF800001u, 0x7FC00000u, 0x7FFFFFFFu, 0x7F80FFFFu}) {
    const float nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(nan))));
    EXPECT_EQ(FloatToBf16(nan) >> 15, bits >> 31);
  }
}

}  // namespace
}  // namespace conclave
