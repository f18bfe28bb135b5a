// Draws of Gumbel's distribution, ready to be added to whole numbers.
#ifndef CONCLAVE_PARALLEL_GUMBEL_NOISE_H_
#define CONCLAVE_PARALLEL_GUMBEL_NOISE_H_

#include <cstdint>

namespace conclave {

// Noise of annealing moves is counted in sixteenths of the temperature.
inline constexpr float kNoiseUnits = 16;
inline constexpr int kNoiseRun = 65;

// kNoiseRun draws of Gumbel's distribution, -ln(-ln u), in units, from a place that 14 bits of `word` pick in a table of 2^14. Two
// draws less one another are a draw of the logistic distribution.
const int16_t* GumbelNoise(uint32_t word);
// kNoiseRun zeros: a move at temperature 0.
const int16_t* NoNoise();

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_GUMBEL_NOISE_H_
