// What the machine has left.
#ifndef CONCLAVE_BASE_SYSTEM_MEMORY_H_
#define CONCLAVE_BASE_SYSTEM_MEMORY_H_

#include <cstdint>

namespace conclave {

// Bytes that new allocations can take without swapping, as the kernel estimates; of the whole machine. -1: it does not say.
int64_t AvailableMemory();

}  // namespace conclave

#endif  // CONCLAVE_BASE_SYSTEM_MEMORY_H_
