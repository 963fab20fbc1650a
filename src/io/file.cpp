#include "daug/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "daug/core/error.h"
#include "descriptor.h"

namespace daug {
namespace {

template <class Bytes>
Bytes read_all(const char* function, const std::string& path, std::uint64_t max_bytes) {
  const Descriptor file = open_regular_file(function, path, O_RDONLY);
  const auto size = static_cast<std::uint64_t>(file_status(file.get(), function, path).st_size);
  if (size > max_bytes)
    fail(ErrorCode::kFormat, function, path, detail::concat("at most ", max_bytes, " bytes"),
         detail::concat(size, " bytes"));
  Bytes bytes(static_cast<std::size_t>(size), {});
  read_range(file.get(), function, path, 0, bytes.data(), bytes.size());
  return bytes;
}

/// A temporary file beside its target; removed unless committed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& target)
      : target_(target), folder_(std::filesystem::path(target).parent_path().string()) {
    if (folder_.empty()) folder_ = ".";
    struct stat replaced {};
    if (::stat(target_.c_str(), &replaced) == 0 && S_ISREG(replaced.st_mode)) mode_ = replaced.st_mode & kPermissions;
    static std::atomic<unsigned> counter{0};
    do {  // Threads differ in the counter, processes in their number; a leftover with the same name is stepped over.
      path_ = detail::concat(folder_, "/.daug-", ::getpid(), "-", counter.fetch_add(1), ".tmp");
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode_.value_or(0666));
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
    write_range(fd_, kWrite, target_, written_, data, size);
    written_ += size;
  }

  void commit() {
    // The umask may have kept from it some that the replaced file has.
    if (mode_ && (file_status(fd_, kWrite, target_).st_mode & kPermissions) != *mode_ && ::fchmod(fd_, *mode_) != 0)
      fail_write(errno);
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
  static constexpr const char* kWrite = "write_file_atomically";
  static constexpr mode_t kPermissions = 0777;

  [[noreturn]] void fail_write(int error) const {
    fail(ErrorCode::kIo, kWrite, target_, "a writable file", std::generic_category().message(error));
  }

  std::string target_;
  std::string folder_;
  std::string path_;
  std::optional<mode_t> mode_;  ///< permissions of the file that is replaced, if there is one
  int fd_ = -1;
  std::uint64_t written_ = 0;
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
