#include "comm/framed_codec.h"

#include <cmath>
#include <limits>
#include <tuple>

#include "tensor/reduce.h"

namespace conclave {
namespace {

int64_t LargestOf(const Tensor& x) {
  int64_t largest = 0;
  for (int64_t i = 1; i < x.elements(); ++i) {
    if (std::abs(ValueAt(x, i)) > std::abs(ValueAt(x, largest))) largest = i;
  }
  return largest;
}

int64_t WritePoison(const Compressor& codec, const Tensor& x, const CodecKey& key, std::span<std::byte> buffer) {
  WriteFrame(buffer, key, FrameKind::kPoison, 0);
  if (key.cause == nullptr) return 0;
  const PoisonCause& known = *key.cause;
  const auto place = std::tuple(key.worker, key.block, key.first);
  if (known.index >= 0 && std::tuple(known.worker, known.block, known.index) < place) return 0;
  const int64_t bad = FirstNotFinite(x), index = bad >= 0 ? bad : LargestOf(x);
  *key.cause = {.worker = key.worker,
                .block = key.block,
                .index = key.first + index,
                .value = ValueAt(x, index),
                .codec = bad >= 0 ? std::string_view() : codec.text()};
  return 0;
}

}  // namespace

int64_t EncodeFramed(const Compressor& codec, const Tensor& x, const CodecKey& key, std::span<std::byte> buffer) {
  if (!AllFinite(x)) return WritePoison(codec, x, key, buffer);
  const int64_t payload = codec.Encode(x, key, buffer.subspan(kFrameBytes));
  if (payload == kBeyondRange) return WritePoison(codec, x, key, buffer);
  WriteFrame(buffer, key, FrameKind::kValues, payload);
  return payload;
}

absl::Status DecodeFramed(const Compressor& codec, std::span<const std::byte> buffer, const CodecKey& key, const Tensor& x) {
  ASSIGN_OR_RETURN(const Frame frame, ReadFrame(buffer, key));
  switch (frame.kind) {
    case FrameKind::kValues:
      return codec.Decode(frame.payload, key, x);
    case FrameKind::kAbsent:
      x.Zero();
      return absl::OkStatus();
    case FrameKind::kPoison:
      x.Fill(std::numeric_limits<double>::quiet_NaN());
      return absl::OkStatus();
  }
  return absl::InternalError("unknown frame kind");
}

}  // namespace conclave
