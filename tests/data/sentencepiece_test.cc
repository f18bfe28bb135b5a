#include "data/tokenizer_factory.h"
#include "tests/data/data_testing.h"

namespace conclave {
namespace {

// Words over a small alphabet, enough of them for a few hundred pieces.
std::string SomeText() {
  std::string text;
  uint32_t state = 1;
  const auto next = [&](uint32_t bound) { return (state = state * 1664525 + 1013904223) / 65536 % bound; };
  const char* syllables[] = {"ka", "lo", "mi", "ne", "ru", "sta", "ver", "qui", "th", "ing", "er", "a", "be", "don"};
  for (int line = 0; line < 2000; ++line) {
    for (int word = 0; word < 6; ++word) {
      for (uint32_t i = 0; i < 1 + next(3); ++i) text += syllables[next(14)];
      text += word < 5 ? ' ' : '.';
    }
    text += '\n';
  }
  return text;
}

class SentencePieceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status available = SentencePieceAvailable(); !available.ok()) GTEST_SKIP() << available;
    text_file_ = scratch_.Write("text.txt", SomeText());
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> Make(const std::string& config) const {
    return TokenizerFromConfig(ParseText<TokenizerConfig>(config), {.text_files = {text_file_}, .cache_dir = scratch_ / "cache"},
                               RealFileSystem());
  }
  ScratchFolder scratch_;
  std::string text_file_;
};

TEST_F(SentencePieceTest, RoundTripOfAnyUtf8) {
  for (const char* algorithm : {"UNIGRAM", "BPE"}) {
    const auto tokenizer = Make(absl::StrFormat("sentencepiece { vocab_size: 320 train: true algorithm: %s }", algorithm));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->vocab_size(), 320);
    for (const std::string& text : {std::string("kalo  mine.\n\n\truing "), std::string(" \xc3\xa9\xf0\x9f\x98\x80 unseen ZZZ\r\n"),
                                    std::string("\n"), std::string(), SomeText()}) {
      const auto ids = (*tokenizer)->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ((*tokenizer)->Decode(*ids), text) << algorithm;
      for (const int32_t id : *ids) ASSERT_TRUE(id >= 0 && id < 320 && id != (*tokenizer)->end_of_document()) << id;
    }
    EXPECT_LT((*tokenizer)->Encode(SomeText())->size(), SomeText().size() / 2) << "pieces must be longer than bytes";
  }
}

TEST_F(SentencePieceTest, TrainingIsDeterministicAndCached) {
  const std::string config = "sentencepiece { vocab_size: 320 train: true }";
  const auto first = *Make(config);
  const auto cached = RealFileSystem().ListDir(scratch_ / "cache");
  ASSERT_EQ(cached->size(), 1u);
  ASSERT_TRUE(RealFileSystem().RemoveTree(scratch_ / "cache").ok());
  const auto again = *Make(config);
  EXPECT_EQ(first->file_content(), again->file_content());
  EXPECT_EQ(*RealFileSystem().ListDir(scratch_ / "cache"), *cached);
  EXPECT_NE((*Make("sentencepiece { vocab_size: 330 train: true }"))->fingerprint(), first->fingerprint());
}

TEST_F(SentencePieceTest, ModelFileAloneIsEnough) {
  const auto trained = *Make("sentencepiece { vocab_size: 320 train: true }");
  const std::string path = scratch_.Write("copy.model", trained->file_content());
  auto config = ParseText<TokenizerConfig>("sentencepiece { vocab_size: 320 train: false }");
  config.mutable_sentencepiece()->set_model_path(path);
  const auto loaded = *TokenizerFromConfig(config, {}, RealFileSystem());
  EXPECT_EQ(loaded->fingerprint(), trained->fingerprint());
  config.mutable_sentencepiece()->set_vocab_size(321);
  EXPECT_NE(TokenizerFromConfig(config, {}, RealFileSystem()).status().message().find("has 320 pieces"), std::string::npos);
}

TEST_F(SentencePieceTest, BadModelsAreRefused) {
  auto config = ParseText<TokenizerConfig>("sentencepiece { vocab_size: 320 train: false }");
  config.mutable_sentencepiece()->set_model_path(scratch_ / "none.model");
  EXPECT_EQ(TokenizerFromConfig(config, {}, RealFileSystem()).status().code(), absl::StatusCode::kNotFound);
  config.mutable_sentencepiece()->set_model_path(scratch_.Write("bad.model", "this is no model"));
  EXPECT_EQ(TokenizerFromConfig(config, {}, RealFileSystem()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
