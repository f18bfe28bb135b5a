// The instruction has a latency of three cycles but starts once a cycle: three independent streams keep it busy, and their checksums are
// joined by multiplying with x^(8 * length) modulo the polynomial. Bit k of a reflected 32-bit word is the coefficient of x^(31 - k).
#include "base/crc32c.h"

#include <nmmintrin.h>

#include <array>
#include <bit>
#include <cstring>

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kPolynomial = 0x82F63B78;  // 0x1EDC6F41 reflected

// a(x) * b(x) modulo the polynomial.
constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 0x80000000; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ ((b & 1) ? kPolynomial : 0);  // b * x
  }
  return product;
}

// x^(8 * bytes): what appending `bytes` zero bytes multiplies a checksum's register by.
constexpr uint32_t PowerOfBytes(uint64_t bytes) {
  uint32_t result = 0x80000000, factor = 0x00800000;  // 1 and x^8
  for (; bytes != 0; bytes >>= 1) {
    if (bytes & 1) result = Multiply(result, factor);
    factor = Multiply(factor, factor);
  }
  return result;
}

using Table = std::array<uint32_t, 256>;

// tables[k][b]: the register after byte b and k zero bytes.
constexpr std::array<Table, 8> MakeByteTables() {
  std::array<Table, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t r = b;
    for (int i = 0; i < 8; ++i) r = (r >> 1) ^ ((r & 1) ? kPolynomial : 0);
    tables[0][b] = r;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (uint32_t b = 0; b < 256; ++b) tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xFF];
  }
  return tables;
}

// Multiplication by x^(8 * bytes), a byte of the register at a time.
constexpr std::array<Table, 4> MakeShiftTables(uint64_t bytes) {
  const uint32_t power = PowerOfBytes(bytes);
  std::array<Table, 4> tables{};
  for (uint32_t k = 0; k < 4; ++k) {
    for (uint32_t b = 0; b < 256; ++b) tables[k][b] = Multiply(power, b << (8 * k));
  }
  return tables;
}

constexpr size_t kLongStream = 4096, kShortStream = 256;
constexpr std::array<Table, 8> kByteTables = MakeByteTables();
constexpr std::array<Table, 4> kLongShift = MakeShiftTables(kLongStream), kShortShift = MakeShiftTables(kShortStream);

uint32_t Shift(const std::array<Table, 4>& tables, uint32_t r) {
  return tables[0][r & 0xFF] ^ tables[1][(r >> 8) & 0xFF] ^ tables[2][(r >> 16) & 0xFF] ^ tables[3][r >> 24];
}

uint64_t Load64(const std::byte* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// Three streams of `length` bytes each from p on.
__attribute__((target("sse4.2"))) uint32_t ThreeStreams(uint32_t r, const std::byte* p, size_t length, const std::array<Table, 4>& shift) {
  uint64_t a = r, b = 0, c = 0;
  for (const std::byte* end = p + length; p != end; p += 8) {
    a = _mm_crc32_u64(a, Load64(p));
    b = _mm_crc32_u64(b, Load64(p + length));
    c = _mm_crc32_u64(c, Load64(p + 2 * length));
  }
  return Shift(shift, Shift(shift, static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
}

}  // namespace

__attribute__((target("sse4.2"))) uint32_t ExtendCrc32cByInstruction(uint32_t crc, std::span<const std::byte> data) {
  uint32_t r = ~crc;
  const std::byte* p = data.data();
  size_t left = data.size();
  for (; left >= 3 * kLongStream; p += 3 * kLongStream, left -= 3 * kLongStream) r = ThreeStreams(r, p, kLongStream, kLongShift);
  for (; left >= 3 * kShortStream; p += 3 * kShortStream, left -= 3 * kShortStream) r = ThreeStreams(r, p, kShortStream, kShortShift);
  for (; left >= 8; p += 8, left -= 8) r = static_cast<uint32_t>(_mm_crc32_u64(r, Load64(p)));
  for (; left > 0; ++p, --left) r = _mm_crc32_u8(r, static_cast<unsigned char>(*p));
  return ~r;
}

uint32_t ExtendCrc32cByTable(uint32_t crc, std::span<const std::byte> data) {
  uint32_t r = ~crc;
  const std::byte* p = data.data();
  size_t left = data.size();
  const auto& t = kByteTables;
  for (; left >= 8; p += 8, left -= 8) {
    const uint64_t w = Load64(p) ^ r;
    r = t[7][w & 0xFF] ^ t[6][(w >> 8) & 0xFF] ^ t[5][(w >> 16) & 0xFF] ^ t[4][(w >> 24) & 0xFF] ^ t[3][(w >> 32) & 0xFF] ^
        t[2][(w >> 40) & 0xFF] ^ t[1][(w >> 48) & 0xFF] ^ t[0][w >> 56];
  }
  for (; left > 0; ++p, --left) r = (r >> 8) ^ t[0][(r ^ static_cast<uint32_t>(*p)) & 0xFF];
  return ~r;
}

bool HasCrc32cInstruction() { return __builtin_cpu_supports("sse4.2"); }

uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> data) {
  static const bool by_instruction = HasCrc32cInstruction();
  return by_instruction ? ExtendCrc32cByInstruction(crc, data) : ExtendCrc32cByTable(crc, data);
}

}  // namespace conclave
