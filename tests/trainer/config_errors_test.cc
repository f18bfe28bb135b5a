// A corpus of bad configs: the text, and every error it must lead to, in order. Each text ends in nothing but its own faults.
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/strings.h"
#include "tests/trainer/config_fixture.h"

namespace conclave {
namespace {

struct BadConfig {
  std::string text;
  std::vector<std::string> errors;  // without "x.textproto:"
};

void PrintTo(const BadConfig& config, std::ostream* out) { *out << config.text; }

std::string Valid(const std::string& rest) { return kSmallConfig + rest; }

// The small config without its line for `block`.
std::string Without(const std::string& block, const std::string& rest) {
  std::string text;
  for (const std::string& line : SplitString(kSmallConfig, '\n')) {
    if (!line.empty() && line.rfind(block, 0) != 0) text += line + "\n";
  }
  return text + rest;
}

// The lines "x.textproto:line:column: error: ..." of a failed load.
std::vector<std::string> ErrorLines(const absl::Status& status) {
  std::vector<std::string> lines;
  for (const std::string& line : SplitString(std::string(status.message()), '\n')) {
    if (line.rfind("x.textproto:", 0) == 0) lines.push_back(line.substr(12));
  }
  return lines;
}

class BadConfigTest : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, ReportsExactlyItsFaults) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(GetParam().text);
  ASSERT_FALSE(loaded.ok()) << GetParam().text;
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorLines(loaded.status()), GetParam().errors) << loaded.status().message();
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadConfigTest,
    testing::Values(BadConfig{Valid("sede: 3"), {"6:1: error: Experiment has no field 'sede'; did you mean 'seed'?"}},
                    BadConfig{Valid("lr: 3"),
                              {"6:1: error: Experiment has no field 'lr'; known are: name, seed, trainer, comm, parallel, optim, model, "
                               "data, checkpoint, observe"}},
                    BadConfig{Valid("clip_norm: 1"), {"6:1: error: Experiment has no field 'clip_norm'; it belongs into 'optim { ... }'"}},
                    BadConfig{Valid("modle { }"), {"6:1: error: Experiment has no field 'modle'; did you mean 'model'?"}},
                    BadConfig{Valid("zebra { a { b: [1, 2] } }"),
                              {"6:1: error: Experiment has no field 'zebra'; known are: name, seed, trainer, comm, parallel, optim, model, "
                               "data, checkpoint, observe"}},
                    BadConfig{Valid("zebra 1"),
                              {"6:1: error: Experiment has no field 'zebra'; known are: name, seed, trainer, comm, parallel, optim, model, "
                               "data, checkpoint, observe"}},
                    BadConfig{Valid("zebra: -4 sede: 1"),
                              {"6:1: error: Experiment has no field 'zebra'; known are: name, seed, trainer, comm, parallel, optim, model, "
                               "data, checkpoint, observe",
                               "6:11: error: Experiment has no field 'sede'; did you mean 'seed'?"}},
                    BadConfig{Valid("observe { metrics: true, progres: BAR; }"),
                              {"6:26: error: Observe has no field 'progres'; did you mean 'progress'?"}},
                    BadConfig{Valid(R"(init_from { path: "x" })"),
                              {"6:1: error: Experiment has no field 'init_from'; it belongs into 'trainer { ... }'"}},
                    BadConfig{Valid("checkpoint { every: 5 kep_last: 3 every: 6 }"),
                              {"6:23: error: Checkpoint has no field 'kep_last'; did you mean 'keep_last'?",
                               "6:35: error: 'every' is set twice in this block; first at 6:14"}},
                    BadConfig{Valid("seed: 1 seed: 2"), {"6:9: error: 'seed' is set twice in this block; first at 6:1"}},
                    BadConfig{Valid(R"(comm { include: "a" })"),
                              {R"(6:8: error: Comm has no field 'include'; an include stands outside all blocks, as include: "FILE")"}},
                    BadConfig{Valid("checkpoint { keep: 3 best: true }"),
                              {"6:14: error: Checkpoint has no field 'keep'; did you mean 'keep_last'?",
                               "6:22: error: Checkpoint has no field 'best'; known are: every, keep_last, keep_every, keep_best, dir, "
                               "fresh_start, max_failed_saves"}},
                    BadConfig{Without("model", "model { moe_lm { experts: 3 } }"),
                              {"5:18: error: MoeLm has no field 'experts'; it belongs into 'moe { ... }'"}},
                    BadConfig{Without("model", R"(model { linear_vae { data_dim: "a" heads: 3 } })"),
                              {R"(5:32: error: 'data_dim' expects an integer, got "a")",
                               "5:36: error: LinearVae has no field 'heads'; known are: data_dim, latent_dim, decoder_variance, "
                               "learn_decoder_variance, prior_variance, beta, analytic_kl, samples, init_std"}},
                    BadConfig{Without("model", "model { moe_lm { moe { experts: 4 balance: 0 } } }"),
                              {"5:35: error: Moe has no field 'balance'; did you mean 'balance_loss'?"}},
                    BadConfig{Without("optim", "optim { first_order { lrr: 0.1 rule { adamw { beta2: 1 eps: 0 } } } }"),
                              {"5:23: error: FirstOrder has no field 'lrr'; did you mean 'lr'?",
                               "5:54: error: 'beta2' must be in [0, 1), got 1", "5:61: error: 'eps' must be > 0, got 0"}},
                    BadConfig{Without("optim", "optim { first_order { lr: 0.1 rule { sgd {} adamw {} } } }"),
                              {"5:45: error: 'adamw' excludes 'sgd' set at 5:38: Rule takes one 'kind'"}},
                    BadConfig{Without("optim", "optim { first_order { lr: 0.1 rule { sgd {} } } gda { gamma: 1 } }"),
                              {"5:49: error: 'gda' excludes 'first_order' set at 5:9: Optim takes one 'scheme'"}}));

INSTANTIATE_TEST_SUITE_P(
    Values, BadConfigTest,
    testing::Values(
        BadConfig{Valid(R"(seed: "three")"), {R"(6:7: error: 'seed' expects a non-negative integer, got "three")"}},
        BadConfig{Valid("seed: 010"), {"6:7: error: '010' starts with 0 and would be read as an octal number; write 10"}},
        BadConfig{Valid("seed: -1"), {"6:7: error: 'seed' must not be negative, got -1"}},
        BadConfig{Valid("seed: 1e3"), {"6:7: error: 'seed' expects a non-negative integer, got 1e3; write 1000"}},
        BadConfig{Valid("seed: 1.5"), {"6:7: error: 'seed' expects a non-negative integer, got 1.5"}},
        BadConfig{Valid("seed: 0x1G"), {"6:7: error: 'seed' expects a non-negative integer, got 0x1G"}},
        BadConfig{Valid("seed: 99999999999999999999999"), {"6:7: error: 99999999999999999999999 does not fit 'seed' (uint64)"}},
        BadConfig{Valid("comm { transport: MPPI }"), {"6:19: error: 'transport' has no value 'MPPI'; did you mean 'MPI'?"}},
        BadConfig{Valid("comm { transport: mpi }"), {"6:19: error: 'transport' has no value 'mpi'; did you mean 'MPI'?"}},
        BadConfig{Valid("comm { transport: 1 }"), {"6:19: error: 'transport' expects one of AUTO, MPI, LOOPBACK, got 1"}},
        BadConfig{Valid(R"(comm { transport: "MPI" })"), {R"(6:19: error: 'transport' expects one of AUTO, MPI, LOOPBACK, got "MPI")"}},
        BadConfig{Valid("comm {\n\ttransport: TCP }"), {"7:13: error: 'transport' has no value 'TCP'; known are: AUTO, MPI, LOOPBACK"}},
        BadConfig{Valid("comm { bucket_bytes: 17 }"), {"6:22: error: 'bucket_bytes' must be in [4096, 1073741824] bytes, got 17"}},
        BadConfig{Valid("comm { timeout_seconds: inf }"), {"6:25: error: 'timeout_seconds' must be finite, got inf"}},
        BadConfig{Valid("comm { timeout_seconds: -nan }"), {"6:25: error: 'timeout_seconds' must be finite, got -nan"}},
        BadConfig{Valid("comm { timeout_seconds: 0 }"), {"6:25: error: 'timeout_seconds' must be in (0, 86400] s, got 0"}},
        BadConfig{Valid("comm { timeout_seconds: 1e999 }"),
                  {"6:25: error: 'timeout_seconds' must be finite, 1e999 is beyond the largest double"}},
        BadConfig{Valid("comm { timeout_seconds: 08.5 }"),
                  {"6:25: error: '08.5' starts with 0 and would be read as an octal number; write 8.5"}},
        BadConfig{Valid("comm { timeout_seconds: 010 }"),
                  {"6:25: error: '010' starts with 0 and would be read as an octal number; write 10"}},
        BadConfig{Valid("comm { timeout_seconds: soon }"), {"6:25: error: 'timeout_seconds' expects a number, got soon"}},
        BadConfig{Valid("observe { metrics: yes }"), {"6:20: error: 'metrics' expects true or false, got yes"}},
        BadConfig{Valid("observe { metrics: 1 }"), {"6:20: error: 'metrics' expects true or false, got 1"}},
        BadConfig{Valid("checkpoint { dir: abc }"), {"6:19: error: 'dir' expects a string in quotes, got abc"}},
        BadConfig{Valid("checkpoint { dir: 'a' 'b' keep_last: 0 }"), {"6:38: error: 'keep_last' must be >= 1, got 0"}},
        BadConfig{Valid(R"(checkpoint { dir: "\q" })"), {"6:21: error: Invalid escape sequence in string literal."}},
        BadConfig{Valid("comm: 3"), {"6:7: error: 'comm' expects a block { ... }, got '3'"}},
        BadConfig{Without("data", R"(data { sources { weight: 0 text { path: "a" } } sources { weight: 1 } })"),
                  {"5:26: error: 'weight' must be > 0, got 0",
                   "5:57: error: 'data.sources[1]' needs a kind: one of text, shards, gaussian, none, images"}},
        BadConfig{Without("optim", "optim { masha1 { gamma: 0.1 p: 1.5 exchange { quantized {} } } }"),
                  {"5:32: error: 'p' must be in (0, 1], got 1.5",
                   "5:47: error: 'optim.masha1.exchange.quantized.codec' needs a kind: one of identity, rand_k, natural, qsgd, block_int, "
                   "perm_k, top_k, ternary, scaled_sign, bf16, fp8, random_block, blockwise, low_rank"}},
        BadConfig{
            Without("optim",
                    "optim { first_order { lr: 0.1 rule { adamw {} } exchange { quantized { codec { rand_k { fraction: 0 } } } } } }"),
            {"5:99: error: 'fraction' must be in (0, 1], got 0"}},
        BadConfig{
            Without(
                "optim",
                R"(optim { first_order { lr: 0.1 rule { adamw {} } } groups { weight_decay: 0 } groups [ { pattern: "a" }, { pattern: 3 } ] })"),
            {"5:58: error: 'optim.groups[0]' needs 'pattern' (glob on block names, such as *.bias)",
             "5:116: error: 'pattern' expects a string in quotes, got 3"}}));

INSTANTIATE_TEST_SUITE_P(
    Structure, BadConfigTest,
    testing::Values(
        BadConfig{Valid("seed 3"), {"6:6: error: expected ':' after 'seed', got '3'"}},
        BadConfig{Valid("seed = 3"), {"6:6: error: expected ':' after 'seed', got '='"}},
        BadConfig{Valid("seed:"), {"6:5: error: 'seed' has no value: expected a non-negative integer"}},
        BadConfig{Valid("comm {"), {"6:6: error: block opened at 6:6 is not closed"}},
        BadConfig{Valid("comm { transport: MPI }}"), {"6:24: error: '}' closes no block"}},
        BadConfig{Valid("comm"), {"6:5: error: expected '{' after 'comm', got the end of the text"}},
        BadConfig{Valid("comm { transport: MPI > "), {"6:6: error: block opened at 6:6 is not closed"}},
        BadConfig{Valid("comm { transport: }"), {"6:17: error: 'transport' has no value: expected one of AUTO, MPI, LOOPBACK"}},
        BadConfig{Valid(R"("seed": 3)"), {R"(6:1: error: expected a field name, got "seed")"}},
        BadConfig{Valid("= = ="), {"6:1: error: expected a field name, got '='"}},
        BadConfig{Valid("comm { transport: MPI ] }"), {"6:23: error: expected a field name, got ']'"}},
        BadConfig{Valid(R"(checkpoint { dir: "abc })"),
                  {"6:12: error: block opened at 6:12 is not closed", "6:19: error: this string is not closed before the end of the line"}},
        BadConfig{Valid("data_ { sources [ { text { path: 1 ] }"),
                  {"6:1: error: Experiment has no field 'data_'; did you mean 'data'?", "6:17: error: block opened at 6:17 is not closed"}},
        BadConfig{Valid(R"(include "a")"), {R"(6:1: error: an include is written as include: "FILE")"}},
        BadConfig{Valid(R"(include: "")"), {"6:10: error: an include names no file"}},
        BadConfig{Valid(R"(include: "nowhere.textproto")"),
                  {"6:10: error: cannot include 'nowhere.textproto': cannot open 'nowhere.textproto': no such file"}},
        BadConfig{Valid(R"(include: "x.textproto")"), {"6:10: error: include cycle: x.textproto -> x.textproto"}},
        BadConfig{Without("model", "model { moe_lm { layers: 4 }\noptim { gda { gamma: 1 } }"),
                  {"5:7: error: block opened at 5:7 is not closed",
                   "6:1: error: Model has no field 'optim'; it stands outside all blocks: is the block opened at 5:7 not closed?"}},
        BadConfig{"# nothing\n",
                  {"1:1: error: the config holds no settings; expected fields such as name, trainer, optim, model and data"}},
        BadConfig{"name",
                  {"1:1: error: 'optim' needs a scheme: one of first_order, extragradient, gda, masha1, ogda, "
                   "past_extragradient, fbf, reflected_gradient, anchored, masha2, optimistic_masha, proxskip, local_extragradient, diloco",
                   "1:1: error: 'model' needs a kind: one of moe_lm, linear_vae, bilinear_game, quadratic_game, "
                   "matrix_game, robust_least_squares, auc_saddle, group_robust, dirac_gan, gaussian_wgan, eight_gaussians, robust_mlp, "
                   "masked_lm",
                   "1:5: error: expected ':' after 'name', got the end of the text"}},
        BadConfig{"{", {"1:1: error: expected a field name, got '{'", "1:1: error: block opened at 1:1 is not closed"}}));

INSTANTIATE_TEST_SUITE_P(
    Completeness, BadConfigTest,
    testing::Values(
        BadConfig{Without("name", ""),
                  {"1:1: error: the experiment needs 'name' (name of the experiment; the default run folder is runs/NAME)"}},
        BadConfig{Without("model", ""),
                  {"1:1: error: 'model' needs a kind: one of moe_lm, linear_vae, bilinear_game, quadratic_game, "
                   "matrix_game, robust_least_squares, auc_saddle, group_robust, dirac_gan, gaussian_wgan, eight_gaussians, robust_mlp, "
                   "masked_lm"}},
        BadConfig{
            Without("optim", ""),
            {"1:1: error: 'optim' needs a scheme: one of first_order, extragradient, gda, masha1, ogda, "
             "past_extragradient, fbf, reflected_gradient, anchored, masha2, optimistic_masha, proxskip, local_extragradient, diloco"}},
        BadConfig{Without("data", ""), {"4:1: error: moe_lm needs data.sources { text { ... } }"}},
        BadConfig{Without("optim", "optim { first_order { lr: 0.1 } }"),
                  {"5:9: error: 'optim.first_order.rule' needs a kind: one of sgd, adamw, muon"}},
        BadConfig{Without("optim", "optim { first_order { rule { sgd {} } } }"),
                  {"5:9: error: 'optim.first_order' needs 'lr' (learning rate before schedule and multipliers)"}},
        BadConfig{Without("optim", "optim { extragradient {} }"),
                  {"5:9: error: 'optim.extragradient' needs 'gamma' (step size), or optim.step: PROVABLE or AUTO_TUNE, which find one"}},
        BadConfig{Without("optim", "optim { masha1 { gamma: 1 exchange { quantized {} } } }"),
                  {"5:9: error: 'optim.masha1' needs 'p' (probability that the reference point is refreshed)",
                   "5:38: error: 'optim.masha1.exchange.quantized.codec' needs a kind: one of identity, rand_k, natural, qsgd, "
                   "block_int, perm_k, top_k, ternary, scaled_sign, bf16, fp8, random_block, blockwise, low_rank"}},
        BadConfig{Without("model", "model { moe_lm { moe { } } }"),
                  {"5:18: error: 'model.moe_lm.moe' needs 'experts' (routed experts a block)"}},
        BadConfig{Without("model", "model { precision { compute: F64 } }"),
                  {"5:1: error: 'model' needs a kind: one of moe_lm, linear_vae, bilinear_game, quadratic_game, "
                   "matrix_game, robust_least_squares, auc_saddle, group_robust, dirac_gan, gaussian_wgan, eight_gaussians, robust_mlp, "
                   "masked_lm"}},
        BadConfig{Without("model", "model { linear_vae { data_dim: 3 } }"),
                  {"5:9: error: 'model.linear_vae' needs 'latent_dim' (dimension of z)"}},
        BadConfig{Without("data", "data { sources { text { } } }"),
                  {"5:18: error: 'data.sources[0].text' needs 'path' (file, or glob of files)"}},
        BadConfig{Without("data", "data { sources { } }"),
                  {"5:16: error: 'data.sources[0]' needs a kind: one of text, shards, gaussian, none, images"}}));

INSTANTIATE_TEST_SUITE_P(
    Rules, BadConfigTest,
    testing::Values(
        BadConfig{Without("model", "model { moe_lm { width: 130 heads: 4 } }"), {"5:29: error: width 130 is not divisible by 4 heads"}},
        BadConfig{Without("model", "model { moe_lm { width: 12 heads: 4 position: ROTARY } }"),
                  {"5:37: error: ROTARY turns pairs of coordinates, but a head has 3"}},
        BadConfig{Without("model", "model { precision { router: BF16 } moe_lm { } }"),
                  {"5:21: error: router says how routers are computed where compute is BF16; set F32, or BF16 with compute: BF16"}},
        BadConfig{Without("model", "model { moe_lm { moe { experts: 4 top_k: 5 } } }"),
                  {"5:35: error: top_k 5 is more than the 4 experts there are"}},
        BadConfig{Without("model", "model { moe_lm { layers: 2 moe { experts: 4 every: 3 } } }"),
                  {"5:45: error: every = 3 leaves no mixture in 2 layers"}},
        BadConfig{Without("model", "model { moe_lm { moe { experts: 4 } } } parallel { expert: 3 }"),
                  {"5:24: error: 4 experts cannot be split evenly over an expert axis of 3 ranks"}},
        BadConfig{
            Without("model", "model { moe_lm { moe { experts: 4 balance_scope: GLOBAL } } } parallel { numerics: WORLD_SIZE_INVARIANT }"),
            {"5:35: error: balance_scope GLOBAL depends on which leaves run together, so WORLD_SIZE_INVARIANT refuses it; use SEQUENCE or "
             "WORKER"}},
        BadConfig{Without("model", "model { moe_lm { } } parallel { expert: 2 }"),
                  {"5:33: error: an expert axis of 2 ranks needs experts, but model.moe_lm.moe is absent"}},
        BadConfig{Without("model", "model { moe_lm { vocab_size: 100 } }"),
                  {"5:18: error: vocab_size 100 is too small for the tokenizer, which has 257 ids; 0 takes the tokenizer's"}},
        BadConfig{Without("model", "model { linear_vae { data_dim: 3 latent_dim: 2 } }"),
                  {"4:18: error: linear_vae learns from gaussian, not from text"}},
        BadConfig{Without("model", "model { bilinear_game { dim: 3 sigma_min: 2 } }"),
                  {"4:18: error: bilinear_game learns from none, not from text", "5:32: error: sigma_min 2 is above sigma_max 1"}},
        BadConfig{Without("trainer", "trainer { workers: 3 global_batch: 8 }"),
                  {"5:22: error: global_batch 8 must be a positive multiple of 3 = 3 workers * 1 micro_batches"}},
        BadConfig{Without("trainer", "trainer { workers: 2 } parallel { data: 4 }"),
                  {"5:35: error: a mesh of 4 x 1 ranks needs as many workers, trainer.workers is 2"}},
        BadConfig{Without("trainer", "trainer { workers: 1 } parallel { expert: 2 }"),
                  {"5:35: error: an expert axis of 2 ranks needs as many workers, trainer.workers is 1"}},
        BadConfig{Without("optim", "optim { masha1 { gamma: 0.1 p: 0.5 participants: 5 } }"),
                  {"5:36: error: 5 participants of 4 workers; 0 stands for all"}},
        BadConfig{Without("trainer", "trainer { workers: 2 global_batch: 0 }"),
                  {"5:22: error: global_batch 0 must be a positive multiple of 2 = 2 workers * 1 micro_batches"}},
        BadConfig{Without("trainer", "trainer { workers: 2 micro_batches: 3 }"),
                  {"5:11: error: global_batch 8 must be a positive multiple of 6 = 2 workers * 3 micro_batches"}},
        BadConfig{Without("data", "data { sources { text { path: \"a\" } } validation_fraction: 0 }\nobserve { trace_every: -1 }"),
                  {"6:24: error: 'trace_every' must be >= 0 steps, got -1"}},
        BadConfig{Without("data", "data { sources { gaussian { dim: 3 } } }"),
                  {"5:18: error: moe_lm learns from text or shards, not from gaussian"}},
        BadConfig{Without("data",
                          R"(data { sources { text { path: "a" } } tokenizer { sentencepiece { train: false } } validation_fraction: 1 })"),
                  {"5:67: error: without training, data.tokenizer.sentencepiece.model_path must name a model",
                   "5:105: error: 'validation_fraction' must be in [0, 1), got 1"}},
        BadConfig{Without("data", R"(data { sources { text { path: "a" } } validation_fraction: 0 } parallel { threads_per_rank: 0 })"),
                  {"5:93: error: 'threads_per_rank' must be in [1, 1024], got 0"}},
        BadConfig{Without("optim", R"(optim { extragradient { gamma: 0.1 } clip_norm: 1 groups { pattern: "*" weight_decay: 1 } })"),
                  {"5:38: error: clip_norm goes with first_order and diloco only: a clipped operator is no longer the one the scheme's "
                   "steps are about",
                   "5:73: error: weight decay goes with first_order and diloco only"}},
        BadConfig{Without("optim", "optim { first_order { lr: 0.1 rule { adamw {} } } schedule { warmup_steps: 30 } }"),
                  {"5:62: error: 30 warm-up steps do not fit into 20 steps"}},
        BadConfig{Without("optim",
                          "optim { first_order { lr: 0.1 rule { adamw {} } } schedule { warmup_steps: 15 wsd { decay_fraction: 0.5 } } }"),
                  {"5:85: error: 15 warm-up steps run into the decay, which begins at step 10"}},
        BadConfig{Without("optim",
                          "optim { first_order { lr: 0.1 rule { adamw {} } exchange { quantized { codec { natural {} } } when_it_pays { "
                          "link_rate: 1e8 } } } } parallel { numerics: WORLD_SIZE_INVARIANT }"),
                  {"5:95: error: decisions from measured rates differ from run to run, so WORLD_SIZE_INVARIANT wants both link_rate and "
                   "codec_rate"}},
        BadConfig{
            Without("optim",
                    "optim { first_order { lr: 0.1 rule { adamw {} } exchange { hierarchical { workers_per_group: 3 exchange { exact {} "
                    "} } } } }"),
            {"5:75: error: 4 workers cannot be cut into equal groups of 3"}},
        BadConfig{Without("optim", "optim { masha1 { gamma: 0.1 p: 0.5 exchange { quantized { codec { top_k { fraction: 0.1 } } } } } }"),
                  {"5:67: error: quantized exchange: the codec of block (any) is biased, and nothing here makes up for it; choose an "
                   "unbiased codec (identity, rand_k, natural, qsgd, block_int { rounding: STOCHASTIC }, perm_k, ternary, random_block)"}},
        BadConfig{Without("optim", "optim { masha2 { gamma: 0.1 p: 0.5 exchange { ef14 { codec { rand_k { fraction: 0.1 } } } } } }"),
                  {"5:62: error: ef14 exchange: the codec of block (any) is not contractive (unbiased with q = 10, must be below 2), "
                   "so its error memory would grow; choose a contractive codec (top_k, block_int { rounding: NEAREST }, scaled_sign, "
                   "bf16, fp8, low_rank)"}},
        BadConfig{Without("optim", "optim { masha1 { gamma: 0.1 p: 0.5 exchange { ef14 { codec { top_k { fraction: 0.1 } } } } } }"),
                  {"5:47: error: optim.masha1.exchange takes exact or quantized, not ef14"}},
        BadConfig{Without("optim",
                          "optim { gda { gamma: 0.1 exchange { quantized { codec { natural {} } } downlink { codec { perm_k {} } } } } }"),
                  {"5:91: error: quantized exchange, downlink of block (any): perm_k and common masks share draws between workers, and a "
                   "mean has one sender; choose natural, block_int, rand_k or another codec whose messages are independent"}},
        BadConfig{
            Without("model",
                    "model { moe_lm { moe { experts: 4 top_k: 3 combine_order: PRE_REDUCE } } } parallel { dispatch { route: AUTO } }"),
            {"5:98: error: with combine_order PRE_REDUCE and more than two experts a token, or a lossy way home, results depend on the "
             "route, and AUTO measures one at every start: a resumed run could go on with other bits; name a route"}},
        BadConfig{Valid("parallel { dispatch { route: HIERARCHICAL fold: true } }"),
                  {"6:43: error: fold has nothing to do on route HIERARCHICAL: it sums what a DEDUPLICATED route brought together; leave "
                   "it out"}},
        BadConfig{
            Valid("parallel { dispatch { route: DEDUPLICATED fold: true dispatch_backward: BF16 } }"),
            {"6:43: error: fold has nothing to do where rows are rounded on their way home (combine_forward, dispatch_backward); leave it "
             "out"}},
        BadConfig{
            Without("model",
                    "model { moe_lm { moe { experts: 4 combine_order: PRE_REDUCE } } } parallel { dispatch { route: AUTO fold: true } }"),
            {"5:101: error: fold has nothing to do beside combine_order PRE_REDUCE, which sums everything on the way; leave it out"}},
        BadConfig{Without("model", "model { moe_lm { } } parallel { dispatch { most_rows: 5 } }"),
                  {"5:44: error: there are no experts to send rows to: the model has none"}},
        BadConfig{Without("model", "model { moe_lm { } } parallel { dispatch { pieces: 4 } }"),
                  {"5:44: error: there are no rows to cut into pieces: the model has no experts"}},
        BadConfig{Valid("parallel { dispatch { most_rows: 1279 beyond_most_rows: IN_PIECES } }"),
                  {"6:23: error: with beyond_most_rows: IN_PIECES most_rows must be at least 1280, since so many rows of one expert go in "
                   "one piece; it is 1279"}},
        BadConfig{Without("model",
                          "model { moe_lm { moe { experts: 4 combine_order: PRE_REDUCE } } } parallel { dispatch { most_rows: 1280 "
                          "beyond_most_rows: IN_PIECES } }"),
                  {"5:105: error: IN_PIECES needs combine_order: EXACT: sums formed by ranks (PRE_REDUCE) would depend on the pieces"}},
        BadConfig{Valid("parallel { expert: 2 rebalance { replicas: 1 } } observe { routing_window: 5 }"),
                  {"6:34: error: copies of experts are planned with placements, and parallel.rebalance.every is 0: never"}},
        BadConfig{"name: 'small'\ntrainer { steps: 20 workers: 4 global_batch: 8 eval { every: 5 } }\noptim { first_order { lr: 0.01 rule "
                  "{ adamw {} } } }\nmodel { masked_lm { } }\ndata { sources { text { path: 'a.txt' } } validation_fraction: 0 }\n",
                  {"2:55: error: evaluation needs held-out data, but data.validation_fraction is 0"}},
        BadConfig{Without("optim", "optim { first_order { lr: 0.1 rule { adamw {} } } prox { box { lower: 2 upper: 1 } } }"),
                  {"5:51: error: a prox goes with schemes that step by gamma; with first_order use weight_decay",
                   "5:64: error: lower 2 is above upper 1"}}));

// Any damage to a text leads to errors with places inside it, or to a config; nothing else.
void ExpectSound(const std::string& text) {
  const absl::StatusOr<LoadedConfig> loaded = LoadText(text);
  if (loaded.ok()) return;
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument) << text;
  const size_t lines = SplitString(text, '\n').size();
  const std::vector<std::string> errors = ErrorLines(loaded.status());
  EXPECT_FALSE(errors.empty()) << text;
  for (const std::string& error : errors) {
    const absl::StatusOr<int64_t> line = ParseInt64(error.substr(0, error.find(':')));
    ASSERT_TRUE(line.ok()) << error;
    EXPECT_TRUE(*line >= 1 && *line <= static_cast<int64_t>(lines)) << error << " in\n" << text;
  }
}

TEST(DamagedConfigTest, EveryCutAndEveryLostOrForeignByteIsHandled) {
  const std::string whole =
      Valid("comm { transport: MPI timeout_seconds: -0x1.5e-3f }\noptim { groups: [ { pattern: \"a\\n\" 'b' }, < > ] }");
  for (size_t i = 0; i < whole.size(); ++i) {
    ExpectSound(whole.substr(0, i));
    ExpectSound(whole.substr(0, i) + whole.substr(i + 1));
    for (const char foreign : {'}', '{', '"', ']', '[', ':', '0', '-', '\0', '\xff'}) {
      std::string changed = whole;
      changed[i] = foreign;
      ExpectSound(changed);
    }
  }
}

}  // namespace
}  // namespace conclave
