// Hugging Face models both ways, and dense models that become mixtures.
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "base/fault_file_system.h"
#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/hf_weights.h"
#include "trainer/safetensors.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

constexpr char kRotary[] =
    "vocab_size: 300 layers: 2 width: 8 heads: 4 context: 6 position: ROTARY norm: RMS_NORM activation: SWIGLU tied_head: false ";

// A model of every family.
const std::vector<std::pair<HfFamily, std::string>>& Families() {
  static const auto& families = *new std::vector<std::pair<HfFamily, std::string>>{
      {HfFamily::kGpt2, "vocab_size: 300 layers: 2 width: 8 heads: 4 context: 6 bias: true dense_hidden: 20"},
      {HfFamily::kMixtral, std::string(kRotary) + "kv_heads: 2 rope_theta: 1e6 moe { experts: 4 hidden: 6 router: SOFTMAX_POST }"},
      {HfFamily::kOlmoe, std::string(kRotary) + "qk_norm: QK_NORM_WHOLE moe { experts: 4 top_k: 3 hidden: 6 renormalize: false }"},
      {HfFamily::kQwen2Moe, std::string(kRotary) + "qkv_bias: true dense_hidden: 10 moe { experts: 4 hidden: 6 every: 2 shared_hidden: 10 "
                                                   "shared_gate: true renormalize: false }"},
      {HfFamily::kQwen3Moe, std::string(kRotary) + "kv_heads: 2 head_dim: 6 qk_norm: QK_NORM_PER_HEAD moe { experts: 4 hidden: 6 }"}};
  return families;
}

std::string ConfigText(const std::string& model) {
  return "name: \"lm\"\ntrainer { steps: 0 workers: 2 global_batch: 2 }\noptim { first_order { lr: 0.01 rule { sgd {} } } }\n"
         "data { sources { text { path: \"text.txt\" } } tokenizer { bytes {} } }\nmodel { moe_lm { init_std: 0.3 " +
         model + " } }\n";
}

// A folder with a little text, and runs on it.
struct HfLab {
  const FileSystem& files = RealFileSystem();
  std::string folder = JoinPath(testing::TempDir(), absl::StrFormat("hf_model-%d", getpid()));

  HfLab() {
    std::string text;
    for (int i = 0; i < 60; ++i) text += absl::StrFormat("line %d\n", i);
    EXPECT_TRUE(files.RemoveTree(folder).ok());
    EXPECT_TRUE(files.CreateDirs(folder).ok());
    EXPECT_TRUE(files.WriteAtomically(At("text.txt"), text).ok());
  }
  ~HfLab() { files.RemoveTree(folder).IgnoreError(); }
  std::string At(const std::string& name) const { return JoinPath(folder, name); }
  std::string From(const std::string& name) const { return "trainer.init_from.path=\"" + At(name) + "\""; }

  // Assembles a run of no steps, which leaves a checkpoint in lm/, on each rank, and calls `see` there.
  absl::Status Run(const std::string& model, std::vector<std::string> overrides, const std::function<absl::Status(Assembly&)>& see,
                   int ranks = 1) {
    overrides.push_back("data.sources[0].text.path=\"" + At("text.txt") + "\"");
    overrides.push_back("data.cache_dir=\"" + At("cache") + "\"");
    ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadText(ConfigText(model), overrides));
    RETURN_IF_ERROR(files.RemoveTree(At("lm")));
    const RunFolder run(&files, At("lm"));
    RETURN_IF_ERROR(run.Prepare(loaded, {}, overrides, false));
    const StopRequests stop(&files, "", 0);
    return RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly assembly;
      RETURN_IF_ERROR(Assemble(loaded.config, world, files, &assembly));
      ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                       Trainer::Create(&assembly, &world, {.files = &files, .folder = &run, .stop = &stop}));
      RETURN_IF_ERROR(trainer->Run().status());
      return see ? see(assembly) : absl::OkStatus();
    });
  }
};

// Logits of six tokens.
absl::Status LogitsOf(Assembly& a, std::vector<double>* out) {
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  Recorder recorder({.tape = &tape, .model = a.model.get(), .dispatch = &*a.dispatch});
  std::vector<int32_t> tokens = {5, 80, 3, 200, 80, 7};
  Batch batch;
  batch.sequences = 1;
  batch.tokens = Tensor(tokens.data(), {1, 6}, DType::kI32);
  recorder.Begin(&a.scheme->point(), &batch, true);
  ASSIGN_OR_RETURN(const Var logits, a.model->Logits(recorder));
  const auto values = tape.value(logits).span<float>();
  out->assign(values.begin(), values.end());
  return absl::OkStatus();
}

TEST(HfModel, ExportAndImportKeepEveryBit) {
  for (const auto& [family, model] : Families()) {
    SCOPED_TRACE(NameOf(family));
    HfLab lab;
    std::vector<double> exported, imported;
    ASSERT_EQ(lab.Run(model, {},
                      [&](Assembly& a) -> absl::Status {
                        RETURN_IF_ERROR(SaveHfModel(lab.files, lab.At("hf"), a.config.model().moe_lm(), a.scheme->point()));
                        return LogitsOf(a, &exported);
                      }),
              absl::OkStatus());
    const auto read = ReadHfModel(lab.files, lab.At("hf"));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->family, family);
    ASSERT_EQ(lab.Run(model, {lab.From("hf"), "seed=9"},
                      [&](Assembly& a) -> absl::Status {
                        RETURN_IF_ERROR(SaveHfModel(lab.files, lab.At("again"), a.config.model().moe_lm(), a.scheme->point()));
                        return LogitsOf(a, &imported);
                      }),
              absl::OkStatus());
    EXPECT_EQ(imported, exported);
    for (const char* name : {"config.json", "model.safetensors"}) {
      EXPECT_EQ(*lab.files.ReadAll(JoinPath(lab.At("hf"), name)), *lab.files.ReadAll(JoinPath(lab.At("again"), name))) << name;
    }
    // The config that the folder itself gives makes the same model; experts may be split.
    if (family == HfFamily::kGpt2) continue;
    std::vector<double> split;
    ASSERT_EQ(lab.Run(
                  model, {lab.From("hf"), "parallel.expert=2", "seed=9"},
                  [&](Assembly& a) -> absl::Status {
                    std::vector<double> mine;
                    RETURN_IF_ERROR(LogitsOf(a, &mine));
                    if (a.mesh->rank() == 1) split = mine;
                    return absl::OkStatus();
                  },
                  2),
              absl::OkStatus());
    EXPECT_EQ(split, exported);
  }
}

// Rewrites hf/model.safetensors: `edit` may change, drop or add tensors of f32 values.
using Tensors = std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>>;
void Rewrite(const HfLab& lab, const std::function<void(Tensors&)>& edit, const std::vector<std::string>& into = {"model.safetensors"}) {
  const FileSystem& files = lab.files;
  const std::string content = *files.ReadAll(lab.At("hf/model.safetensors"));
  const auto header = ReadSafetensorsHeader(**files.OpenForRead(lab.At("hf/model.safetensors")), "hf");
  ASSERT_TRUE(header.ok());
  Tensors tensors;
  for (const SafetensorsEntry& e : header->entries) {
    auto& [shape, values] = tensors[e.name];
    shape = e.shape;
    values.resize((e.end - e.begin) / 4);
    std::memcpy(values.data(), content.data() + header->data_begin + e.begin, e.end - e.begin);
  }
  edit(tensors);
  ASSERT_TRUE(files.RemoveFile(lab.At("hf/model.safetensors")).ok());
  std::string index;
  for (size_t f = 0; f < into.size(); ++f) {
    std::vector<SafetensorsEntry> entries;
    size_t i = 0;
    for (const auto& [name, tensor] : tensors) {
      if (i++ % into.size() != f) continue;
      entries.push_back({.name = name, .dtype = "F32", .shape = tensor.first});
      absl::StrAppendFormat(&index, "%s\"%s\": \"%s\"", index.empty() ? "" : ", ", name, into[f]);
    }
    const SafetensorsFile layout = LayOutSafetensors(std::move(entries));
    std::string out = SafetensorsHeader(layout);
    for (const SafetensorsEntry& e : layout.entries) {
      const std::vector<float>& values = tensors[e.name].second;
      out.append(reinterpret_cast<const char*>(values.data()), values.size() * 4);
    }
    ASSERT_TRUE(files.WriteAtomically(JoinPath(lab.At("hf"), into[f]), out).ok());
  }
  if (into.size() > 1) {
    ASSERT_TRUE(files.WriteAtomically(lab.At("hf/model.safetensors.index.json"), "{\"weight_map\": {" + index + "}}").ok());
  }
}

// A mixture in hf/; returns its logits.
std::vector<double> ExportMixtral(HfLab& lab) {
  std::vector<double> logits;
  EXPECT_EQ(lab.Run(Families()[1].second, {},
                    [&](Assembly& a) -> absl::Status {
                      RETURN_IF_ERROR(SaveHfModel(lab.files, lab.At("hf"), a.config.model().moe_lm(), a.scheme->point()));
                      return LogitsOf(a, &logits);
                    }),
            absl::OkStatus());
  return logits;
}

std::string ImportError(HfLab& lab, const std::vector<std::string>& more = {}) {
  std::vector<std::string> overrides = {lab.From("hf")};
  overrides.insert(overrides.end(), more.begin(), more.end());
  return std::string(lab.Run(Families()[1].second, overrides, nullptr).message());
}

TEST(HfModel, EveryTensorIsAccountedFor) {
  const std::string expert = "model.layers.1.block_sparse_moe.experts.2.w3.weight";
  const std::vector<std::pair<std::function<void(Tensors&)>, std::string>> cases = {
      {[&](Tensors& t) { t.erase(expert); }, "1 missing: " + expert},
      {[&](Tensors& t) {
         t["model.layers.1.extra.weight"] = {{2}, {1, 2}};
       },
       "1 unused: model.layers.1.extra.weight"},
      {[&](Tensors& t) {
         t[expert].first = {8, 6};
       },
       "does not fit the model; 1 misshapen: " + expert + ": [8, 6] in the file, [6, 8] here"},
      {[&](Tensors& t) {
         t["model.layers.1.block_sparse_moe.experts.4.w3.weight"] = t[expert];
         t.erase(expert);
       },
       "1 missing: " + expert + "; 1 unused: model.layers.1.block_sparse_moe.experts.4.w3.weight"},
  };
  for (const auto& [edit, message] : cases) {
    HfLab lab;
    ExportMixtral(lab);
    Rewrite(lab, edit);
    EXPECT_NE(ImportError(lab).find(message), std::string::npos) << ImportError(lab);
  }
}

// A model whose head is the embedding takes the files of one with a head of its own only where that head is the embedding again.
TEST(HfModel, AHeadIsNeverLost) {
  HfLab lab;
  ExportMixtral(lab);
  const std::vector<std::string> tied = {"model.moe_lm.tied_head=true"};
  const std::string lost = ImportError(lab, tied);
  EXPECT_NE(lost.find("1 unused: lm_head.weight (it is not the embedding"), std::string::npos) << lost;
  Rewrite(lab, [](Tensors& t) { t["lm_head.weight"] = t["model.embed_tokens.weight"]; });
  EXPECT_EQ(ImportError(lab, tied), "");
  Rewrite(lab, [](Tensors& t) { t.erase("lm_head.weight"); });
  EXPECT_NE(ImportError(lab, tied).find("1 missing: lm_head.weight"), std::string::npos) << ImportError(lab, tied);
  // Theirs is the embedding: that is no start for a head of its own.
  std::string config = *lab.files.ReadAll(lab.At("hf/config.json"));
  const std::string untied = "\"tie_word_embeddings\": false";
  config.replace(config.find(untied), untied.size(), "\"tie_word_embeddings\": true");
  ASSERT_TRUE(lab.files.WriteAtomically(lab.At("hf/config.json"), config).ok());
  EXPECT_EQ(ImportError(lab, tied), "");
  EXPECT_NE(ImportError(lab).find("tied_head is false, there true"), std::string::npos) << ImportError(lab);
}

// Of GPT-2 files that say nothing: tied, unless the head they have is another matrix.
TEST(HfModel, AHeadOfWhichTheConfigSaysNothing) {
  HfLab lab;
  ASSERT_EQ(lab.Run(Families()[0].second, {},
                    [&](Assembly& a) { return SaveHfModel(lab.files, lab.At("hf"), a.config.model().moe_lm(), a.scheme->point()); }),
            absl::OkStatus());
  std::string config = *lab.files.ReadAll(lab.At("hf/config.json"));
  const std::string line = "  \"tie_word_embeddings\": true,\n";
  ASSERT_NE(config.find(line), std::string::npos) << config;
  config.erase(config.find(line), line.size());
  ASSERT_TRUE(lab.files.WriteAtomically(lab.At("hf/config.json"), config).ok());
  const auto tied = [&] { return ReadHfModel(lab.files, lab.At("hf"))->config.tied_head(); };
  EXPECT_TRUE(tied());
  Rewrite(lab, [](Tensors& t) { t["lm_head.weight"] = t["transformer.wte.weight"]; });
  EXPECT_TRUE(tied());
  Rewrite(lab, [](Tensors& t) { t["lm_head.weight"].second[3] += 1; });
  EXPECT_FALSE(tied());
}

TEST(HfModel, OtherLayoutsOfTheSameWeights) {
  HfLab lab;
  const std::vector<double> want = ExportMixtral(lab);
  const auto imported = [&] {
    std::vector<double> logits;
    EXPECT_EQ(lab.Run(Families()[1].second, {lab.From("hf"), "seed=9"}, [&](Assembly& a) { return LogitsOf(a, &logits); }),
              absl::OkStatus());
    return logits;
  };
  Rewrite(lab, [](Tensors&) {},
          {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"});
  EXPECT_EQ(imported(), want);

  // All experts of a layer in one tensor, and the router beside them: the names that models of transformers 5 have in memory.
  HfLab fused;
  ExportMixtral(fused);
  Rewrite(fused, [](Tensors& t) {
    for (int layer = 0; layer < 2; ++layer) {
      const std::string prefix = absl::StrFormat("model.layers.%d.", layer), gate = prefix + "block_sparse_moe.gate.weight";
      t[prefix + "mlp.gate.weight"] = t[gate];
      t.erase(gate);
      auto& up = t[prefix + "mlp.experts.gate_up_proj"];
      auto& down = t[prefix + "mlp.experts.down_proj"];
      up.first = {4, 12, 8}, down.first = {4, 8, 6};
      for (int e = 0; e < 4; ++e) {
        for (const char* part : {"w1", "w3", "w2"}) {
          const std::string name = absl::StrFormat("%sblock_sparse_moe.experts.%d.%s.weight", prefix, e, part);
          auto& to = std::string_view(part) == "w2" ? down.second : up.second;
          to.insert(to.end(), t[name].second.begin(), t[name].second.end());
          t.erase(name);
        }
      }
    }
  });
  std::vector<double> logits;
  EXPECT_EQ(fused.Run(Families()[1].second, {fused.From("hf"), "seed=9"}, [&](Assembly& a) { return LogitsOf(a, &logits); }),
            absl::OkStatus());
  EXPECT_EQ(logits, want);
}

TEST(HfModel, OtherModelsAreRefused) {
  HfLab lab;
  ExportMixtral(lab);
  EXPECT_NE(ImportError(lab, {"model.moe_lm.rope_theta=500"}).find("rope_theta is 500, there 1000000"), std::string::npos);
  EXPECT_NE(ImportError(lab, {"model.moe_lm.moe.top_k=1"}).find("moe.top_k is 1, there 2"), std::string::npos);
  EXPECT_NE(ImportError(lab, {"model.moe_lm.moe.groups=2"}).find("moe.groups is 2, there 1"), std::string::npos);
  EXPECT_NE(ImportError(lab, {"model.moe_lm.moe.capacity.factor=1"}).find("moe.capacity is set, there none"), std::string::npos);
  EXPECT_NE(ImportError(lab, {"model.moe_lm.moe.selection=ROUND_ROBIN"}).find("moe.selection is ROUND_ROBIN, there BY_SCORE"),
            std::string::npos);
  const auto refused = [](const std::string& json, const std::string& reason) {
    const absl::Status status = ParseHfConfig(json).status();
    EXPECT_FALSE(status.ok());
    EXPECT_NE(std::string(status.message()).find(reason), std::string::npos) << status;
  };
  refused(R"({"model_type": "bert"})", "model_type 'bert' is not known; known: gpt2, mixtral, olmoe");
  refused(R"({"model_type": "gpt2", "n_embd": 8})", "'n_layer' is missing");
  refused(R"({"model_type": "gpt2", "n_embd": "x"})", "'n_embd' is no integer");
  const std::string mixtral =
      R"({"model_type": "mixtral", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 6,
          "num_experts_per_tok": 2, "num_local_experts": 4, "intermediate_size": 6, "vocab_size": 300, )";
  EXPECT_TRUE(ParseHfConfig(mixtral + R"("sliding_window": null})").ok());
  refused(mixtral + R"("sliding_window": 64})", "attention to a sliding window");
  refused(mixtral + R"("rope_scaling": {"type": "linear"}})", "scaled rotary positions");
  refused(mixtral + R"("hidden_act": "gelu"})", "another activation than silu");
}

// Config files leave out what is the default of the family's class in transformers (5.23 says the same as 4.x).
TEST(HfModel, MissingKeysAreTheFamilysDefaults) {
  struct Want {
    const char* type;
    int64_t kv_heads;
    double rope_theta, norm_eps, balance_loss;
    int64_t dense_hidden;
  };
  const std::vector<Want> wants = {{"mixtral", 8, 1e6, 1e-5, 0.001, 0},
                                   {"olmoe", 16, 1e4, 1e-5, 0.01, 0},
                                   {"qwen2_moe", 16, 1e4, 1e-6, 0.001, 5632},
                                   {"qwen3_moe", 4, 1e4, 1e-6, 0.001, 6144}};
  const auto json = [](const std::string& type, const std::string& more) {
    return "{\"model_type\": \"" + type +
           R"(", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 16, "max_position_embeddings": 6,
               "num_experts_per_tok": 2, "num_experts": 4, "vocab_size": 300, "moe_intermediate_size": 6,
               "shared_expert_intermediate_size": 6)" +
           more + "}";
  };
  for (const Want& want : wants) {
    SCOPED_TRACE(want.type);
    const bool qwen = want.dense_hidden > 0;
    const std::string width = qwen ? "" : ", \"intermediate_size\": 6";
    const auto model = ParseHfConfig(json(want.type, width));
    ASSERT_TRUE(model.ok()) << model.status();
    const MoeLmConfig& c = model->config;
    EXPECT_EQ(c.kv_heads(), want.kv_heads);
    EXPECT_EQ(c.rope_theta(), want.rope_theta);
    EXPECT_EQ(c.norm_eps(), want.norm_eps);
    EXPECT_EQ(c.moe().balance_loss(), want.balance_loss);
    EXPECT_EQ(c.dense_hidden(), want.dense_hidden);
    // A null is no missing key; a window counts for Qwen only where it is switched on.
    EXPECT_EQ(ParseHfConfig(json(want.type, width + ", \"num_key_value_heads\": null"))->config.kv_heads(), 16);
    EXPECT_EQ(ParseHfConfig(json(want.type, width + ", \"rope_parameters\": {\"rope_type\": \"default\"}"))->config.rope_theta(),
              want.rope_theta);
    EXPECT_EQ(ParseHfConfig(json(want.type, width + ", \"sliding_window\": 8")).ok(), qwen);
  }
}

// The disk is full while a newer model is written where one stands: that one stays whole.
TEST(HfModel, AnExportThatFailsLeavesTheOldOne) {
  HfLab lab;
  const absl::Status status = lab.Run(Families()[1].second, {}, [&](Assembly& a) -> absl::Status {
    FaultFileSystem disk;
    const auto save = [&] { return SaveHfModel(disk, "hf", a.config.model().moe_lm(), a.scheme->point()); };
    RETURN_IF_ERROR(save());
    const std::string before = *disk.ReadAll("hf/model.safetensors");
    a.scheme->point().block(a.model->parameters().Find("final_norm.weight")).Fill(3);
    disk.FailOperations(disk.operations() + 9, 1, ENOSPC);
    EXPECT_EQ(save().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(*disk.ReadAll("hf/model.safetensors"), before);
    EXPECT_EQ(*disk.ListDir("hf"), (std::vector<std::string>{"config.json", "model.safetensors"}));
    RETURN_IF_ERROR(save());
    EXPECT_NE(*disk.ReadAll("hf/model.safetensors"), before);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// What to do instead is said, and works: see Upcycling.
TEST(HfModel, IsNotUpcycledDirectly) {
  HfLab lab;
  ExportMixtral(lab);
  const std::string refused = ImportError(lab, {"trainer.init_from.upcycle=true"});
  EXPECT_NE(refused.find("is a Hugging Face model, and upcycle takes checkpoints of ours"), std::string::npos) << refused;
}

TEST(HfModel, WhatNoFamilyHasIsNotExported) {
  HfLab lab;
  const absl::Status status = lab.Run("vocab_size: 300 layers: 1 width: 8 heads: 2 context: 6 moe { experts: 4 }", {}, [&](Assembly& a) {
    return SaveHfModel(lab.files, lab.At("hf"), a.config.model().moe_lm(), a.scheme->point());
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("model.moe_lm.position"), std::string::npos) << status;
}

// Experts that are copies of a dense MLP give the dense model's logits.
TEST(Upcycling, StartsWithTheDenseModelsLogits) {
  const std::string shape = "vocab_size: 300 layers: 2 width: 8 heads: 4 context: 6 dense_hidden: 12 activation: SWIGLU ";
  HfLab lab;
  std::vector<double> dense;
  ASSERT_EQ(lab.Run(shape, {}, [&](Assembly& a) { return LogitsOf(a, &dense); }), absl::OkStatus());
  ASSERT_TRUE(lab.files.Rename(lab.At("lm"), lab.At("dense")).ok());
  for (const char* moe : {"moe { experts: 4 hidden: 12 }", "moe { experts: 4 hidden: 12 top_k: 3 every: 2 router: SIGMOID }"}) {
    for (const int ranks : {1, 2}) {
      std::vector<double> sparse;
      ASSERT_EQ(
          lab.Run(
              shape + moe, {lab.From("dense"), "trainer.init_from.upcycle=true", "seed=9", absl::StrFormat("parallel.expert=%d", ranks)},
              [&](Assembly& a) -> absl::Status {
                std::vector<double> mine;
                RETURN_IF_ERROR(LogitsOf(a, &mine));
                if (a.mesh->rank() == 0) sparse = mine;
                return absl::OkStatus();
              },
              ranks),
          absl::OkStatus());
      ASSERT_EQ(sparse.size(), dense.size());
      for (size_t i = 0; i < dense.size(); ++i) EXPECT_NEAR(sparse[i], dense[i], 1e-5 * std::max(1.0, std::abs(dense[i])));
    }
  }
  const absl::Status refused =
      lab.Run(shape + "moe { experts: 4 hidden: 12 renormalize: false }", {lab.From("dense"), "trainer.init_from.upcycle=true"}, nullptr);
  EXPECT_NE(std::string(refused.message()).find("weights of a token's experts sum to 1"), std::string::npos) << refused;
}

}  // namespace
}  // namespace conclave
