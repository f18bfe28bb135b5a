// What this program is and what it is linked against.
#ifndef CONCLAVE_TRAINER_VERSION_H_
#define CONCLAVE_TRAINER_VERSION_H_

#include <string>
#include <utility>
#include <vector>

namespace conclave {

inline constexpr const char* kProgramVersion = "0.1.0";

// Names and versions of the libraries found at run time.
std::vector<std::pair<std::string, std::string>> LibraryVersions();

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_VERSION_H_
