#include "comm/wire_frame.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "comm/message_bucket.h"
#include "tests/comm/codec_values.h"

namespace conclave {
namespace {

TEST(WireFrame, EveryFlippedBitIsFound) {
  CodecConfig config;
  config.mutable_rand_k()->set_fraction(0.5);
  const CompressorOr codec = MakeCompressor(config, {.shape = {8}});
  ASSERT_EQ(codec.status(), absl::OkStatus());
  const OwnedTensor x = Values(8, DType::kF32), y({8}, DType::kF32);
  const CodecKey key{.seed = 1, .block = {4}, .worker = {2}, .step = 77, .draw = 1};
  std::vector<std::byte> buffer(kFrameBytes + (*codec)->MaxWireBytes());
  EXPECT_EQ(EncodeFramed(**codec, *x, key, buffer), 16);
  EXPECT_EQ(DecodeFramed(**codec, buffer, key, *y), absl::OkStatus());
  for (size_t bit = 0; bit < buffer.size() * 8; ++bit) {
    std::vector<std::byte> damaged = buffer;
    damaged[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_EQ(DecodeFramed(**codec, damaged, key, *y).code(), absl::StatusCode::kDataLoss) << "bit " << bit;
  }
  for (size_t n = 0; n < buffer.size(); ++n) {
    EXPECT_EQ(DecodeFramed(**codec, std::span(buffer).first(n), key, *y).code(), absl::StatusCode::kDataLoss) << n << " bytes";
  }
  CodecKey other = key;
  other.worker = {3};
  EXPECT_EQ(DecodeFramed(**codec, buffer, other, *y).code(), absl::StatusCode::kDataLoss);
}

TEST(WireFrame, PoisonIsNaNForEveryone) {
  CodecConfig config;
  config.mutable_identity();
  const CompressorOr codec = MakeCompressor(config, {.shape = {3}});
  ASSERT_EQ(codec.status(), absl::OkStatus());
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const OwnedTensor x({3}, DType::kF32), y({3}, DType::kF32);
    x->data<float>()[1] = bad;
    std::vector<std::byte> buffer(kFrameBytes + (*codec)->MaxWireBytes());
    EXPECT_EQ(EncodeFramed(**codec, *x, {}, buffer), 0);
    ASSERT_EQ(DecodeFramed(**codec, buffer, {}, *y), absl::OkStatus());
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(y->data<float>()[i]));
  }
}

}  // namespace
}  // namespace conclave
