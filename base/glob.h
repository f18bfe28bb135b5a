// Globs: patterns on names.
#ifndef CONCLAVE_BASE_GLOB_H_
#define CONCLAVE_BASE_GLOB_H_

#include <string_view>

namespace conclave {

// Whether the whole name matches; `*` stands for any text, `?` for one character. Cost: at most |pattern| * |name|.
bool GlobMatches(std::string_view pattern, std::string_view name);

}  // namespace conclave

#endif  // CONCLAVE_BASE_GLOB_H_
