// Protobuf's text parser behind one function, with places as byte offsets.
#ifndef CONCLAVE_TRAINER_CONFIG_PARSE_H_
#define CONCLAVE_TRAINER_CONFIG_PARSE_H_

#include <cstdint>
#include <optional>
#include <string>

#include <google/protobuf/message.h>

namespace conclave {

struct ParseFault {
  int64_t offset = 0;
  std::string message;
};

enum class ParseMode {
  kStrict,  // a singular field set twice is a fault
  kMerge,   // scalars overwrite, lists grow
};

// Reads `text` into `message`; kStrict clears it first. Returns the first fault. Prints nothing.
std::optional<ParseFault> ParseConfigText(const std::string& text, ParseMode mode, google::protobuf::Message* message);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_PARSE_H_
