// Which of their tensors is which of our blocks.
#include <array>
#include <cstdlib>

#include "base/strings.h"
#include "trainer/hf_weights.h"

namespace conclave {
namespace {

// What a block's name says: "blocks.<layer>.<part>", or the part alone.
struct BlockName {
  int64_t layer = -1;
  std::string part;
};

BlockName Split(const std::string& name) {
  constexpr std::string_view kBlocks = "blocks.";
  if (!name.starts_with(kBlocks)) return {.part = name};
  const size_t dot = name.find('.', kBlocks.size());
  return {std::atoll(name.c_str() + kBlocks.size()), name.substr(dot + 1)};
}

std::vector<HfPiece> Gpt2Pieces(const BlockName& block, int64_t rows) {
  const auto whole = [&](const std::string& name, bool transposed) {
    return std::vector<HfPiece>{{.name = "transformer." + name, .rows = rows, .transposed = transposed}};
  };
  if (block.part == "embedding.weight") return whole("wte.weight", false);
  if (block.part == "positions.weight") return whole("wpe.weight", false);
  if (block.part == "head.weight") return {{.name = "lm_head.weight", .rows = rows}};
  if (block.part == "final_norm.weight") return whole("ln_f.weight", false);
  if (block.part == "final_norm.bias") return whole("ln_f.bias", false);
  static constexpr std::pair<const char*, const char*> kParts[] = {{"attention_norm", "ln_1"},       {"attention.qkv", "attn.c_attn"},
                                                                   {"attention.out", "attn.c_proj"}, {"mlp_norm", "ln_2"},
                                                                   {"mlp.up", "mlp.c_fc"},           {"mlp.down", "mlp.c_proj"}};
  for (const auto& [ours, theirs] : kParts) {
    for (const char* kind : {".weight", ".bias"}) {
      if (block.part != std::string(ours) + kind) continue;
      const bool product = std::string_view(ours).find("norm") == std::string_view::npos && std::string_view(kind) == ".weight";
      return whole(absl::StrFormat("h.%d.%s%s", block.layer, theirs, kind), product);
    }
  }
  return {};
}

// gate | up in one block of ours, or down. `prefix`: of their tensors; names: of gate, up and down.
std::vector<HfPiece> MlpPieces(const std::string& prefix, bool up, int64_t rows, const std::array<const char*, 3>& names) {
  if (!up) return {{.name = prefix + names[2] + ".weight", .rows = rows}};
  return {{.name = prefix + names[0] + ".weight", .rows = rows / 2},
          {.name = prefix + names[1] + ".weight", .row = rows / 2, .rows = rows / 2}};
}

constexpr std::array<const char*, 3> kProjections = {"gate_proj", "up_proj", "down_proj"};

std::vector<HfPiece> ExpertPieces(HfFamily family, const BlockName& block, int64_t rows) {
  // "moe.experts.<e>.up.weight"
  const int64_t expert = std::atoll(block.part.c_str() + std::string_view("moe.experts.").size());
  const bool up = block.part.find(".up.") != std::string::npos, mixtral = family == HfFamily::kMixtral;
  const std::string layer = absl::StrFormat("model.layers.%d.", block.layer);
  const std::string prefix = layer + (mixtral ? "block_sparse_moe" : "mlp") + absl::StrFormat(".experts.%d.", expert);
  std::vector<HfPiece> pieces = MlpPieces(prefix, up, rows, mixtral ? std::array{"w1", "w3", "w2"} : kProjections);
  for (HfPiece& piece : pieces) {
    piece.fused = layer + (up ? "mlp.experts.gate_up_proj" : "mlp.experts.down_proj");
    piece.expert = expert, piece.skip = piece.row, piece.fused_rows = rows;
  }
  return pieces;
}

std::vector<HfPiece> AttentionPieces(const MoeLmConfig& c, const std::string& attention, const std::string& kind, int64_t rows) {
  const int64_t dim = c.head_dim() > 0 ? c.head_dim() : c.width() / c.heads(), q = c.heads() * dim, kv = (rows - q) / 2;
  return {{.name = attention + "q_proj." + kind, .rows = q},
          {.name = attention + "k_proj." + kind, .row = q, .rows = kv},
          {.name = attention + "v_proj." + kind, .row = q + kv, .rows = kv}};
}

std::vector<HfPiece> RotaryPieces(const MoeLmConfig& c, HfFamily family, const BlockName& block, int64_t rows) {
  const auto whole = [&](const std::string& name) { return std::vector<HfPiece>{{.name = name, .rows = rows}}; };
  if (block.part == "embedding.weight") return whole("model.embed_tokens.weight");
  if (block.part == "head.weight") return whole("lm_head.weight");
  if (block.part == "final_norm.weight") return whole("model.norm.weight");
  const std::string layer = absl::StrFormat("model.layers.%d.", block.layer), attention = layer + "self_attn.";
  if (block.part == "attention_norm.weight") return whole(layer + "input_layernorm.weight");
  if (block.part == "mlp_norm.weight") return whole(layer + "post_attention_layernorm.weight");
  if (block.part == "attention.qkv.weight") return AttentionPieces(c, attention, "weight", rows);
  if (block.part == "attention.qkv.bias") return AttentionPieces(c, attention, "bias", rows);
  if (block.part == "attention.q_norm.weight") return whole(attention + "q_norm.weight");
  if (block.part == "attention.k_norm.weight") return whole(attention + "k_norm.weight");
  if (block.part == "attention.out.weight") return whole(attention + "o_proj.weight");
  if (block.part == "mlp.up.weight") return MlpPieces(layer + "mlp.", true, rows, kProjections);
  if (block.part == "mlp.down.weight") return MlpPieces(layer + "mlp.", false, rows, kProjections);
  if (block.part == "moe.router.weight") {
    const std::string gate = layer + "mlp.gate.weight";  // Mixtral's beside fused experts only
    if (family != HfFamily::kMixtral) return whole(gate);
    return {{.name = layer + "block_sparse_moe.gate.weight", .rows = rows, .other = gate}};
  }
  if (block.part == "moe.shared.up.weight") return MlpPieces(layer + "mlp.shared_expert.", true, rows, kProjections);
  if (block.part == "moe.shared.down.weight") return MlpPieces(layer + "mlp.shared_expert.", false, rows, kProjections);
  if (block.part == "moe.shared_gate.weight") return whole(layer + "mlp.shared_expert_gate.weight");
  if (block.part.starts_with("moe.experts.")) return ExpertPieces(family, block, rows);
  return {};
}

}  // namespace

std::vector<HfPiece> HfPiecesOf(const MoeLmConfig& config, HfFamily family, const std::string& name, int64_t rows) {
  const BlockName block = Split(name);
  return family == HfFamily::kGpt2 ? Gpt2Pieces(block, rows) : RotaryPieces(config, family, block, rows);
}

}  // namespace conclave
