#include <cmath>

#include <gtest/gtest.h>
#include "absl/strings/str_format.h"

#include "models/routing_log.h"
#include "tests/models/one_leaf.h"

namespace conclave {
namespace {

std::vector<double> LogitsOf(const Model& model, const Batch& batch, DType dtype) {
  std::vector<double> logits;
  OnOneRank(model, dtype, [&](OneLeaf& leaf) -> absl::Status {
    leaf.Shake(0.2, 3);
    leaf.recorder().BeginEvaluation();
    leaf.recorder().Begin(&leaf.point(), &batch, true);
    ASSIGN_OR_RETURN(const Var out, model.Logits(leaf.recorder()));
    EXPECT_EQ(leaf.tape().value(out).dim(0), batch.sequences * batch.tokens.dim(1));
    EXPECT_EQ(leaf.tape().value(out).dim(1), model.vocabulary());
    logits = ValuesOf(leaf.tape().value(out));
    return absl::OkStatus();
  });
  return logits;
}

// Changing a token moves no logit before it, in its own sequence or in others.
TEST(MoeLm, LogitsAreCausal) {
  for (const char* position : {"LEARNED", "ROTARY"}) {
    const auto model = ModelFromText(
        std::string("moe_lm { vocab_size: 9 layers: 2 width: 8 heads: 2 context: 6 moe { experts: 4 } position: ") + position + " }");
    ASSERT_NE(model, nullptr);
    BatchBuffer buffer = RandomBatch(model->sample_shape(), 2, 9, DType::kF32);
    const std::vector<double> before = LogitsOf(*model, buffer.batch(), DType::kF32);
    int32_t& changed = buffer.batch().tokens.data<int32_t>()[6 + 3];  // token 3 of sequence 1
    changed = (changed + 1) % 9;
    const std::vector<double> after = LogitsOf(*model, buffer.batch(), DType::kF32);
    for (int64_t row = 0; row < 12; ++row) {
      const bool same = std::equal(before.begin() + row * 9, before.begin() + (row + 1) * 9, after.begin() + row * 9);
      EXPECT_EQ(same, row < 6 + 3) << position << " row " << row;
    }
  }
}

// With small weights every token is nearly equally likely.
TEST(MoeLm, StartsAtTheUniformLoss) {
  const auto model = ModelFromText("moe_lm { vocab_size: 50 layers: 2 width: 32 heads: 4 context: 8 moe { experts: 4 } }");
  ASSERT_NE(model, nullptr);
  BatchBuffer buffer = RandomBatch(model->sample_shape(), 4, 50, DType::kF32);
  OnOneRank(*model, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
    RETURN_IF_ERROR(leaf.Objective(buffer.batch()).status());
    EXPECT_NEAR(leaf.Term(0) / buffer.batch().count, std::log(50.0), 0.1);
    return absl::OkStatus();
  });
}

// A model whose mixtures have one expert gives the loss of the dense model with the same weights, to the bit, and its gradients.
TEST(MoeLm, OneExpertIsTheDenseModel) {
  const std::string shape = "moe_lm { vocab_size: 13 layers: 2 width: 12 heads: 2 context: 7 bias: true ";
  const auto mixture = ModelFromText(shape + "moe { experts: 1 top_k: 1 hidden: 20 balance_loss: 0 z_loss: 0 } }");
  const auto dense = ModelFromText(shape + "dense_hidden: 20 }");
  ASSERT_TRUE(mixture != nullptr && dense != nullptr);
  BatchBuffer buffer = RandomBatch(dense->sample_shape(), 3, 13, DType::kF32);
  std::map<std::string, std::vector<double>> weights, gradients;
  double loss = 0;
  const auto dense_name = [](std::string name) {
    if (const size_t at = name.find(".moe.experts.0"); at != std::string::npos) name.replace(at, 14, ".mlp");
    return name;
  };
  OnOneRank(*mixture, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
    leaf.Shake(0.3, 3);
    ASSIGN_OR_RETURN(loss, leaf.Differentiate(buffer.batch()));
    for (int b = 0; b < mixture->parameters().size(); ++b) {
      const std::string name = dense_name(mixture->parameters()[{b}].name);
      weights[name] = ValuesOf(leaf.point().block({b}));
      gradients[name] = ValuesOf(leaf.gradient().block({b}));
    }
    return absl::OkStatus();
  });
  OnOneRank(*dense, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
    for (int b = 0; b < dense->parameters().size(); ++b) {
      std::ranges::copy(weights.at(dense->parameters()[{b}].name), leaf.point().block({b}).data<float>());
    }
    ASSIGN_OR_RETURN(const double dense_loss, leaf.Differentiate(buffer.batch()));
    EXPECT_EQ(dense_loss, loss);
    for (int b = 0; b < dense->parameters().size(); ++b) {
      const std::string& name = dense->parameters()[{b}].name;
      EXPECT_EQ(ValuesOf(leaf.gradient().block({b})), gradients.at(name)) << name;
    }
    return absl::OkStatus();
  });
}

// Terms: loads of every layer sum to tokens * k, the balance loss of one expert is exactly 1 a layer.
TEST(MoeLm, CountsEveryRoutedSlot) {
  const auto model = ModelFromText("moe_lm { vocab_size: 9 layers: 3 width: 8 heads: 2 context: 5 moe { experts: 4 top_k: 3 every: 2 } }");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->experts(), std::vector<int>{4});  // block 1 of 0, 1, 2
  EXPECT_EQ(model->counters(), 4);
  BatchBuffer buffer = RandomBatch(model->sample_shape(), 4, 9, DType::kF32);
  OnOneRank(*model, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
    RETURN_IF_ERROR(leaf.Objective(buffer.batch()).status());
    int64_t total = 0;
    for (const int64_t c : leaf.recorder().counters()) total += c;
    EXPECT_EQ(total, 4 * 5 * 3);
    return absl::OkStatus();
  });
  const auto single = ModelFromText("moe_lm { vocab_size: 9 layers: 3 width: 8 heads: 2 context: 5 moe { experts: 1 top_k: 1 } }");
  ASSERT_NE(single, nullptr);
  OnOneRank(*single, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
    RETURN_IF_ERROR(leaf.Objective(buffer.batch()).status());
    EXPECT_NEAR(leaf.Term(1), 3.0, 1e-6);  // 1 for each of 3 layers, of f32 probabilities
    return absl::OkStatus();
  });
}

// Replayed routing is used by backward too where it records blocks again, last layer first: the gradients of a run that kept its blocks.
TEST(MoeLm, ReplayedRoutingServesBackwardThatRecordsAgain) {
  const auto model = ModelFromText("moe_lm { vocab_size: 9 layers: 3 width: 8 heads: 2 context: 5 moe { experts: 4 top_k: 2 } }");
  ASSERT_NE(model, nullptr);
  BatchBuffer buffer = RandomBatch(model->sample_shape(), 2, 9, DType::kF32);
  RoutingLog::Passes passes{.tokens = {10, 10}};
  for (int i = 0; i < 2 * 10 * 3; ++i) passes.ids.insert(passes.ids.end(), {i % 4, (i + 1 + i / 20) % 4});
  std::map<bool, std::vector<std::vector<double>>> replayed;
  std::vector<double> chosen;
  for (const bool recompute : {false, true}) {
    OnOneRank(
        *model, DType::kF32,
        [&](OneLeaf& leaf) -> absl::Status {
          leaf.Shake(0.3, 5);
          RETURN_IF_ERROR(leaf.Differentiate(buffer.batch()).status());
          chosen = ValuesOf(leaf.gradient().flat());
          RoutingLog log = RoutingLog::OfPasses(passes, 3, 2);
          leaf.recorder().UseRoutingLog(&log);
          for (int pass = 0; pass < 2; ++pass) {
            RETURN_IF_ERROR(leaf.Differentiate(buffer.batch()).status());
            replayed[recompute].push_back(ValuesOf(leaf.gradient().flat()));
          }
          return log.ExpectEnd();
        },
        recompute);
  }
  EXPECT_EQ(replayed[true], replayed[false]);
  EXPECT_NE(replayed[true][0], replayed[true][1]);
  EXPECT_NE(replayed[true][0], chosen);
}

// Shared heads of keys and values are copies of them: the same logits as attention with as many heads whose weights repeat.
TEST(MoeLm, GroupedQueriesAreRepeatedKeysAndValues) {
  const std::string shape = "moe_lm { vocab_size: 9 layers: 1 width: 8 heads: 4 context: 6 position: ROTARY ";
  const auto grouped = ModelFromText(shape + "kv_heads: 2 }"), whole = ModelFromText(shape + "}");
  ASSERT_TRUE(grouped != nullptr && whole != nullptr);
  BatchBuffer buffer = RandomBatch(whole->sample_shape(), 2, 9, DType::kF64);
  std::vector<double> got, want;
  std::map<std::string, std::vector<double>> weights;
  const auto logits = [&](OneLeaf& leaf, const Model& model, std::vector<double>* out) -> absl::Status {
    leaf.recorder().BeginEvaluation();
    leaf.recorder().Begin(&leaf.point(), &buffer.batch(), true);
    ASSIGN_OR_RETURN(const Var y, model.Logits(leaf.recorder()));
    *out = ValuesOf(leaf.tape().value(y));
    return absl::OkStatus();
  };
  OnOneRank(*grouped, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    leaf.Shake(0.4, 3);
    for (int b = 0; b < grouped->parameters().size(); ++b) {
      weights[grouped->parameters()[{b}].name] = ValuesOf(leaf.point().block({b}));
    }
    return logits(leaf, *grouped, &got);
  });
  // q: 8 rows; k and v: 2 heads of 2 rows, each twice.
  std::vector<double>& qkv = weights["blocks.0.attention.qkv.weight"];
  ASSERT_EQ(qkv.size(), 16u * 8);
  std::vector<double> repeated(qkv.begin(), qkv.begin() + 8 * 8);
  for (const int head : {4, 4, 5, 5, 6, 6, 7, 7}) repeated.insert(repeated.end(), qkv.begin() + head * 16, qkv.begin() + (head + 1) * 16);
  qkv = repeated;
  OnOneRank(*whole, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
    for (int b = 0; b < whole->parameters().size(); ++b) {
      std::ranges::copy(weights.at(whole->parameters()[{b}].name), leaf.point().block({b}).data<double>());
    }
    return logits(leaf, *whole, &want);
  });
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-12);
}

// A normalised query does not depend on the scale of what it is projected with.
TEST(MoeLm, QkNormTakesOutTheScale) {
  for (const char* kind : {"QK_NORM_WHOLE", "QK_NORM_PER_HEAD"}) {
    const auto model =
        ModelFromText(std::string("moe_lm { vocab_size: 9 layers: 1 width: 8 heads: 2 context: 6 norm_eps: 1e-30 qk_norm: ") + kind + " }");
    ASSERT_NE(model, nullptr);
    BatchBuffer buffer = RandomBatch(model->sample_shape(), 2, 9, DType::kF64);
    std::vector<double> logits[2];
    for (int scaled = 0; scaled < 2; ++scaled) {
      OnOneRank(*model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
        leaf.Shake(0.4, 3);
        const std::span<double> qkv = leaf.point().block(model->parameters().Find("blocks.0.attention.qkv.weight")).span<double>();
        for (double& v : qkv.first(16 * 8)) v *= scaled == 1 ? 7 : 1;  // q and k, not v
        leaf.recorder().Begin(&leaf.point(), &buffer.batch(), true);
        ASSIGN_OR_RETURN(const Var y, model->Logits(leaf.recorder()));
        logits[scaled] = ValuesOf(leaf.tape().value(y));
        return absl::OkStatus();
      });
    }
    for (size_t i = 0; i < logits[0].size(); ++i) EXPECT_NEAR(logits[0][i], logits[1][i], 1e-10);
  }
}

// Buffers move only through UpdateBuffers, and then the routing follows them.
TEST(MoeLm, TheBalanceBiasIsABuffer) {
  const auto model = ModelFromText(
      "moe_lm { vocab_size: 9 layers: 2 width: 8 heads: 2 context: 5 moe { experts: 4 top_k: 1 router: SIGMOID bias_rate: 0.5 every: 2 } "
      "}");
  ASSERT_NE(model, nullptr);
  ASSERT_EQ(model->buffers().size(), 1u);
  EXPECT_EQ(model->buffers()[0].name, "blocks.1.moe.router.balance_bias");
  EXPECT_EQ(model->buffers()[0].elements, 4);
  BatchBuffer buffer = RandomBatch(model->sample_shape(), 4, 9, DType::kF32);
  OnOneRank(*model, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
    RETURN_IF_ERROR(leaf.Objective(buffer.batch()).status());
    const std::vector<int64_t> before(leaf.recorder().counters().begin(), leaf.recorder().counters().end());
    for (const float b : leaf.buffers().values(0)) EXPECT_EQ(b, 0);
    model->UpdateBuffers(before, &leaf.buffers());
    for (int e = 0; e < 4; ++e) EXPECT_EQ(leaf.buffers().values(0)[e], before[e] < 5 ? 0.5f : before[e] > 5 ? -0.5f : 0.0f);
    RETURN_IF_ERROR(leaf.Objective(buffer.batch()).status());
    const std::vector<int64_t> after(leaf.recorder().counters().begin(), leaf.recorder().counters().end());
    EXPECT_NE(after, before);  // sigmoids of small logits are all near a half
    return absl::OkStatus();
  });
}

// A sequence fed in pieces through a cache has the logits of the whole sequence, to the bit, beside sequences of other lengths.
TEST(MoeLm, CachedLogitsAreTheOrdinaryOnes) {
  constexpr int kLength = 80;  // beyond a tile of the attention kernel
  for (const char* kind : {"position: ROTARY kv_heads: 2 qk_norm: QK_NORM_WHOLE moe { experts: 4 }", "position: LEARNED"}) {
    SCOPED_TRACE(kind);
    const auto model = ModelFromText(absl::StrFormat("moe_lm { vocab_size: 9 layers: 2 width: 8 heads: 4 context: %d %s }", kLength, kind));
    ASSERT_NE(model, nullptr);
    BatchBuffer buffer = RandomBatch(model->sample_shape(), 2, 9, DType::kF32);
    const std::vector<double> want = LogitsOf(*model, buffer.batch(), DType::kF32);
    OnOneRank(*model, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
      leaf.Shake(0.2, 3);
      KvCache cache({.shape = model->cache_shape(), .slots = 2, .capacity = kLength});
      Arena arena;
      Tape tape(&arena, /*gradients=*/false);
      Recorder recorder({.tape = &tape, .model = model.get(), .dispatch = &leaf.dispatch(), .cache = &cache});
      // Feeds tokens first .. first + count - 1 of the sequences named.
      const auto feed = [&](std::vector<int> slots, const std::vector<int>& first, int count) -> absl::Status {
        tape.Reset();
        arena.Reset();
        std::vector<int32_t> ids;
        for (size_t s = 0; s < slots.size(); ++s) {
          const int32_t* tokens = buffer.batch().tokens.data<int32_t>() + slots[s] * kLength + first[s];
          ids.insert(ids.end(), tokens, tokens + count);
        }
        Batch batch;
        batch.sequences = static_cast<int64_t>(slots.size());
        batch.tokens = Tensor(ids.data(), {batch.sequences, count}, DType::kI32);
        cache.Begin(slots);
        recorder.Begin(&leaf.point(), &batch, true);
        ASSIGN_OR_RETURN(const Var logits, model->Logits(recorder));
        cache.Commit(count);
        const std::vector<double> got = ValuesOf(tape.value(logits));
        for (size_t s = 0; s < slots.size(); ++s) {
          const auto begin = want.begin() + (slots[s] * kLength + first[s]) * 9;
          EXPECT_EQ(std::vector<double>(got.begin() + s * count * 9, got.begin() + (s + 1) * count * 9),
                    std::vector<double>(begin, begin + count * 9))
              << "sequence " << slots[s] << " from " << first[s];
        }
        return absl::OkStatus();
      };
      RETURN_IF_ERROR(feed({0}, {0}, 61));
      RETURN_IF_ERROR(feed({1}, {0}, 3));
      for (int i = 0; i < 19; ++i) RETURN_IF_ERROR(feed({1, 0}, {3 + i, 61 + i}, 1));
      RETURN_IF_ERROR(feed({1}, {22}, 50));
      return feed({}, {}, 1);
    });
  }
  EXPECT_EQ(ModelFromText("moe_lm { vocab_size: 9 moe { experts: 4 router: EXPERT_CHOICE } }")->cache_shape().layers, 0);
}

// Experts on two ranks, all tokens on one: the same loss bits, and the rank without tokens gets through.
TEST(MoeLm, ARankWithoutTokens) {
  const auto model =
      ModelFromText("moe_lm { vocab_size: 9 layers: 2 width: 8 heads: 2 context: 5 moe { experts: 4 balance_scope: GLOBAL } }");
  ASSERT_NE(model, nullptr);
  BatchBuffer buffer = RandomBatch(model->sample_shape(), 3, 9, DType::kF32), empty(model->sample_shape(), 0, DType::kF32);
  double alone = 0, together = 0;
  OnOneRank(*model, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
    ASSIGN_OR_RETURN(alone, leaf.Objective(buffer.batch()));
    return absl::OkStatus();
  });
  const absl::Status status = RunRanks(2, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<OneLeaf> leaf, OneLeaf::Make(model.get(), world, DType::kF32));
    leaf->recorder().BeginEvaluation();
    const Batch& batch = world.rank() == 0 ? buffer.batch() : empty.Resize(0);
    leaf->recorder().Begin(&leaf->point(), &batch, world.rank() == 0);
    RETURN_IF_ERROR(model->Record(leaf->recorder()));
    if (world.rank() == 0) {
      for (size_t t = 0; t < model->terms().size(); ++t) {
        const TermSpec& term = model->terms()[t];
        if (term.objective) together += term.coefficient * leaf->Term(static_cast<int>(t)) * (t == 0 ? 1.0 / batch.count : 1.0);
      }
    }
    std::vector<Seed> seeds;
    for (const Recorder::Recorded& recorded : leaf->recorder().recorded()) seeds.push_back({recorded.value, 1.0});
    return leaf->tape().Backward(seeds, [](BlockId) { return absl::OkStatus(); });
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(together, alone);
}

TEST(MoeLm, RefusesWhatMakesNoModel) {
  const auto refused = [](const std::string& text, int64_t vocabulary, const std::string& reason) {
    const absl::Status status = MakeModel(ParseModelConfig(text), {.vocabulary = vocabulary}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(status.message()).find(reason), std::string::npos) << status;
  };
  refused("moe_lm {}", 0, "vocab_size: not set");
  refused("moe_lm { vocab_size: 100 }", 257, "the tokenizer makes ids up to 256");
  refused("moe_lm { vocab_size: 9 width: 10 heads: 3 }", 0, "model.moe_lm.heads: width 10 is not divisible by 3 heads");
  refused("moe_lm { vocab_size: 9 width: 9 heads: 3 position: ROTARY }", 0, "ROTARY turns pairs of coordinates, but a head has 3");
  refused("moe_lm { vocab_size: 9 moe { experts: 2 top_k: 3 } }", 0, "top_k 3 is more than the 2 experts");
  refused("moe_lm { vocab_size: 9 heads: 4 kv_heads: 3 }", 0, "4 query heads cannot be shared out evenly among 3 kv_heads");
  refused("moe_lm { vocab_size: 9 moe { experts: 6 groups: 4 } }", 0, "6 experts cannot be cut into 4 equal groups");
  refused("moe_lm { vocab_size: 9 moe { experts: 6 groups: 2 group_top_k: 3 } }", 0, "group_top_k 3 is more than the 2 groups");
  refused("moe_lm { vocab_size: 9 moe { experts: 6 groups: 3 top_k: 3 } }", 0, "top_k 3 is more than the 2 experts of 1 groups");
  refused("moe_lm { vocab_size: 9 moe { experts: 6 groups: 3 group_score_top: 3 } }", 0, "sums its 3 largest scores, but it has 2 experts");
  refused("moe_lm { vocab_size: 9 moe { experts: 4 router: EXPERT_CHOICE bias_rate: 1 } }", 0, "bias_rate has no meaning");
  refused("", 0, "no kind is set");
}

}  // namespace
}  // namespace conclave
