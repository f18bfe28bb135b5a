// The twin of instruction_rates.cc for processors and compilers without AVX-512.
#include "bench/instruction_rates.h"

namespace conclave {

std::vector<BenchResult> InstructionRates() { return {}; }

}  // namespace conclave
