#include "data/token_shard.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "data/cache.h"

namespace conclave {
namespace {

constexpr int64_t kHeaderBytes = 1024;
constexpr int32_t kMagic16 = 20240520, kVersion16 = 1;
constexpr int32_t kMagic32 = 20240801, kVersion32 = 7;
constexpr int64_t kMaxTokens = (int64_t{1} << 31) - 1;
constexpr int64_t kChunk = 1 << 16;  // tokens converted at a time

using Header = std::array<int32_t, kHeaderBytes / 4>;

// Closes a descriptor when a function returns early.
struct Descriptor {
  explicit Descriptor(int fd) : fd(fd) {}
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd;
};

// The bytes of a token, or what is wrong with the header of a file of `bytes` bytes.
absl::StatusOr<int> CheckHeader(const std::string& path, const Header& header, int64_t bytes) {
  const bool narrow = header[0] == kMagic16, wide = header[0] == kMagic32;
  if (!narrow && !wide) {
    return InvalidArgument("'%s' is not a token shard: expected magic %d or %d, got %d", path, kMagic16, kMagic32, header[0]);
  }
  const int32_t version = narrow ? kVersion16 : kVersion32;
  if (header[1] != version) {
    return InvalidArgument("token shard '%s': expected version %d for magic %d, got %d", path, version, header[0], header[1]);
  }
  if (header[2] <= 0) return InvalidArgument("token shard '%s': the header says %d tokens, expected at least 1", path, header[2]);
  const int width = narrow ? 2 : 4;
  const int64_t expected = kHeaderBytes + int64_t{header[2]} * width;
  if (bytes != expected) {
    return DataLoss("token shard '%s': %d tokens of %d bytes need a file of %d bytes, got %d; it is %s", path, header[2], width, expected,
                    bytes, bytes < expected ? "truncated" : "longer than its header says");
  }
  return width;
}

template <typename T>
void Widen(const std::byte* from, std::span<int32_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T token;
    std::memcpy(&token, from + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int32_t>(token);
  }
}

template <typename T>
absl::Status WriteTokens(std::span<const int32_t> tokens, WritableFile& file) {
  std::vector<T> narrow;
  for (size_t begin = 0; begin < tokens.size(); begin += kChunk) {
    const std::span<const int32_t> chunk = tokens.subspan(begin, std::min<size_t>(kChunk, tokens.size() - begin));
    narrow.assign(chunk.begin(), chunk.end());
    RETURN_IF_ERROR(file.Write(std::as_bytes(std::span(narrow))));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenShard> TokenShard::Open(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd < 0) return FileError("open", path, errno);
  struct stat info;
  if (fstat(file.fd, &info) != 0) return FileError("fstat", path, errno);
  const int64_t bytes = info.st_size;
  if (bytes < kHeaderBytes) {
    return InvalidArgument("'%s' is not a token shard: expected a header of %d bytes, the file has %d", path, kHeaderBytes, bytes);
  }
  void* map = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_SHARED, file.fd, 0);
  if (map == MAP_FAILED) return FileError("mmap", path, errno);
  TokenShard shard;
  shard.map_ = std::shared_ptr<const std::byte>(static_cast<const std::byte*>(map),
                                                [map, bytes](const std::byte*) { munmap(map, static_cast<size_t>(bytes)); });
  Header header;
  std::memcpy(header.data(), map, kHeaderBytes);
  ASSIGN_OR_RETURN(shard.width_, CheckHeader(path, header, bytes));
  shard.size_ = header[2];
  shard.path_ = path;
  return shard;
}

void TokenShard::Read(int64_t begin, std::span<int32_t> out) const {
  CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= size_) << begin << '+' << out.size() << " of " << size_;
  const std::byte* from = map_.get() + kHeaderBytes + begin * width_;
  width_ == 2 ? Widen<uint16_t>(from, out) : Widen<uint32_t>(from, out);
}

absl::Status WriteTokenShard(const std::string& path, std::span<const int32_t> tokens, int64_t vocab_size, const FileSystem& files) {
  const auto count = static_cast<int64_t>(tokens.size());
  if (count < 1 || count > kMaxTokens) {
    return InvalidArgument("token shard '%s': expected 1 to %d tokens, got %d; use more shards", path, kMaxTokens, count);
  }
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      return InvalidArgument("token shard '%s': token %d at position %d is outside the vocabulary of %d", path, tokens[i], i, vocab_size);
    }
  }
  const bool narrow = vocab_size <= 65536;
  Header header{};
  header[0] = narrow ? kMagic16 : kMagic32;
  header[1] = narrow ? kVersion16 : kVersion32;
  header[2] = static_cast<int32_t>(count);
  const std::string temporary = PrivateName(path);
  const auto write = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.OpenForWrite(temporary, WriteMode::kTruncate));
    RETURN_IF_ERROR(file->Write(std::as_bytes(std::span(header))));
    RETURN_IF_ERROR(narrow ? WriteTokens<uint16_t>(tokens, *file) : WriteTokens<uint32_t>(tokens, *file));
    RETURN_IF_ERROR(file->Sync());
    RETURN_IF_ERROR(file->Close());
    return files.Rename(temporary, path);
  };
  if (const absl::Status written = write(); !written.ok()) {
    files.RemoveFile(temporary).IgnoreError();  // the first error is the one to report
    return written;
  }
  return files.SyncDir(ParentPath(path));
}

absl::StatusOr<TokenStream> TokenStream::Open(const std::vector<std::string>& paths) {
  TokenStream stream;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(TokenShard shard, TokenShard::Open(path));
    stream.begins_.push_back(stream.begins_.back() + shard.size());
    stream.shards_.push_back(std::move(shard));
  }
  return stream;
}

void TokenStream::Read(int64_t begin, std::span<int32_t> out) const {
  CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= size()) << begin << '+' << out.size() << " of " << size();
  auto shard = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin() - 1);
  while (!out.empty()) {
    const auto count = static_cast<size_t>(std::min<int64_t>(begins_[shard + 1] - begin, static_cast<int64_t>(out.size())));
    shards_[shard].Read(begin - begins_[shard], out.first(count));
    out = out.subspan(count);
    begin += static_cast<int64_t>(count);
    ++shard;
  }
}

absl::Status TokenStream::CheckVocabulary(int64_t vocab_size) const {
  std::vector<int32_t> chunk;
  for (const TokenShard& shard : shards_) {
    for (int64_t begin = 0; begin < shard.size(); begin += kChunk) {
      chunk.resize(static_cast<size_t>(std::min(kChunk, shard.size() - begin)));
      shard.Read(begin, chunk);
      // A negative id, seen as unsigned, is larger than any vocabulary.
      const auto bad = std::ranges::find_if(chunk, [&](int32_t token) { return static_cast<uint32_t>(token) >= vocab_size; });
      if (bad == chunk.end()) continue;
      return InvalidArgument(
          "token shard '%s': token %d at position %d is outside the vocabulary of %d; it was made with another tokenizer", shard.path(),
          static_cast<uint32_t>(*bad), begin + (bad - chunk.begin()), vocab_size);
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
