// Reads tensors out of a checkpoint's files, each chunk once, and trusts no byte before its checksum.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_READER_H_
#define CONCLAVE_TRAINER_CHECKPOINT_READER_H_

#include <span>
#include <string>

#include "base/file_system.h"
#include "base/status.h"
#include "proto/checkpoint.pb.h"
#include "trainer/checkpoint_match.h"

namespace conclave {

struct ReadOptions {
  // Also checks the bytes of no tensor (headers) in the files whose number is `share` modulo `shares`, so that all ranks together read all
  // of every file.
  bool whole_files = true;
  int share = 0, shares = 1;
};

// Fills the destinations from the files in `folder`. manifest: as ReadManifest gave it. Needs memory for one chunk. Destinations hold
// anything after an error. Errors: DataLoss naming file, bytes and tensors where a checksum differs or a file is too short; else the file
// system's.
absl::Status ReadTensors(const FileSystem& files, const std::string& folder, const CheckpointManifest& manifest,
                         std::span<const TensorMatch> tensors, const ReadOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_READER_H_
