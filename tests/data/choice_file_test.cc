#include "data/choice_file.h"

#include <algorithm>
#include <array>

#include <gtest/gtest.h>

#include "base/fault_file_system.h"

namespace conclave {
namespace {

std::vector<ChoiceQuestion> TwoQuestions() {
  return {{.label = 1, .context = {5, 6, 7}, .completions = {{1}, {2, 3}}},
          {.label = 0, .context = {}, .completions = {{9, 9}, {65534}, {4}, {1, 2, 3}}}};
}

std::string FileOf(const std::vector<ChoiceQuestion>& questions) {
  std::string body;
  size_t longest = 0;
  for (size_t i = 0; i < questions.size(); ++i) {
    const ChoiceQuestion& q = questions[i];
    std::vector<uint16_t> words = {65535, 0, static_cast<uint16_t>(i), static_cast<uint16_t>(q.label),
                                   static_cast<uint16_t>(q.completions.size())};
    const auto append = [&](const std::vector<int32_t>& tokens) {
      words.push_back(static_cast<uint16_t>(tokens.size()));
      words.insert(words.end(), tokens.begin(), tokens.end());
    };
    append(q.context);
    for (const auto& completion : q.completions) append(completion);
    words[1] = static_cast<uint16_t>(words.size() * 2);
    body.append(reinterpret_cast<const char*>(words.data()), words.size() * 2);
    longest = std::max(longest, words.size() * 2);
  }
  const std::array<int32_t, 256> header{20240522, 1, static_cast<int32_t>(questions.size()), static_cast<int32_t>(longest)};
  return std::string(reinterpret_cast<const char*>(header.data()), sizeof(header)) + body;
}

TEST(ChoiceFile, ReadsEveryQuestion) {
  const FaultFileSystem files;
  const std::string content = FileOf(TwoQuestions());
  EXPECT_EQ(content.size(), 1024u + 2 * (5 + 4 + 2 + 3) + 2 * (5 + 1 + 3 + 2 + 2 + 4));
  ASSERT_TRUE(files.WriteAtomically("q.bin", content).ok());
  const auto read = ReadChoiceFile(files, "q.bin");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 2u);
  for (int i = 0; i < 2; ++i) {
    const ChoiceQuestion want = TwoQuestions()[i], &got = (*read)[i];
    EXPECT_EQ(got.label, want.label);
    EXPECT_EQ(got.context, want.context);
    EXPECT_EQ(got.completions, want.completions);
  }
}

// Any file cut short, and any changed word of structure, is refused by the name of the question.
TEST(ChoiceFile, DamageIsNamed) {
  const FaultFileSystem files;
  const std::string sound = FileOf(TwoQuestions());
  const auto refused = [&](const std::string& content, const std::string& reason) {
    ASSERT_TRUE(files.WriteAtomically("q.bin", content).ok());
    const absl::Status status = ReadChoiceFile(files, "q.bin").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(std::string(status.message()).find(reason), std::string::npos) << status;
  };
  const auto with = [&](size_t word, uint16_t value) {
    std::string changed = sound;
    changed.replace(1024 + 2 * word, 2, reinterpret_cast<const char*>(&value), 2);
    return changed;
  };
  refused("", "no file of multiple-choice questions");
  refused("x" + sound.substr(1), "no file of multiple-choice questions");
  refused(sound.substr(0, sound.size() - 2), "question 1 of 2");
  refused(sound.substr(0, 1024 + 6), "question 0 of 2");
  refused(sound + "ab", "2 bytes after its last question");
  refused(with(0, 1), "question 0 of 2, at byte 1024");  // no mark
  refused(with(2, 7), "question 0 of 2");                // another number
  refused(with(3, 2), "question 0 of 2");                // a label beyond the completions
  refused(with(5, 40), "question 0 of 2");               // a context beyond the question
  refused(with(9, 0), "question 0 of 2");                // an empty completion
}

}  // namespace
}  // namespace conclave
