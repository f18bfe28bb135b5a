// Compressor: a point codec with a declared contract and exact wire bits.
#ifndef CONCLAVE_COMM_COMPRESSOR_H_
#define CONCLAVE_COMM_COMPRESSOR_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "tensor/ids.h"
#include "tensor/tensor.h"

namespace conclave {

// What a codec promises. Unbiased: E Q(x) = x and E |Q(x)|^2 <= q |x|^2. Contractive: E |C(x) - x|^2 <= (1 - 1/delta) |x|^2.
struct CodecContract {
  bool unbiased = false;
  double q = 1;           // unbiased only
  double delta = 1;       // contractive only
  int64_t wire_bits = 0;  // of one message: exact, or an upper bound if !fixed_size
  bool fixed_size = true;
  bool correlated = false;  // workers' draws depend on each other (PermK)
  bool lossless = false;    // decodes to exactly what was encoded (but -0)
  bool linear = false;      // decode(a) + decode(b) has the same support: sums can be formed on the wire

  // May it feed an error memory? An unbiased codec with q < 2 is contractive too, as E |Q(x) - x|^2 = (q - 1) |x|^2 at most.
  bool contractive() const { return !unbiased || q < 2; }
  // Of a contractive codec: 1 / delta.
  double inverse_delta() const { return unbiased ? 2 - q : 1 / delta; }
};

// Why a message went as poison: what it stood for is not finite, or no number that its codec can carry.
struct PoisonCause {
  WorkerId worker;
  int workers = 1;  // with more, the mean of so many from `worker` on
  BlockId block;
  int64_t index = -1;      // the first bad coordinate of the block; beyond a range the largest. -1: no message went as poison
  double value = 0;        // there
  std::string_view codec;  // whose range it is beyond, as the config has it; empty: not finite
};

// Addresses the randomness of one message.
struct CodecKey {
  uint64_t seed = 0;
  BlockId block;
  WorkerId worker;
  uint32_t step = 0;
  uint32_t draw = 0;
  // Of a block that travels in parts: which one, and its first coordinate, from which random words are counted.
  int part = 0;
  int64_t first = 0;
  PoisonCause* cause = nullptr;  // where EncodeFramed notes the lowest poison of an exchange; null: nobody asks
};

// In place of a worker: who sends means back down. Its draws are its own.
inline constexpr WorkerId kServer{0xFFFE};

// What Encode returns for a finite vector that its codec cannot carry (a value beyond its range): the message goes as poison.
inline constexpr int64_t kBeyondRange = -1;

// Built for one block shape and worker count. Stateless but for scratch memory, so one caller at a time: the same key and input give the
// same bytes on every rank and instruction set. Finite f32 and f64 inputs.
class Compressor {
 public:
  virtual ~Compressor() = default;
  virtual CodecContract Contract() const = 0;
  virtual int64_t MaxWireBytes() const = 0;
  // x: [n]. Returns the bytes written to `wire` (at least MaxWireBytes long), or kBeyondRange. No allocation.
  virtual int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const = 0;
  // Writes all n elements of x; never writes -0. Errors: DataLoss for a message that cannot be one.
  virtual absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const = 0;

  // How the config has it, for messages.
  const std::string& text() const { return text_; }
  void SetText(std::string text) { text_ = std::move(text); }

 private:
  std::string text_;
};

// DataLoss, for decoders: a message of the wrong length, or whose content no encoder writes.
absl::Status WrongLength(const char* codec, const CodecKey& key, int64_t expected, size_t got);
absl::Status Malformed(const char* codec, const CodecKey& key, const char* what);

}  // namespace conclave

#endif  // CONCLAVE_COMM_COMPRESSOR_H_
