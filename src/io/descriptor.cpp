#include "descriptor.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>

#include "daug/core/error.h"

namespace daug {
namespace {

/// Calls transfer(done, count, position) until all of a range is through; it returns what pread and pwrite return.
template <class Transfer>
void transfer_range(const char* function, const std::string& path, const char* expected, std::uint64_t offset,
                    std::size_t size, const Transfer& transfer) {
  constexpr std::size_t kLargestTransfer = std::size_t{1} << 30;  // Linux transfers at most 2 GB a call
  constexpr auto kLargestOffset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  if (offset > kLargestOffset || size > kLargestOffset - offset)
    fail(ErrorCode::kIo, function, path, detail::concat("an end of at most byte ", kLargestOffset),
         detail::concat(size, " bytes from byte ", offset));
  for (std::size_t done = 0; done < size;) {
    const ssize_t count = transfer(done, std::min(size - done, kLargestTransfer), static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(function, path, expected, errno);
    if (count == 0)
      fail(ErrorCode::kIo, function, path, detail::concat(size, " bytes from byte ", offset),
           detail::concat(done, " bytes (the file is shorter)"));
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace

void fail_errno(const char* function, const std::string& path, const char* expected, int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  fail(missing ? ErrorCode::kNotFound : ErrorCode::kIo, function, path, expected,
       std::generic_category().message(error));
}

Descriptor::~Descriptor() {
  if (valid()) ::close(fd_);
}

Descriptor open_regular_file(const char* function, const std::string& path, int flags) {
  Descriptor file(::open(path.c_str(), flags | O_CLOEXEC));
  if (!file.valid()) fail_errno(function, path, flags & O_RDWR ? "a writable file" : "a readable file", errno);
  const auto mode = file_status(file.get(), function, path).st_mode;
  if (!S_ISREG(mode))
    fail(ErrorCode::kIo, function, path, "a regular file", S_ISDIR(mode) ? "a folder" : "a special file");
  return file;
}

struct stat file_status(int fd, const char* function, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail_errno(function, path, "a readable file", errno);
  return status;
}

bool is_named(int fd, const std::string& path) {
  struct stat named {};
  struct stat mine {};
  return ::stat(path.c_str(), &named) == 0 && ::fstat(fd, &mine) == 0 && named.st_dev == mine.st_dev &&
         named.st_ino == mine.st_ino;
}

void read_range(int fd, const char* function, const std::string& path, std::uint64_t offset, void* data,
                std::size_t size) {
  transfer_range(function, path, "a readable file", offset, size, [&](std::size_t done, std::size_t count, off_t at) {
    return ::pread(fd, static_cast<char*>(data) + done, count, at);
  });
}

void write_range(int fd, const char* function, const std::string& path, std::uint64_t offset, const void* data,
                 std::size_t size) {
  transfer_range(function, path, "a writable file", offset, size, [&](std::size_t done, std::size_t count, off_t at) {
    return ::pwrite(fd, static_cast<const char*>(data) + done, count, at);
  });
}

}  // namespace daug
