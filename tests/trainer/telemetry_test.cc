#include "trainer/telemetry.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "base/fault_file_system.h"
#include "base/log.h"
#include "base/strings.h"
#include "gtest/gtest.h"
#include "tests/trainer/state_fields.h"
#include "trainer/json.h"
#include "trainer/progress.h"

namespace conclave {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

StepRecord RecordOf(int64_t step) {
  StepRecord record{.step = step,
                    .objective = 1.0 / static_cast<double>(step + 2),
                    .gradient_norm = 0.1,
                    .learning_rate = 1e-3,
                    .samples = 8,
                    .tokens = 512};
  record.terms = {{"nll", record.objective}, {"balance", 1}};
  return record;
}

std::vector<std::string> Lines(const FileSystem& fs) {
  auto lines = SplitString(*fs.ReadAll("metrics.jsonl"), '\n');
  EXPECT_EQ(lines.back(), "");  // the file ends with a line's end
  lines.pop_back();
  return lines;
}

std::unique_ptr<Telemetry> OpenIn(const FileSystem& fs, const Clock& clock, int64_t resumed) {
  auto telemetry = Telemetry::Open({.files = &fs, .clock = &clock, .folder = "", .resumed_step = resumed});
  EXPECT_TRUE(telemetry.ok()) << telemetry.status();
  return *std::move(telemetry);
}

TEST(TelemetryTest, ALineHoldsEveryFieldAndEveryBit) {
  StepRecord record = RecordOf(7);
  record.gradient_norm = std::numeric_limits<double>::quiet_NaN();
  record.terms[1].value = -std::numeric_limits<double>::infinity();
  record.skipped = true;
  record.reason = "norm is \"NaN\",\"wire\":";
  record.evaluation = {{"loss", 2.5}};
  record.extra = {{"load.0", 3}};
  record.wire.physical_sent = int64_t{1} << 60;
  std::string line;
  AppendMetricsLine(record, 123, &line);
  const auto json = ParseJson(line);
  ASSERT_TRUE(json.ok()) << json.status() << line;
  EXPECT_EQ(*json->Find("step")->AsInt64(), 7);
  EXPECT_EQ(*json->Find("objective")->AsDouble(), record.objective);
  EXPECT_EQ(json->Find("gradient_norm")->text, "NaN");
  EXPECT_EQ(*json->Find("terms")->Find("balance")->AsDouble(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(json->Find("reason")->text, record.reason);
  EXPECT_EQ(*json->Find("evaluation")->Find("loss")->AsDouble(), 2.5);
  EXPECT_EQ(*json->Find("extra")->Find("load.0")->AsDouble(), 3);
  EXPECT_EQ(*json->Find("wire")->Find("physical_sent")->AsInt64(), int64_t{1} << 60);
  EXPECT_EQ(*json->Find("clock")->Find("unix_ms")->AsInt64(), 123);
  EXPECT_EQ(line.back(), '\n');
}

TEST(TelemetryTest, StateFieldsLeaveOutClockAndWire) {
  StepRecord a = RecordOf(3), b = RecordOf(3), c = RecordOf(3);
  a.reason = b.reason = c.reason = ",\"wire\":";
  a.skipped = b.skipped = c.skipped = true;
  b.wire.logical_up = 5;
  b.seconds.step = 0.25;
  c.terms[0].value = std::nextafter(c.terms[0].value, 1.0);
  std::string lines[3];
  AppendMetricsLine(a, 1, &lines[0]);
  AppendMetricsLine(b, 2, &lines[1]);
  AppendMetricsLine(c, 1, &lines[2]);
  EXPECT_EQ(StateFields(lines[0]), StateFields(lines[1]));
  EXPECT_NE(StateFields(lines[0]), StateFields(lines[2]));
}

TEST(TelemetryTest, ResumingGivesTheFileOfAStraightRun) {
  FakeClock clock;
  FaultFileSystem straight, stopped;
  const auto run = OpenIn(straight, clock, 0);
  for (int64_t s = 1; s <= 9; ++s) run->Record(RecordOf(s));
  {
    const auto first = OpenIn(stopped, clock, 0);
    for (int64_t s = 1; s <= 7; ++s) first->Record(RecordOf(s));
  }
  {
    const auto second = OpenIn(stopped, clock, 4);  // the checkpoint is of step 4
    EXPECT_EQ(Lines(stopped).size(), 5u);
    for (int64_t s = 5; s <= 9; ++s) second->Record(RecordOf(s));
  }
  EXPECT_EQ(Lines(stopped), Lines(straight));
  EXPECT_EQ(Lines(straight)[0], "{\"schema\":\"conclave.metrics\",\"version\":1}");
  OpenIn(stopped, clock, 0);
  EXPECT_EQ(Lines(stopped).size(), 1u);
}

TEST(TelemetryTest, ATornLastLineIsDroppedWhereverItIsTorn) {
  FakeClock clock;
  FaultFileSystem fs;
  const auto run = OpenIn(fs, clock, 0);
  for (int64_t s = 1; s <= 3; ++s) run->Record(RecordOf(s));
  const std::string whole = *fs.ReadAll("metrics.jsonl");
  for (size_t size = 0; size <= whole.size(); ++size) {
    FaultFileSystem torn;
    ASSERT_TRUE((*torn.OpenForWrite("metrics.jsonl", WriteMode::kTruncate))->Write(whole.substr(0, size)).ok());
    OpenIn(torn, clock, 100);
    const size_t lines = static_cast<size_t>(std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size), '\n'));
    EXPECT_EQ(Lines(torn).size(), std::max<size_t>(lines, 1)) << size;
    EXPECT_TRUE(whole.starts_with(*torn.ReadAll("metrics.jsonl"))) << size;
  }
}

// What a full disk costs is said once when it begins, and in the end.
TEST(TelemetryTest, AFullDiskCostsLinesAndNoHalfLineStays) {
  FakeClock clock;
  FaultFileSystem fs;
  const auto run = OpenIn(fs, clock, 0);
  run->Record(RecordOf(1));
  EXPECT_EQ(run->Missing(), "");
  testing::internal::CaptureStderr();
  fs.FailOperations(fs.operations(), 3, ENOSPC);  // a line is torn, then what is torn cannot be cut off, then the status has no room
  run->Record(RecordOf(2));
  run->Record(RecordOf(3));
  run->UpdateStatus({.step = 3});
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::ranges::count(told, '\n'), 1) << told;
  EXPECT_NE(told.find("cannot write 'metrics.jsonl'"), std::string::npos) << told;
  run->Record(RecordOf(4));
  const auto lines = Lines(fs);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(*ParseJson(lines[2])->Find("step")->AsInt64(), 4);
  EXPECT_EQ(run->missing(), 2);
  EXPECT_TRUE(run->Missing().starts_with("'metrics.jsonl' lacks 2 lines, of steps between 2 and 3: cannot write")) << run->Missing();
}

TEST(TelemetryTest, AFailedSyncIsTold) {
  FakeClock clock;
  FaultFileSystem fs;
  const auto run = OpenIn(fs, clock, 0);
  run->Record(RecordOf(1));
  fs.FailOperations(fs.operations(), 1, EIO);
  run->Sync();
  EXPECT_EQ(run->missing(), 0);
  EXPECT_NE(run->Missing().find("cannot fsync 'metrics.jsonl'"), std::string::npos) << run->Missing();
}

TEST(TelemetryTest, AFileOfSomeoneElseIsLeftAlone) {
  FakeClock clock;
  FaultFileSystem fs;
  ASSERT_TRUE(fs.WriteAtomically("metrics.jsonl", "{\"other\":1}\n").ok());
  EXPECT_EQ(Telemetry::Open({.files = &fs, .clock = &clock}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*fs.ReadAll("metrics.jsonl"), "{\"other\":1}\n");
}

TEST(TelemetryTest, StatusIsWrittenNowAndThen) {
  FakeClock clock(0, 5 * kSecond);
  FaultFileSystem fs;
  const auto run = OpenIn(fs, clock, 0);
  const auto step_of = [&] { return *ParseJson(*fs.ReadAll("status.json"))->Find("step")->AsInt64(); };
  RunStatus status{.run_id = "r", .phase = "train", .step = 1, .steps = 10};
  run->UpdateStatus(status);
  EXPECT_EQ(step_of(), 1);
  EXPECT_EQ(*ParseJson(*fs.ReadAll("status.json"))->Find("heartbeat_unix_ms")->AsInt64(), 5000);
  status.step = 2;
  clock.Advance(kSecond);
  run->UpdateStatus(status);
  EXPECT_EQ(step_of(), 1);
  clock.Advance(2 * kSecond);
  run->UpdateStatus(status);
  EXPECT_EQ(step_of(), 2);
  status.step = 3;
  run->UpdateStatus(status, /*force=*/true);
  EXPECT_EQ(step_of(), 3);
}

TEST(ProgressTest, TheBarShowsStateAndClearsItselfBeforeALogLine) {
  FakeClock clock;
  std::ostringstream out;
  Progress progress({.style = ProgressOptions::Style::kBar, .out = &out, .clock = &clock, .total = 200, .width = 10});
  clock.Advance(kSecond);
  progress.Update(50, "loss 2.5");
  EXPECT_EQ(out.str(), " 25% |##........| 50/200 [1.00 s<3.00 s, 50 steps/s] loss 2.5");
  const size_t drawn = out.str().size();
  progress.Update(51, "loss 2.4");  // too soon
  EXPECT_EQ(out.str().size(), drawn);
  LOG_ERROR << "a line of the log";
  EXPECT_EQ(out.str().substr(drawn), "\r" + std::string(drawn, ' ') + "\r");
  clock.Advance(kSecond);
  progress.Update(100, "");
  EXPECT_EQ(progress.rate(), 50);
  clock.Advance(kSecond);
  progress.Update(200, "");
  EXPECT_DOUBLE_EQ(progress.rate(), 0.7 * 50 + 0.3 * 100);
  progress.Finish();
  EXPECT_EQ(out.str().back(), '\n');
}

TEST(ProgressTest, AResumedRunCountsOnlyItsOwnSteps) {
  FakeClock clock;
  std::ostringstream out;
  Progress progress({.style = ProgressOptions::Style::kBar, .out = &out, .clock = &clock, .first = 90, .total = 100});
  clock.Advance(kSecond);
  progress.Update(92, "");
  EXPECT_EQ(progress.rate(), 2);
  EXPECT_NE(out.str().find("<4.00 s"), std::string::npos) << out.str();
}

TEST(ProgressTest, NoEscapesWithoutColor) {
  for (const bool color : {false, true}) {
    FakeClock clock;
    std::ostringstream out;
    {
      Progress progress({.style = ProgressOptions::Style::kBar, .color = color, .out = &out, .clock = &clock, .total = 4});
      for (int i = 1; i <= 4; ++i) {
        clock.Advance(kSecond);
        progress.Update(i, "x");
      }
    }
    EXPECT_EQ(out.str().find('\033') != std::string::npos, color);
  }
}

}  // namespace
}  // namespace conclave
