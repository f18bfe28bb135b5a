// One value of a config against its field's type and bounds.
#ifndef CONCLAVE_TRAINER_CONFIG_SCALAR_H_
#define CONCLAVE_TRAINER_CONFIG_SCALAR_H_

#include <string>

#include <google/protobuf/descriptor.h>

#include "trainer/config_lexer.h"

namespace conclave {

// Says what is wrong with `value` (behind a minus where `negative`) as a value of the scalar field; empty: nothing.
// Numbers that look octal are refused: 010 is 8 to a parser and 10 to a reader.
std::string ScalarFault(const google::protobuf::FieldDescriptor& field, bool negative, const ConfigToken& value);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_SCALAR_H_
