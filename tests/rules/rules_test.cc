// Each rule twice: on planted files it must find exactly the breaches, on the repository none.
#include "tests/rules/rules.h"

#include <string>

#include <gtest/gtest.h>

namespace conclave::rules {
namespace {

std::string Repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(Layering, FindsPlantedBreaches) {
  const auto refused = [](const char* path, const char* include) { return CheckLayering({FileOf(path, include)}).size() == 1; };
  EXPECT_TRUE(refused("models/x.cc", "#include \"comm/communicator.h\""));
  EXPECT_TRUE(refused("models/x.cc", "#include \"optim/operator.h\""));
  EXPECT_TRUE(refused("optim/x.cc", "#include \"models/model.h\""));
  EXPECT_TRUE(refused("base/x.h", "#include \"tensor/tensor.h\""));
  EXPECT_TRUE(refused("tensor/x.h", "#include \"proto/model.pb.h\""));
  EXPECT_TRUE(refused("data/x.h", "#include \"comm/communicator.h\""));
  EXPECT_TRUE(refused("trainer/x.cc", "#include \"launch/flags.h\""));
  EXPECT_TRUE(refused("trainer/x.cc", "#include \"bench/measure.h\""));
  EXPECT_TRUE(refused("bench/x.cc", "#include \"launch/job.h\""));
  EXPECT_TRUE(refused("base/x.cc", "#include \"status.h\""));
  EXPECT_TRUE(refused("comm/x.cc", "#include \"proto/comm.proto\""));
  EXPECT_TRUE(refused("parallel/x.cc", "#include <mpi.h>"));
  EXPECT_TRUE(refused("tensor/kernels/x.cu", "#include \"absl/status/status.h\""));
}

TEST(Layering, AcceptsTheArrows) {
  const std::vector<SourceFile> files = {
      FileOf("models/moe/x.cc",
             "#include \"models/moe/x.h\"\n#include <vector>\n#include \"parallel/expert_dispatch.h\"\n#include \"data/batch.h\""),
      FileOf("comm/x.cc", "#include <mpi.h>\n#include \"absl/status/status.h\"\n#include \"proto/comm.pb.h\"\n#include \"tensor/ids.h\""),
      FileOf("trainer/x.cc", "#include \"models/model.h\"\n#include \"optim/operator.h\"\n#include \"comm/communicator.h\""),
  };
  EXPECT_EQ(Render(CheckLayering(files)), "");
}

TEST(Sizes, LimitsAreExact) {
  EXPECT_TRUE(CheckSizes({FileOf("a/x.cc", Repeat("int i;\n", 500)), FileOf("a/x.h", Repeat("int i;\n", 250))}).empty());
  EXPECT_EQ(CheckSizes({FileOf("a/x.cc", Repeat("int i;\n", 501))}).size(), 1u);
  EXPECT_EQ(CheckSizes({FileOf("a/x.cu", Repeat("int i;\n", 501))}).size(), 1u);
  EXPECT_EQ(CheckSizes({FileOf("a/x.h", Repeat("int i;\n", 251))}).size(), 1u);
}

TEST(Names, FindsPlantedBreaches) {
  for (const char* path : {"base/string_utils.h", "core/x.cc", "tensor/common/x.h", "tests/misc_test.cc"}) {
    EXPECT_EQ(CheckNames({FileOf(path, "")}).size(), 1u) << path;
  }
  EXPECT_TRUE(CheckNames({FileOf("comm/communicator.h", ""), FileOf("data/score.cc", "")}).empty());
}

TEST(Preprocessor, FindsPlantedBreaches) {
  const std::string guard = "#ifndef CONCLAVE_A_X_H_\n#define CONCLAVE_A_X_H_\n#endif  // CONCLAVE_A_X_H_\n";
  EXPECT_TRUE(CheckPreprocessor({FileOf("a/x.h", guard)}).empty());
  EXPECT_EQ(CheckPreprocessor({FileOf("a/y.h", guard)}).size(), 3u);  // two foreign lines and the missing guard
  EXPECT_EQ(CheckPreprocessor({FileOf("a/x.cc", "#ifdef USE_CUDA")}).size(), 1u);
  EXPECT_EQ(CheckPreprocessor({FileOf("a/x.cc", "#if defined(X)\n#else\n#endif")}).size(), 2u);
  EXPECT_EQ(CheckPreprocessor({FileOf("a/x.cc", "#define TWICE(x) ((x) * 2)")}).size(), 1u);
  EXPECT_TRUE(CheckPreprocessor({FileOf("a/x.cc", "#include <vector>\n#pragma GCC unroll 4")}).empty());
}

TEST(Wording, FindsPlantedBreaches) {
  const std::string note = std::string("// TO") + "DO: later";
  EXPECT_EQ(CheckWording({FileOf("a/x.cc", note), FileOf("docs/x.md", note)}).size(), 2u);
  EXPECT_EQ(CheckWording({FileOf("a/x.cc", std::string("open(\"/ro") + "ot/x\")")}).size(), 1u);
  EXPECT_TRUE(CheckWording({FileOf("a/x.cc", "int todos = 0;")}).empty());
}

TEST(ForbiddenCode, FindsPlantedBreaches) {
  EXPECT_EQ(CheckForbiddenCode({FileOf("optim/x.cc", "throw std::runtime_error(\"x\");")}).size(), 1u);
  EXPECT_EQ(CheckForbiddenCode({FileOf("optim/x.cc", "const char* v = std::getenv(\"X\");")}).size(), 1u);
  EXPECT_TRUE(CheckForbiddenCode({FileOf("optim/x.cc", "// these throw\nprint(\"throw\");")}).empty());
}

TEST(SignFlip, FindsPlantedBreaches) {
  const char* code = "const double sign = player == Player::kMax ? -1 : 1;";
  EXPECT_EQ(CheckSignFlip({FileOf("optim/schemes/extragradient.cc", code)}).size(), 1u);
  EXPECT_TRUE(CheckSignFlip({FileOf("trainer/model_operator.cc", code)}).empty());
}

TEST(Links, FindsPlantedBreaches) {
  EXPECT_EQ(CheckLinks({FileOf("docs/x.md", "see [it](absent.md), `./launch/absent.sh`")}).size(), 2u);
  EXPECT_EQ(Render(CheckLinks({FileOf("docs/x.md", "see [it](../README.md#a), [web](https://example.org/x), `./launch/mpirun.sh -n 2`")})),
            "");
}

TEST(Repository, Layering) { EXPECT_EQ(Render(CheckLayering(RepositoryFiles())), ""); }
TEST(Repository, Sizes) { EXPECT_EQ(Render(CheckSizes(RepositoryFiles())), ""); }
TEST(Repository, Names) { EXPECT_EQ(Render(CheckNames(RepositoryFiles())), ""); }
TEST(Repository, Preprocessor) { EXPECT_EQ(Render(CheckPreprocessor(RepositoryFiles())), ""); }
TEST(Repository, Wording) { EXPECT_EQ(Render(CheckWording(RepositoryFiles())), ""); }
TEST(Repository, ForbiddenCode) { EXPECT_EQ(Render(CheckForbiddenCode(RepositoryFiles())), ""); }
TEST(Repository, SignFlip) { EXPECT_EQ(Render(CheckSignFlip(RepositoryFiles())), ""); }
TEST(Repository, Links) { EXPECT_EQ(Render(CheckLinks(RepositoryFiles())), ""); }

}  // namespace
}  // namespace conclave::rules
