// How long the journal of an index file gets: when a writer folds changes into the items, and when it cannot.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>
#include <string>

#include "brute_force.h"
#include "change_series.h"
#include "daug/core/random.h"
#include "daug/index/index_writer.h"
#include "daug/io/file.h"
#include "fixtures.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Length of header and items, as the header says (src/index/index_file.h).
std::uint64_t items_length(const std::string& path) {
  const auto file = read_text_file(path);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data() + 24, sizeof length);
  return length;
}

/// Adds `rows` from `first` on, their numbers being the ids.
template <class Index>
void add_rows(Index& index, const RowMatrix& rows, std::int64_t first, std::int64_t count) {
  Ids ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  index.add(ids, rows.middleRows(first, count));
}

}  // namespace

TEST_CASE("a writer folds its changes into the items before they are too many, and when it is closed", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  constexpr std::uint64_t kLimit = 2000;
  after(0).save(path);
  std::int64_t number = 0;
  int folds = 0;
  {
    IndexWriter writer(path, "fp", false, kLimit);
    for (; number < 120 || writer.journal_bytes() <= kLimit; ++number) {
      const bool too_many = writer.journal_bytes() > std::max(kLimit, items_length(path) / 16);
      const auto records = writer.journal_records();
      change(writer, number);
      INFO("change " << number);
      REQUIRE(writer.journal_records() == (too_many ? 1 : records + 1));
      REQUIRE(read_file(path).size() == items_length(path) + 16 + writer.journal_bytes());
      folds += too_many ? 1 : 0;
      if (too_many || number % 9 == 0) {
        REQUIRE(Snapshot(writer.index()) == Snapshot(after(number + 1)));
        REQUIRE(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(number + 1)));
      }
    }
  }
  CHECK(folds > 3);
  const auto closed = [&](std::uint64_t limit, int changes) {
    {
      IndexWriter writer(path, "fp", false, limit);
      for (int i = 0; i < changes; ++i) change(writer, number++);
    }
    CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(number)));
    return IndexWriter(path, "fp").journal_records();
  };
  CHECK(closed(kLimit, 0) == 0);  // there were more than the limit when the first writer was closed
  CHECK(closed(kLimit, 3) == 3);
  CHECK(closed(std::numeric_limits<std::uint64_t>::max(), 40) == 43);
  CHECK(closed(IndexWriter::kJournalLimit, 1) == 44);
  CHECK(closed(0, 0) == 0);
  CHECK(RetrievalIndex::load(path).verify().items == after(number).size());
  CHECK(scratch.count() == 2);  // the file and its lock
}

TEST_CASE("a graph outlives the folding of changes, but not a compaction", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  RandomStream random(81, 0, "graph and journal");
  const RowMatrix rows = random_rows(random, Kind::kGaussian, 900, 8);
  RetrievalIndex(8, Metric::kL2).save(path);
  IndexWriter writer(path, "", false, 1000);
  add_rows(writer, rows, 0, 800);
  writer.compact();
  writer.build_graph({.links = 8});
  for (std::int64_t row = 800; row < 900; ++row) add_rows(writer, rows, row, 1);
  CHECK(writer.journal_records() < 100);
  SearchStats stats;
  const auto found = writer.index().search(rows.bottomRows(100), 5, SearchOptions{.breadth = 40, .stats = &stats});
  CHECK(stats.graph_queries == 100);
  for (std::int64_t row = 800; row < 900; ++row) {  // the newest are not in the graph, and found all the same
    const Hits& hits = found[static_cast<std::size_t>(row - 800)];
    REQUIRE(hits.size() == 5);
    CHECK(hits[0].id == row);
    CHECK(hits[0].score == 0);
  }
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(writer.index()));
  writer.compact();
  check_refused(ErrorCode::kInvalidArgument, "build_graph",
                [&] { (void)writer.index().search(rows.topRows(1), 5, SearchOptions{.breadth = 40}); });
}

TEST_CASE("where a second file has no room changes stay records, and are folded when they are twice as many",
          "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  RandomStream random(82, 0, "no room");
  const RowMatrix rows = random_rows(random, Kind::kGaussian, 300, 64);
  RetrievalIndex expected(64, Metric::kL2);
  const auto folded_size = [&] {
    expected.save(scratch.path("whole"));
    const auto size = std::filesystem::file_size(scratch.path("whole"));
    std::filesystem::remove(scratch.path("whole"));
    return size;
  };
  add_rows(expected, rows, 0, 50);
  expected.save(path);
  auto writer = std::make_unique<IndexWriter>(path, "", false, 1000);
  add_rows(*writer, rows, 50, 70);
  add_rows(expected, rows, 50, 70);
  {
    // A record has no codes, so that the items take more room once they are folded.
    const auto whole = folded_size();
    REQUIRE(std::filesystem::file_size(path) + 1000 < whole);
    const FullDisk disk(whole - 1);
    writer->remove({3});
    CHECK(writer->journal_records() == 2);
  }
  expected.remove({3});
  CHECK(Snapshot(writer->index()) == Snapshot(expected));
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(expected));
  CHECK(scratch.count() == 2);
  writer->remove({4});
  CHECK(writer->journal_records() == 3);
  add_rows(*writer, rows, 120, 75);
  CHECK(writer->journal_records() == 4);
  writer->remove({5});
  CHECK(writer->journal_records() == 1);
  expected.remove({4});
  add_rows(expected, rows, 120, 75);
  expected.remove({5});
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(expected));

  // Nor does closing, which has nobody to tell, lose anything.
  add_rows(*writer, rows, 200, 100);
  add_rows(expected, rows, 200, 100);
  const auto bytes = read_file(path);
  {
    const auto whole = folded_size();
    REQUIRE(bytes.size() + 1000 < whole);
    const FullDisk disk(whole - 1);
    writer.reset();
  }
  CHECK(read_file(path) == bytes);
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(expected));
  CHECK(scratch.count() == 2);
  { const IndexWriter again(path, "", false, 1000); }
  CHECK(read_file(path).size() == folded_size());
}

TEST_CASE("no folding replaces a file that was put in place of the writer's", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(0).save(path);
  {
    IndexWriter writer(path, "fp", false, 0);
    change(writer, 0);
    after(9).save(scratch.path("b"));
    std::filesystem::rename(scratch.path("b"), path);
    const auto other = read_file(path);
    CHECK(caught([&] { writer.compact(); }).code() == ErrorCode::kMismatch);
    CHECK(caught([&] { change(writer, 1); }).code() == ErrorCode::kMismatch);
    CHECK(read_file(path) == other);
    CHECK(Snapshot(writer.index()) == Snapshot(after(1)));
  }
  CHECK(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(9)));
}

TEST_CASE("changes are not folded into items that are damaged", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(20).save(path);
  auto file = read_text_file(path);
  std::uint64_t header = 0;
  std::memcpy(&header, file.data() + 16, sizeof header);
  file[(header + file.size()) / 2] ^= 1;  // in a payload that nothing has read yet
  scratch.put("a", file);
  {
    IndexWriter writer(path, "fp", false, 0);
    writer.add({1000}, RowMatrix::Ones(1, 6), {{{"note", std::string(1000, 'x')}}});
    file = read_text_file(path);
    check_refused(ErrorCode::kFormat, "expected contents that fit their checksum", [&] { change(writer, 21); });
    check_refused(ErrorCode::kFormat, "expected contents that fit their checksum", [&] { writer.compact(); });
    CHECK(writer.journal_records() == 1);
  }
  CHECK(read_text_file(path) == file);
  CHECK(scratch.count() == 2);
}
