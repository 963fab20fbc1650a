#pragma once
// Open files of the operating system, and its errors as the library's.

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace daug {

/// Throws kNotFound or kIo with the reason that `error` (an errno) stands for.
[[noreturn]] void fail_errno(const char* function, const std::string& path, const char* expected, int error);

/// An owned file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&&) = delete;

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// Opens what must be there and be a file: not a folder, pipe or device. `flags` as of open(2).
Descriptor open_regular_file(const char* function, const std::string& path, int flags);

struct stat file_status(int fd, const char* function, const std::string& path);

/// Whether `path` leads to the open file, and not to one that was put in its place.
bool is_named(int fd, const std::string& path);

/// Reads or writes all of a range; the file ending inside it is kIo.
void read_range(int fd, const char* function, const std::string& path, std::uint64_t offset, void* data,
                std::size_t size);
void write_range(int fd, const char* function, const std::string& path, std::uint64_t offset, const void* data,
                 std::size_t size);

}  // namespace daug
