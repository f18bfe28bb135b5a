#include "models/modules/layers.h"

#include <algorithm>

#include "models/kv_cache.h"
#include "models/modules/full_attention.h"
#include "models/token_travel.h"

namespace conclave {

LinearLayer LinearLayer::Register(ParameterSet& parameters, const std::string& name, const Options& o) {
  LinearLayer layer;
  layer.weight = parameters.Add({.name = name + ".weight", .shape = {o.out, o.in}, .init = {Init::Kind::kNormal, o.std}});
  if (o.bias) layer.bias = parameters.Add({.name = name + ".bias", .shape = {o.out}});
  return layer;
}

Var LinearLayer::Record(Recorder& r, Var x, std::optional<ProductPrecision> products) const {
  return Linear(r.tape(), x, r.Parameter(weight), bias.value >= 0 ? r.Parameter(bias) : Var{}, products);
}

NormLayer NormLayer::Register(ParameterSet& parameters, const std::string& name, const Options& o) {
  NormLayer layer{.rms = o.rms, .epsilon = o.epsilon};
  layer.gain = parameters.Add({.name = name + ".weight", .shape = {o.width}, .init = {Init::Kind::kConstant, 1.0}});
  if (o.bias && !o.rms) layer.bias = parameters.Add({.name = name + ".bias", .shape = {o.width}});
  return layer;
}

Var NormLayer::Record(Recorder& r, Var x) const {
  if (rms) return RmsNorm(r.tape(), x, r.Parameter(gain), epsilon);
  return LayerNorm(r.tape(), x, r.Parameter(gain), bias.value >= 0 ? r.Parameter(bias) : Var{}, epsilon);
}

AttentionLayer AttentionLayer::Register(ParameterSet& parameters, const std::string& name, const Options& options) {
  AttentionLayer layer{.options = options};
  Options& o = layer.options;
  if (o.kv_heads == 0) o.kv_heads = o.heads;
  if (o.head_dim == 0) o.head_dim = o.width / o.heads;
  const int64_t q = o.heads * o.head_dim, kv = o.kv_heads * o.head_dim;
  layer.qkv =
      LinearLayer::Register(parameters, name + ".qkv", {.in = o.width, .out = q + 2 * kv, .bias = o.bias || o.qkv_bias, .std = o.std});
  if (o.qk_norm != MoeLmConfig::NO_QK_NORM) {
    const bool whole = o.qk_norm == MoeLmConfig::QK_NORM_WHOLE;
    const auto norm = [&](const char* part, int64_t all) {
      return NormLayer::Register(parameters, name + part, {.width = whole ? all : o.head_dim, .rms = true, .epsilon = o.norm_epsilon});
    };
    layer.q_norm = norm(".q_norm", q);
    layer.k_norm = norm(".k_norm", kv);
  }
  layer.out = LinearLayer::Register(parameters, name + ".out", {.in = q, .out = o.width, .bias = o.bias, .std = o.residual_std});
  return layer;
}

Var AttentionLayer::Normalized(Recorder& r, Var projected) const {
  Tape& tape = r.tape();
  const int64_t n = tape.value(projected).dim(0), dim = options.head_dim, q = options.heads * dim, kv = options.kv_heads * dim;
  const auto normalize = [&](const NormLayer& norm, int64_t begin, int64_t count) {
    const Var part = SliceColumns(tape, projected, begin, count);
    if (options.qk_norm == MoeLmConfig::QK_NORM_WHOLE) return norm.Record(r, part);
    return Reshape(tape, norm.Record(r, Reshape(tape, part, {n * (count / dim), dim})), {n, count});
  };
  const Var parts[] = {normalize(q_norm, 0, q), normalize(k_norm, q, kv), SliceColumns(tape, projected, q + kv, kv)};
  return ConcatColumns(tape, parts);
}

Var AttentionLayer::Record(Recorder& r, Var x, int64_t sequences) const {
  // Without rows: one sequence of no tokens.
  AttentionOptions shape{.sequences = std::max<int64_t>(sequences, 1), .heads = options.heads, .kv_heads = options.kv_heads};
  const KvCache* cache = r.cache();
  if (cache != nullptr) shape.first = cache->first();
  if (r.travel() != nullptr) r.travel()->Visit(options.layer);
  Var projected = qkv.Record(r, x);
  if (options.qk_norm != MoeLmConfig::NO_QK_NORM) projected = Normalized(r, projected);
  if (options.rope_theta > 0) projected = Rotary(r.tape(), projected, shape, options.rope_theta);
  if (cache != nullptr) return out.Record(r, CachedAttention(r.tape(), projected, shape, cache->rows(options.layer)));
  return out.Record(r, options.causal ? CausalAttention(r.tape(), projected, shape) : FullAttention(r.tape(), projected, shape));
}

MlpLayer MlpLayer::Register(ParameterSet& parameters, const std::string& name, const MlpOptions& o) {
  MlpLayer layer{.swiglu = o.swiglu};
  layer.up = LinearLayer::Register(parameters, name + ".up", {.in = o.width, .out = o.up_rows(), .bias = o.bias, .std = o.std});
  layer.down = LinearLayer::Register(parameters, name + ".down", {.in = o.hidden, .out = o.width, .bias = o.bias, .std = o.residual_std});
  return layer;
}

Var MlpLayer::Record(Recorder& r, Var x) const {
  // One group of all rows.
  const Tensor rows = r.tape().arena().New({1}, DType::kI64);
  *rows.data<int64_t>() = r.tape().value(x).dim(0);
  const auto bias = [&](const LinearLayer& layer) { return layer.bias.value >= 0 ? r.Parameter(layer.bias) : Var{}; };
  const Var up_weight = r.Parameter(up.weight), up_bias = bias(up), down_weight = r.Parameter(down.weight), down_bias = bias(down);
  const auto some = [](const Var& v) { return std::span<const Var>(&v, v.defined() ? 1 : 0); };
  return GroupedMlp(r.tape(), x, {.up = some(up_weight), .up_bias = some(up_bias), .down = some(down_weight), .down_bias = some(down_bias)},
                    swiglu ? Activation::kSwiGlu : Activation::kGelu, {.rows = rows.span<int64_t>(), .experts = 1});
}

}  // namespace conclave
