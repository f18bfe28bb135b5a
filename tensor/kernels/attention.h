// Causal attention of whole sequences by tiles with an online softmax: memory linear in the length. Source: Dao et al., 2022 (forward and
// backward), Milakov and Gimelshein, 2018 (online softmax).
#ifndef CONCLAVE_TENSOR_KERNELS_ATTENTION_H_
#define CONCLAVE_TENSOR_KERNELS_ATTENTION_H_

#include <cstdint>

namespace conclave::cpu {

// Queries and keys of a tile.
inline constexpr int64_t kAttentionTile = 64;

struct AttentionShape {
  int64_t sequences, length, heads, kv_heads, head_dim;
  int64_t row() const { return (heads + 2 * kv_heads) * head_dim; }  // elements of a row of qkv
  int64_t KeyColumn(int64_t head) const { return (heads + head * kv_heads / heads) * head_dim; }
  int64_t ValueColumn(int64_t head) const { return KeyColumn(head) + kv_heads * head_dim; }
  int64_t padded_length() const { return (length + kAttentionTile - 1) / kAttentionTile * kAttentionTile; }
  int64_t padded_dim() const { return (head_dim + 31) / 32 * 32; }
};

// qkv: [sequences * length, row()] = q | k | v; out: [sequences * length, heads * head_dim]; log_sum_exp: [sequences * length, heads], of
// the scaled scores. A sequence's results depend on that sequence alone, a position's on the positions up to it, bit for bit.
template <typename T>
struct AttentionForwardArgs {
  AttentionShape shape;
  const T* qkv;
  T* out;
  T* log_sum_exp;
  T* scratch;  // AttentionForwardScratch(shape) elements
  // Rows before it serve as keys and values only, and out and log_sum_exp begin at it; more than 0 for a single sequence. A row's results
  // do not depend on it, bit for bit.
  int64_t first = 0;
};
int64_t AttentionForwardScratch(const AttentionShape& shape);
void AttentionForward(const AttentionForwardArgs<float>& args);
void AttentionForward(const AttentionForwardArgs<double>& args);

// Recomputes the probabilities from log_sum_exp; d_qkv = its gradient, or += .
template <typename T>
struct AttentionBackwardArgs {
  AttentionShape shape;
  const T* qkv;
  const T* out;
  const T* log_sum_exp;
  const T* d_out;
  T* d_qkv;
  T* scratch;  // AttentionBackwardScratch(shape) elements
  bool accumulate = true;
};
int64_t AttentionBackwardScratch(const AttentionShape& shape);
void AttentionBackward(const AttentionBackwardArgs<float>& args);
void AttentionBackward(const AttentionBackwardArgs<double>& args);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_ATTENTION_H_
