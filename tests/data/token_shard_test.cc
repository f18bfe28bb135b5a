#include "data/token_shard.h"

#include <cstring>
#include <numeric>

#include "base/fault_file_system.h"
#include "tests/data/data_testing.h"

namespace conclave {
namespace {

std::vector<int32_t> Ramp(int64_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<int32_t> ReadBack(const TokenShard& shard) {
  std::vector<int32_t> tokens(static_cast<size_t>(shard.size()));
  shard.Read(0, tokens);
  return tokens;
}

std::string HeaderOf(int32_t magic, int32_t version, int32_t count, size_t payload) {
  std::string bytes(1024 + payload, '\0');
  const int32_t fields[] = {magic, version, count};
  std::memcpy(bytes.data(), fields, sizeof(fields));
  return bytes;
}

TEST(TokenShard, LayoutIsLlmC) {
  const ScratchFolder scratch;
  const std::string path = scratch / "a.bin";
  ASSERT_TRUE(WriteTokenShard(path, std::vector<int32_t>{1, 513, 65535}, 65536, RealFileSystem()).ok());
  std::string expected = HeaderOf(20240520, 1, 3, 6);
  std::memcpy(expected.data() + 1024, "\x01\x00\x01\x02\xff\xff", 6);
  EXPECT_EQ(*RealFileSystem().ReadAll(path), expected);

  ASSERT_TRUE(WriteTokenShard(path, std::vector<int32_t>{1, 65536}, 65537, RealFileSystem()).ok());
  expected = HeaderOf(20240801, 7, 2, 8);
  std::memcpy(expected.data() + 1024, "\x01\x00\x00\x00\x00\x00\x01\x00", 8);
  EXPECT_EQ(*RealFileSystem().ReadAll(path), expected);
}

TEST(TokenShard, RoundTripOfBothWidths) {
  const ScratchFolder scratch;
  for (const int64_t vocabulary : {65536, 300000}) {
    const std::vector<int32_t> tokens = Ramp(60000);
    ASSERT_TRUE(WriteTokenShard(scratch / "a.bin", tokens, vocabulary, RealFileSystem()).ok());
    const auto shard = TokenShard::Open(scratch / "a.bin");
    ASSERT_TRUE(shard.ok()) << shard.status();
    EXPECT_EQ(shard->width(), vocabulary == 65536 ? 2 : 4);
    EXPECT_EQ(ReadBack(*shard), tokens);
    std::vector<int32_t> part(5);
    shard->Read(59995, part);
    EXPECT_EQ(part, Ramp(5, 59995));
  }
}

TEST(TokenShard, EveryMalformedFileIsOneClearError) {
  const ScratchFolder scratch;
  const auto error = [&](const std::string& content) {
    const auto shard = TokenShard::Open(scratch.Write("bad.bin", content));
    return shard.ok() ? std::string("ok") : std::string(shard.status().message());
  };
  const auto contains = [](const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(contains(error(""), "expected a header of 1024 bytes, the file has 0"));
  EXPECT_TRUE(contains(error(std::string(1023, 'x')), "the file has 1023"));
  EXPECT_TRUE(contains(error(HeaderOf(7, 1, 1, 2)), "expected magic 20240520 or 20240801, got 7"));
  EXPECT_TRUE(contains(error(HeaderOf(20240520, 7, 1, 2)), "expected version 1 for magic 20240520, got 7"));
  EXPECT_TRUE(contains(error(HeaderOf(20240801, 1, 1, 4)), "expected version 7 for magic 20240801, got 1"));
  EXPECT_TRUE(contains(error(HeaderOf(20240520, 1, 0, 0)), "the header says 0 tokens"));
  EXPECT_TRUE(contains(error(HeaderOf(20240520, 1, -4, 8)), "the header says -4 tokens"));
  EXPECT_TRUE(contains(error(HeaderOf(20240520, 1, 10, 19)), "need a file of 1044 bytes, got 1043; it is truncated"));
  EXPECT_TRUE(contains(error(HeaderOf(20240801, 7, 10, 41)), "need a file of 1064 bytes, got 1065; it is longer than its header says"));
  EXPECT_EQ(error(HeaderOf(20240520, 1, 10, 20)), "ok");
  EXPECT_EQ(TokenShard::Open(scratch / "absent.bin").status().code(), absl::StatusCode::kNotFound);
}

TEST(TokenShard, WriterRefusesWhatDoesNotFit) {
  const ScratchFolder scratch;
  EXPECT_FALSE(WriteTokenShard(scratch / "a.bin", {}, 10, RealFileSystem()).ok());
  EXPECT_NE(WriteTokenShard(scratch / "a.bin", std::vector<int32_t>{3, 10}, 10, RealFileSystem()).message().find("token 10 at position 1"),
            std::string::npos);
  EXPECT_FALSE(WriteTokenShard(scratch / "a.bin", std::vector<int32_t>{-1}, 10, RealFileSystem()).ok());
  EXPECT_TRUE(RealFileSystem().ListDir(scratch.path())->empty());
}

TEST(TokenStream, ReadsAcrossShards) {
  const ScratchFolder scratch;
  std::vector<std::string> paths;
  int32_t first = 0;
  for (const int64_t size : {5, 1, 7}) {
    paths.push_back(scratch / absl::StrFormat("%d.bin", first));
    ASSERT_TRUE(WriteTokenShard(paths.back(), Ramp(size, first), 100, RealFileSystem()).ok());
    first += static_cast<int32_t>(size);
  }
  const auto stream = TokenStream::Open(paths);
  ASSERT_TRUE(stream.ok()) << stream.status();
  ASSERT_EQ(stream->size(), 13);
  for (int64_t begin = 0; begin < 13; ++begin) {
    for (int64_t count = 0; begin + count <= 13; ++count) {
      std::vector<int32_t> out(static_cast<size_t>(count));
      stream->Read(begin, out);
      EXPECT_EQ(out, Ramp(count, static_cast<int32_t>(begin)));
    }
  }
  EXPECT_TRUE(stream->CheckVocabulary(13).ok());
  const std::string error(stream->CheckVocabulary(9).message());
  EXPECT_NE(error.find("token 9 at position 3"), std::string::npos) << error;
}

}  // namespace
}  // namespace conclave
