// What tests of codecs share: configs from text, and values to encode.
#ifndef CONCLAVE_TESTS_COMM_CODEC_VALUES_H_
#define CONCLAVE_TESTS_COMM_CODEC_VALUES_H_

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>

#include "base/rng.h"
#include "comm/compressors.h"

namespace conclave {

inline CodecConfig ParseCodec(const std::string& text) {
  CodecConfig config;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &config)) << text;
  return config;
}

inline OwnedTensor Values(int64_t d, DType dtype) {
  OwnedTensor x({d}, dtype);
  const RngKey key{.seed = 5};
  DispatchFloat(dtype, [&](auto t) {
    for (int64_t i = 0; i < d; ++i) x->data<decltype(t)>()[i] = static_cast<decltype(t)>(key.Normal(i) + 0.5);
  });
  return x;
}

inline double At(const Tensor& x, int64_t i) { return x.dtype() == DType::kF32 ? x.data<float>()[i] : x.data<double>()[i]; }

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_CODEC_VALUES_H_
