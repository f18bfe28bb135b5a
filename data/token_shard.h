// Token shards in llm.c's format: 256 little-endian int32 of header {magic, version, tokens}, then the tokens:
// magic 20240520, version 1: uint16; magic 20240801, version 7: uint32. Size in bytes = 1,024 + tokens * width; tokens < 2^31.
#ifndef CONCLAVE_DATA_TOKEN_SHARD_H_
#define CONCLAVE_DATA_TOKEN_SHARD_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"

namespace conclave {

// A memory-mapped shard. Copies share the mapping; const methods are thread-safe. The file must not shrink while it is open.
class TokenShard {
 public:
  // Errors, each naming the file, what was expected and what was found: not a shard, unknown version, truncated, longer than its header
  // says, empty.
  static absl::StatusOr<TokenShard> Open(const std::string& path);

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // tokens
  int width() const { return width_; }    // bytes of a token: 2 or 4
  // Copies tokens begin .. begin + out.size() - 1, all inside the shard.
  void Read(int64_t begin, std::span<int32_t> out) const;

 private:
  TokenShard() = default;
  std::string path_;
  std::shared_ptr<const std::byte> map_;
  int64_t size_ = 0;
  int width_ = 2;
};

// Writes a shard durably: a private name, fsync, rename, fsync of the folder. 16-bit tokens for vocab_size <= 65,536, else 32-bit.
// Errors: those of the file system; InvalidArgument for a token outside [0, vocab_size), no token or 2^31 and more.
absl::Status WriteTokenShard(const std::string& path, std::span<const int32_t> tokens, int64_t vocab_size, const FileSystem& files);

// Several shards read as one sequence of tokens. Const methods are thread-safe.
class TokenStream {
 public:
  static absl::StatusOr<TokenStream> Open(const std::vector<std::string>& paths);

  int64_t size() const { return begins_.back(); }
  void Read(int64_t begin, std::span<int32_t> out) const;  // all inside the stream
  // Checks that every token is in [0, vocab_size): one pass over the data. Errors: InvalidArgument naming file, position, token and
  // vocabulary.
  absl::Status CheckVocabulary(int64_t vocab_size) const;

 private:
  std::vector<TokenShard> shards_;
  std::vector<int64_t> begins_{0};  // shards_[i] holds tokens begins_[i] .. begins_[i + 1] - 1
};

}  // namespace conclave

#endif  // CONCLAVE_DATA_TOKEN_SHARD_H_
