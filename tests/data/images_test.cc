// Labelled images from IDX files.
#include <zlib.h>

#include "data/data_set.h"
#include "data/gzip.h"
#include "tests/data/data_testing.h"

namespace conclave {
namespace {

std::string Gzip(const std::string& content) {
  z_stream stream{};
  CHECK_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(content.size() + 1000, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  CHECK_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

class Images : public testing::Test {
 protected:
  absl::StatusOr<DataSet> Open(const std::string& fields) const {
    auto config =
        ParseText<DataConfig>("shuffle: false validation_fraction: 0.25 sources { weight: 1 images { classes: 10 " + fields + " } }");
    config.set_cache_dir(scratch_ / "cache");
    return OpenData(config, {.seed = 1, .workers = 1, .global_batch = 4, .micro_batches = 1, .shuffle = false}, 0, RealFileSystem());
  }
  absl::StatusOr<DataSet> Open(const std::string& images, const std::string& labels) const {
    return Open(absl::StrFormat("path: '%s' labels: '%s'", scratch_.Write("images", images), scratch_.Write("labels", labels)));
  }
  ScratchFolder scratch_;
};

void ExpectSample(const Batch& batch, int64_t row, int64_t sample) {
  const auto byte = [](int64_t i) { return (7 * i + i / 3) % 10; };
  for (int64_t j = 0; j < 6; ++j) {
    EXPECT_EQ(batch.features.data<float>()[6 * row + j], static_cast<float>(byte(6 * sample + j)) / 255.0f) << row << ' ' << j;
  }
  EXPECT_EQ(batch.targets.data<int32_t>()[row], byte(sample));
}

// Plain or compressed; the last quarter is held out.
TEST_F(Images, AreReadWithTheirClasses) {
  for (const bool packed : {false, true}) {
    const std::string images = IdxFile({20, 2, 3}), labels = IdxFile({20});
    const auto data = packed ? Open(Gzip(images), Gzip(labels)) : Open(images, labels);
    ASSERT_TRUE(data.ok()) << data.status();
    EXPECT_EQ(data->loader->shape(), (SampleShape{SampleShape::Kind::kLabelled, 6}));
    EXPECT_EQ(data->loader->samples_per_epoch(), 15);
    EXPECT_EQ(data->evaluation.size(), 5);
    BatchBuffer buffer(data->loader->shape(), 4, DType::kF32);
    ASSERT_TRUE(data->loader->FillLeaf({.step = 1}, {0}, 0, &buffer).ok());
    EXPECT_EQ(buffer.batch().count, 4);
    for (int64_t row = 0; row < 4; ++row) ExpectSample(buffer.batch(), row, 4 + row);
    ASSERT_TRUE(data->evaluation.Fill(1, 3, &buffer).ok());
    for (int64_t row = 0; row < 2; ++row) ExpectSample(buffer.batch(), row, 15 + 3 + row);
  }
}

TEST_F(Images, MayBeHeldOutInFilesOfTheirOwn) {
  const std::string train =
      absl::StrFormat("path: '%s' labels: '%s'", scratch_.Write("a", IdxFile({20, 2, 3})), scratch_.Write("b", IdxFile({20})));
  const auto data = Open(train + absl::StrFormat(" held_out_path: '%s' held_out_labels: '%s'", scratch_.Write("c", IdxFile({8, 2, 3})),
                                                 scratch_.Write("d", IdxFile({8}))));
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->loader->samples_per_epoch(), 20);
  EXPECT_EQ(data->evaluation.size(), 8);
  const auto other = Open(train + absl::StrFormat(" held_out_path: '%s' held_out_labels: '%s'", scratch_.Write("c", IdxFile({8, 2, 2})),
                                                  scratch_.Write("d", IdxFile({8}))));
  EXPECT_EQ(other.status().code(), absl::StatusCode::kInvalidArgument) << other.status();
}

TEST_F(Images, DamageIsNamed) {
  const std::string images = IdxFile({20, 2, 3}), labels = IdxFile({20});
  const auto expect = [&](const std::string& bad, const std::string& with, absl::StatusCode code, const std::string& says) {
    const auto data = Open(bad, with);
    EXPECT_EQ(data.status().code(), code) << data.status();
    EXPECT_NE(std::string(data.status().message()).find(says), std::string::npos) << data.status();
  };
  using enum absl::StatusCode;
  expect(images.substr(0, images.size() - 1), labels, kDataLoss, "promises 120 bytes, but 119 follow");
  expect(images.substr(0, 9), labels, kDataLoss, "IDX");
  expect(labels, labels, kDataLoss, "3 dimensions");
  expect("text", labels, kDataLoss, "IDX");
  expect(images, IdxFile({19}), kInvalidArgument, "19 classes");
  std::string wild = labels;
  wild.back() = 10;
  expect(images, wild, kInvalidArgument, "image 19 is of class 10");
  const std::string packed = Gzip(images);
  expect(packed.substr(0, packed.size() / 2), labels, kDataLoss, "gzip");
  std::string flipped = packed;
  flipped[packed.size() - 6] ^= 1;  // of the checksum
  expect(flipped, labels, kDataLoss, "gzip");
  EXPECT_EQ(Open("path: 'nowhere.idx' labels: 'nowhere.idx'").status().code(), kNotFound);
}

}  // namespace
}  // namespace conclave
