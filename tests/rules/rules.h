#ifndef CONCLAVE_TESTS_RULES_RULES_H_
#define CONCLAVE_TESTS_RULES_RULES_H_
// The style rules as functions from files to violations, so that each is tested on a planted breach and then run on the repository.

#include <vector>

#include "tests/rules/source_tree.h"

namespace conclave::rules {

// Includes follow the arrows: base <- tensor <- {comm, data}; comm <- {parallel, optim}; {parallel, data} <- models; all <- trainer <-
// launch. proto depends on nothing; folders above tensor may include its generated headers. Includes carry the full path from the root, MPI
// is reached through comm alone, and .cu files include neither abseil nor protobuf.
std::vector<Violation> CheckLayering(const std::vector<SourceFile>& files);

// At most 500 lines for .cc and .cu, 250 for .h.
std::vector<Violation> CheckSizes(const std::vector<SourceFile>& files);

// No file or folder is named after nothing in particular.
std::vector<Violation> CheckNames(const std::vector<SourceFile>& files);

// Conditional compilation is the header guard (spelled after the path) and a short list of files; macros live in a short list of files.
std::vector<Violation> CheckPreprocessor(const std::vector<SourceFile>& files);

// No notes of unfinished work and no path of somebody's machine, in any file.
std::vector<Violation> CheckWording(const std::vector<SourceFile>& files);

// No exception of ours, no setting read from the environment.
std::vector<Violation> CheckForbiddenCode(const std::vector<SourceFile>& files);

// The maximising player's sign is changed in trainer/model_operator.cc alone; others may declare who maximises, not act on it.
std::vector<Violation> CheckSignFlip(const std::vector<SourceFile>& files);

// Every relative link of a .md file, and every `./script` it names, exists in the repository.
std::vector<Violation> CheckLinks(const std::vector<SourceFile>& files);

}  // namespace conclave::rules

#endif  // CONCLAVE_TESTS_RULES_RULES_H_
