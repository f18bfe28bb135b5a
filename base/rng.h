// Counter-based randomness: Philox 4x32-10 (Salmon et al., SC 2011). Nothing is drawn from a shared stream, so nothing depends on rank
// count, thread order or resume. Key = seed; counter = index 64 | step 32 | worker 16 | purpose 16, index = site 24 | element 40,
// purpose = kind 12 | draw 4.
#ifndef CONCLAVE_BASE_RNG_H_
#define CONCLAVE_BASE_RNG_H_

#include <array>
#include <cstdint>
#include <span>

namespace conclave {

// One application of Philox 4x32-10. Pure.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// What a number is drawn for (12 bits).
enum class RngKind : uint32_t {
  kInit = 1,     // parameter initialisation
  kShuffle = 2,  // sample order of an epoch
  kNoise = 3,    // noise inside a model
  kCodec = 4,    // compressors
  kCoin = 5,     // coins of a scheme
  kSample = 6,   // generation
  kProblem = 7,  // synthetic problem data
  kMixture = 8,  // which source a sample comes from
  kTest = 9,
  kPlacement = 10,  // searches for expert placements
};

inline constexpr uint32_t kSharedWorker = 0xFFFF;

// Addresses a family of numbers; `element` picks one. Cheap to copy. Philox yields four 32-bit words a counter: element e is word e % 4 of
// counter e / 4, so that sequential elements cost a quarter of a Philox call each when drawn by the Fill functions.
struct RngKey {
  uint64_t seed = 0;
  uint32_t site = 0;  // 24 bits: block id for codecs, op number in the model for noise
  uint32_t step = 0;
  uint32_t worker = kSharedWorker;  // 16 bits
  RngKind kind = RngKind::kTest;
  uint32_t draw = 0;  // 4 bits

  // The four words of elements 4 * block and on: one Philox call.
  std::array<uint32_t, 4> Block(uint64_t block) const;
  // 32 random bits of element `element` (40 bits).
  uint32_t Bits(uint64_t element) const;
  // Uniform in [0, 1), 24-bit resolution.
  float Uniform(uint64_t element) const;
  // Uniform in [0, 1), 53-bit resolution; uses elements 2 * element and 2 * element + 1.
  double UniformDouble(uint64_t element) const;
  // Uniform integer in [0, bound), bound > 0, by rejection-free 64-bit multiplication (bias below 2^-32 * bound).
  uint64_t Below(uint64_t bound, uint64_t element) const;
  // Standard normal (Box-Muller on elements 2 * element and 2 * element + 1), computed in double: the same bits on every processor.
  double Normal(uint64_t element) const;

  // out[i] = Bits, Uniform, Normal of element first + i: the same numbers, many at a time. No allocation.
  void FillBits(uint64_t first, std::span<uint32_t> out) const;
  void FillUniform(uint64_t first, std::span<float> out) const;
  void FillNormal(uint64_t first, std::span<double> out) const;
  void FillNormal(uint64_t first, std::span<float> out) const;  // rounded
};

// A pseudo-random permutation of [0, n) evaluated point by point: a cycle-walking Feistel network of 6 rounds keyed by `key`. n >= 1.
// Cost: about 6 * ceil(2^b / n) Philox calls, 2^b the next even power of two.
class IndexPermutation {
 public:
  IndexPermutation(const RngKey& key, uint64_t n);
  uint64_t operator()(uint64_t i) const;  // i in [0, n)

 private:
  RngKey key_;
  uint64_t n_;
  int half_bits_;
};

}  // namespace conclave

#endif  // CONCLAVE_BASE_RNG_H_
