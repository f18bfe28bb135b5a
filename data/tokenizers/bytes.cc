#include "data/tokenizer_factory.h"

namespace conclave {
namespace {

constexpr int32_t kEndOfDocument = 256;

// Every byte is a token; id 256 ends a document.
class BytesTokenizer : public Tokenizer {
 public:
  int64_t vocab_size() const override { return kEndOfDocument + 1; }
  int32_t end_of_document() const override { return kEndOfDocument; }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const override {
    std::vector<int32_t> ids(text.size());
    for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]);
    return ids;
  }
  std::string Decode(std::span<const int32_t> ids) const override {
    std::string text;
    text.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id >= 0 && id < kEndOfDocument) text.push_back(static_cast<char>(id));
    }
    return text;
  }
  std::string name() const override { return "bytes"; }
  std::string fingerprint() const override { return "bytes"; }
  std::string file_content() const override { return ""; }
};

}  // namespace

std::unique_ptr<Tokenizer> MakeBytesTokenizer() {
  return std::make_unique<BytesTokenizer>();
}

}  // namespace conclave
