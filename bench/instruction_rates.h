// What this core's multipliers can do without memory.
#ifndef CONCLAVE_BENCH_INSTRUCTION_RATES_H_
#define CONCLAVE_BENCH_INSTRUCTION_RATES_H_

#include <vector>

#include "bench/measure.h"

namespace conclave {

// Vector instructions on registers alone, one thread: f32 multiply-adds of AVX-512 and, beside them, products of bf16 pairs of AVX-512 BF16
// with their share of the former ("of_f32"). No kernel of vectors is faster. Those that the processor lacks are left out.
std::vector<BenchResult> InstructionRates();

}  // namespace conclave

#endif  // CONCLAVE_BENCH_INSTRUCTION_RATES_H_
