#include "base/status.h"

#include <memory>

#include "base/check.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(StatusTest, BuildersCarryCodeAndValues) {
  const absl::Status status = InvalidArgument("%d experts not divisible by %d (axis '%s')", 6, 4, std::string_view("expert"));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "6 experts not divisible by 4 (axis 'expert')");
  EXPECT_EQ(FailedPrecondition("x").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(NotFound("x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(DataLoss("x").code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Unavailable("x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Unimplemented("x").code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Internal("x").code(), absl::StatusCode::kInternal);
}

TEST(StatusTest, AnnotateKeepsTheCode) {
  EXPECT_EQ(Annotate(DataLoss("crc differs"), "file 'a'"), absl::DataLossError("file 'a': crc differs"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "file 'a'").ok());
}

absl::StatusOr<std::unique_ptr<int>> Make(bool good) {
  if (!good) return NotFound("none");
  return std::make_unique<int>(5);
}

absl::Status Use(bool good, bool* reached) {
  ASSIGN_OR_RETURN(const std::unique_ptr<int> value, Make(good));  // works for types that can only be moved
  RETURN_IF_ERROR(*value == 5 ? absl::OkStatus() : Internal("%d", *value));
  *reached = true;
  return absl::OkStatus();
}

TEST(StatusTest, MacrosReturnAtTheFirstError) {
  bool reached = false;
  EXPECT_EQ(Use(false, &reached), absl::NotFoundError("none"));
  EXPECT_FALSE(reached);
  EXPECT_TRUE(Use(true, &reached).ok());
  EXPECT_TRUE(reached);
}

TEST(CheckDeathTest, PrintsTheConditionTheValuesAndTheMessage) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(CHECK_EQ(2 + 2, 5) << "in block " << 7, R"(status_test\.cc:[0-9]+: CHECK failed: \(2 \+ 2\) == \(5\) 4 vs 5 +in block 7)");
  EXPECT_DEATH(CHECK_OK(NotFound("no file")), "NOT_FOUND: no file");
}

TEST(CheckTest, PassingChecksEvaluateOnce) {
  int evaluated = 0;
  CHECK(++evaluated == 1) << "never printed";
  CHECK_LT(evaluated, 2);
  CHECK_OK(absl::OkStatus());
  EXPECT_EQ(evaluated, 1);
}

}  // namespace
}  // namespace conclave
