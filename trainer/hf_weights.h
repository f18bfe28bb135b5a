// The weights of Hugging Face models: their tensors under our blocks' names, both ways.
#ifndef CONCLAVE_TRAINER_HF_WEIGHTS_H_
#define CONCLAVE_TRAINER_HF_WEIGHTS_H_

#include <string>
#include <vector>

#include "base/file_system.h"
#include "tensor/layout.h"
#include "trainer/hf_config.h"

namespace conclave {

// Rows of one of our blocks ([out, in], or [n] as [n, 1]) that a tensor of theirs holds.
struct HfPiece {
  std::string name;           // as written on export
  int64_t row = 0, rows = 0;  // of the block
  bool transposed = false;    // theirs is [in, rows]
  std::string other;          // the same tensor's name in files of some versions; empty: none
  // Other places where files of some versions have it: tensors that hold all experts, of which this is the part of `expert`, `skip` rows
  // into it. Their shape: [experts, fused_rows, in].
  std::string fused;
  int64_t expert = 0, skip = 0, fused_rows = 0;
};

// The pieces of block `name`, which tile its rows. config: all fields set. rows: of the block.
std::vector<HfPiece> HfPiecesOf(const MoeLmConfig& config, HfFamily family, const std::string& name, int64_t rows);

// True where the folder holds a config.json, so that it is a Hugging Face model and no checkpoint of ours.
bool IsHfFolder(const FileSystem& files, const std::string& folder);

// Reads `folder`'s config.json and the headers of its weights. A head that the config does not mention is tied if the files have none,
// or where that is the family's default, the embedding again.
// Errors: those of ParseHfConfig; NotFound without weights; DataLoss for damaged files.
absl::StatusOr<HfModel> ReadHfModel(const FileSystem& files, const std::string& folder);

// Fills the local blocks of `point` from model.safetensors, or from the files of model.safetensors.index.json; f32, f64, f16 and bf16.
// Every tensor of the files must be used and every block filled, whoever holds it; buffers that carry no weights (attention masks) are
// skipped, and so is a head where ours is the embedding, if theirs is too, by their config or byte for byte. Not collective; every rank
// finds the same errors in the names. Errors: FailedPrecondition with up to five names of each kind: missing, unused, misshapen; DataLoss.
absl::Status LoadHfWeights(const FileSystem& files, const std::string& folder, const HfModel& model, FlatVector* point);

// Writes config.json and model.safetensors (f32) into `folder`, which is created. All blocks must be local: run it on one rank. config: all
// fields set. The same model gives the same bytes. Errors: those of FamilyFor, of the file system.
absl::Status SaveHfModel(const FileSystem& files, const std::string& folder, const MoeLmConfig& config, const FlatVector& point);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_HF_WEIGHTS_H_
