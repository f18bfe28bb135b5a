#include "base/rng.h"

namespace conclave {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * c[0], p1 = uint64_t{kMultiplier1} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1), static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1],
         static_cast<uint32_t>(p0)};
    k[0] += kWeyl0;
    k[1] += kWeyl1;
  }
  return c;
}

std::array<uint32_t, 4> RngKey::Block(uint64_t block) const {
  const uint64_t index = (uint64_t{site & 0xFFFFFF} << 40) | (block & 0xFFFFFFFFFF);
  const uint32_t purpose = (static_cast<uint32_t>(kind) << 4) | (draw & 0xF);
  return Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), step, (worker << 16) | (purpose & 0xFFFF)},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

uint32_t RngKey::Bits(uint64_t element) const { return Block(element >> 2)[element & 3]; }

float RngKey::Uniform(uint64_t element) const {
  float value = 0;
  FillUniform(element, {&value, 1});
  return value;
}

double RngKey::UniformDouble(uint64_t element) const {
  const auto w = Block(element >> 1);
  const uint32_t hi = w[(element & 1) * 2], lo = w[(element & 1) * 2 + 1];
  return static_cast<double>(((uint64_t{hi} << 32) | lo) >> 11) * 0x1p-53;
}

uint64_t RngKey::Below(uint64_t bound, uint64_t element) const {
  const auto w = Block(element >> 1);
  const uint64_t bits = (uint64_t{w[(element & 1) * 2]} << 32) | w[(element & 1) * 2 + 1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * bound) >> 64);
}

double RngKey::Normal(uint64_t element) const {
  double value = 0;
  FillNormal(element, {&value, 1});
  return value;
}

IndexPermutation::IndexPermutation(const RngKey& key, uint64_t n) : key_(key), n_(n), half_bits_(1) {
  while (half_bits_ < 32 && (uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
}

uint64_t IndexPermutation::operator()(uint64_t i) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  do {
    uint64_t left = i >> half_bits_, right = i & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      // The round number sits above the 32 value bits: distinct counters for distinct (round, right).
      const uint64_t f = key_.Block((round << 33) | right)[0] & mask;
      const uint64_t next = left ^ f;
      left = right;
      right = next;
    }
    i = (left << half_bits_) | right;
  } while (i >= n_);
  return i;
}

}  // namespace conclave
