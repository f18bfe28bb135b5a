// What the tests of data/ share.
#ifndef CONCLAVE_TESTS_DATA_DATA_TESTING_H_
#define CONCLAVE_TESTS_DATA_DATA_TESTING_H_

#include <unistd.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/file_system.h"
#include "data/source.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

namespace conclave {

// A folder of its own for one test, removed at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    path_ = JoinPath(testing::TempDir(), absl::StrFormat("data-%d-%s-%s", getpid(), info->test_suite_name(), info->name()));
    CHECK_OK(RealFileSystem().RemoveTree(path_));
    CHECK_OK(RealFileSystem().CreateDirs(path_));
  }
  ~ScratchFolder() { RealFileSystem().RemoveTree(path_).IgnoreError(); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return JoinPath(path_, name); }
  // Writes a file and returns its path.
  std::string Write(const std::string& name, const std::string& content) const {
    const std::string path = *this / name;
    CHECK_OK(RealFileSystem().WriteAtomically(path, content));
    return path;
  }

 private:
  std::string path_;
};

template <typename Message>
Message ParseText(const std::string& text) {
  Message message;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

// A source of `size` one-token samples: sample i is the token i, its target the epoch.
class CountingSource : public Source {
 public:
  explicit CountingSource(int64_t size) : size_(size) {}
  SampleShape shape() const override { return {SampleShape::Kind::kTokens, 1}; }
  int64_t size() const override { return size_; }
  absl::Status Fetch(int64_t sample, int64_t epoch, int64_t row, Batch* batch) const override {
    batch->tokens.data<int32_t>()[row] = static_cast<int32_t>(sample);
    batch->targets.data<int32_t>()[row] = static_cast<int32_t>(epoch);
    ++batch->count;
    return absl::OkStatus();
  }

 private:
  int64_t size_;
};

// A file in the IDX format: bytes of the given dimensions, each (7 i + i / 3) % 10.
inline std::string IdxFile(const std::vector<int64_t>& dims) {
  std::string file = {0, 0, 8, static_cast<char>(dims.size())};
  int64_t bytes = 1;
  for (const int64_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) file.push_back(static_cast<char>(dim >> shift & 255));
    bytes *= dim;
  }
  for (int64_t i = 0; i < bytes; ++i) file.push_back(static_cast<char>((7 * i + i / 3) % 10));
  return file;
}

inline std::vector<int32_t> Values(const Tensor& tensor) {
  const std::span<int32_t> values = tensor.span<int32_t>();
  return {values.begin(), values.end()};
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_DATA_DATA_TESTING_H_
