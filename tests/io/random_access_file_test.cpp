#include "daug/io/random_access_file.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <memory>

#include "daug/io/file.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::FullDisk;
using daug::test::Scratch;
using Mode = RandomAccessFile::Mode;

TEST_CASE("a file is read and written at positions", "[io]") {
  const Scratch scratch;
  RandomAccessFile file(scratch.put("a", "0123456789"), Mode::kWrite);
  const RandomAccessFile reader(scratch.path("a"), Mode::kRead);
  char part[4] = {};
  reader.read(3, part, 4);
  CHECK(std::string(part, 4) == "3456");

  file.write(8, "abcd", 4);
  file.flush();
  CHECK(reader.size() == 12);
  file.truncate(9);
  CHECK(read_text_file(scratch.path("a")) == "01234567a");
  file.write(9, "", 0);
  CHECK(file.size() == 9);
}

TEST_CASE("a range beyond the end is an error, and so is one that no file can have", "[io]") {
  const Scratch scratch;
  RandomAccessFile file(scratch.put("a", "0123456789"), Mode::kWrite);
  char part[8];
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  CHECK_NOTHROW(file.read(2, part, 8));
  CHECK_NOTHROW(file.read(10, part, 0));
  for (const std::uint64_t offset : {std::uint64_t{3}, std::uint64_t{10}, std::uint64_t{1} << 62, kMost - 4, kMost}) {
    check_refused(ErrorCode::kIo, scratch.path("a"), [&] { file.read(offset, part, 8); });
  }
  CHECK(caught([&] { file.write(kMost - 4, part, 8); }).code() == ErrorCode::kIo);
  CHECK(caught([&] { file.write((kMost >> 1) - 4, part, 8); }).code() == ErrorCode::kIo);
  CHECK(file.size() == 10);

  RandomAccessFile reader(scratch.path("a"), Mode::kRead);
  CHECK(caught([&] { reader.write(0, "x", 1); }).code() == ErrorCode::kIo);
  CHECK(caught([&] { reader.truncate(1); }).code() == ErrorCode::kIo);
  const FullDisk full(12);
  CHECK(caught([&] { file.write(8, part, 8); }).code() == ErrorCode::kIo);
}

TEST_CASE("opening what is no file says so; another file at its path is noticed", "[io]") {
  const Scratch scratch;
  CHECK(caught([&] { RandomAccessFile(scratch.path("absent"), Mode::kRead); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { RandomAccessFile(scratch.folder(), Mode::kRead); }).code() == ErrorCode::kIo);
  CHECK(caught([&] { RandomAccessFile("/dev/null", Mode::kWrite); }).code() == ErrorCode::kIo);

  const RandomAccessFile file(scratch.put("a", "old"), Mode::kRead);
  CHECK(file.is_current());
  write_file_atomically(scratch.path("a"), "new");
  CHECK_FALSE(file.is_current());
  char old[3];
  file.read(0, old, 3);
  CHECK(std::string(old, 3) == "old");
  std::filesystem::remove(scratch.path("a"));
  CHECK_FALSE(file.is_current());
}

TEST_CASE("a lock has one holder, in this process and in others", "[io]") {
  const Scratch scratch;
  const std::string path = scratch.path("lock");
  const auto other_process_gets_it = [&] {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        const FileLock lock(path);
        ::_exit(0);
      } catch (const Error& error) {
        ::_exit(error.code() == ErrorCode::kBusy ? 1 : 2);
      }
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) < 2);
    return WEXITSTATUS(status) == 0;
  };

  auto lock = std::make_unique<FileLock>(path);
  check_refused(ErrorCode::kBusy, path, [&] { const FileLock second(path); });
  CHECK_FALSE(other_process_gets_it());
  lock.reset();
  CHECK(other_process_gets_it());
  CHECK_NOTHROW(FileLock(path));
  CHECK(caught([&] { FileLock(scratch.path("no/folder")); }).code() == ErrorCode::kNotFound);
}

TEST_CASE("a shared lock has any number of holders, keeps an exclusive one out, and leaves no file", "[io]") {
  using Kind = FileLock::Kind;
  const Scratch scratch;
  const std::string path = scratch.path("lock");
  auto one = std::make_unique<FileLock>(path, Kind::kShared);
  auto two = std::make_unique<FileLock>(path, Kind::kShared);
  CHECK(scratch.count() == 1);
  check_refused(ErrorCode::kBusy, path, [&] { const FileLock alone(path); });
  one.reset();
  CHECK(scratch.count() == 1);
  check_refused(ErrorCode::kBusy, path, [&] { const FileLock alone(path); });
  two.reset();
  CHECK(scratch.count() == 0);
  {
    const FileLock alone(path);
    check_refused(ErrorCode::kBusy, path, [&] { const FileLock shared(path, Kind::kShared); });
  }
  CHECK(scratch.count() == 1);
  { const FileLock shared(path, Kind::kShared); }
  CHECK(scratch.count() == 0);
}
