#include "daug/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "daug/core/error.h"

namespace daug {
namespace {

[[noreturn]] void fail_errno(const char* function, const std::string& path, const char* expected, int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  fail(missing ? ErrorCode::kNotFound : ErrorCode::kIo, function, path, expected,
       std::generic_category().message(error));
}

/// An owned file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

template <class Bytes>
Bytes read_all(const char* function, const std::string& path, std::uint64_t max_bytes) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) fail_errno(function, path, "a readable file", errno);
  if (!S_ISREG(status.st_mode))
    fail(ErrorCode::kIo, function, path, "a regular file", S_ISDIR(status.st_mode) ? "a folder" : "a special file");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > max_bytes)
    fail(ErrorCode::kFormat, function, path, detail::concat("at most ", max_bytes, " bytes"),
         detail::concat(size, " bytes"));
  Bytes bytes(static_cast<std::size_t>(size), {});
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(function, path, "a readable file", errno);
    if (count == 0)
      fail(ErrorCode::kIo, function, path, detail::concat(size, " bytes"),
           detail::concat(done, " bytes (the file shrank while it was read)"));
    done += static_cast<std::size_t>(count);
  }
  return bytes;
}

/// A temporary file beside its target; removed unless committed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& target)
      : target_(target), folder_(std::filesystem::path(target).parent_path().string()) {
    if (folder_.empty()) folder_ = ".";
    static std::atomic<unsigned> counter{0};
    do {  // Threads differ in the counter, processes in their number; a leftover with the same name is stepped over.
      path_ = detail::concat(folder_, "/.daug-", ::getpid(), "-", counter.fetch_add(1), ".tmp");
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (fd_ < 0 && errno == EEXIST);
    if (fd_ < 0) fail_write(errno);
  }
  ~TemporaryFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(const void* data, std::size_t size) {
    const char* next = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t count = ::write(fd_, next, std::min(size, kLargestWrite));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_write(errno);
      next += count;
      size -= static_cast<std::size_t>(count);
    }
  }

  void commit() {
    if (::fsync(fd_) != 0) fail_write(errno);
    // Some file systems report a full disk only when the file is closed.
    if (::close(std::exchange(fd_, -1)) != 0) fail_write(errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail_write(errno);
    committed_ = true;
    // The new file is in place; syncing the folder only makes the rename survive a power cut sooner, and some file
    // systems refuse it, so its result is not an error.
    const Descriptor folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.valid()) (void)::fsync(folder.get());
  }

 private:
  static constexpr std::size_t kLargestWrite = std::size_t{1} << 30;  // Linux transfers at most 2 GB a call

  [[noreturn]] void fail_write(int error) const {
    fail(ErrorCode::kIo, "write_file_atomically", target_, "a writable file", std::generic_category().message(error));
  }

  std::string target_;
  std::string folder_;
  std::string path_;
  int fd_ = -1;
  bool committed_ = false;
};

}  // namespace

std::vector<std::uint8_t> read_file(const std::string& path, std::uint64_t max_bytes) {
  return read_all<std::vector<std::uint8_t>>("read_file", path, max_bytes);
}

std::string read_text_file(const std::string& path, std::uint64_t max_bytes) {
  return read_all<std::string>("read_text_file", path, max_bytes);
}

void write_file_atomically(const std::string& path, const std::function<void(const ByteSink&)>& write) {
  TemporaryFile file(path);
  write([&](const void* data, std::size_t size) { file.write(data, size); });
  file.commit();
}

void write_file_atomically(const std::string& path, const void* data, std::size_t size) {
  write_file_atomically(path, [&](const ByteSink& sink) { sink(data, size); });
}

void write_file_atomically(const std::string& path, std::string_view text) {
  write_file_atomically(path, text.data(), text.size());
}

}  // namespace daug
