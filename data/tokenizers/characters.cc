#include <array>
#include <sstream>

#include "base/digest.h"
#include "data/cache.h"
#include "data/text.h"
#include "data/tokenizer_factory.h"

namespace conclave {
namespace {

constexpr std::string_view kCharactersTitle = "conclave characters 1";

// The distinct bytes of a text, sorted: byte table[i] has id i. There is no end-of-document id, so that a text's tokens are exactly its
// bytes.
class CharactersTokenizer : public Tokenizer {
 public:
  explicit CharactersTokenizer(const std::vector<unsigned char>& table) : table_(table) {
    ids_.fill(-1);
    for (size_t i = 0; i < table.size(); ++i) ids_[table[i]] = static_cast<int32_t>(i);
  }
  int64_t vocab_size() const override { return static_cast<int64_t>(table_.size()); }
  int32_t end_of_document() const override { return -1; }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const override {
    std::vector<int32_t> ids(text.size());
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      ids[i] = ids_[byte];
      if (ids[i] < 0) {
        return InvalidArgument(
            "byte 0x%02x at offset %d of the text is not among the tokenizer's %d characters; make the table from a text that has it", byte,
            i, table_.size());
      }
    }
    return ids;
  }
  std::string Decode(std::span<const int32_t> ids) const override {
    std::string text;
    text.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocab_size()) text.push_back(static_cast<char>(table_[id]));
    }
    return text;
  }
  std::string name() const override { return "characters"; }
  std::string fingerprint() const override { return absl::StrFormat("characters-%016x", DigestOf(file_content())); }
  // A title line, then one byte a line in hexadecimal, in the order of the ids.
  std::string file_content() const override {
    std::string content = absl::StrFormat("%s\n", kCharactersTitle);
    for (const unsigned char byte : table_) absl::StrAppendFormat(&content, "%02x\n", byte);
    return content;
  }

 private:
  std::vector<unsigned char> table_;
  std::array<int32_t, 256> ids_;
};

absl::StatusOr<std::vector<unsigned char>> ParseTable(const std::string& content, const std::string& path) {
  std::istringstream lines(content);
  std::string line;
  if (!std::getline(lines, line) || line != kCharactersTitle) {
    return InvalidArgument("'%s' is not a table of characters: expected the first line '%s', got '%s'", path, kCharactersTitle, line);
  }
  std::vector<unsigned char> table;
  for (int number = 2; std::getline(lines, line); ++number) {
    const bool hex = line.size() == 2 && line.find_first_not_of("0123456789abcdef") == std::string::npos;
    const int byte = hex ? std::stoi(line, nullptr, 16) : -1;
    if (byte < 0 || (!table.empty() && byte <= table.back())) {
      return InvalidArgument("'%s' line %d: expected two hexadecimal digits, ascending from line to line, got '%s'", path, number, line);
    }
    table.push_back(static_cast<unsigned char>(byte));
  }
  if (table.empty()) return InvalidArgument("'%s' lists no characters", path);
  return table;
}

absl::StatusOr<std::vector<unsigned char>> DistinctBytes(const std::vector<std::string>& paths, const FileSystem& files) {
  std::array<bool, 256> seen{};
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const std::string text, ReadText(path, files));
    for (const char c : text) seen[static_cast<unsigned char>(c)] = true;
  }
  std::vector<unsigned char> table;
  for (int byte = 0; byte < 256; ++byte) {
    if (seen[byte]) table.push_back(static_cast<unsigned char>(byte));
  }
  return table;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeCharactersTokenizer(const CharactersTokenizerConfig& config,
                                                                   const TokenizerTraining& training, const FileSystem& files) {
  if (!config.table_path().empty() && files.Exists(config.table_path())) {
    ASSIGN_OR_RETURN(const std::string content, files.ReadAll(config.table_path()));
    ASSIGN_OR_RETURN(const std::vector<unsigned char> table, ParseTable(content, config.table_path()));
    return std::make_unique<CharactersTokenizer>(table);
  }
  if (training.text_files.empty()) {
    return NotFound("the table of characters '%s' is missing and there is no text source to make it from", config.table_path());
  }
  ASSIGN_OR_RETURN(const std::vector<unsigned char> table, DistinctBytes(training.text_files, files));
  auto tokenizer = std::make_unique<CharactersTokenizer>(table);
  if (!config.table_path().empty()) RETURN_IF_ERROR(WriteOnce(config.table_path(), tokenizer->file_content(), files));
  return tokenizer;
}

}  // namespace conclave
