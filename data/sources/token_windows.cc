#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "data/source_factory.h"
#include "data/text.h"
#include "data/token_shard.h"
#include "data/tokenize.h"

namespace conclave {
namespace {

constexpr int64_t kScannedTokens = 1 << 25;  // streams up to this size are checked against the vocabulary when opened; all are when read

// What a source reads of a stream, and how.
struct Extent {
  int64_t begin = 0, end = 0;  // tokens of the stream
  int64_t context = 0;         // T
  int64_t vocab_size = 0;
  int32_t boundary = -1;  // the end-of-document id where documents are kept apart; -1: they are not
};

// What both kinds of windows share.
class Windows : public Source {
 public:
  Windows(std::shared_ptr<const TokenStream> stream, const Extent& extent) : extent_(extent), stream_(std::move(stream)) {}
  SampleShape shape() const override { return {SampleShape::Kind::kTokens, extent_.context}; }

 protected:
  // Reads the window of T + 1 tokens from `start`: inputs are its first T tokens, targets the one that follows each. Targets before
  // `first_target` are ignored, and where documents are kept apart so is the first token of a document, which nothing in the window
  // announces; its end is always a target.
  absl::Status Read(int64_t start, int64_t first_target, int64_t row, Batch* batch) const {
    const std::span<int32_t> in = batch->tokens.Slice(row, 1).span<int32_t>(), out = batch->targets.Slice(row, 1).span<int32_t>();
    stream_->Read(start, in);
    stream_->Read(start + 1, out);
    const auto known = [&](int32_t token) { return token >= 0 && token < extent_.vocab_size; };
    if (!std::ranges::all_of(in, known) || !known(out.back())) {
      return InvalidArgument("tokens %d to %d of the data hold one outside the vocabulary of %d; they were made with another tokenizer",
                             start, start + extent_.context, extent_.vocab_size);
    }
    for (int64_t t = 0; t < extent_.context; ++t) {
      if (t < first_target || (extent_.boundary >= 0 && in[t] == extent_.boundary)) out[t] = kIgnoredTarget;
      batch->count += out[t] != kIgnoredTarget;
    }
    return absl::OkStatus();
  }
  int64_t last_start() const { return extent_.end - 1 - extent_.context; }
  const Extent extent_;

 private:
  std::shared_ptr<const TokenStream> stream_;
};

// Windows T apart, so that every target of an epoch is learnt once. Later epochs start at another offset, drawn from [0, T): the same text
// is then cut elsewhere. Tokens that do not fill a window are left out of the epoch.
class TrainingWindows : public Windows {
 public:
  // `phase` keys the offsets; without `shuffle` every epoch starts at 0.
  TrainingWindows(std::shared_ptr<const TokenStream> stream, const Extent& extent, const RngKey& phase, bool shuffle)
      : Windows(std::move(stream), extent), phase_(phase), shuffle_(shuffle) {}

  int64_t size() const override { return (extent_.end - extent_.begin - 1) / extent_.context; }
  absl::Status Fetch(int64_t sample, int64_t epoch, int64_t row, Batch* batch) const override {
    const bool shifted = shuffle_ && epoch > 0;
    const auto offset =
        shifted ? static_cast<int64_t>(phase_.Below(static_cast<uint64_t>(extent_.context), static_cast<uint64_t>(epoch))) : 0;
    return Read(std::min(extent_.begin + sample * extent_.context + offset, last_start()), 0, row, batch);
  }

 private:
  RngKey phase_;
  bool shuffle_;
};

// The held-out tokens in order: every one but the first is a target exactly once. The last window is moved back to end with the data; what
// it repeats is ignored.
class ValidationWindows : public Windows {
 public:
  using Windows::Windows;

  int64_t size() const override { return (extent_.end - extent_.begin - 2) / extent_.context + 1; }
  absl::Status Fetch(int64_t sample, int64_t, int64_t row, Batch* batch) const override {
    const int64_t wanted = extent_.begin + sample * extent_.context, start = std::min(wanted, last_start());
    return Read(start, wanted - start, row, batch);
  }
};

absl::StatusOr<SplitSource> MakeWindows(const std::vector<std::string>& shards, const std::string& origin, const SourceContext& c) {
  ASSIGN_OR_RETURN(TokenStream opened, TokenStream::Open(shards));
  const auto stream = std::make_shared<const TokenStream>(std::move(opened));
  if (stream->size() <= kScannedTokens) RETURN_IF_ERROR(stream->CheckVocabulary(c.tokenizer->vocab_size()));
  Extent extent = {.context = c.context, .vocab_size = c.tokenizer->vocab_size()};
  if (c.data->documents() == DataConfig::RESET) {
    extent.boundary = c.tokenizer->end_of_document();
    if (extent.boundary < 0) {
      return InvalidArgument("data.documents is RESET, but the tokenizer '%s' has no end-of-document token; use CONTINUE",
                             c.tokenizer->name());
    }
  }
  const auto held_out = static_cast<int64_t>(std::floor(c.data->validation_fraction() * static_cast<double>(stream->size())));
  const int64_t cut = stream->size() - held_out;
  if (cut < c.context + 1 || (held_out > 0 && held_out < c.context + 1)) {
    return InvalidArgument("'%s' has %d tokens, %d to train on and %d held out; a context of %d needs at least %d on each side: %s", origin,
                           stream->size(), cut, held_out, c.context, c.context + 1,
                           "use more text, a shorter context or another validation_fraction");
  }
  SplitSource split;
  Extent train = extent, validation = extent;
  train.end = validation.begin = cut;
  validation.end = stream->size();
  const RngKey phase = {.seed = c.seed, .site = static_cast<uint32_t>(c.index), .step = 0, .kind = RngKind::kShuffle, .draw = 15};
  split.train = std::make_unique<TrainingWindows>(stream, train, phase, c.data->shuffle());
  if (held_out > 0) split.validation = std::make_unique<ValidationWindows>(stream, validation);
  return split;
}

}  // namespace

absl::StatusOr<SplitSource> MakeTextSource(const TextSourceConfig& config, const SourceContext& context) {
  TokenizeOptions options = {.document_separator = config.document_separator(), .cache_dir = context.data->cache_dir()};
  ASSIGN_OR_RETURN(options.text_files, ExpandPaths(config.path(), *context.files));
  ASSIGN_OR_RETURN(const TokenizedText text, TokenizeToShards(options, *context.tokenizer, *context.files));
  ASSIGN_OR_RETURN(SplitSource split, MakeWindows(text.shards, config.path(), context));
  split.bytes_per_token = static_cast<double>(text.text_bytes) / static_cast<double>(text.tokens);
  return split;
}

absl::StatusOr<SplitSource> MakeShardsSource(const ShardsSourceConfig& config, const SourceContext& context) {
  ASSIGN_OR_RETURN(const std::vector<std::string> shards, ExpandPaths(config.path(), *context.files));
  return MakeWindows(shards, config.path(), context);
}

}  // namespace conclave
