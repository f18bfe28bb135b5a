// Multiple-choice questions in llm.c's evaluation format (HellaSwag and the like).
#ifndef CONCLAVE_DATA_CHOICE_FILE_H_
#define CONCLAVE_DATA_CHOICE_FILE_H_

#include <string>
#include <vector>

#include "base/file_system.h"

namespace conclave {

struct ChoiceQuestion {
  int label = 0;  // the right completion
  std::vector<int32_t> context;
  std::vector<std::vector<int32_t>> completions;
};

// A header of 256 int32 (20240522, 1, questions, bytes of the longest), then for each question uint16: 65535, its bytes, its number, the
// label, how many completions, and for the context and each completion a length and tokens. Source: llm.c, llmc/dataloader.h. Errors:
// DataLoss with the question that is damaged.
absl::StatusOr<std::vector<ChoiceQuestion>> ReadChoiceFile(const FileSystem& files, const std::string& path);

}  // namespace conclave

#endif  // CONCLAVE_DATA_CHOICE_FILE_H_
