#pragma once
/// @file
/// Files that are read and written at positions, and the lock that keeps a second writer out: what a format that grows
/// in place is built on.

#include <cstddef>
#include <cstdint>
#include <string>

namespace daug {

/// An open regular file. Const members may run in parallel. Every error is kIo, or kNotFound on opening, and names the
/// file; no member looks beyond the end of the file or leaves a range half read in silence.
class RandomAccessFile {
 public:
  /// How a file is opened.
  enum class Mode {
    kRead,   ///< read only
    kWrite,  ///< read and write
  };

  /// Opens a file that exists.
  RandomAccessFile(const std::string& path, Mode mode);
  /// Closes the file, without flushing it to disk.
  ~RandomAccessFile();
  RandomAccessFile(const RandomAccessFile&) = delete;
  RandomAccessFile& operator=(const RandomAccessFile&) = delete;

  /// As given to the constructor.
  const std::string& path() const { return path_; }
  /// Bytes it has now; another process may make it grow.
  std::uint64_t size() const;
  /// Whether `path()` still names this file, and not one that was put in its place.
  bool is_current() const;

  /// Reads exactly `size` bytes from a position on.
  void read(std::uint64_t offset, void* data, std::size_t size) const;
  /// Writes at a position, which may be the end. When it throws, part of the bytes may have been written.
  void write(std::uint64_t offset, const void* data, std::size_t size);
  /// Makes the file `size` bytes long: cut off, or filled up with zeros.
  void truncate(std::uint64_t size);
  /// Returns when all that was written is on the disk (fdatasync).
  void flush();

 private:
  std::string path_;
  int descriptor_;
};

/// The file that a path leads to, symbolic links followed as far as they lead to something: so that whoever locks or
/// replaces a file by any of its names means the same one. Throws kIo naming `function`.
std::string followed_path(const char* function, const std::string& path);

/// A lock on `path`, an empty file that is made when missing: held until the object or its process ends, however that
/// ends. Advisory (flock): it keeps out those who ask for it.
class FileLock {
 public:
  /// Whom a lock keeps out.
  enum class Kind {
    kExclusive,  ///< everybody; the file stays
    kShared,     ///< those who want it exclusively; the last holder removes the file
  };

  /// Throws kBusy at once when the lock of somebody else, of this process or another, keeps this one out; kIo,
  /// kNotFound.
  explicit FileLock(const std::string& path, Kind kind = Kind::kExclusive);
  /// Gives the lock back.
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  std::string path_;
  Kind kind_;
  int descriptor_;
};

}  // namespace daug
