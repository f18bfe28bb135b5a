// MANIFEST.pb: reading it without trust, and what it says in words.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_MANIFEST_H_
#define CONCLAVE_TRAINER_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/file_system.h"
#include "base/status.h"
#include "proto/checkpoint.pb.h"

namespace conclave {

inline constexpr std::string_view kManifestName = "MANIFEST.pb";
inline constexpr uint32_t kCheckpointFormat = 1;

// The bytes of the file: the message without its CRC, then the field crc32c over them.
std::string EncodeManifest(CheckpointManifest manifest);

// The inverse, checked: CRC, version, names of files, sizes, and that the boxes of each tensor tile it. `path` is for messages.
// Errors: DataLoss with what is wrong where; Unimplemented for a version newer than this program.
absl::StatusOr<CheckpointManifest> DecodeManifest(std::string_view bytes, const std::string& path);

// Reads the manifest of the checkpoint in `folder`, and sees that all its files are there with the sizes it lists, and that a folder
// named "step-<N>" holds step N. Errors: also NotFound.
absl::StatusOr<CheckpointManifest> ReadManifest(const FileSystem& files, const std::string& folder);

// "F32 [2, 3]".
std::string DescribeType(std::string_view dtype, std::span<const int64_t> shape);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_MANIFEST_H_
