#pragma once
// Where targets put bytes for readers that want a path, and good files in the making.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "daug/io/file.h"
#include "entry.h"

namespace daug::fuzz {

using Bytes = std::string;
using Files = std::vector<std::string>;

/// A folder of this process, removed at its end.
class Folder {
 public:
  Folder() : path_((std::filesystem::temp_directory_path() / "daug-fuzz-XXXXXX").string()) {
    expect(::mkdtemp(path_.data()) != nullptr, "no folder");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::string& path() const { return path_; }
  std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline const std::string& folder() {
  static const Folder made;
  return made.path();
}

/// A file in memory.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("fuzz", 0)) { expect(descriptor_ >= 0, "no file in memory"); }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }
  std::string put(const Bytes& bytes) const {
    expect(::ftruncate(descriptor_, 0) == 0, "no truncation");
    expect(::pwrite(descriptor_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()), "no writing");
    return path();
  }
  /// Lets a name in a folder stand for it.
  void link(const std::string& name) const { std::filesystem::create_symlink(path(), name); }

 private:
  int descriptor_;
};

inline std::string put(const Bytes& bytes) {
  static const MemoryFile file;
  return file.put(bytes);
}

/// The bytes that `write(path)` writes.
template <class Write>
std::string written(const Write& write) {
  const std::string path = folder() + "/seed";
  write(path);
  return read_text_file(path);
}

/// The part of some bytes before the first `mark`, and the rest behind it (empty without one).
inline std::pair<std::string, std::string> split(const Bytes& bytes, const std::string& mark) {
  const auto at = bytes.find(mark);
  if (at == bytes.npos) return {bytes, ""};
  return {bytes.substr(0, at), bytes.substr(at + mark.size())};
}

}  // namespace daug::fuzz
