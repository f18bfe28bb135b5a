// Manifests that nobody of ours would write: boxes that split tensors, and everything that must be refused.
#include "trainer/checkpoint_manifest.h"

#include <cstring>
#include <functional>

#include "base/crc32c.h"
#include "base/fault_file_system.h"
#include "gtest/gtest.h"
#include "trainer/checkpoint_reader.h"

namespace conclave {
namespace {

// Adds a box of a row-major [4, 6] f32 tensor to the file's content and the manifest.
void AddBox(const std::vector<float>& whole, std::array<int64_t, 2> offset, std::array<int64_t, 2> extent, std::string* content,
            SavedTensor* tensor) {
  SavedBox* box = tensor->add_boxes();
  box->set_begin(content->size());
  for (int d = 0; d < 2; ++d) {
    box->add_offset(offset[static_cast<size_t>(d)]);
    box->add_extent(extent[static_cast<size_t>(d)]);
  }
  for (int64_t i = offset[0]; i < offset[0] + extent[0]; ++i) {
    content->append(reinterpret_cast<const char*>(&whole[static_cast<size_t>(i * 6 + offset[1])]),
                    static_cast<size_t>(extent[1]) * sizeof(float));
  }
  box->set_length(content->size() - box->begin());
  box->set_crc32c(Crc32c(std::string_view(*content).substr(box->begin())));
}

struct Split {
  std::vector<float> whole;
  std::string content;
  CheckpointManifest manifest;
};

// A tensor in four boxes of unlike shapes, in chunks of 20 bytes, which cut through elements' runs.
Split MakeSplit() {
  Split split;
  for (int i = 0; i < 24; ++i) split.whole.push_back(static_cast<float>(i) + 0.5f);
  split.content = "header..";
  split.manifest.set_format_version(1);
  SavedTensor* tensor = split.manifest.add_tensors();
  tensor->set_name("w");
  tensor->set_dtype("F32");
  tensor->add_shape(4);
  tensor->add_shape(6);
  AddBox(split.whole, {0, 0}, {4, 1}, &split.content, tensor);
  AddBox(split.whole, {0, 1}, {2, 5}, &split.content, tensor);
  AddBox(split.whole, {2, 3}, {2, 3}, &split.content, tensor);
  AddBox(split.whole, {2, 1}, {2, 2}, &split.content, tensor);
  SavedFile* file = split.manifest.add_files();
  file->set_name("part");
  file->set_bytes(split.content.size());
  file->set_chunk_bytes(20);
  for (size_t at = 0; at < split.content.size(); at += 20) file->add_chunk_crc32c(Crc32c(std::string_view(split.content).substr(at, 20)));
  return split;
}

TEST(CheckpointManifestTest, BoxesOfAnyShapeAreAssembled) {
  const Split split = MakeSplit();
  FaultFileSystem fs;
  const auto file = fs.OpenForWrite("part", WriteMode::kTruncate);
  ASSERT_TRUE((*file)->Write(split.content).ok());
  const auto manifest = DecodeManifest(EncodeManifest(split.manifest), "MANIFEST.pb");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  const OwnedTensor out({4, 6}, DType::kF32);
  const std::vector<TensorMatch> match = {{&manifest->tensors(0), *out}};
  ASSERT_EQ(ReadTensors(fs, "", *manifest, match, {}), absl::OkStatus());
  const auto values = out->span<float>();
  EXPECT_EQ(std::vector<float>(values.begin(), values.end()), split.whole);
}

TEST(CheckpointManifestTest, EverythingThatIsNotSoundIsRefused) {
  struct Case {
    const char* expected;
    std::function<void(CheckpointManifest&)> change;
  };
  const std::vector<Case> cases = {
      {"hold 20 of 24", [](auto& m) { m.mutable_tensors(0)->mutable_boxes()->RemoveLast(); }},
      {"overlap", [](auto& m) { m.mutable_tensors(0)->mutable_boxes(3)->set_offset(1, 2); }},
      {"outside", [](auto& m) { m.mutable_tensors(0)->mutable_boxes(1)->set_offset(1, 2); }},
      {"outside", [](auto& m) { m.mutable_tensors(0)->mutable_boxes(1)->set_offset(0, -1); }},
      {"no file 1", [](auto& m) { m.mutable_tensors(0)->mutable_boxes(1)->set_file(1); }},
      {"bytes", [](auto& m) { m.mutable_tensors(0)->mutable_boxes(1)->set_begin(1000); }},
      {"bytes", [](auto& m) { m.mutable_tensors(0)->mutable_boxes(1)->set_length(4); }},
      {"tensor 'w' is F7", [](auto& m) { m.mutable_tensors(0)->set_dtype("F7"); }},
      {"tensor 'w' is F32", [](auto& m) { m.mutable_tensors(0)->set_shape(0, int64_t{1} << 62); }},
      {"out of order", [](auto& m) { *m.add_tensors() = m.tensors(0); }},
      {"file name '../part'", [](auto& m) { m.mutable_files(0)->set_name("../part"); }},
      {"checksums", [](auto& m) { m.mutable_files(0)->add_chunk_crc32c(0); }},
      {"chunks of 0", [](auto& m) { m.mutable_files(0)->set_chunk_bytes(0); }},
      {"no format version", [](auto& m) { m.clear_format_version(); }},
      {"format version 2", [](auto& m) { m.set_format_version(2); }},
  };
  for (const Case& c : cases) {
    CheckpointManifest manifest = MakeSplit().manifest;
    c.change(manifest);
    const absl::Status status = DecodeManifest(EncodeManifest(manifest), "folder/MANIFEST.pb").status();
    EXPECT_FALSE(status.ok()) << c.expected;
    EXPECT_NE(status.message().find(c.expected), absl::string_view::npos) << status;
    EXPECT_NE(status.message().find("folder/MANIFEST.pb"), absl::string_view::npos) << status;
  }
}

TEST(CheckpointManifestTest, ItsOwnChecksumGuardsEveryByte) {
  const std::string good = EncodeManifest(MakeSplit().manifest);
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 4);
    EXPECT_EQ(DecodeManifest(bad, "m").status().code(), absl::StatusCode::kDataLoss) << at;
    EXPECT_EQ(DecodeManifest(good.substr(0, at), "m").status().code(), absl::StatusCode::kDataLoss) << at;
  }
  CheckpointManifest with_crc;
  ASSERT_TRUE(with_crc.ParseFromString(good));  // any reader of the schema finds the field where the schema has it
  EXPECT_EQ(with_crc.crc32c(), Crc32c(std::string_view(good).substr(0, good.size() - 5)));
}

}  // namespace
}  // namespace conclave
