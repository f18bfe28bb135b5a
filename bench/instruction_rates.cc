#include "bench/instruction_rates.h"

#include <immintrin.h>

namespace conclave {
namespace {

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bf16")

// Sums that do not wait for each other: more than an instruction's latency times what starts a cycle.
constexpr int kSums = 24;
constexpr int kRounds = 4096;

// kRounds times `add` on every sum, all in registers: after each, the compiler knows nothing of the sums.
template <typename Add>
void AddInRounds(const Add& add) {
  __m512 sums[kSums] = {};
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) sums[i] = add(sums[i]);
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) asm volatile("" : "+v"(sums[i]));
  }
}

void MultiplyAdds() {
  __m512 x = _mm512_set1_ps(0.5f);
  asm("" : "+v"(x));
  AddInRounds([x](__m512 sum) { return _mm512_fmadd_ps(x, x, sum); });
}

void PairsOfBf16() {
  __m512i halves = _mm512_set1_epi32(0x3F003F00);
  asm("" : "+v"(halves));
  const __m512bh x = reinterpret_cast<__m512bh>(halves);
  AddInRounds([x](__m512 sum) { return _mm512_dpbf16_ps(sum, x, x); });
}

#pragma GCC pop_options

BenchResult RateOf(const char* name, int products, void (*body)()) {
  return {.name = name, .unit = "GFLOP/s", .work = 2e-9 * products * kSums * kRounds, .seconds = Measure(body)};
}

}  // namespace

std::vector<BenchResult> InstructionRates() {
  std::vector<BenchResult> results;
  if (!__builtin_cpu_supports("avx512f")) return results;
  results.push_back(RateOf("instruction, f32 multiply-add", 16, MultiplyAdds));
  if (!__builtin_cpu_supports("avx512bf16")) return results;
  results.push_back(RateOf("instruction, bf16 pairs", 32, PairsOfBf16));
  results.back().facts.emplace_back("of_f32", results.back().Rate() / results.front().Rate());
  return results;
}

}  // namespace conclave
