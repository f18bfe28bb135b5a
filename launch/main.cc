// conclave: the one binary.

#include <cstdio>

#include "base/strings.h"
#include "launch/commands.h"
#include "launch/job.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

std::vector<Command> AllCommands() {
  return {TrainCommand(), EvalCommand(),    GenerateCommand(), CheckCommand(),  TokenizeCommand(), TraceCommand(),
          PlaceCommand(), CompareCommand(), ImportCommand(),   ExportCommand(), BenchCommand(),    VersionCommand()};
}

std::string Usage(const std::vector<Command>& commands) {
  std::string text = "usage: conclave COMMAND [arguments]\n\n";
  for (const Command& command : commands) {
    absl::StrAppendFormat(&text, "  %-10s %s\n", command.spec.name, SplitString(command.spec.summary, '\n')[0]);
  }
  return text +
         "\nconclave COMMAND --help tells more. Exit codes: 0 finished; 1 failed; 2 bad config or usage; 70 a rank hung;\n"
         "75 stopped with a committed checkpoint, resume me; 93 stopped by the user.\n";
}

int Main(const std::vector<std::string>& arguments) {
  const std::vector<Command> commands = AllCommands();
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
    std::fputs(Usage(commands).c_str(), arguments.empty() ? stderr : stdout);
    return arguments.empty() ? kExitUsage : kExitFinished;
  }
  std::vector<std::string> names;
  for (const Command& command : commands) {
    names.push_back(command.spec.name);
    if (command.spec.name != arguments[0]) continue;
    const absl::StatusOr<Arguments> parsed = Arguments::Parse(command.spec, {arguments.begin() + 1, arguments.end()});
    if (!parsed.ok()) return PrintsForAll() ? Fail(parsed.status()) : kExitUsage;
    if (parsed->help()) {
      std::fputs(HelpText(command.spec).c_str(), stdout);
      return kExitFinished;
    }
    return command.run(*parsed, arguments);
  }
  const std::string closest = ClosestName(arguments[0], names);
  if (!PrintsForAll()) return kExitUsage;
  return Fail(InvalidArgument("unknown command '%s'%s; known: %s", arguments[0], closest.empty() ? "" : "; did you mean '" + closest + "'?",
                              JoinStrings(names, ", ")));
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main({argv + 1, argv + argc}); }
