// The commands of `conclave`. Each takes the arguments after its name and returns the process's exit code.
#ifndef CONCLAVE_LAUNCH_COMMANDS_H_
#define CONCLAVE_LAUNCH_COMMANDS_H_

#include <string>
#include <vector>

#include "launch/arguments.h"

namespace conclave {

struct Command {
  CommandSpec spec;
  int (*run)(const Arguments& arguments, const std::vector<std::string>& raw);
};

Command TrainCommand();
Command EvalCommand();
Command GenerateCommand();
Command CheckCommand();
Command TokenizeCommand();
Command TraceCommand();
Command PlaceCommand();
Command CompareCommand();
Command ImportCommand();
Command ExportCommand();
Command BenchCommand();
Command VersionCommand();

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_COMMANDS_H_
