// The reference of the config as Markdown, made from the schema itself.
#ifndef CONCLAVE_LAUNCH_REFERENCE_H_
#define CONCLAVE_LAUNCH_REFERENCE_H_

#include <string>

namespace conclave {

// docs/config.md: one table a block, in the order in which blocks appear in an experiment. A test keeps the page equal to it.
std::string ConfigReference();

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_REFERENCE_H_
