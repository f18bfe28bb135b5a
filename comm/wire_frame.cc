#include "comm/wire_frame.h"

#include <cstring>

#include "base/check.h"
#include "base/crc32c.h"

namespace conclave {
namespace {

constexpr uint32_t kMagic = 0x31575143;  // "CQW1"
constexpr uint16_t kVersion = 1;

struct Header {
  uint32_t magic = kMagic;
  uint16_t version = kVersion;
  uint16_t kind = 0;
  uint32_t block = 0;
  uint32_t worker = 0;
  uint32_t step = 0;
  uint16_t draw = 0;
  uint16_t part = 0;
  uint32_t payload_bytes = 0;
  uint32_t crc = 0;
};
static_assert(sizeof(Header) == kFrameBytes && offsetof(Header, crc) == kFrameBytes - 4);

uint32_t CrcOf(const Header& header, std::span<const std::byte> payload) {
  const auto bytes = std::as_bytes(std::span(&header, 1)).first(offsetof(Header, crc));
  return ExtendCrc32c(Crc32c(bytes), payload);
}

Header HeaderFor(const CodecKey& key) {
  Header header;
  header.block = static_cast<uint32_t>(key.block.value);
  header.worker = static_cast<uint32_t>(key.worker.value);
  header.step = key.step;
  header.draw = static_cast<uint16_t>(key.draw);
  header.part = static_cast<uint16_t>(key.part);
  return header;
}

}  // namespace

void WriteFrame(std::span<std::byte> buffer, const CodecKey& key, FrameKind kind, int64_t payload_bytes) {
  CHECK(payload_bytes >= 0 && payload_bytes <= int64_t{UINT32_MAX} && kFrameBytes + payload_bytes <= static_cast<int64_t>(buffer.size()))
      << payload_bytes;
  Header header = HeaderFor(key);
  header.kind = static_cast<uint16_t>(kind);
  header.payload_bytes = static_cast<uint32_t>(payload_bytes);
  header.crc = CrcOf(header, buffer.subspan(kFrameBytes, static_cast<size_t>(payload_bytes)));
  std::memcpy(buffer.data(), &header, sizeof(header));
}

absl::StatusOr<Frame> ReadFrame(std::span<const std::byte> buffer, const CodecKey& key) {
  const auto damaged = [&](const char* what) {
    return DataLoss("message of worker %d for block %d at step %d: %s", key.worker.value, key.block.value, key.step, what);
  };
  if (static_cast<int64_t>(buffer.size()) < kFrameBytes) return damaged("shorter than its frame");
  Header header;
  std::memcpy(&header, buffer.data(), sizeof(header));
  if (header.magic != kMagic) return damaged("wrong magic");
  if (header.version != kVersion) return damaged("unknown version");
  if (header.payload_bytes > buffer.size() - kFrameBytes) return damaged("payload longer than the buffer");
  const std::span<const std::byte> payload = buffer.subspan(kFrameBytes, header.payload_bytes);
  if (header.crc != CrcOf(header, payload)) return damaged("checksum differs");
  if (header.kind > static_cast<uint16_t>(FrameKind::kPoison)) return damaged("unknown kind");
  const Header expected = HeaderFor(key);
  if (header.block != expected.block || header.worker != expected.worker || header.step != expected.step || header.draw != expected.draw ||
      header.part != expected.part) {
    return damaged("it belongs to another block, part, worker, step or draw");
  }
  return Frame{static_cast<FrameKind>(header.kind), payload};
}

int64_t FramedBytes(std::span<const std::byte> buffer) {
  Header header;
  if (buffer.size() < sizeof(header)) return kFrameBytes;
  std::memcpy(&header, buffer.data(), sizeof(header));
  return kFrameBytes + int64_t{header.payload_bytes};
}

}  // namespace conclave
