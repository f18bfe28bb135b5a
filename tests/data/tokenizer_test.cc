#include "data/tokenizer_factory.h"

#include <numeric>

#include "tests/data/data_testing.h"

namespace conclave {
namespace {

std::string AllBytes() {
  std::string text(256, '\0');
  std::iota(text.begin(), text.end(), '\0');
  return text;
}

TEST(BytesTokenizer, EveryByteReturns) {
  const auto config = ParseText<TokenizerConfig>("bytes {}");
  const auto tokenizer = TokenizerFromConfig(config, {}, RealFileSystem());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 257);
  EXPECT_EQ((*tokenizer)->end_of_document(), 256);
  auto ids = *(*tokenizer)->Encode(AllBytes());
  for (int i = 0; i < 256; ++i) EXPECT_EQ(ids[i], i);
  ids.insert(ids.begin() + 7, {256, -1, 4000});  // no text in these
  EXPECT_EQ((*tokenizer)->Decode(ids), AllBytes());
}

TEST(CharactersTokenizer, IdsAreRanksOfTheTextsBytes) {
  const ScratchFolder scratch;
  const TokenizerTraining training = {.text_files = {scratch.Write("a", "hello"), scratch.Write("b", "world\n")}};
  const auto config = ParseText<TokenizerConfig>("characters {}");
  const auto tokenizer = *TokenizerFromConfig(config, training, RealFileSystem());
  EXPECT_EQ(tokenizer->vocab_size(), 8);  // \n d e h l o r w
  EXPECT_EQ(*tokenizer->Encode("\ndehlorw"), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(tokenizer->Decode(*tokenizer->Encode("rowed\n")), "rowed\n");
  EXPECT_EQ(tokenizer->end_of_document(), -1);
}

TEST(CharactersTokenizer, UnknownByteIsNamed) {
  const ScratchFolder scratch;
  const auto config = ParseText<TokenizerConfig>("characters {}");
  const auto tokenizer = *TokenizerFromConfig(config, {.text_files = {scratch.Write("a", "abc")}}, RealFileSystem());
  EXPECT_EQ(tokenizer->Encode("abzc").status().message(),
            "byte 0x7a at offset 2 of the text is not among the tokenizer's 3 characters; make the table from a text that has it");
}

TEST(CharactersTokenizer, TableFileIsKeptAndReadAgain) {
  const ScratchFolder scratch;
  auto config = ParseText<TokenizerConfig>("characters {}");
  config.mutable_characters()->set_table_path(scratch / "tables/chars.txt");
  const auto made = *TokenizerFromConfig(config, {.text_files = {scratch.Write("a", "cab\n")}}, RealFileSystem());
  const auto read = *TokenizerFromConfig(config, {}, RealFileSystem());  // no text: the file must do
  EXPECT_EQ(*RealFileSystem().ReadAll(scratch / "tables/chars.txt"), "conclave characters 1\n0a\n61\n62\n63\n");
  EXPECT_EQ(read->fingerprint(), made->fingerprint());
  EXPECT_EQ(read->Decode(*made->Encode("a\nbc")), "a\nbc");
}

TEST(CharactersTokenizer, DamagedTablesAreRefused) {
  const ScratchFolder scratch;
  const auto error = [&](const std::string& content) {
    auto config = ParseText<TokenizerConfig>("characters {}");
    config.mutable_characters()->set_table_path(scratch.Write("table", content));
    return std::string(TokenizerFromConfig(config, {}, RealFileSystem()).status().message());
  };
  EXPECT_NE(error("").find("expected the first line 'conclave characters 1'"), std::string::npos);
  EXPECT_NE(error("conclave characters 1\n").find("lists no characters"), std::string::npos);
  EXPECT_NE(error("conclave characters 1\n61\n61\n").find("line 3"), std::string::npos);
  EXPECT_NE(error("conclave characters 1\n6\n").find("line 2"), std::string::npos);
  EXPECT_NE(error("conclave characters 1\nzz\n").find("got 'zz'"), std::string::npos);
}

TEST(TokenizerFactory, UnsetKindAndMissingTextAreErrors) {
  EXPECT_EQ(TokenizerFromConfig({}, {}, RealFileSystem()).status().code(), absl::StatusCode::kInvalidArgument);
  const auto config = ParseText<TokenizerConfig>("characters { table_path: 'nowhere' }");
  EXPECT_EQ(TokenizerFromConfig(config, {}, RealFileSystem()).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace conclave
