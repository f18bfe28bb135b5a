#include "base/memory_disk.h"

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/rng.h"

namespace conclave {

MemoryDisk::MemoryDisk(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {
  inodes_[kRoot].is_directory = true;
}

int MemoryDisk::Find(std::string_view path, Place* place) const {
  if (path.empty()) return ENOENT;
  *place = {.directory = kNone, .inode = kRoot, .name = ""};
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    path = slash == std::string_view::npos ? "" : path.substr(slash + 1);
    if (part.empty() || part == ".") continue;
    if (place->inode == kNone) return ENOENT;
    const Inode& directory = inodes_.at(place->inode);
    if (!directory.is_directory) return ENOTDIR;
    const auto entry = directory.entries.find(std::string(part));
    *place = {.directory = place->inode, .inode = entry == directory.entries.end() ? kNone : entry->second, .name = std::string(part)};
  }
  return 0;
}

int64_t MemoryDisk::NewInode(bool is_directory) {
  inodes_[next_inode_].is_directory = is_directory;
  return next_inode_++;
}

void MemoryDisk::Apply(DirectoryOperation operation) {
  for (const NameChange& change : operation) {
    auto& entries = inodes_.at(change.directory).entries;
    if (change.inode == kNone) {
      entries.erase(change.name);
    } else {
      entries[change.name] = change.inode;
    }
  }
  pending_.push_back(std::move(operation));
}

void MemoryDisk::MakeDurable(const DirectoryOperation& operation) {
  for (const NameChange& change : operation) {
    auto& entries = inodes_.at(change.directory).durable_entries;
    if (change.inode == kNone) {
      entries.erase(change.name);
    } else {
      entries[change.name] = change.inode;
    }
  }
}

void MemoryDisk::Resize(std::string* content, size_t size) {
  used_bytes_ += static_cast<int64_t>(size) - static_cast<int64_t>(content->size());
  content->resize(size, '\0');
}

int MemoryDisk::OpenForWrite(std::string_view path, WriteMode mode, int64_t* inode) {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode == kNone) {
    place.inode = NewInode(false);
    Apply({{place.directory, place.name, place.inode}});
  } else if (mode == WriteMode::kCreateNew) {
    return EEXIST;
  } else if (inodes_.at(place.inode).is_directory) {
    return EISDIR;
  } else if (mode == WriteMode::kTruncate) {
    Resize(&inodes_.at(place.inode).content, 0);
  }
  *inode = place.inode;
  return 0;
}

int MemoryDisk::OpenForRead(std::string_view path, int64_t* inode) const {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode == kNone) return ENOENT;
  if (inodes_.at(place.inode).is_directory) return EISDIR;
  *inode = place.inode;
  return 0;
}

int MemoryDisk::Append(int64_t inode, std::string_view data) {
  std::string& content = inodes_.at(inode).content;
  const size_t fits = std::min(data.size(), static_cast<size_t>(std::max<int64_t>(FreeBytes(), 0)));
  content.append(data.substr(0, fits));
  used_bytes_ += static_cast<int64_t>(fits);
  return fits == data.size() ? 0 : ENOSPC;
}

bool MemoryDisk::IsInside(int64_t directory, int64_t ancestor) const {
  if (directory == ancestor) return true;
  const auto& entries = inodes_.at(ancestor).entries;
  return std::any_of(entries.begin(), entries.end(), [&](const auto& e) { return IsInside(directory, e.second); });
}

int MemoryDisk::Rename(std::string_view from, std::string_view to) {
  Place source, target;
  if (const int error = Find(from, &source); error != 0) return error;
  if (const int error = Find(to, &target); error != 0) return error;
  if (source.inode == kNone) return ENOENT;
  if (source.name.empty() || target.name.empty()) return EBUSY;
  if (source.inode == target.inode) return 0;
  const Inode& moved = inodes_.at(source.inode);
  if (moved.is_directory && IsInside(target.directory, source.inode)) return EINVAL;
  if (target.inode != kNone) {
    const Inode& replaced = inodes_.at(target.inode);
    if (moved.is_directory && !replaced.is_directory) return ENOTDIR;
    if (!moved.is_directory && replaced.is_directory) return EISDIR;
    if (!replaced.entries.empty()) return ENOTEMPTY;
    used_bytes_ -= static_cast<int64_t>(replaced.content.size());
  }
  Apply({{source.directory, source.name, kNone}, {target.directory, target.name, source.inode}});
  return 0;
}

int MemoryDisk::SyncDir(std::string_view path) {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode == kNone) return ENOENT;
  if (!inodes_.at(place.inode).is_directory) return ENOTDIR;
  // Backwards: a rename between two directories takes along what happened in the other one before it.
  std::set<int64_t> directories = {place.inode};
  std::vector<DirectoryOperation> durable, rest;
  for (auto op = pending_.rbegin(); op != pending_.rend(); ++op) {
    const bool taken = std::any_of(op->begin(), op->end(), [&](const NameChange& c) { return directories.contains(c.directory); });
    if (taken) {
      for (const NameChange& change : *op) directories.insert(change.directory);
    }
    (taken ? durable : rest).push_back(std::move(*op));
  }
  std::for_each(durable.rbegin(), durable.rend(), [&](const DirectoryOperation& op) { MakeDurable(op); });
  pending_.assign(rest.rbegin(), rest.rend());
  return 0;
}

int MemoryDisk::RemoveFile(std::string_view path) {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode == kNone) return ENOENT;
  if (inodes_.at(place.inode).is_directory) return EISDIR;
  used_bytes_ -= static_cast<int64_t>(inodes_.at(place.inode).content.size());
  Apply({{place.directory, place.name, kNone}});
  return 0;
}

int MemoryDisk::RemoveDir(std::string_view path) {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode == kNone) return ENOENT;
  if (place.name.empty()) return EBUSY;
  if (!inodes_.at(place.inode).is_directory) return ENOTDIR;
  if (!inodes_.at(place.inode).entries.empty()) return ENOTEMPTY;
  Apply({{place.directory, place.name, kNone}});
  return 0;
}

int MemoryDisk::CreateDir(std::string_view path) {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode != kNone) return EEXIST;
  Apply({{place.directory, place.name, NewInode(true)}});
  return 0;
}

int MemoryDisk::Truncate(std::string_view path, int64_t size) {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode == kNone) return ENOENT;
  if (inodes_.at(place.inode).is_directory) return EISDIR;
  if (size < 0) return EINVAL;
  Resize(&inodes_.at(place.inode).content, static_cast<size_t>(size));
  return 0;
}

int MemoryDisk::ListDir(std::string_view path, std::vector<std::string>* names) const {
  Place place;
  if (const int error = Find(path, &place); error != 0) return error;
  if (place.inode == kNone) return ENOENT;
  const Inode& directory = inodes_.at(place.inode);
  if (!directory.is_directory) return ENOTDIR;
  names->clear();
  for (const auto& [name, inode] : directory.entries) names->push_back(name);
  return 0;
}

FileKind MemoryDisk::Kind(std::string_view path) const {
  Place place;
  if (Find(path, &place) != 0 || place.inode == kNone) return FileKind::kMissing;
  return inodes_.at(place.inode).is_directory ? FileKind::kDirectory : FileKind::kFile;
}

void MemoryDisk::Stop(Survival survival, uint64_t seed) {
  if (survival == Survival::kAll) return;
  const RngKey chance{.seed = seed};
  uint64_t draws = 0;
  if (survival == Survival::kChance) {
    // An operation cannot survive where an earlier one on the same name was lost.
    std::set<std::pair<int64_t, std::string>> lost;
    for (const DirectoryOperation& op : pending_) {
      const bool blocked = std::any_of(op.begin(), op.end(), [&](const NameChange& c) { return lost.contains({c.directory, c.name}); });
      if (!blocked && chance.Below(2, draws++) == 1) {
        MakeDurable(op);
      } else {
        for (const NameChange& change : op) lost.emplace(change.directory, change.name);
      }
    }
    for (auto& [id, inode] : inodes_) {
      if (inode.is_directory || inode.content == inode.durable) continue;
      const uint64_t outcome = chance.Below(4, draws++);
      if (outcome == 0) continue;  // nothing of it reached the disk
      const size_t size = inode.content.size();
      inode.durable = inode.content;
      if (outcome == 1) continue;  // all of it did
      inode.durable.resize(chance.Below(size + 1, draws++));
      if (outcome == 3) inode.durable.resize(size, '\0');  // the size did, the data in part
    }
  }
  pending_.clear();
  for (auto& [id, inode] : inodes_) {
    inode.content = inode.durable;
    inode.entries = inode.durable_entries;
  }
  KeepReachable();
}

void MemoryDisk::KeepReachable() {
  std::map<int64_t, Inode> kept;
  std::vector<int64_t> todo = {kRoot};
  used_bytes_ = 0;
  while (!todo.empty()) {
    auto node = inodes_.extract(todo.back());
    todo.pop_back();
    if (node.empty()) continue;
    used_bytes_ += static_cast<int64_t>(node.mapped().content.size());
    for (const auto& [name, inode] : node.mapped().entries) todo.push_back(inode);
    kept.insert(std::move(node));
  }
  inodes_ = std::move(kept);
}

}  // namespace conclave
