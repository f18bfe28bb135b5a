#include "comm/sparse_terms.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/check.h"
#include "comm/bit_stream.h"

namespace conclave {
namespace {

constexpr int64_t kCountBytes = sizeof(uint32_t);

int GapParameter(int64_t terms, int64_t elements) {
  return terms < elements ? RiceParameter(static_cast<double>(terms) / static_cast<double>(elements)) : 0;
}

}  // namespace

int RiceParameter(double density) {
  int best = 0;
  double fewest = INFINITY;
  for (int b = 0; b < 31; ++b) {
    const double longer = std::exp(std::ldexp(std::log1p(-density), b));  // P(gap >= 2^b)
    const double bits = b + 1 + (density < 1 ? longer / (1 - longer) : 0);
    if (bits < fewest) fewest = bits, best = b;
  }
  return best;
}

// The best parameter b for density p has 2^b between 0.4 / p and 1 / p, so n gaps that add up to n / p at most take fewer than
// n (log2(1 / p) + 1) + 2.5 n bits; the bound grows with both numbers.
int64_t MostSparseBytes(int64_t terms, int64_t elements, DType dtype) {
  const int64_t n = std::min(terms, elements);
  if (n == 0) return kCountBytes;
  const double bits = static_cast<double>(n) * (std::log2(static_cast<double>(elements) / static_cast<double>(n)) + 5);
  return kCountBytes + static_cast<int64_t>(std::ceil(bits / 8)) + 1 + n * SizeOf(dtype);
}

int64_t EncodeSparse(const SparseRange& range, std::span<const SparseTerm> terms, std::span<std::byte> wire) {
  const auto count = static_cast<uint32_t>(terms.size());
  std::memcpy(wire.data(), &count, kCountBytes);
  if (count == 0) return kCountBytes;
  const int rice = GapParameter(static_cast<int64_t>(count), range.elements);
  BitWriter gaps(wire.data() + kCountBytes);
  int64_t next = range.first;
  for (const SparseTerm& term : terms) {
    gaps.PutRice(static_cast<uint64_t>(term.index - next), rice);
    next = term.index + 1;
  }
  std::byte* out = wire.data() + kCountBytes + gaps.Finish();
  DispatchFloat(range.dtype, [&](auto t) {
    for (const SparseTerm& term : terms) {
      const auto value = static_cast<decltype(t)>(term.value);
      std::memcpy(out, &value, sizeof(value));
      out += sizeof(value);
    }
  });
  return out - wire.data();
}

absl::Status DecodeSparse(const SparseRange& range, std::span<const std::byte> wire, const CodecKey& key, int64_t most,
                          SparseTerms& terms) {
  uint32_t count = 0;
  if (static_cast<int64_t>(wire.size()) < kCountBytes) return WrongLength("sparse run", key, kCountBytes, wire.size());
  std::memcpy(&count, wire.data(), kCountBytes);
  if (count > most || count > range.elements) return Malformed("sparse run", key, "it has more terms than can be");
  if (count == 0) return absl::OkStatus();
  const int rice = GapParameter(static_cast<int64_t>(count), range.elements);
  BitReader gaps(wire.subspan(kCountBytes));
  int64_t next = range.first;
  const size_t before = terms.size();
  for (uint32_t i = 0; i < count; ++i) {
    next += static_cast<int64_t>(gaps.GetRice(rice, static_cast<uint64_t>(range.elements)));
    if (gaps.overran() || next >= range.first + range.elements) return Malformed("sparse run", key, "an index is beyond its region");
    terms.push_back({.index = next++});
  }
  const int64_t values = kCountBytes + gaps.bytes(), expected = values + int64_t{count} * SizeOf(range.dtype);
  if (static_cast<int64_t>(wire.size()) != expected) return WrongLength("sparse run", key, expected, wire.size());
  DispatchFloat(range.dtype, [&](auto t) {
    using T = decltype(t);
    for (uint32_t i = 0; i < count; ++i) {
      T value;
      std::memcpy(&value, wire.data() + values + int64_t{i} * static_cast<int64_t>(sizeof(T)), sizeof(T));
      terms[before + i].value = static_cast<double>(value);
    }
  });
  return absl::OkStatus();
}

void AddTerms(DType dtype, std::span<const SparseTerm> a, std::span<const SparseTerm> b, SparseTerms& out) {
  out.clear();
  size_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    if (j == b.size() || (i < a.size() && a[i].index < b[j].index)) {
      out.push_back(a[i++]);
    } else if (i == a.size() || b[j].index < a[i].index) {
      out.push_back(b[j++]);
    } else {
      // The sum of two f32 in f64 is rounded as an f32 addition would.
      const double sum = a[i].value + b[j++].value;
      out.push_back({.index = a[i++].index, .value = dtype == DType::kF32 ? static_cast<double>(static_cast<float>(sum)) : sum});
    }
  }
}

double MagnitudeOfRank(std::span<double> magnitudes, int64_t count) {
  CHECK_GE(count, 1);
  if (static_cast<int64_t>(magnitudes.size()) < count) return 0;
  std::nth_element(magnitudes.begin(), magnitudes.begin() + (count - 1), magnitudes.end(), std::greater<>());
  return magnitudes[static_cast<size_t>(count - 1)];
}

}  // namespace conclave
