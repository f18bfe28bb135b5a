#include "trainer/config_parse.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

namespace conclave {
namespace {

// Protobuf counts lines and columns from zero, a tab reaching to the next multiple of eight.
int64_t OffsetOf(const std::string& text, int line, int column) {
  size_t at = 0;
  for (int i = 0; i < line && at < text.size(); ++i) {
    const size_t newline = text.find('\n', at);
    at = newline == std::string::npos ? text.size() : newline + 1;
  }
  for (int reached = 0; reached < column && at < text.size() && text[at] != '\n'; ++at) {
    reached = text[at] == '\t' ? (reached / 8 + 1) * 8 : reached + 1;
  }
  return static_cast<int64_t>(at);
}

// The one class that knows the interface of Protobuf's error reports, which newer versions rename.
class FirstFault : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstFault(const std::string& text) : text_(text) {}
  void AddError(int line, int column, const std::string& message) override {
    if (!fault_) fault_ = ParseFault{OffsetOf(text_, line, column), message};
  }
  const std::optional<ParseFault>& fault() const { return fault_; }

 private:
  const std::string& text_;
  std::optional<ParseFault> fault_;
};

}  // namespace

std::optional<ParseFault> ParseConfigText(const std::string& text, ParseMode mode, google::protobuf::Message* message) {
  FirstFault faults(text);
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&faults);
  const bool good = mode == ParseMode::kStrict ? parser.ParseFromString(text, message) : parser.MergeFromString(text, message);
  if (good) return std::nullopt;
  return faults.fault() ? faults.fault() : ParseFault{0, "this text cannot be parsed"};
}

}  // namespace conclave
