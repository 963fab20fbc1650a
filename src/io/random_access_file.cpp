#include "daug/io/random_access_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "daug/core/error.h"
#include "descriptor.h"

namespace daug {

RandomAccessFile::RandomAccessFile(const std::string& path, Mode mode)
    : path_(path),
      descriptor_(open_regular_file("RandomAccessFile", path, mode == Mode::kWrite ? O_RDWR : O_RDONLY).release()) {}

RandomAccessFile::~RandomAccessFile() { ::close(descriptor_); }

std::uint64_t RandomAccessFile::size() const {
  return static_cast<std::uint64_t>(file_status(descriptor_, "RandomAccessFile::size", path_).st_size);
}

bool RandomAccessFile::is_current() const { return is_named(descriptor_, path_); }

void RandomAccessFile::read(std::uint64_t offset, void* data, std::size_t size) const {
  read_range(descriptor_, "RandomAccessFile::read", path_, offset, data, size);
}

void RandomAccessFile::write(std::uint64_t offset, const void* data, std::size_t size) {
  write_range(descriptor_, "RandomAccessFile::write", path_, offset, data, size);
}

void RandomAccessFile::truncate(std::uint64_t size) {
  if (::ftruncate(descriptor_, static_cast<off_t>(size)) != 0)
    fail_errno("RandomAccessFile::truncate", path_, "a writable file", errno);
}

void RandomAccessFile::flush() {
  if (::fdatasync(descriptor_) != 0) fail_errno("RandomAccessFile::flush", path_, "a writable file", errno);
}

std::string followed_path(const char* function, const std::string& path) {
  std::error_code error;
  const auto file = std::filesystem::weakly_canonical(path, error);
  if (error) fail(ErrorCode::kIo, function, path, "a path that leads to a file", error.message());
  return file.string();
}

FileLock::FileLock(const std::string& path, Kind kind) : path_(path), kind_(kind), descriptor_(-1) {
  const bool shared = kind == Kind::kShared;
  for (;;) {
    Descriptor file(::open(path.c_str(), (shared ? O_RDONLY : O_RDWR) | O_CREAT | O_CLOEXEC, 0666));
    if (!file.valid()) fail_errno("FileLock", path, "a lock file", errno);
    while (::flock(file.get(), (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) fail(ErrorCode::kBusy, "FileLock", path, "a lock that is free", "one that is held");
      if (errno != EINTR) fail_errno("FileLock", path, "a file system with locks", errno);
    }
    if (!is_named(file.get(), path)) continue;  // its last holder removed it between the two
    descriptor_ = file.release();
    return;
  }
}

FileLock::~FileLock() {
  // Only the one holder of the file that has the name may remove it, or somebody else's lock would lose its name.
  if (kind_ == Kind::kShared && ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 && is_named(descriptor_, path_))
    ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace daug
