#include "daug/io/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/not_root.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::FullDisk;
using daug::test::mentions;
using daug::test::NotRoot;
using daug::test::Scratch;

TEST_CASE("bytes come back as they were written", "[io]") {
  const Scratch scratch;
  std::vector<std::uint8_t> bytes(300000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * i >> 3);
  write_file_atomically(scratch.path("a"), bytes.data(), bytes.size());
  CHECK(read_file(scratch.path("a")) == bytes);

  write_file_atomically(scratch.path("b"), std::string_view("x\0\r\n", 4));
  CHECK(read_text_file(scratch.path("b")) == std::string("x\0\r\n", 4));
  write_file_atomically(scratch.path("c"), "");
  CHECK(read_file(scratch.path("c")).empty());
  CHECK(scratch.count() == 3);
}

TEST_CASE("a file written in pieces is their concatenation", "[io]") {
  const Scratch scratch;
  write_file_atomically(scratch.path("a"), [](const ByteSink& sink) {
    sink("one", 3);
    sink(nullptr, 0);
    sink("two", 3);
  });
  CHECK(read_text_file(scratch.path("a")) == "onetwo");
}

TEST_CASE("writing replaces an older file and names without a folder work", "[io]") {
  const Scratch scratch;
  const std::string old = scratch.put("a", "something longer than what follows");
  write_file_atomically(old, "new");
  CHECK(read_text_file(old) == "new");
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(scratch.folder());
  write_file_atomically("plain", "here");
  std::filesystem::current_path(before);
  CHECK(read_text_file(scratch.path("plain")) == "here");
}

TEST_CASE("a file keeps its permissions when it is replaced, and a new one has the usual", "[io]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto permissions = [&] {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_mode & 0777;
  };
  const mode_t mask = ::umask(0027);
  write_file_atomically(path, "new");
  CHECK(permissions() == 0640);
  for (const mode_t mode : {mode_t{0600}, mode_t{0666}, mode_t{0444}}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    write_file_atomically(path, "replaced");
    CHECK(permissions() == mode);
  }
  ::umask(mask);
  CHECK(read_text_file(path) == "replaced");
}

TEST_CASE("a failed write leaves the old file and no temporary", "[io]") {
  const Scratch scratch;
  const std::string path = scratch.put("kept", "old content");

  SECTION("the disk is full") {
    const std::string large(100000, 'x');
    const auto error = [&] {
      const FullDisk full(4096);
      return caught([&] { write_file_atomically(path, large); });
    }();
    CHECK(error.code() == ErrorCode::kIo);
    CHECK(mentions(error, path));
    CHECK(mentions(error, "File too large"));
  }
  SECTION("the producer throws half-way") {
    CHECK_THROWS_AS(write_file_atomically(path,
                                          [](const ByteSink& sink) {
                                            sink("new", 3);
                                            throw std::runtime_error("stop");
                                          }),
                    std::runtime_error);
  }
  CHECK(read_text_file(path) == "old content");
  CHECK(scratch.count() == 1);
}

TEST_CASE("an impossible target is an error that says why", "[io]") {
  const Scratch scratch;
  check_refused(ErrorCode::kIo, "No such file or directory",
                [&] { write_file_atomically(scratch.path("no/such/folder"), "x"); });

  std::filesystem::create_directories(scratch.path("folder/inside"));
  const auto folder = caught([&] { write_file_atomically(scratch.path("folder"), "x"); });
  CHECK(folder.code() == ErrorCode::kIo);
  CHECK(mentions(folder, "directory"));
  CHECK(scratch.count() == 1);

  REQUIRE(::chmod(scratch.folder().c_str(), 0755) == 0);  // others may look into it
  REQUIRE(::chmod(scratch.path("folder").c_str(), 0555) == 0);
  {
    const NotRoot nobody;
    if (nobody.holds()) {
      const auto refused = caught([&] { write_file_atomically(scratch.path("folder/x"), "x"); });
      CHECK(refused.code() == ErrorCode::kIo);
      CHECK(mentions(refused, scratch.path("folder/x"), "Permission denied"));
    }
  }
  REQUIRE(::chmod(scratch.path("folder").c_str(), 0755) == 0);
}

TEST_CASE("reading what cannot be read names the file and the reason", "[io]") {
  const Scratch scratch;
  check_refused(ErrorCode::kNotFound, scratch.path("absent"), [&] { (void)read_file(scratch.path("absent")); });
  CHECK(caught([&] { (void)read_text_file(scratch.put("file", "x") + "/below"); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { (void)read_file(scratch.folder()); }).code() == ErrorCode::kIo);
  CHECK(caught([&] { (void)read_file("/dev/zero"); }).code() == ErrorCode::kIo);
}

TEST_CASE("the size cap holds to the byte, before anything is allocated", "[io]") {
  const Scratch scratch;
  const std::string path = scratch.put("ten", "0123456789");
  CHECK(read_file(path, 10).size() == 10);
  check_refused(ErrorCode::kFormat, "at most 9 bytes, got 10 bytes", [&] { (void)read_file(path, 9); });

  // A sparse file that claims a terabyte.
  REQUIRE(::truncate(path.c_str(), off_t{1} << 40) == 0);
  CHECK(caught([&] { (void)read_file(path); }).code() == ErrorCode::kFormat);
}
