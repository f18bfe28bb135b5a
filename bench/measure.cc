#include "bench/measure.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "base/strings.h"
#include "tensor/tensor.h"
#include "trainer/json.h"

namespace conclave {
namespace {

double SecondsOf(const std::function<void()>& body, int64_t calls) {
  const double began = RealClock().Seconds();
  for (int64_t i = 0; i < calls; ++i) body();
  return (RealClock().Seconds() - began) / static_cast<double>(calls);
}

// The q-quantile of sorted values.
double Quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  if (below + 1 == sorted.size()) return sorted.back();
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[below + 1] - sorted[below]);
}

void AppendMember(const std::string& name, double value, std::string* out) {
  if (out->back() != '{') *out += ", ";
  AppendJsonString(name, out);
  *out += ": ";
  AppendJsonNumber(value, out);
}

}  // namespace

Moment Moment::Now() { return {.wall = RealClock().Seconds(), .cpu = ThreadCpuSeconds()}; }

Timing TimingOf(std::vector<double> seconds) {
  CHECK(!seconds.empty());
  std::ranges::sort(seconds);
  return {.median = Quantile(seconds, 0.5),
          .low = Quantile(seconds, 0.25),
          .high = Quantile(seconds, 0.75),
          .samples = static_cast<int>(seconds.size())};
}

Timing Measure(const std::function<void()>& body, const MeasureOptions& options) {
  body();
  const double once = std::max(SecondsOf(body, 1), 1e-9);
  const auto calls = std::max<int64_t>(1, static_cast<int64_t>(options.sample_seconds / once));
  std::vector<double> seconds;
  for (int i = 0; i < options.samples; ++i) seconds.push_back(SecondsOf(body, calls));
  return TimingOf(std::move(seconds));
}

BenchResult MeasureCopy(int64_t bytes) {
  const Buffer from(bytes), to(bytes);
  std::memset(from.data(), 1, static_cast<size_t>(bytes));
  return {.name = "memcpy " + HumanBytes(bytes),
          .unit = "GB/s",
          .work = 2e-9 * static_cast<double>(bytes),
          .seconds = Measure([&] { std::memcpy(to.data(), from.data(), static_cast<size_t>(bytes)); })};
}

std::string RenderTable(const BenchReport& report) {
  std::string text = absl::StrFormat("%s, %d rank%s: median rate [quartiles], median time of a call\n", report.bench, report.ranks,
                                     report.ranks == 1 ? "" : "s");
  for (const BenchResult& result : report.results) {
    const Timing& t = result.seconds;
    absl::StrAppendFormat(&text, "  %-44s %9.4g %-9s [%.4g .. %.4g]  %9s", result.name, result.Rate(), result.unit, result.work / t.high,
                          result.work / t.low, HumanDuration(t.median));
    for (const auto& [name, value] : result.facts) absl::StrAppendFormat(&text, "  %s %.4g", name, value);
    text += "\n";
  }
  return text;
}

std::string RenderJson(const BenchReport& report) {
  std::string text = "{";
  text += "\"bench\": ";
  AppendJsonString(report.bench, &text);
  AppendMember("ranks", report.ranks, &text);
  text += ", \"results\": [";
  for (const BenchResult& result : report.results) {
    text += text.back() == '[' ? "{" : ", {";
    text += "\"name\": ";
    AppendJsonString(result.name, &text);
    text += ", \"unit\": ";
    AppendJsonString(result.unit, &text);
    AppendMember("rate", result.Rate(), &text);
    AppendMember("seconds", result.seconds.median, &text);
    AppendMember("seconds_low", result.seconds.low, &text);
    AppendMember("seconds_high", result.seconds.high, &text);
    AppendMember("samples", result.seconds.samples, &text);
    for (const auto& [name, value] : result.facts) AppendMember(name, value, &text);
    text += "}";
  }
  return text + "]}\n";
}

}  // namespace conclave
