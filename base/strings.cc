#include "base/strings.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

namespace conclave {
namespace {

template <typename Number>
absl::StatusOr<Number> Parse(std::string_view text, std::string_view what) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range && stop == end) {
    return absl::OutOfRangeError(absl::StrFormat("'%s' is out of the range of %s", text, what));
  }
  if (error != std::errc() || stop != end) return InvalidArgument("'%s' is not %s", text, what);
  return value;
}

// Three significant digits of a value in [1, 1024) (four from 1000 on).
std::string ThreeDigits(double value) { return absl::StrFormat("%.*f", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value); }

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

}  // namespace

std::vector<std::string> SplitString(std::string_view text, char separator) {
  std::vector<std::string> pieces;
  for (;;) {
    const size_t at = text.find(separator);
    pieces.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return pieces;
    text.remove_prefix(at + 1);
  }
}

std::string JoinStrings(std::span<const std::string> pieces, std::string_view separator) {
  std::string text;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) text += separator;
    text += pieces[i];
  }
  return text;
}

std::string_view StripWhitespace(std::string_view text) {
  const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

absl::StatusOr<int64_t> ParseInt64(std::string_view text) { return Parse<int64_t>(text, "a 64-bit integer"); }
absl::StatusOr<double> ParseDouble(std::string_view text) { return Parse<double>(text, "a number"); }

int64_t EditDistance(std::string_view a, std::string_view b) {
  // row[j] = distance of the first i characters of a to the first j of b; `before` is the row of i - 1, `before2` that of i - 2.
  std::vector<int64_t> before2(b.size() + 1), before(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    before2.swap(before);
    before.swap(row);
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({before[j] + 1, row[j - 1] + 1, before[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before2[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string ClosestName(std::string_view name, std::span<const std::string> candidates) {
  const std::string wanted = LowerCase(name);
  std::string best;
  int64_t best_distance = -1;
  for (const std::string& candidate : candidates) {
    const int64_t distance = EditDistance(wanted, LowerCase(candidate));
    const auto longer = static_cast<int64_t>(std::max(wanted.size(), candidate.size()));
    if (distance > std::max<int64_t>(1, longer / 3) || distance >= longer) continue;
    if (best_distance >= 0 && distance >= best_distance) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

std::string HumanBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = std::abs(static_cast<double>(bytes));
  size_t unit = 0;
  while (value >= 1023.5 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  const std::string digits = unit == 0 ? absl::StrFormat("%.0f", value) : ThreeDigits(value);
  return absl::StrFormat("%s%s %s", bytes < 0 ? "-" : "", digits, kUnits[unit]);
}

std::string HumanCount(int64_t count) {
  static constexpr const char* kUnits[] = {"", "K", "M", "B", "T"};
  double value = std::abs(static_cast<double>(count));
  size_t unit = 0;
  while (value >= 999.5 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  const std::string digits = unit == 0 ? absl::StrFormat("%.0f", value) : ThreeDigits(value);
  return absl::StrFormat("%s%s%s", count < 0 ? "-" : "", digits, kUnits[unit]);
}

std::string HumanDuration(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 0) return absl::StrFormat("-%s", HumanDuration(-seconds));
  if (seconds < 999.5e-9) return absl::StrFormat("%.0f ns", seconds * 1e9);
  if (seconds < 999.5e-6) return ThreeDigits(seconds * 1e6) + " us";
  if (seconds < 999.5e-3) return ThreeDigits(seconds * 1e3) + " ms";
  if (seconds < 59.95) return ThreeDigits(seconds) + " s";
  if (seconds >= 1e15) return absl::StrFormat("%.2e s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh%02dm", whole / 3600, whole % 3600 / 60);
  return absl::StrFormat("%dd%02dh", whole / 86400, whole % 86400 / 3600);
}

std::string HexDigest(uint64_t value) { return absl::StrFormat("%016x", value); }

}  // namespace conclave
