// An embedding whose columns are cut over the ranks that share tokens: each holds some columns of every row. Source: Shen et al., 2022
// (SE-MoE), embedding partition.
#ifndef CONCLAVE_PARALLEL_PARTITIONED_EMBEDDING_H_
#define CONCLAVE_PARALLEL_PARTITIONED_EMBEDDING_H_

#include <span>

#include "base/status.h"
#include "parallel/mesh.h"
#include "tensor/tape.h"

namespace conclave {

// Part p of `parts` is on the ranks of this expert coordinate: parts in order, equally many a rank as near as can be.
inline int CoordinateOfPart(int part, int parts, int axis) { return static_cast<int>(int64_t{part} * axis / parts); }

struct PartitionedTable {
  std::span<const Var> local;  // this rank's parts in order, each [v, width / parts]
  int parts = 1;               // of all ranks
  int64_t width = 0;           // of a whole row
  DType dtype = DType::kF32;
};

// ids: i32 [n], n may differ between ranks; returns [n, width], for each token its row of all parts side by side, with the bits of
// Embedding of the whole table. Backward adds gradient rows in the order of the tokens, those of lower ranks first (each rank's into a lane
// of its own where the gradient slot has lanes). Collective on axis "expert". Bytes sent by a rank to the others: ids 4 n (P - 1), vectors
// the columns it holds of all tokens of others, gradients its tokens' columns that it does not hold; ledger lines "embedding ids",
// "embedding vectors", "embedding gradients", and one number a rank, "embedding counts".
absl::StatusOr<Var> PartitionedEmbedding(Tape& tape, const Mesh& mesh, const PartitionedTable& table, const Tensor& ids);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_PARTITIONED_EMBEDDING_H_
