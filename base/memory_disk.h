// A disk with a page cache, in memory, for tests: every file and directory has what programs see and what a power loss would leave.
#ifndef CONCLAVE_BASE_MEMORY_DISK_H_
#define CONCLAVE_BASE_MEMORY_DISK_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"

namespace conclave {

// What is left after the machine or the process stopped.
enum class Survival {
  kAll,     // only the process was killed: everything written is still there, but what was not synced can still be lost later
  kSynced,  // power loss, the worst case: exactly what was synced
  kChance,  // power loss: of what was not synced each directory operation may survive, and of each file any part, also as zeros
};

// The model. A file's content is durable after SyncFile; a name (creation, rename, removal) after SyncDir of its directory, together with
// the operations on that directory before it. A rename is one operation: it survives as a whole or not at all. Operations on different
// names may survive in any order (Pillai et al., OSDI 2014, found file systems that do so). Not thread-safe. Methods return 0 or an errno
// value. Files are named by inode once open; "." and empty parts of a path are skipped.
class MemoryDisk {
 public:
  explicit MemoryDisk(int64_t capacity_bytes);

  int OpenForWrite(std::string_view path, WriteMode mode, int64_t* inode);
  int OpenForRead(std::string_view path, int64_t* inode) const;
  // ENOSPC if the bytes do not fit: then as many as fit are written.
  int Append(int64_t inode, std::string_view data);
  const std::string& Content(int64_t inode) const { return inodes_.at(inode).content; }
  void SyncFile(int64_t inode) { inodes_.at(inode).durable = inodes_.at(inode).content; }

  int Rename(std::string_view from, std::string_view to);
  int SyncDir(std::string_view path);
  int RemoveFile(std::string_view path);
  int RemoveDir(std::string_view path);
  int CreateDir(std::string_view path);
  int Truncate(std::string_view path, int64_t size);
  int ListDir(std::string_view path, std::vector<std::string>* names) const;
  // Never fails; a missing path is kMissing.
  FileKind Kind(std::string_view path) const;
  int64_t FreeBytes() const { return capacity_bytes_ - used_bytes_; }

  // The stop. Open files are meaningless afterwards. `seed` decides for kChance.
  void Stop(Survival survival, uint64_t seed);

 private:
  struct Inode {
    bool is_directory = false;
    std::string content, durable;                             // of a file
    std::map<std::string, int64_t> entries, durable_entries;  // of a directory
  };
  struct NameChange {
    int64_t directory = 0;
    std::string name;
    int64_t inode = kNone;  // kNone: the name goes away
  };
  using DirectoryOperation = std::vector<NameChange>;
  struct Place {  // a path taken apart
    int64_t directory = kNone, inode = kNone;
    std::string name;  // empty: the root
  };
  static constexpr int64_t kNone = -1, kRoot = 0;

  int Find(std::string_view path, Place* place) const;  // ENOENT, ENOTDIR for the folders on the way; a missing last part is inode kNone
  int64_t NewInode(bool is_directory);
  void Apply(DirectoryOperation operation);
  void MakeDurable(const DirectoryOperation& operation);
  void Resize(std::string* content, size_t size);
  bool IsInside(int64_t directory, int64_t ancestor) const;
  void KeepReachable();

  const int64_t capacity_bytes_;
  int64_t used_bytes_ = 0, next_inode_ = 1;
  std::map<int64_t, Inode> inodes_;
  std::vector<DirectoryOperation> pending_;  // not yet durable, in order
};

}  // namespace conclave

#endif  // CONCLAVE_BASE_MEMORY_DISK_H_
