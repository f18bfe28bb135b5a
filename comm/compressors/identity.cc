// The codec that changes nothing (but -0, which becomes +0). Wire: the n values.
#include <cstring>

#include "comm/compressors.h"
#include "comm/sums.h"

namespace conclave {
namespace {

class IdentityCodec final : public Compressor {
 public:
  explicit IdentityCodec(const CompressorContext& context)
      : elements_(context.shape.elements()), dtype_(context.dtype), bytes_(elements_ * SizeOf(context.dtype)) {}

  CodecContract Contract() const override {
    return {.unbiased = true, .q = 1, .delta = 1, .wire_bits = bytes_ * 8, .lossless = true, .linear = true};
  }
  int64_t MaxWireBytes() const override { return bytes_; }

  int64_t Encode(const Tensor& x, const CodecKey&, std::span<std::byte> wire) const override {
    CHECK_EQ(x.bytes(), bytes_);
    if (bytes_ > 0) std::memcpy(wire.data(), x.raw(), static_cast<size_t>(bytes_));
    return bytes_;
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    if (static_cast<int64_t>(wire.size()) != bytes_) {
      return WrongLength("identity", key, bytes_, wire.size());
    }
    if (bytes_ > 0) std::memcpy(x.raw(), wire.data(), wire.size());
    AddZero(dtype_, x.raw(), elements_);
    return absl::OkStatus();
  }

 private:
  const int64_t elements_;
  const DType dtype_;
  const int64_t bytes_;
};

}  // namespace

CompressorOr MakeIdentityCodec(const IdentityCodecConfig&, const CompressorContext& context) {
  return std::make_unique<IdentityCodec>(context);
}

}  // namespace conclave
