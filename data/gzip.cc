#include "data/gzip.h"

#include <zlib.h>

#include <limits>

#include "base/check.h"

namespace conclave {
namespace {

constexpr size_t kMostBytes = size_t{4} << 30;
constexpr size_t kPiece = size_t{1} << 20;
constexpr int kGzipOnly = 15 + 16;  // zlib's way to say: the largest window, a gzip header and checksum

}  // namespace

absl::StatusOr<std::string> ReadMaybeGzip(const std::string& path, const FileSystem& files) {
  ASSIGN_OR_RETURN(std::string raw, files.ReadAll(path));
  if (!raw.starts_with("\x1f\x8b")) return raw;
  if (raw.size() > std::numeric_limits<uInt>::max()) return InvalidArgument("'%s': %d bytes of gzip; unpack it first", path, raw.size());
  z_stream stream{};
  CHECK_EQ(inflateInit2(&stream, kGzipOnly), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(raw.data());
  stream.avail_in = static_cast<uInt>(raw.size());
  std::string content;
  int code = Z_OK;
  while (code == Z_OK && content.size() < kMostBytes) {
    const size_t had = content.size();
    content.resize(had + kPiece);
    stream.next_out = reinterpret_cast<Bytef*>(content.data() + had);
    stream.avail_out = static_cast<uInt>(kPiece);
    code = inflate(&stream, Z_NO_FLUSH);
    content.resize(content.size() - stream.avail_out);
  }
  const size_t left = stream.avail_in;
  inflateEnd(&stream);
  if (code == Z_STREAM_END && left == 0) return content;
  return DataLoss(
      "'%s': not a whole gzip file of at most 4 GiB: zlib gives %d after %d bytes, and %d bytes of the file are left; fetch it anew", path,
      code, content.size(), left);
}

}  // namespace conclave
