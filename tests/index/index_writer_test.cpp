// Changes that go to the file at once: the same index after opening, one writer, crashes and full disks.
// DAUG_LONG_TESTS=1 kills the writer 1000 times.

#include "daug/index/index_writer.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "brute_force.h"
#include "change_series.h"
#include "daug/core/random.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "fixtures.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/killed.h"
#include "support/long_tests.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

// Worked out by hand from the layout in src/index/journal.h.
constexpr std::size_t kCommit = 16;

/// A file whose commit counts all behind `begin`, where its first record does.
std::string committed(std::string file, std::size_t begin) {
  std::uint64_t numbers[2] = {0, file.size() - begin}, header = 0;
  std::memcpy(&header, file.data() + 16, sizeof header);
  std::memcpy(&numbers[0], file.data() + header - 8, sizeof numbers[0]);
  const std::uint64_t commit[] = {numbers[1], checksum64(numbers, sizeof numbers)};
  return file.replace(begin - kCommit, kCommit, reinterpret_cast<const char*>(commit), kCommit);
}

}  // namespace

TEST_CASE("what a writer changed is there when the file is opened again", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(0).save(path);
  for (std::int64_t number = 0; number < 40; ++number) {
    IndexWriter writer(path, "fp", number % 2 == 0);
    change(writer, number);
    if (number % 9 == 8) {
      writer.compact();
      CHECK(writer.journal_records() == 0);
      CHECK(writer.journal_bytes() == 0);
    } else {
      CHECK(writer.journal_records() == static_cast<std::uint64_t>(number % 9 + 1));
    }
    REQUIRE(Snapshot(writer.index()) == Snapshot(after(number + 1)));
    REQUIRE(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(number + 1)));
  }
  const auto index = RetrievalIndex::load(path);
  CHECK(index.verify().items == after(40).size());
  const RowMatrix query = RowMatrix::Ones(1, 6);
  require_identical(index.search(query, 30), after(40).search(query, 30));
}

TEST_CASE("a writer refuses what an index refuses, and neither index nor file change", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(6).save(path);
  IndexWriter writer(path, "fp");
  change(writer, 6);
  const auto bytes = read_file(path);
  const RowMatrix one = RowMatrix::Ones(1, 6);
  CHECK(caught([&] { writer.add({1}, one); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { writer.update({1000}, one); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { writer.remove({1000}); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { writer.add({1000}, RowMatrix::Zero(1, 6)); }).code() == ErrorCode::kInvalidArgument);
  CHECK(mentions(caught([&] { writer.add({1000}, RowMatrix::Ones(1, 5)); }), "IndexWriter::add"));
  CHECK(read_file(path) == bytes);
  CHECK(Snapshot(writer.index()) == Snapshot(after(7)));
  writer.add_named({"study-1"}, one);
  CHECK(RetrievalIndex::load(path).name(RetrievalIndex::id_of("study-1")) == "study-1");
}

TEST_CASE("a file has one writer, of the right encoder, and it notices that its file was replaced", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(3).save(path);
  CHECK(caught([&] { IndexWriter(path, "other"); }).code() == ErrorCode::kMismatch);
  CHECK(caught([&] { IndexWriter(scratch.path("absent"), "fp"); }).code() == ErrorCode::kNotFound);
  IndexWriter writer(path, "fp");
  CHECK(caught([&] { IndexWriter(path, "fp"); }).code() == ErrorCode::kBusy);
  after(5).save(scratch.path("b"));
  std::filesystem::rename(scratch.path("b"), path);
  const auto error = caught([&] { change(writer, 5); });
  CHECK(error.code() == ErrorCode::kMismatch);
  CHECK(Snapshot(writer.index()) == Snapshot(after(3)));
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(5)));
}

TEST_CASE("what was not completed does not exist; a file that was cut off or damaged is refused", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(2).save(path);
  std::vector<std::string> files = {read_text_file(path)};  // after each change
  {
    IndexWriter writer(path, "fp");
    for (std::int64_t number = 2; number < 6; ++number) {
      change(writer, number);
      files.push_back(read_text_file(path));
    }
  }
  const auto& whole = files.back();
  const auto begin = files[0].size();  // of the first record
  const auto parse = [](const std::string& bytes) {
    return RetrievalIndex::parse(bytes.data(), bytes.size(), "x.idx");
  };

  // A writer that was stopped at any byte of a record, or behind it, had not counted it.
  for (std::size_t number = 0; number + 1 < files.size(); ++number)
    for (std::size_t size = files[number].size(); size <= files[number + 1].size(); ++size) {
      const auto written = files[number].size();
      const auto stopped = files[number] + files[number + 1].substr(written, size - written);
      REQUIRE(Snapshot(parse(stopped)) == Snapshot(after(2 + static_cast<std::int64_t>(number))));
    }
  // A file that ends anywhere else was cut off, also where a record begins.
  for (std::size_t size = begin - kCommit; size < whole.size(); ++size) {
    const auto error = caught([&] { (void)parse(whole.substr(0, size)); });
    REQUIRE(error.code() == ErrorCode::kFormat);
    REQUIRE(mentions(error, "x.idx: journal: expected"));
  }
  CHECK(mentions(caught([&] { (void)parse(whole.substr(0, files[1].size())); }),
                 detail::concat("expected ", whole.size() - begin, " bytes of changes, got ", files[1].size() - begin,
                                ": the file was cut off (IndexWriter::recover keeps what is whole)")));
  for (std::size_t bit = 8 * (begin - kCommit); bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    const auto error = caught([&] { (void)parse(damaged); });
    REQUIRE(error.code() == ErrorCode::kFormat);
    REQUIRE(mentions(error, bit < 8 * begin ? "x.idx: journal: expected" : "x.idx: journal record"));
  }
  // A record of another file, and one at another place, are no changes of this one.
  CHECK(Snapshot(parse(committed(whole, begin))) == Snapshot(after(6)));
  const auto swapped = committed(files[0] + whole.substr(files[1].size()), begin);
  CHECK(mentions(caught([&] { (void)parse(swapped); }), "journal record 0: expected a change, number 0"));
  const auto partial = committed(whole.substr(0, files[2].size() + 20), begin);
  CHECK(mentions(caught([&] { (void)parse(partial); }), "journal record 2: expected 8 more bytes"));
  after(1).save(path);
  const auto other = read_text_file(path);
  CHECK(mentions(caught([&] { (void)parse(committed(other + whole.substr(begin), other.size())); }),
                 "journal record 0: expected a head that fits its checksum"));
  CHECK(mentions(caught([&] { (void)parse(other.substr(0, other.size() - kCommit) + whole.substr(begin - kCommit)); }),
                 "journal: expected a length that fits its checksum"));

  // The next writer goes on behind the last completed record.
  scratch.put("a", files[2] + files[3].substr(files[2].size(), 20));
  {
    IndexWriter writer(path, "fp");
    CHECK(read_text_file(path) == files[2]);
    change(writer, 4);
  }
  CHECK(read_text_file(path) == files[3]);
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(5)));
}

TEST_CASE("a file that was cut off among its changes is recovered when that is asked for alone", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(2).save(path);
  std::vector<std::size_t> ends = {read_file(path).size()};
  {
    IndexWriter writer(path, "fp");
    for (std::int64_t number = 2; number < 6; ++number) {
      change(writer, number);
      ends.push_back(read_file(path).size());
    }
    CHECK(caught([&] { IndexWriter::recover(path); }).code() == ErrorCode::kBusy);
  }
  const auto whole = read_text_file(path);
  CHECK(IndexWriter::recover(path) == 4);
  CHECK(read_text_file(path) == whole);
  const auto recovers = [&](const std::string& bytes, std::size_t records) {
    scratch.put("a", bytes);
    REQUIRE(caught([&] { (void)RetrievalIndex::load(path); }).code() == ErrorCode::kFormat);
    REQUIRE(caught([&] { IndexWriter(path, "fp"); }).code() == ErrorCode::kFormat);
    REQUIRE(read_text_file(path) == bytes);
    REQUIRE(IndexWriter::recover(path) == records);
    REQUIRE(read_file(path).size() == ends[records]);
    IndexWriter writer(path, "fp");
    auto expected = after(2 + static_cast<std::int64_t>(records));
    REQUIRE(Snapshot(writer.index()) == Snapshot(expected));
    const RowMatrix vector = RowMatrix::Ones(1, 6);
    expected.add({1000}, vector);
    writer.add({1000}, vector);
    REQUIRE(Snapshot(RetrievalIndex::load(path)) == Snapshot(expected));
  };
  for (std::size_t size = ends[0] - kCommit; size < whole.size(); size += size < ends[0] + 4 ? 1 : 37) {
    INFO("cut off at " << size);
    const auto complete = std::upper_bound(ends.begin(), ends.end(), size) - ends.begin();
    recovers(whole.substr(0, size), static_cast<std::size_t>(std::max<std::ptrdiff_t>(complete, 1) - 1));
  }
  for (std::size_t record = 0; record < 4; ++record) recovers(whole.substr(0, ends[record]), record);
  auto damaged = whole;
  damaged[ends[2] + 50] ^= 1;
  recovers(damaged, 2);

  auto header = whole;
  header[40] ^= 1;
  scratch.put("a", header);
  CHECK(caught([&] { IndexWriter::recover(path); }).code() == ErrorCode::kFormat);
  CHECK(read_text_file(path) == header);
  CHECK(caught([&] { IndexWriter::recover(scratch.path("absent")); }).code() == ErrorCode::kNotFound);
}

TEST_CASE("on a full disk a change is refused, and file and index stay as they were", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(2).save(path);
  IndexWriter writer(path, "fp");
  change(writer, 2);
  const auto bytes = read_file(path);
  {
    const FullDisk disk(bytes.size() + 60);
    CHECK(caught([&] { change(writer, 5); }).code() == ErrorCode::kIo);
    CHECK(Snapshot(writer.index()) == Snapshot(after(3)));
    CHECK(read_file(path) == bytes);
  }
  {
    const FullDisk disk(100);
    CHECK(caught([&] { writer.compact(); }).code() == ErrorCode::kIo);
    CHECK(caught([&] { after(9).save(scratch.path("b")); }).code() == ErrorCode::kIo);
    CHECK(read_file(path) == bytes);
  }
  change(writer, 3);
  writer.compact();
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(4)));
  CHECK(scratch.count() == 2);  // the file and its lock
}

TEST_CASE("a writer that is killed leaves the changes it had completed and at most one more", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  const SharedCounter made;
  std::int64_t number = 0;
  int torn = 0;
  int unacknowledged = 0;
  RetrievalIndex expected = after(0);
  expected.save(path);
  const int kills = long_tests() ? 1000 : 20;
  for (int kill = 0; kill < kills; ++kill) {
    if (number > 400) {
      number = 0;
      expected = after(0);
      expected.save(path);
    }
    RandomStream random(22, static_cast<std::uint64_t>(kill), "kill");
    *made = static_cast<std::uint64_t>(number);
    const bool flush = random.below(2) != 0;
    const std::uint32_t compact_every = 1 + random.below(6);
    const std::uint64_t journal_limit = random.below(2) != 0 ? 400 : IndexWriter::kJournalLimit;
    const double microseconds = random.uniform(50, 4000);
    run_until_killed([&] {
      kill_after(microseconds);
      IndexWriter writer(path, "fp", flush, journal_limit);
      for (std::int64_t next = number;; ++next) {
        change(writer, next);
        *made = static_cast<std::uint64_t>(next) + 1;
        if (next % compact_every == 0) writer.compact();
      }
    });
    INFO("kill " << kill);
    const auto index = RetrievalIndex::load(path);
    REQUIRE(index.verify().items == index.size());
    const auto acknowledged = static_cast<std::int64_t>(*made);
    for (; number < acknowledged; ++number) change(expected, number);
    if (!(Snapshot(index) == Snapshot(expected))) {
      change(expected, number++);
      ++unacknowledged;
    }
    REQUIRE(Snapshot(index) == Snapshot(expected));
    const auto before = read_file(path).size();
    { const IndexWriter writer(path, "fp"); }
    torn += read_file(path).size() < before;
  }
  std::cout << "index writer killed " << kills << " times: " << torn << " torn records, " << unacknowledged
            << " complete but not reported yet, none lost\n";
}

TEST_CASE("readers of another process's file see a whole number of changes", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(0).save(path);
  std::vector<Snapshot> states;
  for (std::int64_t number = 0; number <= 60; ++number) states.emplace_back(after(number));
  const pid_t process = ::fork();
  if (process == 0) {
    try {
      IndexWriter writer(path, "fp", false);
      for (std::int64_t number = 0; number < 60; ++number) {
        change(writer, number);
        if (number % 7 == 0) writer.compact();
      }
    } catch (const std::exception& error) {
      std::cerr << error.what() << std::endl;
      ::_exit(1);
    }
    ::_exit(0);
  }
  REQUIRE(process > 0);
  std::size_t last = 0;
  bool consistent = true;
  int status = 0;
  while (::waitpid(process, &status, WNOHANG) == 0) {
    const Snapshot seen(RetrievalIndex::load(path));
    while (last < states.size() && !(states[last] == seen)) ++last;
    consistent = consistent && last < states.size();
  }
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(consistent);
  CHECK(Snapshot(RetrievalIndex::load(path)) == states.back());
}
