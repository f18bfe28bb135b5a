// The config written out in full, its hash, and what may change on resume.
#include "trainer/config_resolved.h"

#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "absl/strings/numbers.h"

#include "tests/trainer/config_fixture.h"
#include "trainer/config_defaults.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::util::MessageDifferencer;

constexpr char kGame[] = R"(name: "game \"quoted\"\n"
seed: 18446744073709551615
optim { masha1 { gamma: 0.12345678901234567 p: 0.1 exchange { quantized { codec { rand_k { fraction: 1e-3 } } } } } prox { box { lower: -1 upper: 1 } } }
model { precision { compute: F64 } bilinear_game { dim: 3 } }
data { sources { none {} } }
)";
constexpr char kVae[] = R"(name: "vae"
optim { first_order { lr: 0.01 rule { sgd { momentum: 0.5 } } } groups { pattern: "*" rule { adamw {} } } schedule { wsd {} } }
model { linear_vae { data_dim: 3 latent_dim: 2 } }
data { sources { gaussian { dim: 3 eigenvalues: [3, 2.5] eigenvalues: 0.1 } } }
)";

LoadedConfig MustLoad(const std::string& text, const std::vector<std::string>& overrides = {}) {
  absl::StatusOr<LoadedConfig> loaded = LoadText(text, overrides);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *std::move(loaded) : LoadedConfig{};
}

class RoundTripTest : public testing::TestWithParam<const char*> {};

TEST_P(RoundTripTest, ResolvedTextLoadsToTheSameConfig) {
  const LoadedConfig first = MustLoad(GetParam());
  const std::string text = ResolvedText(first);
  const LoadedConfig second = MustLoad(text);
  EXPECT_TRUE(MessageDifferencer::Equals(first.config, second.config)) << text;
  EXPECT_EQ(first.hash, second.hash);
  const absl::StatusOr<Experiment> parsed = ParseResolvedConfig(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(MessageDifferencer::Equals(first.config, *parsed));
  EXPECT_TRUE(DiffForResume(first.config, second.config).empty());
}

TEST_P(RoundTripTest, EveryLineTellsItsOrigin) {
  std::string line;
  std::istringstream lines(ResolvedText(MustLoad(GetParam())));
  while (std::getline(lines, line)) {
    const bool closing = line.find_first_not_of(' ') == line.find('}');
    EXPECT_TRUE(closing || line.find("  # default") != std::string::npos || line.find("  # unset") != std::string::npos ||
                line.find("  # x.textproto:") != std::string::npos)
        << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RoundTripTest, testing::Values(kSmallConfig, kGame, kVae));

TEST(ResolvedTextTest, ShowsValuesAndOrigins) {
  const std::string text = ResolvedText(MustLoad(kSmallConfig, {"optim.clip_norm=1.5"}));
  EXPECT_NE(text.find("\nseed: 1  # default\n"), std::string::npos);
  EXPECT_NE(text.find("  clip_norm: 1.5  # --set optim.clip_norm=1.5\n"), std::string::npos);
  EXPECT_NE(text.find("    layers: 2  # x.textproto:4:18\n"), std::string::npos);
  EXPECT_NE(text.find("  # init_from  # unset\n"), std::string::npos);
}

TEST(ConfigHashTest, DependsOnValuesNotOnLayers) {
  const LoadedConfig plain = MustLoad(kSmallConfig);
  EXPECT_EQ(plain.hash, MustLoad(std::string("# words\n") + kSmallConfig + "seed: 1").hash);
  EXPECT_EQ(plain.hash, MustLoad(kSmallConfig, {"seed=1"}).hash);
  EXPECT_NE(plain.hash, MustLoad(kSmallConfig, {"seed=2"}).hash);
  EXPECT_NE(plain.hash, MustLoad(kSmallConfig, {"optim.first_order.lr=0.02"}).hash);
}

TEST(ResumeTest, ClassesComeFromTheFieldOrTheBlockAroundIt) {
  const LoadedConfig before = MustLoad(kSmallConfig);
  const LoadedConfig after =
      MustLoad(kSmallConfig, {"seed=2", "trainer.steps=30", "parallel.expert=2", "comm.transport=LOOPBACK", "trainer.workers=2",
                              "optim.schedule.cosine.min_ratio=0.2", "model.moe_lm.moe.top_k=1", "optim.groups={ pattern: '*' }"});
  std::map<std::string, FieldSpec::Resume> classes;
  for (const ConfigChange& change : DiffForResume(before.config, after.config)) classes[change.path] = change.resume;
  const std::map<std::string, FieldSpec::Resume> expected = {{"seed", FieldSpec::FORBIDDEN},
                                                             {"trainer.steps", FieldSpec::SAFE},
                                                             {"parallel.expert", FieldSpec::NEEDS_RESHARD},
                                                             {"comm.transport", FieldSpec::SAFE},
                                                             {"trainer.workers", FieldSpec::FORBIDDEN},
                                                             {"optim.schedule.kind", FieldSpec::SAFE},
                                                             {"optim.groups", FieldSpec::FORBIDDEN},
                                                             {"model.moe_lm.moe.top_k", FieldSpec::FORBIDDEN}};
  EXPECT_EQ(classes, expected);
}

TEST(ResumeTest, ValuesAreShown) {
  const std::vector<ConfigChange> changes =
      DiffForResume(MustLoad(kSmallConfig).config, MustLoad(kSmallConfig, {"optim.gda.gamma=0.5", "parallel.device=CUDA"}).config);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].path, "parallel.device");
  EXPECT_EQ(changes[0].old_value, "CPU");
  EXPECT_EQ(changes[0].new_value, "CUDA");
  EXPECT_EQ(changes[1].path, "optim.scheme");
  EXPECT_EQ(changes[1].old_value, "first_order");
  EXPECT_EQ(changes[1].new_value, "gda");
}

TEST(ResumeTest, ForbiddenChangesAreAllListed) {
  const Experiment before = MustLoad(kSmallConfig).config;
  EXPECT_TRUE(CheckResume(before, MustLoad(kSmallConfig, {"trainer.steps=99", "name=other", "parallel.expert=4"}).config).ok());
  const absl::Status status = CheckResume(before, MustLoad(kSmallConfig, {"seed=7", "trainer.steps=99", "model.moe_lm.width=32"}).config);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "this run cannot resume with these settings changed; set them back, or start a new run:\n  seed: 1 -> 7\n  model.moe_lm.width: "
            "16 -> 32");
}

TEST(ResolvedTextTest, DamagedTextIsDataLoss) {
  const absl::StatusOr<Experiment> parsed = ParseResolvedConfig("name: \"a\"\nseed: x\n");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(parsed.status().message().find("line 2, column 7"), absl::string_view::npos) << parsed.status();
}

// Walks the whole schema: each field is documented, its default parses and lies within its bounds, and each scalar is optional.
void CheckSchema(const Descriptor& type, std::set<const Descriptor*>* seen) {
  if (!seen->insert(&type).second) return;
  for (int i = 0; i < type.real_oneof_decl_count(); ++i) {
    const std::string& member = type.oneof_decl(i)->options().GetExtension(oneof_spec).default_case();
    EXPECT_TRUE(member.empty() || type.FindFieldByName(member)->containing_oneof() == type.oneof_decl(i)) << type.full_name();
  }
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.message_type() != nullptr) {
      CheckSchema(*field.message_type(), seen);
      continue;
    }
    const FieldSpec& spec = SpecOf(field);
    EXPECT_FALSE(spec.doc().empty()) << field.full_name() << " has no doc";
    EXPECT_TRUE(field.is_repeated() || field.has_presence()) << field.full_name() << " is not optional";
    EXPECT_FALSE(spec.required() && spec.has_default_value()) << field.full_name() << " is required and has a default";
    if (!spec.has_default_value() || field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) continue;
    double value = 0;
    EXPECT_TRUE(!absl::SimpleAtod(spec.default_value(), &value) || WithinBounds(spec, value)) << field.full_name();
  }
}

TEST(SchemaTest, EveryFieldIsDocumentedAndItsDefaultIsLegal) {
  std::set<const Descriptor*> seen;
  CheckSchema(*Experiment::descriptor(), &seen);
  EXPECT_GT(seen.size(), 30u);
}

// Fills every block of the schema, so that a default that does not parse aborts here and not in a user's hands.
void FillAll(const Descriptor& type, std::set<const Descriptor*>* seen) {
  if (!seen->insert(&type).second) return;
  const std::unique_ptr<google::protobuf::Message> message(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(&type)->New());
  ConfigPlaces places;
  FillDefaults(message.get(), &places);
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.message_type() != nullptr) {
      FillAll(*field.message_type(), seen);
    } else if (SpecOf(field).has_default_value()) {
      EXPECT_TRUE(message->GetReflection()->HasField(*message, &field)) << field.full_name();
    }
  }
}

TEST(SchemaTest, EveryDefaultParses) {
  std::set<const Descriptor*> seen;
  FillAll(*Experiment::descriptor(), &seen);
  EXPECT_GT(seen.size(), 30u);
}

}  // namespace
}  // namespace conclave
