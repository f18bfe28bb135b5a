#include "trainer/config_diagnostics.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/strings.h"

namespace conclave {
namespace {

std::string_view LineAt(const ConfigSource& source, int64_t offset, int64_t* begin) {
  const std::string_view text = source.text;
  const size_t at = std::min<size_t>(static_cast<size_t>(offset), text.size());
  const size_t before = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
  const size_t first = before == std::string_view::npos ? 0 : before + 1;
  size_t last = text.find('\n', first);
  if (last == std::string_view::npos) last = text.size();
  *begin = static_cast<int64_t>(first);
  std::string_view line = text.substr(first, last - first);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// The source line and a caret below the byte, both indented by two. Tabs are repeated, so that the caret stands right at any tab width.
std::string Excerpt(const ConfigSource& source, int64_t offset) {
  int64_t begin = 0;
  const std::string_view line = LineAt(source, offset, &begin);
  std::string pad;
  for (int64_t i = 0; i < offset - begin; ++i) {
    const unsigned char c = i < static_cast<int64_t>(line.size()) ? static_cast<unsigned char>(line[static_cast<size_t>(i)]) : ' ';
    if ((c & 0xC0) != 0x80) pad += c == '\t' ? '\t' : ' ';  // the tail bytes of a UTF-8 character take no column
  }
  return absl::StrFormat("  %s\n  %s^\n", std::string(line), pad);
}

}  // namespace

LineColumn LocateByte(const ConfigSource& source, int64_t offset) {
  int64_t begin = 0;
  LineAt(source, offset, &begin);
  const auto newlines = std::count(source.text.begin(), source.text.begin() + begin, '\n');
  return {source.first_line + newlines, offset - begin + 1};
}

std::string PlaceName(const std::vector<ConfigSource>& sources, const ConfigPlace& place) {
  if (place.source < 0) return "default";
  const ConfigSource& source = sources[static_cast<size_t>(place.source)];
  const LineColumn at = LocateByte(source, place.offset);
  return absl::StrFormat("%s:%d:%d", source.name, at.line, at.column);
}

void ConfigDiagnostics::Add(const ConfigPlace& place, std::string message) { entries_.push_back({place, std::move(message)}); }

absl::Status ConfigDiagnostics::Finish(const std::vector<ConfigSource>& sources) const {
  if (entries_.empty()) return absl::OkStatus();
  std::vector<Entry> sorted = entries_;
  const auto key = [](const Entry& e) { return std::tuple(e.place.source, e.place.offset); };
  std::stable_sort(sorted.begin(), sorted.end(), [&](const Entry& a, const Entry& b) { return key(a) < key(b); });
  std::string text;
  for (const Entry& entry : sorted) {
    text += absl::StrFormat("%s: error: %s\n", PlaceName(sources, entry.place), entry.message);
    if (entry.place.source >= 0 && !entry.place.whole_source) {
      text += Excerpt(sources[static_cast<size_t>(entry.place.source)], entry.place.offset);
    }
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return absl::InvalidArgumentError(text);
}

std::string Suggestion(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best = ClosestName(name, candidates);
  // What people remember of a name is its beginning: 'balance' of 'balance_loss'.
  for (const std::string& candidate : candidates) {
    if (best.empty() && name.size() >= 3 && std::string_view(candidate).substr(0, name.size()) == name) best = candidate;
  }
  if (!best.empty()) return absl::StrFormat("; did you mean '%s'?", best);
  return candidates.empty() ? "" : "; known are: " + JoinStrings(candidates, ", ");
}

}  // namespace conclave
