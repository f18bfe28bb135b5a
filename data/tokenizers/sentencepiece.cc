#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/digest.h"
#include "data/cache.h"
#include "data/sentencepiece_shim/shim.h"
#include "data/text.h"
#include "data/tokenizer_factory.h"

namespace conclave {
namespace {

constexpr char kShimFile[] = "libconclave_sentencepiece_shim.so";
constexpr int64_t kTrainingLines = 20000;  // enough for vocabularies of thousands; keeps training within seconds
constexpr int kTrainingVersion = 1;        // part of cache keys: rises when the shim trains differently

// Opens the shim. It stays open for the life of the process: its libraries register things that do not survive being unloaded.
// RTLD_DEEPBIND makes SentencePiece see its own protobuf, not ours.
absl::StatusOr<const SentencePieceShim*> OpenShim() {
  for (const char* runtime : {"__asan_init", "__tsan_init"}) {
    if (dlsym(RTLD_DEFAULT, runtime) != nullptr) {
      return Unavailable(
          "SentencePiece cannot be loaded into a sanitizer build (%s is present, which refuses RTLD_DEEPBIND); use the bytes tokenizer",
          runtime);
    }
  }
  std::array<char, 4096> executable{};
  const ssize_t length = readlink("/proc/self/exe", executable.data(), executable.size() - 1);
  if (length <= 0) return Internal("cannot find this program's folder: readlink of /proc/self/exe failed");
  const std::string path = JoinPath(ParentPath(std::string_view(executable.data(), static_cast<size_t>(length))), kShimFile);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (library == nullptr) {
    return Unavailable("SentencePiece is not available: %s; install libsentencepiece-dev and build again, or use the bytes tokenizer",
                       dlerror());
  }
  const auto entry = reinterpret_cast<SentencePieceShimEntry>(dlsym(library, kSentencePieceShimEntry));
  if (entry == nullptr || entry()->version != kSentencePieceShimVersion) {
    return Unavailable("'%s' is not version %d of the SentencePiece shim; build again", path, kSentencePieceShimVersion);
  }
  return entry();
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const SentencePieceShim* shim, std::string model, const std::string& origin) {
    std::array<char, 512> error{};
    void* processor = shim->load(model.data(), static_cast<int64_t>(model.size()), error.data(), error.size());
    if (processor == nullptr) return InvalidArgument("'%s' is not a SentencePiece model: %s", origin, error.data());
    auto tokenizer = std::unique_ptr<SentencePieceTokenizer>(new SentencePieceTokenizer(shim, processor, std::move(model)));
    RETURN_IF_ERROR(tokenizer->CheckLines());
    return tokenizer;
  }
  ~SentencePieceTokenizer() override { shim_->unload(processor_); }
  SentencePieceTokenizer(const SentencePieceTokenizer&) = delete;
  SentencePieceTokenizer& operator=(const SentencePieceTokenizer&) = delete;

  int64_t vocab_size() const override { return shim_->vocab_size(processor_); }
  int32_t end_of_document() const override { return shim_->end_of_document(processor_); }

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      const size_t line_break = by_line_ ? text.find('\n') : std::string_view::npos;
      const size_t size = line_break == std::string_view::npos ? text.size() : line_break + 1;
      RETURN_IF_ERROR(Append(text.substr(0, size), &ids));
      text.remove_prefix(size);
    }
    return ids;
  }

  std::string Decode(std::span<const int32_t> ids) const override {
    std::vector<int32_t> known;
    std::ranges::copy_if(ids, std::back_inserter(known), [this](int32_t id) { return id >= 0 && id < vocab_size(); });
    SentencePieceBytes bytes{};
    CHECK_EQ(shim_->decode(processor_, known.data(), static_cast<int64_t>(known.size()), &bytes), 0)
        << "decoding " << known.size() << " pieces";
    std::string text(bytes.data, static_cast<size_t>(bytes.size));
    shim_->release(&bytes);
    return text;
  }

  std::string name() const override { return "sentencepiece"; }
  std::string fingerprint() const override { return absl::StrFormat("sentencepiece-%016x", DigestOf(model_)); }
  std::string file_content() const override { return model_; }

 private:
  SentencePieceTokenizer(const SentencePieceShim* shim, void* processor, std::string model)
      : shim_(shim), processor_(processor), model_(std::move(model)) {}

  // Encoding line by line bounds memory and gives the same ids, if no piece spans lines and nothing is added in front of a text. True of
  // the models trained here; a model from elsewhere is asked.
  absl::Status CheckLines() {
    std::vector<int32_t> whole, parts;
    RETURN_IF_ERROR(Append("a \n b\n\nc", &whole));
    for (const std::string_view line : {"a \n", " b\n", "\n", "c"}) RETURN_IF_ERROR(Append(line, &parts));
    by_line_ = whole == parts;
    return absl::OkStatus();
  }

  absl::Status Append(std::string_view text, std::vector<int32_t>* ids) const {
    // A byte yields at most three ids (an invalid one becomes a replacement character of three byte pieces), plus a dummy prefix.
    const size_t used = ids->size(), capacity = text.size() * 3 + 8;
    ids->resize(used + capacity);
    int64_t count = 0;
    const int32_t failed = shim_->encode(processor_, text.data(), static_cast<int64_t>(text.size()), ids->data() + used,
                                         static_cast<int64_t>(capacity), &count);
    if (failed != 0 || count > static_cast<int64_t>(capacity)) {
      return Internal("SentencePiece could not encode a text of %d bytes (%d pieces for room of %d)", text.size(), count, capacity);
    }
    ids->resize(used + static_cast<size_t>(count));
    return absl::OkStatus();
  }

  const SentencePieceShim* shim_;
  void* processor_;
  std::string model_;
  bool by_line_ = false;
};

absl::StatusOr<std::string> Train(const SentencePieceShim* shim, const SentencePieceConfig& config, const std::string& text) {
  const SentencePieceTraining training = {.text = text.data(),
                                          .text_size = static_cast<int64_t>(text.size()),
                                          .vocab_size = static_cast<int32_t>(config.vocab_size()),
                                          .bpe = config.algorithm() == SentencePieceConfig::BPE,
                                          .max_sample_lines = kTrainingLines};
  SentencePieceBytes bytes{};
  std::array<char, 512> error{};
  if (shim->train(&training, &bytes, error.data(), error.size()) != 0) {
    return InvalidArgument("SentencePiece could not train %d pieces on a text of %d bytes: %s", config.vocab_size(), text.size(),
                           error.data());
  }
  std::string model(bytes.data, static_cast<size_t>(bytes.size));
  shim->release(&bytes);
  return model;
}

absl::StatusOr<std::string> JoinedText(const std::vector<std::string>& paths, const FileSystem& files) {
  std::string joined;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const std::string text, ReadText(path, files));
    joined += text;
    if (joined.back() != '\n') joined += '\n';
  }
  return joined;
}

}  // namespace

absl::Status SentencePieceAvailable() {
  return OpenShim().status();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePieceTokenizer(const SentencePieceConfig& config, const TokenizerTraining& training,
                                                                      const FileSystem& files) {
  ASSIGN_OR_RETURN(const SentencePieceShim* shim, OpenShim());
  std::string path = config.model_path(), text;
  if (path.empty()) {
    if (training.text_files.empty()) return NotFound("data.tokenizer.sentencepiece: no model_path and no text source to train on");
    ASSIGN_OR_RETURN(text, JoinedText(training.text_files, files));
    path = JoinPath(training.cache_dir, absl::StrFormat("sentencepiece-%016x-%d-%s-v%d.model", DigestOf(text), config.vocab_size(),
                                                        SentencePieceConfig::Algorithm_Name(config.algorithm()), kTrainingVersion));
  }
  if (!files.Exists(path)) {
    if (!config.train()) return NotFound("the SentencePiece model '%s' does not exist and `train` is false", path);
    if (training.text_files.empty())
      return NotFound("the SentencePiece model '%s' does not exist and there is no text source to train on", path);
    if (text.empty()) {
      ASSIGN_OR_RETURN(text, JoinedText(training.text_files, files));
    }
    ASSIGN_OR_RETURN(const std::string model, Train(shim, config, text));
    RETURN_IF_ERROR(WriteOnce(path, model, files));
  }
  ASSIGN_OR_RETURN(std::string model, files.ReadAll(path));
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, SentencePieceTokenizer::Load(shim, std::move(model), path));
  if (tokenizer->vocab_size() != config.vocab_size()) {
    return InvalidArgument("SentencePiece model '%s' has %d pieces, data.tokenizer.sentencepiece.vocab_size says %d; %s", path,
                           tokenizer->vocab_size(), config.vocab_size(), "set it to the model's, or train on more text");
  }
  return tokenizer;
}

}  // namespace conclave
