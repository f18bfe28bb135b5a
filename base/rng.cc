#include "base/rng.h"

#include <cmath>
#include <numbers>

namespace conclave {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

std::array<uint32_t, 4> Draw4(const RngKey& k, uint64_t block) {
  const uint64_t index = (uint64_t{k.site & 0xFFFFFF} << 40) | (block & 0xFFFFFFFFFF);
  const uint32_t purpose = (static_cast<uint32_t>(k.kind) << 4) | (k.draw & 0xF);
  return Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), k.step, (k.worker << 16) | (purpose & 0xFFFF)},
                    {static_cast<uint32_t>(k.seed), static_cast<uint32_t>(k.seed >> 32)});
}

float ToUniform(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

double BoxMuller(uint32_t radius, uint32_t angle) {
  const double u = (static_cast<double>(radius) + 0.5) * 0x1p-32;
  const double v = static_cast<double>(angle) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

// out[i] = convert(the words of element first + i), `kWords` words an element.
template <uint64_t kWords, typename T, typename Convert>
void Fill(const RngKey& key, uint64_t first, std::span<T> out, Convert convert) {
  constexpr uint64_t kPerBlock = 4 / kWords;
  for (uint64_t i = 0; i < out.size();) {
    const auto words = Draw4(key, (first + i) / kPerBlock);
    do {
      out[i] = convert(&words[(first + i) % kPerBlock * kWords]);
      ++i;
    } while (i < out.size() && (first + i) % kPerBlock != 0);
  }
}

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

uint32_t RngKey::Bits(uint64_t element) const {
  return Draw4(*this, element >> 2)[element & 3];
}

float RngKey::Uniform(uint64_t element) const {
  return ToUniform(Bits(element));
}

double RngKey::UniformDouble(uint64_t element) const {
  const auto w = Draw4(*this, element >> 1);
  const uint32_t hi = w[(element & 1) * 2], lo = w[(element & 1) * 2 + 1];
  return static_cast<double>(((uint64_t{hi} << 32) | lo) >> 11) * 0x1p-53;
}

uint64_t RngKey::Below(uint64_t bound, uint64_t element) const {
  const auto w = Draw4(*this, element >> 1);
  const uint64_t bits = (uint64_t{w[(element & 1) * 2]} << 32) | w[(element & 1) * 2 + 1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits) * bound) >> 64);
}

double RngKey::Normal(uint64_t element) const {
  const auto w = Draw4(*this, element >> 1);
  return BoxMuller(w[(element & 1) * 2], w[(element & 1) * 2 + 1]);
}

void RngKey::FillBits(uint64_t first, std::span<uint32_t> out) const {
  Fill<1>(*this, first, out, [](const uint32_t* w) { return w[0]; });
}

void RngKey::FillUniform(uint64_t first, std::span<float> out) const {
  Fill<1>(*this, first, out, [](const uint32_t* w) { return ToUniform(w[0]); });
}

void RngKey::FillNormal(uint64_t first, std::span<double> out) const {
  Fill<2>(*this, first, out, [](const uint32_t* w) { return BoxMuller(w[0], w[1]); });
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
      const uint64_t f = Draw4(key_, (round << 33) | right)[0] & mask;
      const uint64_t next = left ^ f;
      left = right;
      right = next;
    }
    i = (left << half_bits_) | right;
  } while (i >= n_);
  return i;
}

}  // namespace conclave
