// Codecs named on the command line.
#ifndef CONCLAVE_BENCH_CODEC_TEXT_H_
#define CONCLAVE_BENCH_CODEC_TEXT_H_

#include <string>

#include <google/protobuf/text_format.h>

#include "base/status.h"
#include "proto/comm.pb.h"

namespace conclave {

inline absl::Status ParseCodec(const std::string& text, CodecConfig& config) {
  if (google::protobuf::TextFormat::ParseFromString(text, &config)) return absl::OkStatus();
  return InvalidArgument("'%s' is not a codec; expected a text such as: block_int { bits: 8 block: 64 }", text);
}

}  // namespace conclave

#endif  // CONCLAVE_BENCH_CODEC_TEXT_H_
