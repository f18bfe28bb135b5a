#include "models/modules/layers.h"

#include <algorithm>

namespace conclave {

LinearLayer LinearLayer::Register(ParameterSet& parameters, const std::string& name, const Options& o) {
  LinearLayer layer;
  layer.weight = parameters.Add({.name = name + ".weight", .shape = {o.out, o.in}, .init = {Init::Kind::kNormal, o.std}});
  if (o.bias) layer.bias = parameters.Add({.name = name + ".bias", .shape = {o.out}});
  return layer;
}

Var LinearLayer::Record(Recorder& r, Var x) const {
  return Linear(r.tape(), x, r.Parameter(weight), bias.value >= 0 ? r.Parameter(bias) : Var{});
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

AttentionLayer AttentionLayer::Register(ParameterSet& parameters, const std::string& name, const Options& o) {
  AttentionLayer layer{.heads = o.heads, .rope_theta = o.rope_theta};
  layer.qkv = LinearLayer::Register(parameters, name + ".qkv", {.in = o.width, .out = 3 * o.width, .bias = o.bias, .std = o.std});
  layer.out = LinearLayer::Register(parameters, name + ".out", {.in = o.width, .out = o.width, .bias = o.bias, .std = o.residual_std});
  return layer;
}

Var AttentionLayer::Record(Recorder& r, Var x, int64_t sequences) const {
  // Without rows: one sequence of no tokens.
  const AttentionOptions options{.sequences = std::max<int64_t>(sequences, 1), .heads = heads, .kv_heads = heads};
  Var projected = qkv.Record(r, x);
  if (rope_theta > 0) projected = Rotary(r.tape(), projected, options, rope_theta);
  return out.Record(r, CausalAttention(r.tape(), projected, options));
}

MlpLayer MlpLayer::Register(ParameterSet& parameters, const std::string& name, const MlpOptions& o) {
  MlpLayer layer{.swiglu = o.swiglu};
  layer.up = LinearLayer::Register(parameters, name + ".up", {.in = o.width, .out = o.up_rows(), .bias = o.bias, .std = o.std});
  layer.down = LinearLayer::Register(parameters, name + ".down", {.in = o.hidden, .out = o.width, .bias = o.bias, .std = o.residual_std});
  return layer;
}

Var MlpLayer::Record(Recorder& r, Var x) const { return down.Record(r, RecordActivation(r.tape(), up.Record(r, x), swiglu)); }

Var RecordActivation(Tape& tape, Var x, bool swiglu) { return swiglu ? SwiGlu(tape, x) : Gelu(tape, x); }

}  // namespace conclave
