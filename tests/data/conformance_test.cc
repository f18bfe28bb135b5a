// Walks the members of the `kind` oneofs of sources and tokenizers: a new member without a case here fails.
#include <map>

#include "data/data_set.h"
#include "data/token_shard.h"
#include "data/tokenizer_factory.h"
#include "tests/data/data_testing.h"

namespace conclave {
namespace {

std::vector<std::string> Members(const google::protobuf::Descriptor* message) {
  std::vector<std::string> names;
  const google::protobuf::OneofDescriptor* kind = message->FindOneofByName("kind");
  for (int i = 0; i < kind->field_count(); ++i) names.push_back(kind->field(i)->name());
  return names;
}

constexpr char kText[] = "a text of several words\n\nand another one, which is longer than the first\n\nthe end of it all";

class SourceConformance : public testing::TestWithParam<std::string> {
 protected:
  // A config with a source of this kind.
  DataConfig Config() const {
    const std::string shards = scratch_ / "tokens.bin", text = scratch_.Write("text.txt", kText);
    std::vector<int32_t> tokens(100);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * i % 257);
    CHECK_OK(WriteTokenShard(shards, tokens, 257, RealFileSystem()));
    const std::map<std::string, std::string> cases = {
        {"text", absl::StrFormat("text { path: '%s' document_separator: '\\n\\n' }", text)},
        {"shards", absl::StrFormat("shards { path: '%s' }", shards)},
        {"gaussian", "gaussian { dim: 3 samples: 40 tail_eigenvalue: 2 }"},
        {"images", absl::StrFormat("images { path: '%s' labels: '%s' classes: 10 held_out_path: '' held_out_labels: '' }",
                                   scratch_.Write("images.idx", IdxFile({40, 2, 3})), scratch_.Write("labels.idx", IdxFile({40})))},
        {"none", "none {}"},
    };
    const auto found = cases.find(GetParam());
    CHECK(found != cases.end()) << "add a case for the source '" << GetParam() << "'";
    auto config = ParseText<DataConfig>(
        absl::StrFormat("tokenizer { bytes {} } shuffle: true validation_fraction: 0.25 sources { weight: 1 %s }", found->second));
    config.set_cache_dir(scratch_ / "cache");
    return config;
  }

  DataSet Open(int workers, int64_t micro_batches) const {
    const LoaderOptions options = {.seed = 3, .workers = workers, .global_batch = 12, .micro_batches = micro_batches, .shuffle = true};
    absl::StatusOr<DataSet> data = OpenData(Config(), options, 4, RealFileSystem());
    CHECK_OK(data.status());
    return *std::move(data);
  }

  ScratchFolder scratch_;
};

// The bytes of all leaves of a key in logical order, and how many rows and loss terms they hold.
struct Content {
  std::string bytes;
  int64_t rows = 0, count = 0;
  bool operator==(const Content&) const = default;
};

void Append(const Batch& batch, Content* content) {
  for (const Tensor* tensor : {&batch.tokens, &batch.targets, &batch.features}) {
    if (!tensor->defined()) continue;
    content->bytes.append(reinterpret_cast<const char*>(tensor->raw()), static_cast<size_t>(tensor->bytes()));
  }
  content->rows += batch.sequences;
  content->count += batch.count;
}

// Row by row, so that the order of the bytes does not depend on how many rows a leaf has.
Content ContentOf(const Loader& loader, int workers, int64_t micro_batches, const SampleKey& key) {
  Content content;
  BatchBuffer buffer(loader.shape(), loader.rows(), DType::kF64), row(loader.shape(), 1, DType::kF64);
  for (int worker = 0; worker < workers; ++worker) {
    for (int64_t leaf = 0; leaf < micro_batches; ++leaf) {
      CHECK_OK(loader.FillLeaf(key, {worker}, leaf, &buffer));
      const Batch& batch = buffer.batch();
      for (int64_t i = 0; i < batch.sequences; ++i) {
        Batch& one = row.Resize(1);
        if (one.tokens.defined()) one.tokens.CopyFrom(batch.tokens.Slice(i, 1)), one.targets.CopyFrom(batch.targets.Slice(i, 1));
        if (one.features.defined()) one.features.CopyFrom(batch.features.Slice(i, 1));
        Append(one, &content);
      }
      content.count += batch.count;
    }
  }
  return content;
}

TEST_P(SourceConformance, SamplesAreAddressedNotStreamed) {
  const DataSet reference = Open(1, 1);
  for (const uint32_t step : {3u, 0u, 7u, 7u}) {
    for (const SampleKey key : {SampleKey{.step = step}, SampleKey{.step = step, .draw = 2}, SampleKey{.full = true}}) {
      const Content expected = ContentOf(*reference.loader, 1, 1, key);
      EXPECT_EQ(ContentOf(*reference.loader, 1, 1, key), expected) << "the same call twice";
      EXPECT_EQ(ContentOf(*Open(3, 2).loader, 3, 2, key), expected) << "three workers of two leaves";
      EXPECT_GT(expected.count, 0);
      EXPECT_EQ(expected.rows, key.full ? reference.loader->samples_per_epoch() : 12);
    }
  }
}

TEST_P(SourceConformance, EvaluationDependsOnNoBatchSize) {
  const DataSet data = Open(1, 1);
  std::vector<int64_t> counts;
  for (const int64_t rows : {1, 3, 1000}) {
    BatchBuffer buffer(data.loader->shape(), rows, DType::kF32);
    Content content;
    for (int64_t i = 0; i < data.evaluation.batches(rows); ++i) {
      ASSERT_TRUE(data.evaluation.Fill(i, rows, &buffer).ok());
      Append(buffer.batch(), &content);
    }
    EXPECT_EQ(content.rows, data.evaluation.size());
    counts.push_back(content.count);
  }
  EXPECT_EQ(counts[0], counts[1]);
  EXPECT_EQ(counts[0], counts[2]);
}

INSTANTIATE_TEST_SUITE_P(Kinds, SourceConformance, testing::ValuesIn(Members(SourceConfig::descriptor())),
                         [](const auto& info) { return info.param; });

class TokenizerConformance : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerConformance, TextReturnsAndEqualTokenizersHaveEqualFingerprints) {
  const ScratchFolder scratch;
  const std::map<std::string, std::string> cases = {
      {"bytes", "bytes {}"}, {"characters", "characters {}"}, {"sentencepiece", "sentencepiece { vocab_size: 285 train: true }"}};
  ASSERT_TRUE(cases.contains(GetParam())) << "add a case for the tokenizer '" << GetParam() << "'";
  if (const absl::Status available = SentencePieceAvailable(); GetParam() == "sentencepiece" && !available.ok()) GTEST_SKIP() << available;
  const auto config = ParseText<TokenizerConfig>(cases.at(GetParam()));
  const TokenizerTraining training = {.text_files = {scratch.Write("text.txt", kText)}, .cache_dir = scratch / "cache"};
  const auto tokenizer = TokenizerFromConfig(config, training, RealFileSystem());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode(kText);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ((*tokenizer)->Decode(*ids), kText);
  for (const int32_t id : *ids) EXPECT_TRUE(id >= 0 && id < (*tokenizer)->vocab_size() && id != (*tokenizer)->end_of_document()) << id;
  EXPECT_LT((*tokenizer)->end_of_document(), (*tokenizer)->vocab_size());
  const auto again = TokenizerFromConfig(config, training, RealFileSystem());
  EXPECT_EQ((*again)->fingerprint(), (*tokenizer)->fingerprint());
  EXPECT_EQ((*again)->name(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerConformance, testing::ValuesIn(Members(TokenizerConfig::descriptor())),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace conclave
