#include "data/tokenize.h"

#include "base/fault_file_system.h"
#include "data/text.h"
#include "data/token_shard.h"
#include "data/tokenizer_factory.h"
#include "tests/data/data_testing.h"

namespace conclave {
namespace {

std::unique_ptr<Tokenizer> Bytes() {
  return *TokenizerFromConfig(ParseText<TokenizerConfig>("bytes {}"), {}, RealFileSystem());
}

std::vector<int32_t> Tokens(const std::vector<std::string>& shards) {
  const TokenStream stream = *TokenStream::Open(shards);
  std::vector<int32_t> tokens(static_cast<size_t>(stream.size()));
  stream.Read(0, tokens);
  return tokens;
}

TEST(SplitDocuments, SeparatorsBelongToNoDocument) {
  using Parts = std::vector<std::string_view>;
  EXPECT_EQ(SplitDocuments("a\n\nbc\n\n\n\nd", "\n\n"), (Parts{"a", "bc", "d"}));
  EXPECT_EQ(SplitDocuments("--a--", "--"), (Parts{"a"}));
  EXPECT_EQ(SplitDocuments("a\n\nb", ""), (Parts{"a\n\nb"}));
  EXPECT_EQ(SplitDocuments("", "x"), Parts{});
}

TEST(ExpandPaths, GlobsAreSortedAndMissingIsNamed) {
  const ScratchFolder scratch;
  for (const char* name : {"b.txt", "a.txt", "c.bin", ".d.txt"}) scratch.Write(name, "x");
  EXPECT_EQ(*ExpandPaths(scratch / "*.txt", RealFileSystem()), (std::vector<std::string>{scratch / "a.txt", scratch / "b.txt"}));
  EXPECT_EQ(*ExpandPaths(scratch / "c.bin", RealFileSystem()), (std::vector<std::string>{scratch / "c.bin"}));
  EXPECT_EQ(ExpandPaths(scratch / "*.png", RealFileSystem()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ExpandPaths(scratch / "none", RealFileSystem()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(ExpandPaths(scratch.path(), RealFileSystem()).status().message().find("is a folder"), std::string::npos);
}

TEST(TokenizeToShards, DocumentsEndWithTheirMark) {
  const ScratchFolder scratch;
  const TokenizeOptions options = {.text_files = {scratch.Write("1", "ab|c"), scratch.Write("2", "d")},
                                   .document_separator = "|",
                                   .cache_dir = scratch / "cache",
                                   .shard_tokens = 3};
  const auto text = TokenizeToShards(options, *Bytes(), RealFileSystem());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->shards.size(), 3u);  // 3 + 3 + 1 tokens
  EXPECT_EQ(text->tokens, 7);
  EXPECT_EQ(text->documents, 3);
  EXPECT_EQ(text->text_bytes, 4);
  EXPECT_EQ(Tokens(text->shards), (std::vector<int32_t>{'a', 'b', 256, 'c', 256, 'd', 256}));
}

TEST(TokenizeToShards, CacheIsKeyedByTextAndTokenizer) {
  const ScratchFolder scratch;
  TokenizeOptions options = {.text_files = {scratch.Write("t", "abc")}, .cache_dir = scratch / "cache"};
  const auto entries = [&] { return RealFileSystem().ListDir(scratch / "cache")->size(); };
  const auto first = *TokenizeToShards(options, *Bytes(), RealFileSystem());
  EXPECT_EQ(TokenizeToShards(options, *Bytes(), RealFileSystem())->shards, first.shards);
  EXPECT_EQ(entries(), 1u);
  const auto characters =
      *TokenizerFromConfig(ParseText<TokenizerConfig>("characters {}"), {.text_files = options.text_files}, RealFileSystem());
  EXPECT_NE(TokenizeToShards(options, *characters, RealFileSystem())->shards, first.shards);
  EXPECT_EQ(entries(), 2u);
  scratch.Write("t", "abd");
  EXPECT_NE(TokenizeToShards(options, *Bytes(), RealFileSystem())->shards, first.shards);
  EXPECT_EQ(entries(), 3u);
}

TEST(TokenizeToShards, RefusesEmptyTextAndUnmarkableDocuments) {
  const ScratchFolder scratch;
  TokenizeOptions options = {.text_files = {scratch.Write("empty", "")}, .cache_dir = scratch / "cache"};
  EXPECT_NE(TokenizeToShards(options, *Bytes(), RealFileSystem()).status().message().find("is empty"), std::string::npos);
  options = {.text_files = {scratch.Write("t", "a|b")}, .document_separator = "|", .cache_dir = scratch / "cache"};
  const auto characters =
      *TokenizerFromConfig(ParseText<TokenizerConfig>("characters {}"), {.text_files = options.text_files}, RealFileSystem());
  EXPECT_EQ(TokenizeToShards(options, *characters, RealFileSystem()).status().code(), absl::StatusCode::kInvalidArgument);
}

// Whatever moment the process or the power fails at, the cache holds nothing under the final name or all of it, and the next call succeeds.
void VisitEveryKillPoint(Survival survival, uint64_t seed) {
  const TokenizeOptions options = {.text_files = {"/text"}, .cache_dir = "/cache", .shard_tokens = 4};
  for (int64_t n = 0;; ++n) {
    FaultFileSystem files;
    ASSERT_TRUE(files.WriteAtomically("/text", "some text").ok());
    files.CrashAt(files.operations() + n);
    TokenizeToShards(options, *Bytes(), files).IgnoreError();
    const bool done = !files.crashed();
    files.Reopen(survival, seed + static_cast<uint64_t>(n));
    const auto again = TokenizeToShards(options, *Bytes(), files);
    ASSERT_TRUE(again.ok()) << "crash at operation " << n << ", seed " << seed << ": " << again.status();
    std::string content;
    for (const std::string& shard : again->shards) {
      const auto bytes = files.ReadAll(shard);
      ASSERT_TRUE(bytes.ok()) << "crash at operation " << n << ", seed " << seed << ": " << bytes.status();
      for (size_t i = 1024; i < bytes->size(); i += 2) content += (*bytes)[i + 1] == 1 ? '$' : (*bytes)[i];
    }
    ASSERT_EQ(content, "some text$") << "crash at operation " << n << ", seed " << seed;
    if (!done) continue;
    EXPECT_GT(n, 15) << "every operation of three shards and a summary should have been visited";
    return;
  }
}

TEST(TokenizeToShards, NoKillPointLeavesAHalfCache) {
  VisitEveryKillPoint(Survival::kAll, 0);
  VisitEveryKillPoint(Survival::kSynced, 0);
  for (uint64_t seed = 0; seed < 50; ++seed) VisitEveryKillPoint(Survival::kChance, 1000 * seed);
}

TEST(TokenizeToShards, FullDiskIsReportedAndLeavesNothing) {
  FaultFileSystem files(1 << 10);  // room for the text, not for a shard
  ASSERT_TRUE(files.WriteAtomically("/text", "some text").ok());
  const TokenizeOptions options = {.text_files = {"/text"}, .cache_dir = "/cache"};
  EXPECT_EQ(TokenizeToShards(options, *Bytes(), files).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(files.ListDir("/cache")->empty());
}

}  // namespace
}  // namespace conclave
