#include "base/strings.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace conclave {
namespace {

using Pieces = std::vector<std::string>;

TEST(StringsTest, SplitAndJoinAreInverse) {
  EXPECT_EQ(SplitString("a,,b", ','), (Pieces{"a", "", "b"}));
  EXPECT_EQ(SplitString("", ','), (Pieces{""}));
  EXPECT_EQ(SplitString(",", ','), (Pieces{"", ""}));
  for (const std::string text : {"", "x", "a/b/c", "/a//b/"}) EXPECT_EQ(JoinStrings(SplitString(text, '/'), "/"), text);
  EXPECT_EQ(JoinStrings(Pieces{}, ", "), "");
}

TEST(StringsTest, StripWhitespace) {
  EXPECT_EQ(StripWhitespace(" \t a b\r\n"), "a b");
  EXPECT_EQ(StripWhitespace(" \n"), "");
}

TEST(StringsTest, ParseInt64) {
  EXPECT_EQ(*ParseInt64("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*ParseInt64("42"), 42);
  EXPECT_EQ(ParseInt64("9223372036854775808").status().code(), absl::StatusCode::kOutOfRange);
  for (const char* bad : {"", " 1", "1 ", "1.5", "0x10", "twelve", "1e3", "+1"}) {
    EXPECT_EQ(ParseInt64(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(ParseInt64("12a").status().message(), "'12a' is not a 64-bit integer");
}

TEST(StringsTest, ParseDouble) {
  EXPECT_EQ(*ParseDouble("0.1"), 0.1);
  EXPECT_EQ(*ParseDouble("-3e-4"), -3e-4);
  EXPECT_TRUE(std::isinf(*ParseDouble("inf")));
  EXPECT_EQ(ParseDouble("1e999").status().code(), absl::StatusCode::kOutOfRange);
  for (const char* bad : {"", "1,5", "1.5x", " 2"}) EXPECT_EQ(ParseDouble(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
}

TEST(StringsTest, EditDistance) {
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("lrr", "lr"), 1);
  EXPECT_EQ(EditDistance("wieght", "weight"), 1);
  EXPECT_EQ(EditDistance("same", "same"), 0);
  EXPECT_EQ(EditDistance("ca", "abc"), 3);  // a swapped pair is not edited again
}

TEST(StringsTest, ClosestName) {
  const Pieces names = {"lr", "learning_rate", "weight_decay", "beta1", "beta2"};
  EXPECT_EQ(ClosestName("lrr", names), "lr");
  EXPECT_EQ(ClosestName("Weight_Decya", names), "weight_decay");
  EXPECT_EQ(ClosestName("learning-rate", names), "learning_rate");
  EXPECT_EQ(ClosestName("beta", names), "beta1");
  EXPECT_EQ(ClosestName("momentum", names), "");
  EXPECT_EQ(ClosestName("x", Pieces{"y"}), "");
  EXPECT_EQ(ClosestName("x", Pieces{}), "");
}

TEST(StringsTest, HumanBytes) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1024), "1.00 KiB");
  EXPECT_EQ(HumanBytes(1536), "1.50 KiB");
  EXPECT_EQ(HumanBytes(int64_t{3} << 30), "3.00 GiB");
  EXPECT_EQ(HumanBytes((int64_t{1} << 20) - 1), "1.00 MiB");
  EXPECT_EQ(HumanBytes(-2048), "-2.00 KiB");
  EXPECT_EQ(HumanBytes(std::numeric_limits<int64_t>::max()), "8.00 EiB");
}

TEST(StringsTest, HumanCount) {
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(1500), "1.50K");
  EXPECT_EQ(HumanCount(12'345'678), "12.3M");
  EXPECT_EQ(HumanCount(999'999'999), "1.00B");
  EXPECT_EQ(HumanCount(-123'456), "-123K");
}

TEST(StringsTest, HumanDuration) {
  EXPECT_EQ(HumanDuration(0), "0 ns");
  EXPECT_EQ(HumanDuration(850e-9), "850 ns");
  EXPECT_EQ(HumanDuration(1.5e-6), "1.50 us");
  EXPECT_EQ(HumanDuration(12.34e-3), "12.3 ms");
  EXPECT_EQ(HumanDuration(4.2), "4.20 s");
  EXPECT_EQ(HumanDuration(59.99), "1m00s");
  EXPECT_EQ(HumanDuration(185), "3m05s");
  EXPECT_EQ(HumanDuration(7200), "2h00m");
  EXPECT_EQ(HumanDuration(3 * 86400 + 4 * 3600), "3d04h");
  EXPECT_EQ(HumanDuration(-2), "-2.00 s");
  EXPECT_EQ(HumanDuration(std::numeric_limits<double>::infinity()), "?");
}

TEST(StringsTest, HexDigest) {
  EXPECT_EQ(HexDigest(0xABC), "0000000000000abc");
}

}  // namespace
}  // namespace conclave
