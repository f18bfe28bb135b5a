#include "comm/compressor.h"

namespace conclave {

absl::Status WrongLength(const char* codec, const CodecKey& key, int64_t expected, size_t got) {
  return DataLoss("%s message of worker %d, block %d: expected %d bytes, got %d", codec, key.worker.value, key.block.value, expected, got);
}

absl::Status Malformed(const char* codec, const CodecKey& key, const char* what) {
  return DataLoss("%s message of worker %d, block %d: %s", codec, key.worker.value, key.block.value, what);
}

}  // namespace conclave
