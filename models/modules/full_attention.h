// Self-attention of encoders: every position sees every other of its sequence.
#ifndef CONCLAVE_MODELS_MODULES_FULL_ATTENTION_H_
#define CONCLAVE_MODELS_MODULES_FULL_ATTENTION_H_

#include "tensor/ops/ops.h"

namespace conclave {

// As CausalAttention (tensor/ops/ops.h), without its mask: qkv [sequences * length, (heads + 2 * kv_heads) * head_dim] = q | k | v, returns
// [sequences * length, heads * head_dim]. Made of products of whole sequences: keeps heads * length^2 probabilities a sequence.
Var FullAttention(Tape& tape, Var qkv, const AttentionOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODULES_FULL_ATTENTION_H_
