// The vector work of a column move: dynamic programming over one swap or none in every layer, in 16-bit lanes.
#ifndef CONCLAVE_PARALLEL_SWAP_PROGRAM_H_
#define CONCLAVE_PARALLEL_SWAP_PROGRAM_H_

#include <cstdint>

namespace conclave {

// Costs are whole numbers of 16 bits, in units that the caller picks. What binds two experts (`bond`) ends at kMostBond, the price of
// moving one must lie within kMostPrice, and a way that is dearer than the best by kMostValue is as good as none; a draw of noise must lie
// within 300. So no sum leaves 16 bits.
inline constexpr int kMostBond = 4095, kMostPrice = 8000, kMostValue = 12000;
inline constexpr int kMostSwapCandidates = 8;
// Arrays are read in whole vectors: as if prices and noise had this many elements, and bonds kLinkPadding more than they have.
inline constexpr int kMostLanes = kMostSwapCandidates * kMostSwapCandidates, kLinkPadding = 16;

// One layer of a move between ranks p and q, of n candidates each.
struct SwapLayer {
  // The layer before: its transitions to this one, [experts, experts], its candidates, [2n], of p and then of q, and what it left behind.
  // value_before is null in the first layer.
  const int32_t* counts = nullptr;
  int experts = 0;
  const int* from = nullptr;
  const int16_t* value_before = nullptr;  // [n, n]
  int16_t stay_before = 0;
  const int* to = nullptr;  // candidates of this layer, [2n]
  float bond_scale = 1;     // units a token
  // [kMostLanes]: what it costs to move each candidate, of p and then of q, to the other rank with everything else in place.
  const int16_t* prices = nullptr;
  const int16_t* noise = nullptr;  // [kMostLanes]: taken off the costs of swaps, [n, n]
};

// value[x, y] becomes the least cost of swaps in this layer and those before that ends with x of p and y of q changing places; *stay, on
// entry what no swap here costs, that of the ways that end with none. The least of all of them becomes 0. link [2n, 2n] becomes the bonds.
// n: 1, 2, 4 or 8. Cost: n^4 additions and minima in lanes of 16 bits, and 4 n^2 gathered reads.
void AdvanceSwaps(int n, const SwapLayer& layer, int16_t* link, int16_t* value, int16_t* stay);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_SWAP_PROGRAM_H_
