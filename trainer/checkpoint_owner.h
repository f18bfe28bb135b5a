// Names of the folders inside a checkpoint folder. A folder that is not a checkpoint yet, or no longer, carries its owner's identity in its
// name, so that it exists from the first moment on and the leftovers of dead runs can be told from a live run's work.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_OWNER_H_
#define CONCLAVE_TRAINER_CHECKPOINT_OWNER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace conclave {

// When a process of this machine began, in clock ticks since boot (proc(5), field 22 of stat); none where there is no such process.
std::optional<int64_t> StartOfProcess(int64_t process);

// A process, and when it made the folder.
struct CheckpointOwner {
  int64_t process = 0;
  int64_t started = 0;  // StartOfProcess: tells a process from a later one of the same number
  int64_t wall_ms = 0;
  std::string host;

  static CheckpointOwner Self(int64_t wall_ms);
  std::string ToString() const;  // "<process>-<started>-<wall_ms>-<host>"
  static std::optional<CheckpointOwner> Parse(std::string_view text);

  bool SameProcess(const CheckpointOwner& other) const;
  // Whether its leftovers may be removed by the process `self`: it is this very process (which has no save under way), or a process of this
  // host that no longer runs, or one of another host, which cannot be asked, and an hour has passed.
  bool IsGone(const CheckpointOwner& self) const;
};

struct CheckpointFolderName {
  enum class Kind {
    kStep,       // "step-<N>": committed
    kTemporary,  // "step-<N>.tmp-<owner>": being written
    kReplaced,   // "step-<N>.replaced-<owner>": makes room for a new step-<N>; comes back if that does not appear
    kTrash,      // ".trash-<N>-<owner>": being removed
    kOther,
  };
  Kind kind = Kind::kOther;
  int64_t step = 0;
  std::optional<CheckpointOwner> owner;

  static CheckpointFolderName Parse(std::string_view name);
  static std::string Of(Kind kind, int64_t step, const CheckpointOwner& owner = {});
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_OWNER_H_
