// Text: taking apart, parsing, and numbers as people read them.
#ifndef CONCLAVE_BASE_STRINGS_H_
#define CONCLAVE_BASE_STRINGS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace conclave {

// Pieces between separators: n separators give n + 1 pieces, empty ones included; "" gives one empty piece.
std::vector<std::string> SplitString(std::string_view text, char separator);
std::string JoinStrings(std::span<const std::string> pieces, std::string_view separator);
// Without white space at both ends.
std::string_view StripWhitespace(std::string_view text);

// The whole text must be one decimal number. Errors: InvalidArgument (not a number), OutOfRange (does not fit).
absl::StatusOr<int64_t> ParseInt64(std::string_view text);
absl::StatusOr<double> ParseDouble(std::string_view text);

// Least number of insertions, deletions, replacements and swaps of neighbours (no piece edited twice). Cost: |a| * |b|.
int64_t EditDistance(std::string_view a, std::string_view b);
// The candidate a mistyped `name` was probably meant to be: least edit distance, upper and lower case alike, at most a third of the longer
// name's length (at least 1); the first of equals. "" where none is close enough. For 'did you mean'.
std::string ClosestName(std::string_view name, std::span<const std::string> candidates);

// "512 B", "1.50 KiB", "3.00 GiB".
std::string HumanBytes(int64_t bytes);
// "999", "1.50K", "12.3M", "1.20B", "2.00T".
std::string HumanCount(int64_t count);
// "850 ns", "1.50 us", "12.3 ms", "4.20 s", "3m05s", "2h00m", "3d04h".
std::string HumanDuration(double seconds);

// 16 lower-case hexadecimal digits.
std::string HexDigest(uint64_t value);

}  // namespace conclave

#endif  // CONCLAVE_BASE_STRINGS_H_
