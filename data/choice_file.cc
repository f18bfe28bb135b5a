#include "data/choice_file.h"

#include <array>
#include <cstring>
#include <optional>

namespace conclave {
namespace {

constexpr int32_t kChoiceMagic = 20240522, kChoiceVersion = 1;
constexpr size_t kChoiceHeaderInts = 256;
constexpr uint16_t kQuestionMark = 65535;
constexpr int kMostChoices = 64;

// 16-bit words of one question, read in order.
class WordReader {
 public:
  WordReader(const char* data, size_t words) : data_(data), left_(words) {}
  std::optional<uint16_t> Next() {
    if (left_ == 0) return std::nullopt;
    uint16_t word = 0;
    std::memcpy(&word, data_, sizeof(word));
    data_ += sizeof(word), --left_;
    return word;
  }
  // A length and as many tokens.
  bool Tokens(std::vector<int32_t>* out) {
    const auto length = Next();
    if (!length || *length > left_) return false;
    for (int i = 0; i < *length; ++i) out->push_back(*Next());
    return true;
  }
  size_t left() const { return left_; }

 private:
  const char* data_;
  size_t left_;
};

bool ReadQuestion(WordReader words, int64_t number, ChoiceQuestion* question) {
  const auto index = words.Next(), label = words.Next(), choices = words.Next();
  if (!index || *index != static_cast<uint16_t>(number) || !label || !choices) return false;
  if (*choices == 0 || *choices > kMostChoices || *label >= *choices) return false;
  question->label = *label;
  if (!words.Tokens(&question->context)) return false;
  for (int i = 0; i < *choices; ++i) {
    if (!words.Tokens(&question->completions.emplace_back()) || question->completions.back().empty()) return false;
  }
  return words.left() == 0;
}

}  // namespace

absl::StatusOr<std::vector<ChoiceQuestion>> ReadChoiceFile(const FileSystem& files, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string content, files.ReadAll(path));
  std::array<int32_t, 4> header{};
  if (content.size() >= sizeof(header)) std::memcpy(header.data(), content.data(), sizeof(header));
  if (content.size() < kChoiceHeaderInts * 4 || header[0] != kChoiceMagic || header[1] != kChoiceVersion || header[2] < 0) {
    return DataLoss("'%s' is no file of multiple-choice questions: it should begin with %d and version %d", path, kChoiceMagic,
                    kChoiceVersion);
  }
  std::vector<ChoiceQuestion> questions;
  size_t at = kChoiceHeaderInts * 4;
  for (int64_t i = 0; i < header[2]; ++i) {
    std::array<uint16_t, 2> start{};
    const bool starts = at + sizeof(start) <= content.size();
    if (starts) std::memcpy(start.data(), content.data() + at, sizeof(start));
    const bool sound =
        starts && start[0] == kQuestionMark && start[1] % 2 == 0 && start[1] > sizeof(start) && at + start[1] <= content.size();
    if (!sound || !ReadQuestion({content.data() + at + sizeof(start), (start[1] - sizeof(start)) / 2}, i, &questions.emplace_back())) {
      return DataLoss("'%s': question %d of %d, at byte %d, is damaged", path, i, header[2], at);
    }
    at += start[1];
  }
  if (at != content.size()) return DataLoss("'%s' has %d bytes after its last question", path, content.size() - at);
  return questions;
}

}  // namespace conclave
