#include "base/system_memory.h"

#include <fstream>
#include <limits>
#include <string>

namespace conclave {

int64_t AvailableMemory() {
  std::ifstream lines("/proc/meminfo");
  for (std::string name; lines >> name;) {
    int64_t kibibytes = 0;
    if (name == "MemAvailable:" && lines >> kibibytes) return kibibytes * 1024;
    lines.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return -1;
}

}  // namespace conclave
