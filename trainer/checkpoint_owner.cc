#include "trainer/checkpoint_owner.h"

#include <unistd.h>

#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/strings.h"
#include "trainer/agreement.h"

namespace conclave {
namespace {

constexpr int64_t kForeignLifeMs = 3'600'000;
constexpr std::string_view kStep = "step-", kTmp = "tmp-", kReplaced = "replaced-", kTrash = ".trash-";

// Takes "<number>" from the front.
std::optional<int64_t> TakeNumber(std::string_view* text) {
  size_t digits = 0;
  while (digits < text->size() && (*text)[digits] >= '0' && (*text)[digits] <= '9') ++digits;
  const auto number = ParseInt64(text->substr(0, digits));
  if (!number.ok()) return std::nullopt;
  if (digits > 1 && text->front() == '0') return std::nullopt;
  text->remove_prefix(digits);
  return *number;
}

bool TakePrefix(std::string_view prefix, std::string_view* text) {
  if (!text->starts_with(prefix)) return false;
  text->remove_prefix(prefix.size());
  return true;
}

}  // namespace

std::optional<int64_t> StartOfProcess(int64_t process) {
  std::ifstream file(absl::StrFormat("/proc/%d/stat", process));  // its size reads as 0, so it must be read to its end
  const std::string stat{std::istreambuf_iterator<char>(file), {}};
  const size_t end_of_name = stat.rfind(')');  // the second field, the program's name, may hold spaces and brackets
  if (end_of_name == std::string::npos || end_of_name + 2 > stat.size()) return std::nullopt;
  const std::vector<std::string> fields = SplitString(std::string_view(stat).substr(end_of_name + 2), ' ');  // from field 3 on
  constexpr size_t kStart = 22 - 3;
  if (fields.size() <= kStart) return std::nullopt;
  const auto start = ParseInt64(fields[kStart]);
  return start.ok() ? std::optional(*start) : std::nullopt;
}

CheckpointOwner CheckpointOwner::Self(int64_t wall_ms) {
  const int64_t process = getpid();
  return {.process = process, .started = StartOfProcess(process).value_or(0), .wall_ms = wall_ms, .host = HostName()};
}

std::string CheckpointOwner::ToString() const { return absl::StrFormat("%d-%d-%d-%s", process, started, wall_ms, host); }

std::optional<CheckpointOwner> CheckpointOwner::Parse(std::string_view text) {
  CheckpointOwner owner;
  for (int64_t* field : {&owner.process, &owner.started, &owner.wall_ms}) {
    const std::optional<int64_t> number = TakeNumber(&text);
    if (!number.has_value() || !TakePrefix("-", &text)) return std::nullopt;
    *field = *number;
  }
  if (text.empty()) return std::nullopt;
  owner.host = text;
  return owner;
}

bool CheckpointOwner::SameProcess(const CheckpointOwner& other) const {
  return process == other.process && started == other.started && host == other.host;
}

bool CheckpointOwner::IsGone(const CheckpointOwner& self) const {
  if (SameProcess(self)) return true;
  if (host != self.host) return self.wall_ms - wall_ms > kForeignLifeMs;
  return StartOfProcess(process) != std::optional(started);
}

CheckpointFolderName CheckpointFolderName::Parse(std::string_view name) {
  const bool trash = TakePrefix(kTrash, &name);
  if (!trash && !TakePrefix(kStep, &name)) return {};
  const std::optional<int64_t> step = TakeNumber(&name);
  if (!step.has_value()) return {};
  if (!trash && name.empty()) return {.kind = Kind::kStep, .step = *step};
  if (trash)
    return TakePrefix("-", &name) ? CheckpointFolderName{Kind::kTrash, *step, CheckpointOwner::Parse(name)} : CheckpointFolderName{};
  if (!TakePrefix(".", &name)) return {};
  if (TakePrefix(kTmp, &name)) return {Kind::kTemporary, *step, CheckpointOwner::Parse(name)};
  if (TakePrefix(kReplaced, &name)) return {Kind::kReplaced, *step, CheckpointOwner::Parse(name)};
  return {};
}

std::string CheckpointFolderName::Of(Kind kind, int64_t step, const CheckpointOwner& owner) {
  switch (kind) {
    case Kind::kStep:
      return absl::StrFormat("%s%d", kStep, step);
    case Kind::kTemporary:
      return absl::StrFormat("%s%d.%s%s", kStep, step, kTmp, owner.ToString());
    case Kind::kReplaced:
      return absl::StrFormat("%s%d.%s%s", kStep, step, kReplaced, owner.ToString());
    case Kind::kTrash:
      return absl::StrFormat("%s%d-%s", kTrash, step, owner.ToString());
    case Kind::kOther:
      break;
  }
  CHECK(false) << "no name";
  return "";
}

}  // namespace conclave
