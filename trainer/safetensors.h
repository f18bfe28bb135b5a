// The safetensors container: a JSON header and tensors without gaps. Source: github.com/huggingface/safetensors, README "Format".
#ifndef CONCLAVE_TRAINER_SAFETENSORS_H_
#define CONCLAVE_TRAINER_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "tensor/tensor.h"

namespace conclave {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F32", ...
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes in the data buffer
};

struct SafetensorsFile {
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;  // of the data buffer in the file
  int64_t bytes = 0;       // of the whole file
};

const char* SafetensorsName(DType dtype);
std::optional<DType> DTypeOfSafetensorsName(std::string_view name);  // none: a type we do not compute with
// Bits of one element of any type of the format; 0: no such type.
int SafetensorsBits(std::string_view dtype);

// Gives each entry (distinct names, our types) its place and orders them: alignment of the type descending, then name.
SafetensorsFile LayOutSafetensors(std::vector<SafetensorsEntry> entries, std::map<std::string, std::string> metadata = {});
// Everything before the data buffer: length and JSON, padded with spaces so that the buffer begins at a multiple of 8. Size: data_begin.
std::string SafetensorsHeader(const SafetensorsFile& file);

// Reads and checks the header; `path` is for messages. Errors: DataLoss for anything the format forbids, with the place: length of the
// header, UTF-8, JSON, repeated names, unknown types, shape * type != bytes, holes, overlaps, bytes of no tensor; also dims beyond 2^63
// bytes.
absl::StatusOr<SafetensorsFile> ReadSafetensorsHeader(const ReadableFile& file, const std::string& path);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_SAFETENSORS_H_
