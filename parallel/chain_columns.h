// Moves of whole columns: what two ranks hold, over all layers at once.
#ifndef CONCLAVE_PARALLEL_CHAIN_COLUMNS_H_
#define CONCLAVE_PARALLEL_CHAIN_COLUMNS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/chain_state.h"
#include "parallel/swap_program.h"

namespace conclave {

// A move between ranks p and q: in every layer either no or one of p's experts changes places with one of q's, and the best choice for all
// layers *together* is found by dynamic programming along the chain. So a path of experts that only pays as a whole changes ranks at once,
// where swaps one by one would have to climb. Costs are perturbed by `temperature` times Gumbel noise, which for one layer alone is
// sampling from Boltzmann's distribution: moves at falling temperatures anneal, at temperature 0 they descend. Costs are rounded to a
// sixteenth of the temperature (to tokens at temperature 0) and end at 256 temperatures (4,095 tokens) a pair of experts: beyond, nothing
// is ever accepted anyway. Of ranks with many experts of a layer c take part, a power of two up to kMostCandidates, others at every move.
// Cost: L * c^4 operations in 16-bit lanes, and 4 c^2 L reads. Source of the noise: Papandreou, Yuille, "Perturb-and-MAP Random Fields",
// ICCV 2011.
class ColumnMoves {
 public:
  static constexpr int kMostCandidates = kMostSwapCandidates;

  // While moves are made, nothing else may change the state.
  explicit ColumnMoves(ChainState* state);

  // p != q. words: one random word a layer.
  void Move(int p, int q, float temperature, std::span<const uint32_t> words);
  // Runs of layers in which p and q change all their experts, the best choice of runs for all layers together, perturbed alike: columns
  // that are right on both sides of a layer but joined wrongly there come right in one step. Cost: 4 slots^2 L reads.
  void Cross(int p, int q, float temperature, std::span<const uint32_t> words);

 private:
  struct Layer;
  Layer At(int layer, int p, int q);
  void Choose(const Layer& at, uint32_t word);
  void Advance(const Layer& at, float temperature, float gain, uint32_t word);
  int Pick(int layer, int p, int q, int behind);

  ChainState* state_;
  int layers_, slots_, candidates_;
  std::vector<int> held_;       // [layers, ranks, slots]: experts; the first `candidates_` of a rank take part
  std::vector<int16_t> value_;  // [layers, c, c]: least cost of the layers so far that ends with this swap
  std::vector<int16_t> stay_;   // [layers]: ... with none
  std::vector<float> cross_;    // [layers, 2]: least cost of the layers so far that ends with experts kept, and changed
  std::vector<float> joint_;    // [layers]: twice what changing both this layer and the one before wins over changing one
  std::vector<char> changed_;   // [layers]
  std::vector<int> chosen_;     // [layers, 2 c]: the candidates of p and q
  std::vector<int16_t> link_;   // [layers, 2 c, 2 c]: bonds of each candidate of the layer before to each of a layer
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_CHAIN_COLUMNS_H_
