// The part of a line of metrics.jsonl that is a function of the train state, for comparing runs bit by bit.
#ifndef CONCLAVE_TESTS_TRAINER_STATE_FIELDS_H_
#define CONCLAVE_TESTS_TRAINER_STATE_FIELDS_H_

#include <string_view>

namespace conclave {

// Quotes inside strings are escaped, so the key cannot appear in one; it is the last but one at top level.
inline std::string_view StateFields(std::string_view line) { return line.substr(0, line.rfind(",\"wire\":")); }

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_STATE_FIELDS_H_
