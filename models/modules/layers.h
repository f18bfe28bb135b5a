// The layers of a transformer: each registers its blocks once and records itself on a tape.
#ifndef CONCLAVE_MODELS_MODULES_LAYERS_H_
#define CONCLAVE_MODELS_MODULES_LAYERS_H_

#include <optional>
#include <string>

#include "models/recorder.h"
#include "proto/model.pb.h"
#include "tensor/ops/ops.h"

namespace conclave {

// y = x w^T + b. w: [out, in], named <name>.weight; b: [out], named <name>.bias, if wanted.
struct LinearLayer {
  BlockId weight, bias{-1};
  struct Options {
    int64_t in = 0, out = 0;
    bool bias = false;
    double std = 0.02;
  };
  static LinearLayer Register(ParameterSet& parameters, const std::string& name, const Options& options);
  // x: [n, in]; returns [n, out]. products: unset: the model's.
  Var Record(Recorder& r, Var x, std::optional<ProductPrecision> products = {}) const;
};

// Layer or RMS norm over the last dim.
struct NormLayer {
  BlockId gain, bias{-1};
  bool rms = false;
  double epsilon = 1e-5;
  struct Options {
    int64_t width = 0;
    bool rms = false;
    bool bias = false;
    double epsilon = 1e-5;
  };
  static NormLayer Register(ParameterSet& parameters, const std::string& name, const Options& options);
  Var Record(Recorder& r, Var x) const;  // [n, width]
};

// Multi-head self-attention, causal unless told otherwise, with one product for q | k | v. Groups of query heads share a head of keys and
// values (Ainslie et al., 2023); queries and keys may be normalised (Henry et al., 2020).
struct AttentionLayer {
  struct Options {
    int64_t width = 0;
    int heads = 1, kv_heads = 0;  // kv_heads 0: as many as heads
    int64_t head_dim = 0;         // 0: width / heads
    bool causal = true;           // false: every position sees every other; without a cache
    bool bias = false, qkv_bias = false;
    double rope_theta = 0;  // 0: no rotary embedding
    MoeLmConfig::QkNorm qk_norm = MoeLmConfig::NO_QK_NORM;
    double norm_epsilon = 1e-5;
    double std = 0.02, residual_std = 0.02;
    int layer = 0;  // index among the attention layers: its place in a cache
  };
  LinearLayer qkv, out;
  NormLayer q_norm, k_norm;
  Options options;  // without zeros
  static AttentionLayer Register(ParameterSet& parameters, const std::string& name, const Options& options);
  Var Record(Recorder& r, Var x, int64_t sequences) const;                       // x: [sequences * length, width]
  int64_t cache_row() const { return 2 * options.kv_heads * options.head_dim; }  // k | v

 private:
  Var Normalized(Recorder& r, Var projected) const;  // q | k | v with q and k normalised
};

// GELU: down(gelu(up x)); SwiGLU: down(silu(gate x) * up x), gate and up in one product.
struct MlpOptions {
  int64_t width = 0, hidden = 0;
  bool swiglu = false;
  bool bias = false;
  double std = 0.02, residual_std = 0.02;
  int64_t up_rows() const { return swiglu ? 2 * hidden : hidden; }
};
struct MlpLayer {
  LinearLayer up, down;
  bool swiglu = false;
  static MlpLayer Register(ParameterSet& parameters, const std::string& name, const MlpOptions& options);
  Var Record(Recorder& r, Var x) const;  // [n, width]
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_MODULES_LAYERS_H_
