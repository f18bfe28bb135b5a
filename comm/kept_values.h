// The values that a sparsifier keeps, and the codec they travel by: as they are, or by one that the config names.
#ifndef CONCLAVE_COMM_KEPT_VALUES_H_
#define CONCLAVE_COMM_KEPT_VALUES_H_

#include <algorithm>
#include <cmath>
#include <memory>

#include "comm/compressors.h"

namespace conclave {

// max(1, round(fraction * d)). Errors: InvalidArgument for a fraction outside (0, 1] or a block without coordinates.
inline absl::StatusOr<int64_t> CountOf(const char* codec, double fraction, const CompressorContext& context) {
  const int64_t d = context.shape.elements();
  if (!(fraction > 0 && fraction <= 1)) return InvalidArgument("%s: fraction must be in (0, 1], got %g", codec, fraction);
  if (d < 1) return InvalidArgument("%s: a block of shape %s has no coordinates to choose from", codec, context.shape.ToString());
  return std::clamp<int64_t>(std::llround(fraction * static_cast<double>(d)), 1, d);
}

class KeptValues {
 public:
  struct Options {
    const char* owner = "";              // the sparsifier, for messages
    const CodecConfig* codec = nullptr;  // null: as they are
    int64_t count = 0;                   // k
    bool unbiased = true;                // an unbiased codec is asked for; else a contractive one
  };
  // Errors: InvalidArgument for a codec that drops coordinates itself or has the wrong contract.
  static absl::StatusOr<KeptValues> Make(const Options& options, const CompressorContext& context);

  const CodecContract& contract() const { return contract_; }
  int64_t MaxWireBytes() const { return codec_->MaxWireBytes(); }
  const Tensor& values() const { return *scratch_; }  // [k], scratch memory
  int64_t Encode(const CodecKey& key, std::span<std::byte> wire) const { return codec_->Encode(*scratch_, key, wire); }
  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key) const { return codec_->Decode(wire, key, *scratch_); }

  // Without a copy where values travel as they are: the encoder forms them at Place(wire), an address that need not be aligned, and calls
  // EncodePlaced; the decoder finds them where DecodePlaced says.
  std::byte* Place(std::span<std::byte> wire) const { return plain_ ? wire.data() : static_cast<std::byte*>(scratch_->raw()); }
  int64_t EncodePlaced(const CodecKey& key, std::span<std::byte> wire) const { return plain_ ? MaxWireBytes() : Encode(key, wire); }
  absl::StatusOr<const std::byte*> DecodePlaced(std::span<const std::byte> wire, const CodecKey& key) const;

 private:
  std::unique_ptr<Compressor> codec_;
  CodecContract contract_;
  bool plain_ = false;  // the codec is the identity
  OwnedTensor scratch_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_KEPT_VALUES_H_
