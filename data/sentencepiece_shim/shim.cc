#include "data/sentencepiece_shim/shim.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

namespace {

using sentencepiece::SentencePieceProcessor;

constexpr int64_t kMaxLineBytes = 4096;  // longer lines are cut for training; SentencePiece would skip them

void CopyError(std::string_view message, char* error, size_t error_size) {
  if (error_size == 0) return;
  const size_t n = std::min(message.size(), error_size - 1);
  std::memcpy(error, message.data(), n);
  error[n] = '\0';
}

bool CopyBytes(std::string_view from, SentencePieceBytes* to) {
  to->data = static_cast<char*>(std::malloc(std::max<size_t>(from.size(), 1)));
  if (to->data == nullptr) return false;
  std::memcpy(to->data, from.data(), from.size());
  to->size = static_cast<int64_t>(from.size());
  return true;
}

// The text as lines, cut at UTF-8 character borders where a line is too long.
std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    const bool cut = end > kMaxLineBytes;
    if (cut) {
      end = kMaxLineBytes;
      while (end > 1 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    }
    if (end > 0) lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + (cut ? 0 : 1), text.size()));
  }
  return lines;
}

// Hands every `stride`-th line to the trainer.
class LineSampler : public sentencepiece::SentenceIterator {
 public:
  LineSampler(const std::vector<std::string_view>& lines, size_t stride) : lines_(lines), stride_(stride) { Take(); }
  bool done() const override { return at_ >= lines_.size(); }
  void Next() override {
    at_ += stride_;
    Take();
  }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void Take() {
    if (!done()) line_.assign(lines_[at_]);
  }
  const std::vector<std::string_view>& lines_;
  size_t stride_, at_ = 0;
  std::string line_;
};

void* Load(const char* model, int64_t model_size, char* error, size_t error_size) {
  try {
    auto processor = std::make_unique<SentencePieceProcessor>();
    const auto status = processor->LoadFromSerializedProto(std::string(model, static_cast<size_t>(model_size)));
    if (status.ok()) return processor.release();
    CopyError(status.ToString(), error, error_size);
  } catch (const std::exception& e) {
    CopyError(e.what(), error, error_size);
  }
  return nullptr;
}

void Unload(void* processor) {
  delete static_cast<SentencePieceProcessor*>(processor);
}
int32_t VocabSize(void* processor) {
  return static_cast<SentencePieceProcessor*>(processor)->GetPieceSize();
}
int32_t EndOfDocument(void* processor) {
  return static_cast<SentencePieceProcessor*>(processor)->eos_id();
}

int32_t Encode(void* processor, const char* text, int64_t text_size, int32_t* ids, int64_t capacity, int64_t* count) {
  try {
    std::vector<int> pieces;
    const std::string copy(text, static_cast<size_t>(text_size));
    if (!static_cast<SentencePieceProcessor*>(processor)->Encode(copy, &pieces).ok()) return 1;
    *count = static_cast<int64_t>(pieces.size());
    std::copy_n(pieces.begin(), std::min(*count, capacity), ids);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

int32_t Decode(void* processor, const int32_t* ids, int64_t count, SentencePieceBytes* text) {
  try {
    std::string decoded;
    if (!static_cast<SentencePieceProcessor*>(processor)->Decode(std::vector<int>(ids, ids + count), &decoded).ok()) return 1;
    return CopyBytes(decoded, text) ? 0 : 1;
  } catch (const std::exception&) {
    return 1;
  }
}

// Every setting that decides the result is given here, so that a text always yields the same model on every machine:
// identity normalisation and no dummy prefix make encoding lossless, one thread and a fixed stride leave nothing to chance.
int32_t Train(const SentencePieceTraining* t, SentencePieceBytes* model, char* error, size_t error_size) {
  try {
    const std::vector<std::string_view> lines = Lines({t->text, static_cast<size_t>(t->text_size)});
    const size_t stride = t->max_sample_lines <= 0 ? 1 : 1 + (lines.size() - 1) / static_cast<size_t>(t->max_sample_lines);
    LineSampler sampler(lines, stride);
    const std::unordered_map<std::string, std::string> settings = {{"model_type", t->bpe ? "bpe" : "unigram"},
                                                                   {"vocab_size", std::to_string(t->vocab_size)},
                                                                   {"byte_fallback", "true"},
                                                                   {"normalization_rule_name", "identity"},
                                                                   {"add_dummy_prefix", "false"},
                                                                   {"remove_extra_whitespaces", "false"},
                                                                   {"user_defined_symbols", "\n"},
                                                                   {"unk_id", "0"},
                                                                   {"eos_id", "1"},
                                                                   {"bos_id", "-1"},
                                                                   {"pad_id", "-1"},
                                                                   {"num_threads", "1"},
                                                                   {"hard_vocab_limit", "false"},
                                                                   {"character_coverage", "0.9995"},
                                                                   {"max_sentence_length", "8192"},
                                                                   {"minloglevel", "2"},
                                                                   {"seed_sentencepiece_size", "100000"},
                                                                   {"split_digits", "true"}};
    std::string serialized;
    const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &sampler, &serialized);
    if (status.ok() && CopyBytes(serialized, model)) return 0;
    CopyError(status.ok() ? "out of memory" : status.ToString(), error, error_size);
  } catch (const std::exception& e) {
    CopyError(e.what(), error, error_size);
  }
  return 1;
}

void Release(SentencePieceBytes* bytes) {
  std::free(bytes->data);
  *bytes = {};
}

constexpr SentencePieceShim kShim = {kSentencePieceShimVersion, Load, Unload, VocabSize, EndOfDocument, Encode, Decode, Train, Release};

}  // namespace

extern "C" __attribute__((visibility("default"))) const SentencePieceShim* conclave_sentencepiece_shim() {
  return &kShim;
}
