#include "trainer/hf_config.h"

#include <array>
#include <utility>

namespace conclave {
namespace {

struct FamilyName {
  HfFamily family;
  const char* type;
  const char* architecture;
};
constexpr std::array kFamilies = {
    FamilyName{HfFamily::kGpt2, "gpt2", "GPT2LMHeadModel"},
    FamilyName{HfFamily::kMixtral, "mixtral", "MixtralForCausalLM"},
    FamilyName{HfFamily::kOlmoe, "olmoe", "OlmoeForCausalLM"},
    FamilyName{HfFamily::kQwen2Moe, "qwen2_moe", "Qwen2MoeForCausalLM"},
    FamilyName{HfFamily::kQwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"},
};

// What a key that is missing means: the defaults of the family's config class in transformers.
struct RotaryDefaults {
  int64_t kv_heads;  // 0: as many as heads
  double rope_theta, norm_eps, balance_loss;
  int64_t dense_hidden;  // where some layers are dense; 0: none are
};

RotaryDefaults DefaultsOf(HfFamily family) {
  switch (family) {
    case HfFamily::kMixtral:
      return {8, 1e6, 1e-5, 0.001, 0};
    case HfFamily::kOlmoe:
      return {0, 1e4, 1e-5, 0.01, 0};
    case HfFamily::kQwen2Moe:
      return {16, 1e4, 1e-6, 0.001, 5632};
    default:
      return {4, 1e4, 1e-6, 0.001, 6144};
  }
}

// The keys of one object, with the first error kept.
class HfKeys {
 public:
  explicit HfKeys(const JsonValue& json) : json_(json) {}
  const absl::Status& status() const { return status_; }

  bool Has(const char* key) const {
    const JsonValue* value = json_.Find(key);
    return value != nullptr && value->kind != JsonValue::Kind::kNull;
  }
  int64_t Integer(const char* key) {
    if (!Has(key)) return Fail(key, "is missing"), 0;
    const auto value = json_.Find(key)->AsInt64();
    if (!value.ok()) return Fail(key, "is no integer"), 0;
    return *value;
  }
  int64_t Integer(const char* key, int64_t fallback) { return Has(key) ? Integer(key) : fallback; }
  double Real(const char* key, double fallback) {
    if (!Has(key)) return fallback;
    const auto value = json_.Find(key)->AsDouble();
    if (!value.ok()) return Fail(key, "is no number"), 0;
    return *value;
  }
  bool Flag(const char* key, bool fallback) {
    if (!Has(key)) return fallback;
    const JsonValue::Kind kind = json_.Find(key)->kind;
    if (kind != JsonValue::Kind::kTrue && kind != JsonValue::Kind::kFalse) Fail(key, "is neither true nor false");
    return kind == JsonValue::Kind::kTrue;
  }
  std::string Text(const char* key, const std::string& fallback) {
    if (!Has(key)) return fallback;
    if (json_.Find(key)->kind != JsonValue::Kind::kString) Fail(key, "is no string");
    return json_.Find(key)->text;
  }
  // Some versions write the number of experts under the one key, some under the other.
  int64_t Experts() { return Integer(Has("num_experts") ? "num_experts" : "num_local_experts"); }
  const JsonValue* Find(const char* key) const { return json_.Find(key); }
  void Fail(const char* key, const std::string& what) {
    if (status_.ok()) status_ = InvalidArgument("config.json: '%s' %s", key, what);
  }
  // What our model does not have.
  void Refuse(bool present, const char* key, const char* what) {
    if (present) Fail(key, absl::StrFormat("asks for %s, which moe_lm does not have", what));
  }

 private:
  const JsonValue& json_;
  absl::Status status_;
};

MoeLmConfig Gpt2Config(HfKeys& keys) {
  MoeLmConfig c;
  c.set_width(keys.Integer("n_embd"));
  c.set_layers(keys.Integer("n_layer"));
  c.set_heads(keys.Integer("n_head"));
  c.set_context(keys.Integer("n_positions"));
  c.set_dense_hidden(keys.Integer("n_inner", 4 * c.width()));
  c.set_norm_eps(keys.Real("layer_norm_epsilon", 1e-5));
  c.set_bias(true);
  c.set_tied_head(keys.Flag("tie_word_embeddings", true));
  const std::string activation = keys.Text("activation_function", "gelu_new");
  keys.Refuse(activation != "gelu_new" && activation != "gelu_pytorch_tanh", "activation_function", "another activation than gelu_new");
  keys.Refuse(!keys.Flag("scale_attn_weights", true), "scale_attn_weights", "unscaled attention");
  keys.Refuse(keys.Flag("scale_attn_by_inverse_layer_idx", false), "scale_attn_by_inverse_layer_idx", "attention scaled by layer");
  return c;
}

double RopeTheta(HfKeys& keys, double fallback) {
  const JsonValue* scaling = keys.Find("rope_scaling");
  keys.Refuse(scaling != nullptr && scaling->kind != JsonValue::Kind::kNull, "rope_scaling", "scaled rotary positions");
  const JsonValue* parameters = keys.Find("rope_parameters");
  if (parameters == nullptr || parameters->kind != JsonValue::Kind::kObject) return keys.Real("rope_theta", fallback);
  const JsonValue* type = parameters->Find("rope_type");
  keys.Refuse(type != nullptr && type->text != "default", "rope_parameters", "scaled rotary positions");
  const JsonValue* theta = parameters->Find("rope_theta");
  const auto value = theta == nullptr ? absl::StatusOr<double>(fallback) : theta->AsDouble();
  if (!value.ok()) keys.Fail("rope_parameters", "has a rope_theta that is no number");
  return value.ok() ? *value : 1;
}

// What Llama-like models share.
MoeLmConfig RotaryConfig(HfFamily family, HfKeys& keys) {
  const RotaryDefaults defaults = DefaultsOf(family);
  MoeLmConfig c;
  c.set_width(keys.Integer("hidden_size"));
  c.set_layers(keys.Integer("num_hidden_layers"));
  c.set_heads(keys.Integer("num_attention_heads"));
  c.set_kv_heads(keys.Integer("num_key_value_heads",
                              keys.Find("num_key_value_heads") != nullptr || defaults.kv_heads == 0 ? c.heads() : defaults.kv_heads));
  c.set_head_dim(keys.Integer("head_dim", 0));
  c.set_context(keys.Integer("max_position_embeddings"));
  c.set_position(MoeLmConfig::ROTARY);
  c.set_rope_theta(RopeTheta(keys, defaults.rope_theta));
  c.set_norm(MoeLmConfig::RMS_NORM);
  c.set_norm_eps(keys.Real("rms_norm_eps", defaults.norm_eps));
  c.set_activation(MoeLmConfig::SWIGLU);
  c.set_tied_head(keys.Flag("tie_word_embeddings", false));
  keys.Refuse(keys.Text("hidden_act", "silu") != "silu", "hidden_act", "another activation than silu");
  const bool switched = family == HfFamily::kQwen2Moe || family == HfFamily::kQwen3Moe;  // by a key of its own
  const bool sliding = keys.Has("sliding_window") && (!switched || keys.Flag("use_sliding_window", false));
  keys.Refuse(sliding, "sliding_window", "attention to a sliding window");
  c.mutable_moe()->set_top_k(keys.Integer("num_experts_per_tok"));
  c.mutable_moe()->set_balance_loss(keys.Real("router_aux_loss_coef", defaults.balance_loss));
  c.mutable_moe()->set_z_loss(0);
  return c;
}

void AddQwenLayers(HfFamily family, HfKeys& keys, MoeLmConfig* c) {
  MoeConfig& moe = *c->mutable_moe();
  moe.set_hidden(keys.Integer("moe_intermediate_size"));
  moe.set_renormalize(keys.Flag("norm_topk_prob", false));
  moe.set_every(keys.Integer("decoder_sparse_step", 1));
  c->set_dense_hidden(keys.Integer("intermediate_size", DefaultsOf(family).dense_hidden));
  const JsonValue* dense = keys.Find("mlp_only_layers");
  keys.Refuse(dense != nullptr && !dense->items.empty(), "mlp_only_layers", "dense layers by number");
}

absl::StatusOr<MoeLmConfig> ParseFamily(HfFamily family, HfKeys& keys) {
  MoeLmConfig c = family == HfFamily::kGpt2 ? Gpt2Config(keys) : RotaryConfig(family, keys);
  c.set_vocab_size(keys.Integer("vocab_size"));
  MoeConfig* moe = family == HfFamily::kGpt2 ? nullptr : c.mutable_moe();
  switch (family) {
    case HfFamily::kGpt2:
      break;
    case HfFamily::kMixtral:
      moe->set_experts(keys.Experts());
      moe->set_hidden(keys.Integer("intermediate_size"));
      moe->set_router(MoeConfig::SOFTMAX_POST);
      break;
    case HfFamily::kOlmoe:
      moe->set_experts(keys.Experts());
      moe->set_hidden(keys.Integer("intermediate_size"));
      moe->set_renormalize(keys.Flag("norm_topk_prob", false));
      c.set_qk_norm(MoeLmConfig::QK_NORM_WHOLE);
      keys.Refuse(keys.Has("clip_qkv"), "clip_qkv", "clipped queries, keys and values");
      keys.Refuse(keys.Flag("attention_bias", false), "attention_bias", "biases in this attention");
      break;
    case HfFamily::kQwen2Moe:
      moe->set_experts(keys.Experts());
      moe->set_shared_hidden(keys.Integer("shared_expert_intermediate_size"));
      moe->set_shared_gate(true);
      c.set_qkv_bias(keys.Flag("qkv_bias", true));
      AddQwenLayers(family, keys, &c);
      break;
    case HfFamily::kQwen3Moe:
      moe->set_experts(keys.Experts());
      c.set_qk_norm(MoeLmConfig::QK_NORM_PER_HEAD);
      keys.Refuse(keys.Flag("attention_bias", false), "attention_bias", "biases in this attention");
      AddQwenLayers(family, keys, &c);
      break;
  }
  RETURN_IF_ERROR(keys.status());
  return c;
}

// Lines of a JSON object, in order.
class HfWriter {
 public:
  void Text(const char* key, const std::string& value) { Line(key, "\"" + value + "\""); }
  void Integer(const char* key, int64_t value) { Line(key, absl::StrFormat("%d", value)); }
  void Real(const char* key, double value) { Line(key, absl::StrFormat("%.17g", value)); }
  void Flag(const char* key, bool value) { Line(key, value ? "true" : "false"); }
  void Line(const char* key, const std::string& value) {
    text_ += absl::StrFormat("%s  \"%s\": %s", text_.empty() ? "" : ",\n", key, value);
  }
  std::string Finish() const { return "{\n" + text_ + "\n}\n"; }

 private:
  std::string text_;
};

int64_t ExpertHidden(const MoeLmConfig& c) { return c.moe().hidden() > 0 ? c.moe().hidden() : 4 * c.width() / c.moe().top_k(); }

void WriteRotary(const MoeLmConfig& c, HfFamily family, HfWriter* json) {
  const MoeConfig& moe = c.moe();
  json->Integer("hidden_size", c.width());
  json->Integer("num_hidden_layers", c.layers());
  json->Integer("num_attention_heads", c.heads());
  json->Integer("num_key_value_heads", c.kv_heads() > 0 ? c.kv_heads() : c.heads());
  json->Integer("head_dim", c.head_dim() > 0 ? c.head_dim() : c.width() / c.heads());
  json->Integer("max_position_embeddings", c.context());
  json->Real("rope_theta", c.rope_theta());
  json->Line("rope_scaling", "null");
  json->Real("rms_norm_eps", c.norm_eps());
  json->Text("hidden_act", "silu");
  json->Line("sliding_window", "null");
  json->Flag("attention_bias", false);
  json->Integer("num_experts_per_tok", moe.top_k());
  json->Real("router_aux_loss_coef", moe.balance_loss());
  json->Integer(family == HfFamily::kMixtral ? "num_local_experts" : "num_experts", moe.experts());
  if (family == HfFamily::kMixtral || family == HfFamily::kOlmoe) {
    json->Integer("intermediate_size", ExpertHidden(c));
  } else {
    json->Integer("moe_intermediate_size", ExpertHidden(c));
    json->Integer("intermediate_size", c.dense_hidden() > 0 ? c.dense_hidden() : 4 * c.width());
    json->Integer("decoder_sparse_step", moe.every());
    json->Line("mlp_only_layers", "[]");
    json->Flag("use_sliding_window", false);
  }
  if (family != HfFamily::kMixtral) json->Flag("norm_topk_prob", moe.renormalize());
  if (family == HfFamily::kOlmoe) json->Line("clip_qkv", "null");
  if (family == HfFamily::kQwen2Moe) {
    json->Integer("shared_expert_intermediate_size", moe.shared_hidden());
    json->Flag("qkv_bias", c.qkv_bias());
  }
}

absl::Status CannotBe(const char* field, const std::string& why) {
  return FailedPrecondition("export: model.moe_lm.%s: %s; no Hugging Face model of %s has that", field, why,
                            "gpt2, mixtral, olmoe, qwen2_moe, qwen3_moe");
}

}  // namespace

const char* NameOf(HfFamily family) {
  for (const FamilyName& name : kFamilies) {
    if (name.family == family) return name.type;
  }
  return "";
}

absl::StatusOr<HfModel> ParseHfConfig(std::string_view json) {
  const auto value = ParseJson(json);
  if (!value.ok()) return Annotate(value.status(), "config.json");
  HfKeys keys(*value);
  const std::string type = keys.Text("model_type", "");
  RETURN_IF_ERROR(keys.status());
  for (const FamilyName& name : kFamilies) {
    if (name.type != type) continue;
    HfModel model{.family = name.family};
    ASSIGN_OR_RETURN(model.config, ParseFamily(name.family, keys));
    return model;
  }
  return InvalidArgument("config.json: model_type '%s' is not known; known: gpt2, mixtral, olmoe, qwen2_moe, qwen3_moe", type);
}

absl::StatusOr<HfFamily> FamilyFor(const MoeLmConfig& c) {
  if (c.embedding_parts() > 1) return CannotBe("embedding_parts", "an embedding in parts");
  if (!c.has_moe()) {
    if (c.position() != MoeLmConfig::LEARNED || c.norm() != MoeLmConfig::LAYER_NORM || c.activation() != MoeLmConfig::GELU || !c.bias()) {
      return CannotBe("moe", "a dense model without learned positions, layer norms, GELU and biases");
    }
    if ((c.kv_heads() > 0 && c.kv_heads() != c.heads()) || c.qk_norm() != MoeLmConfig::NO_QK_NORM || c.head_dim() > 0) {
      return CannotBe("kv_heads", "a dense model with shared or normalised keys");
    }
    return HfFamily::kGpt2;
  }
  const MoeConfig& moe = c.moe();
  if (c.position() != MoeLmConfig::ROTARY) return CannotBe("position", "a mixture with learned positions");
  if (c.norm() != MoeLmConfig::RMS_NORM) return CannotBe("norm", "a mixture with layer norms");
  if (c.activation() != MoeLmConfig::SWIGLU) return CannotBe("activation", "GELU experts");
  if (c.bias()) return CannotBe("bias", "a mixture with biases everywhere");
  if (moe.router() == MoeConfig::SIGMOID || moe.router() == MoeConfig::EXPERT_CHOICE || moe.bias_rate() > 0 || moe.groups() > 1 ||
      moe.routed_scale() != 1 || moe.has_capacity()) {
    return CannotBe("moe.router", "not a plain softmax router without capacity");
  }
  const bool plain = moe.shared_hidden() == 0 && moe.every() == 1;
  if (moe.router() == MoeConfig::SOFTMAX_POST) {
    if (plain && c.qk_norm() == MoeLmConfig::NO_QK_NORM && !c.qkv_bias()) return HfFamily::kMixtral;
    return CannotBe("moe.router", "SOFTMAX_POST with shared experts, dense layers, QK norm or biases");
  }
  if (c.qk_norm() == MoeLmConfig::QK_NORM_WHOLE && plain && !c.qkv_bias()) return HfFamily::kOlmoe;
  if (c.qk_norm() == MoeLmConfig::QK_NORM_PER_HEAD && moe.shared_hidden() == 0 && !c.qkv_bias()) return HfFamily::kQwen3Moe;
  if (c.qk_norm() == MoeLmConfig::NO_QK_NORM && moe.shared_hidden() > 0 && moe.shared_gate()) return HfFamily::kQwen2Moe;
  // The weights of one expert a token, or normalised ones, are those of SOFTMAX_POST.
  if (c.qk_norm() == MoeLmConfig::NO_QK_NORM && plain && moe.renormalize() && !c.qkv_bias()) return HfFamily::kMixtral;
  return CannotBe("qk_norm", "this combination of QK norm, shared expert and router");
}

std::string HfConfigJson(const MoeLmConfig& c, HfFamily family, int64_t vocabulary) {
  HfWriter json;
  for (const FamilyName& name : kFamilies) {
    if (name.family == family) json.Line("architectures", absl::StrFormat("[\"%s\"]", name.architecture));
  }
  json.Text("model_type", NameOf(family));
  json.Integer("vocab_size", vocabulary);
  json.Flag("tie_word_embeddings", c.tied_head());
  json.Text("torch_dtype", "float32");
  if (family == HfFamily::kGpt2) {
    json.Integer("n_embd", c.width());
    json.Integer("n_layer", c.layers());
    json.Integer("n_head", c.heads());
    json.Integer("n_positions", c.context());
    json.Integer("n_inner", c.dense_hidden() > 0 ? c.dense_hidden() : 4 * c.width());
    json.Real("layer_norm_epsilon", c.norm_eps());
    json.Text("activation_function", "gelu_new");
    json.Line("bos_token_id", "null");
    json.Line("eos_token_id", "null");
  } else {
    WriteRotary(c, family, &json);
  }
  return json.Finish();
}

}  // namespace conclave
