// conclave check: parses and validates a config; conclave tokenize: makes its tokens; conclave version.

#include <algorithm>
#include <cstdio>

#include "base/strings.h"
#include "data/data_set.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "launch/reference.h"
#include "tensor/kernels/chain_product.h"
#include "tensor/kernels/split_product.h"
#include "tensor/products.h"
#include "trainer/config_codecs.h"
#include "trainer/config_resolved.h"
#include "trainer/memory_tiers.h"
#include "trainer/stop_signal.h"
#include "trainer/version.h"

namespace conclave {
namespace {

const OptionSpec kSet{"--set", "PATH=VALUE", "override a field", true};

absl::StatusOr<int64_t> BytesOf(const Arguments& arguments, const std::string& option) {
  if (!arguments.Has(option)) return 0;
  constexpr double kMostGibibytes = 1 << 20;
  ASSIGN_OR_RETURN(const double gibibytes, arguments.Real(option, 0));
  if (gibibytes <= 0 || gibibytes > kMostGibibytes)
    return InvalidArgument("%s: expected above 0 and at most %g, got %g", option, kMostGibibytes, gibibytes);
  return std::max<int64_t>(1, static_cast<int64_t>(gibibytes * (1 << 30)));
}

// Whether the model's experts fit the machines that are described; prints what they need.
absl::Status CheckMachines(const Arguments& arguments, const Experiment& config, const Model& model) {
  MachineMemory memory;
  ASSIGN_OR_RETURN(memory.machines, arguments.Integer("--machines", 1));
  if (memory.machines < 1 || memory.machines > 1'000'000)
    return InvalidArgument("--machines: expected 1 to 1000000, got %d", memory.machines);
  ASSIGN_OR_RETURN(memory.device, BytesOf(arguments, "--device-gib"));
  ASSIGN_OR_RETURN(memory.host, BytesOf(arguments, "--host-gib"));
  ASSIGN_OR_RETURN(memory.disk, BytesOf(arguments, "--disk-gib"));
  if (memory.device + memory.host + memory.disk == 0) {
    if (!arguments.Has("--machines")) return absl::OkStatus();
    return InvalidArgument("--machines: of what memory? add --device-gib, --host-gib or --disk-gib");
  }
  ASSIGN_OR_RETURN(const MixtureSize size, SizeOfMixture(model, config.model().moe_lm().moe().top_k()));
  const std::vector<TierDemand> demands = DemandsOf(size, memory);
  RETURN_IF_ERROR(CheckTiers(demands, memory.machines));
  for (const TierDemand& demand : demands) {
    std::printf("%-8s %-22s %12s of %s\n", demand.tier.c_str(), demand.formula.c_str(), HumanBytes(demand.needed).c_str(),
                HumanBytes(demand.available).c_str());
  }
  return absl::OkStatus();
}

int RunCheck(const Arguments& arguments, const std::vector<std::string>&) {
  if (arguments.Has("--reference")) {
    std::fputs(ConfigReference().c_str(), stdout);
    return kExitFinished;
  }
  if (arguments.positional().empty()) return Fail(InvalidArgument("missing argument CONFIG (see conclave check --help)"));
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(arguments.positional(), arguments.All("--set"));
  if (!loaded.ok()) return FailConfig(loaded.status());
  if (arguments.Has("--ranks")) {
    const absl::StatusOr<int64_t> ranks = arguments.Integer("--ranks", 1);
    if (!ranks.ok()) return Fail(ranks.status());
    if (const absl::Status fits = CheckConfigForRanks(*loaded, static_cast<int>(*ranks)); !fits.ok()) return FailConfig(fits);
  }
  // A model that cannot be made is a bad config too; the vocabulary of a tokenizer that is still to be trained is not known here.
  Experiment config = loaded->config;
  if (config.model().has_moe_lm() && config.model().moe_lm().vocab_size() == 0)
    config.mutable_model()->mutable_moe_lm()->set_vocab_size(256);
  if (config.model().has_masked_lm() && config.model().masked_lm().vocab_size() == 0)
    config.mutable_model()->mutable_masked_lm()->set_vocab_size(256);
  const auto model = MakeModel(config.model(), {.seed = config.seed(), .workers = static_cast<int>(config.trainer().workers())});
  if (!model.ok()) return Fail(model.status());
  if (const absl::Status fits = CheckCodecsOf(*loaded, (*model)->parameters()); !fits.ok()) return FailConfig(fits);
  if (const absl::Status fits = CheckMachines(arguments, config, **model); !fits.ok()) return FailConfig(fits);
  if (arguments.Has("--resolved")) std::fputs(ResolvedText(*loaded).c_str(), stdout);
  std::printf("ok: %s, config hash %s\n", arguments.positional().c_str(), HexDigest(loaded->hash).c_str());
  return kExitFinished;
}

int RunTokenize(const Arguments& arguments, const std::vector<std::string>&) {
  const absl::StatusOr<LoadedConfig> loaded = LoadConfig(arguments.positional(), arguments.All("--set"));
  if (!loaded.ok()) return FailConfig(loaded.status());
  const Experiment& config = loaded->config;
  const LoaderOptions options{.seed = config.seed(),
                              .workers = static_cast<int>(config.trainer().workers()),
                              .global_batch = config.trainer().global_batch(),
                              .micro_batches = config.trainer().micro_batches()};
  const absl::StatusOr<DataSet> data = OpenData(config.data(), options, config.model().moe_lm().context(), RealFileSystem());
  if (!data.ok()) return Fail(data.status());
  if (data->tokenizer != nullptr)
    std::printf("tokenizer           %s, %d ids\n", data->tokenizer->name().c_str(), static_cast<int>(data->tokenizer->vocab_size()));
  if (data->bytes_per_token > 0) std::printf("bytes per token     %.3f\n", data->bytes_per_token);
  std::printf("training samples    %lld an epoch\nheld-out samples    %lld\n", static_cast<long long>(data->loader->samples_per_epoch()),
              static_cast<long long>(data->evaluation.size()));
  return kExitFinished;
}

int RunVersion(const Arguments&, const std::vector<std::string>&) {
  std::printf("conclave %s\n", kProgramVersion);
  for (const auto& [name, version] : LibraryVersions()) std::printf("  %-10s %s\n", name.c_str(), version.c_str());
  const bool unit = cpu::SplitProductsWork();
  const char* const rounded = unit                      ? "by AMX"
                              : Bf16ProductsAreNarrow() ? "by oneDNN"
                                                        : "of rounded f32 (faster here than bf16 instructions, or there are none)";
  const char* const full = unit ? "by AMX, from three bf16 parts a number" : cpu::ChainProductsWork() ? "by AVX-512" : "by oneDNN";
  std::printf("  %-10s f32 %s, bf16 %s\n", "products", full, rounded);
  return kExitFinished;
}

}  // namespace

Command CheckCommand() {
  return {{.name = "check",
           .positional = "[CONFIG]",
           .summary = "Parses and validates a config; touches no process group and no device.",
           .options = {kSet,
                       {"--ranks", "N", "also check that the mesh fits N ranks"},
                       {"--machines", "N", "how many machines the memories below are of (default 1)"},
                       {"--device-gib", "G", "a machine's device memory: refuse a mixture whose dense and active parts exceed it"},
                       {"--host-gib", "G", "a machine's memory: refuse active experts with their states that exceed it"},
                       {"--disk-gib", "G", "a machine's disk: refuse expert states that exceed it"},
                       {"--resolved", "", "print every field with its origin"},
                       {"--reference", "", "print the reference of all fields as Markdown; needs no CONFIG"}}},
          RunCheck};
}

Command TokenizeCommand() {
  return {{.name = "tokenize",
           .positional = "CONFIG",
           .summary = "Trains the tokenizer and tokenizes the text of a config into its cache.",
           .options = {kSet}},
          RunTokenize};
}

Command VersionCommand() {
  return {{.name = "version", .summary = "Prints the versions of the program and of its libraries."}, RunVersion};
}

}  // namespace conclave
