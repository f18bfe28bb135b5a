#include "trainer/config_codecs.h"

#include <vector>

#include "comm/block_codecs.h"
#include "models/model.h"
#include "tensor/layout.h"
#include "trainer/config_defaults.h"

namespace conclave {
namespace {

// Whether the exchange can take its codecs on this block.
absl::Status FitsBlock(const ExchangeConfig& exchange, const BlockSpec& block, int workers, DType dtype) {
  ParameterSet alone;
  alone.Add(BlockSpec{.name = block.name, .shape = block.shape});
  const Layout layout = ReplicatedLayout(&alone, 0, 1);
  const ExchangeContext context{.layout = &layout, .workers = {.workers = workers}, .dtype = dtype};
  return BlockCodecs::Of(exchange, context).status();
}

// A block with room for every worker's share and for factors of any legal width.
BlockSpec AnyLargeBlock() { return {.name = "(any)", .shape = {1024, 1024}}; }

// Of the codec at `path`: its member, the codec, the exchange around it, whatever was set.
void ReportCodec(const std::string& path, const CodecConfig& codec, const std::string& exchange, const absl::Status& refusal,
                 ConfigRules* rules) {
  const auto* kind = codec.GetReflection()->GetOneofFieldDescriptor(codec, CodecConfig::descriptor()->FindOneofByName("kind"));
  const std::string member = ChildPath(path, kind == nullptr ? "kind" : kind->name());
  const std::string_view paths[] = {member, path, exchange};
  rules->Report(paths, std::string(refusal.message()));
}

// Whether a codec is still to be chosen, which is an error of its own.
bool LacksCodec(const ExchangeConfig& exchange) {
  bool lacks = false;
  VisitBlocks(exchange, "", [&](const google::protobuf::Message& part, const std::string&) {
    if (part.GetDescriptor() != CodecConfig::descriptor()) return;
    lacks = lacks || static_cast<const CodecConfig&>(part).kind_case() == CodecConfig::KIND_NOT_SET;
  });
  return lacks;
}

void CheckExchangeCodecs(const ExchangeConfig& exchange, const std::string& path, const BlockSpec& block, int workers, DType dtype,
                         bool* refused, ConfigRules* rules) {
  const absl::Status whole = FitsBlock(exchange, block, workers, dtype);
  if (whole.ok()) return;
  *refused = true;
  ExchangeConfig up = exchange;
  up.clear_downlink();
  if (exchange.has_downlink() && FitsBlock(up, block, workers, dtype).ok()) {
    return ReportCodec(path + ".downlink.codec", exchange.downlink().codec(), path + ".downlink", whole, rules);
  }
  const auto* kind = exchange.GetReflection()->GetOneofFieldDescriptor(exchange, ExchangeConfig::descriptor()->FindOneofByName("kind"));
  const std::string own = ChildPath(path, kind->name());
  const google::protobuf::Message& member = exchange.GetReflection()->GetMessage(exchange, kind);
  const auto* field = member.GetDescriptor()->FindFieldByName("codec");
  static const CodecConfig kNone;
  const CodecConfig& codec = field == nullptr ? kNone : dynamic_cast<const CodecConfig&>(member.GetReflection()->GetMessage(member, field));
  ReportCodec(own + ".codec", codec, own, whole, rules);
}

}  // namespace

void CheckCodecs(const Experiment& config, const ParameterSet* parameters, ConfigRules* rules) {
  const DType dtype = ComputeDType(config.model());
  std::vector<BlockSpec> blocks;
  if (parameters == nullptr) {
    blocks.push_back(AnyLargeBlock());
  } else {
    blocks.assign(parameters->blocks().begin(), parameters->blocks().end());
  }
  int64_t group = 1;
  VisitBlocks(config.optim(), "optim", [&](const google::protobuf::Message& part, const std::string& path) {
    if (part.GetDescriptor() == HierarchicalConfig::descriptor()) {
      group = std::max<int64_t>(1, static_cast<const HierarchicalConfig&>(part).workers_per_group());
    }
    if (part.GetDescriptor() != ExchangeConfig::descriptor() || LacksCodec(static_cast<const ExchangeConfig&>(part))) return;
    const bool inside = path.find(".hierarchical.exchange") != std::string::npos;
    const auto workers = static_cast<int>(std::max<int64_t>(1, config.trainer().workers() / (inside ? group : 1)));
    bool refused = false;
    for (const BlockSpec& block : blocks) {
      if (!refused) CheckExchangeCodecs(static_cast<const ExchangeConfig&>(part), path, block, workers, dtype, &refused, rules);
    }
  });
}

absl::Status CheckCodecsOf(const LoadedConfig& loaded, const ParameterSet& parameters) {
  ConfigDiagnostics diagnostics;
  const DamagedPaths damaged;
  ConfigRules rules(loaded.places, damaged, /*root=*/0, &diagnostics);
  CheckCodecs(loaded.config, &parameters, &rules);
  return diagnostics.Finish(loaded.sources);
}

}  // namespace conclave
