// What is left of an index file when the disk is full at any of its bytes or whoever saves it is killed, and what bytes
// behind its last change are. DAUG_LONG_TESTS=1 kills 1000 times.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "brute_force.h"
#include "change_series.h"
#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/index/index_writer.h"
#include "daug/io/file.h"
#include "fixtures.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/killed.h"
#include "support/long_tests.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Sizes of a disk up to that of a whole file, the last but one of which is a byte too small for it.
std::vector<std::size_t> disks_up_to(std::size_t whole) {
  std::vector<std::size_t> sizes;
  for (std::size_t size = 0; size + 1 < whole; size += kSanitized ? 31 : 3) sizes.push_back(size);
  sizes.insert(sizes.end(), {whole - 1, whole});
  return sizes;
}

/// Whether `action` succeeds while no file can grow beyond `bytes`. It may fail for want of room alone.
template <class Action>
bool succeeds_within(std::size_t bytes, Action&& action) {
  const FullDisk disk(bytes);
  try {
    action();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kIo) throw;
    return false;
  }
  return true;
}

}  // namespace

TEST_CASE("on a disk that is full at any byte of the file, saving leaves the old file or the new one", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  const RetrievalIndex index = after(9);
  index.save(path);
  const auto whole = read_text_file(path);
  after(3).save(path);
  const auto before = read_text_file(path);
  REQUIRE(before != whole);
  for (const std::size_t size : disks_up_to(whole.size())) {
    INFO("a disk of " << size << " bytes");
    const bool saved = succeeds_within(size, [&] { index.save(path); });
    REQUIRE(saved == (size == whole.size()));
    REQUIRE(read_text_file(path) == (saved ? whole : before));
    REQUIRE(Snapshot(RetrievalIndex::load(path)) == Snapshot(after(saved ? 9 : 3)));
    REQUIRE(scratch.count() == 1);  // no temporary file
  }
}

TEST_CASE("on a disk that is full at any byte of the journal, a change is there or is not", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(2).save(path);
  const auto add = [&](std::int64_t number) {
    IndexWriter writer(path, "fp");
    change(writer, number);
    return read_text_file(path);
  };
  const auto before = add(2), whole = add(5);
  auto items = after(3);
  const Snapshot without(items);
  change(items, 5);
  const Snapshot with(items);
  scratch.put("a", before);
  for (const std::size_t size : disks_up_to(whole.size())) {
    INFO("a disk of " << size << " bytes");
    IndexWriter writer(path, "fp", size % 2 == 0);
    const bool made = succeeds_within(size, [&] { change(writer, 5); });
    REQUIRE(made == (size == whole.size()));
    REQUIRE(read_text_file(path) == (made ? whole : before));
    REQUIRE(Snapshot(writer.index()) == (made ? with : without));
    REQUIRE(Snapshot(RetrievalIndex::load(path)) == (made ? with : without));
  }
}

TEST_CASE("on a disk that is full at any byte of the file, compacting leaves the old file or the new one", "[index]") {
  const Scratch scratch;
  after(2).save(scratch.path("a"));
  {
    IndexWriter writer(scratch.path("a"), "fp");
    for (std::int64_t number = 2; number < 7; ++number) change(writer, number);
  }
  const auto before = read_text_file(scratch.path("a"));
  scratch.put("b", before);
  IndexWriter(scratch.path("b"), "fp").compact();
  const auto whole = read_text_file(scratch.path("b"));
  REQUIRE(before != whole);
  const Snapshot items(after(7));
  IndexWriter writer(scratch.path("a"), "fp");
  for (const std::size_t size : disks_up_to(whole.size())) {
    INFO("a disk of " << size << " bytes");
    const bool compacted = succeeds_within(size, [&] { writer.compact(); });
    REQUIRE(compacted == (size == whole.size()));
    REQUIRE(read_text_file(scratch.path("a")) == (compacted ? whole : before));
    REQUIRE(Snapshot(writer.index()) == items);
    REQUIRE(writer.journal_records() == (compacted ? 0U : 5U));
    REQUIRE(scratch.count() == 4);  // two files with their locks
  }
  CHECK(Snapshot(RetrievalIndex::load(scratch.path("a"))) == items);
}

TEST_CASE("an index that is being saved when the process is killed is the old file or the new one", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  // Three indexes in turn, so that neither the one before the last that was saved nor a mixture passes for either.
  std::vector<RetrievalIndex> indexes;
  std::vector<Snapshot> items;
  RandomStream random(23, 0, "save");
  for (const Eigen::Index rows : {1000, 1500, 2000}) {
    Ids ids(static_cast<std::size_t>(rows));
    std::iota(ids.begin(), ids.end(), 0);
    RetrievalIndex index(64, Metric::kL2);
    index.add(ids, random_rows(random, Kind::kGaussian, rows, 64));
    items.emplace_back(index);
    indexes.push_back(index);
  }
  const auto start = std::chrono::steady_clock::now();
  indexes[0].save(path);
  const double one_save = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  const SharedCounter saves;  // that returned; number n saves index n % 3
  int unfinished = 0, unacknowledged = 0;
  const int kills = long_tests() ? 1000 : 40;
  for (int kill = 0; kill < kills; ++kill) {
    const double microseconds = random.uniform(0, 3 * one_save);
    run_until_killed([&] {
      kill_after(microseconds);
      for (std::uint64_t next = *saves + 1;; ++next) {
        indexes[next % 3].save(path);
        *saves = next;
      }
    });
    INFO("kill " << kill);
    for (const auto& entry : std::filesystem::directory_iterator(scratch.folder())) {
      if (entry.path().string() == path) continue;
      unfinished += entry.path().extension() == ".tmp" ? 1 : 0;  // and not the lock
      std::filesystem::remove(entry.path());
    }
    const auto index = RetrievalIndex::load(path);
    REQUIRE(index.verify().items == index.size());
    const Snapshot found(index);
    if (!(found == items[*saves % 3])) {
      ++*saves;
      ++unacknowledged;
    }
    REQUIRE(found == items[*saves % 3]);
  }
  std::cout << "killed " << kills << " times during a save: " << unfinished << " temporary files left, "
            << unacknowledged << " new files not reported yet, none lost\n";
  CHECK(unfinished > 0);
}

TEST_CASE("what stands behind the last completed change is none of the file's, whatever it is", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  after(2).save(path);
  const auto saved = read_text_file(path);
  {
    IndexWriter writer(path, "fp");
    change(writer, 2);
    change(writer, 3);
  }
  const auto changed = read_text_file(path);
  const auto records = changed.substr(saved.size());
  RandomStream random(24, 0, "tail");
  std::string noise(100'000, '\0');
  for (char& byte : noise) byte = static_cast<char>(random.below(256));

  for (const bool has_changes : {false, true}) {
    const auto& whole = has_changes ? changed : saved;
    const Snapshot items(after(has_changes ? 4 : 2));
    for (const std::string& tail : {std::string(1, '\0'), std::string(64, '\0'), noise, whole, records}) {
      INFO((has_changes ? "changed, " : "saved, ") << tail.size() << " bytes more");
      const auto file = whole + tail;
      REQUIRE(Snapshot(RetrievalIndex::parse(file.data(), file.size(), "x")) == items);
      scratch.put("a", file);
      {
        const auto index = RetrievalIndex::load(path);
        REQUIRE(Snapshot(index) == items);
        REQUIRE(index.verify().items == index.size());
      }
      { const IndexWriter writer(path, "fp"); }
      REQUIRE(read_text_file(path) == whole);
      // Changes that are whole though nothing counted them yet are kept by a recovery, and by that alone.
      const bool uncounted = !has_changes && tail == records;
      scratch.put("a", file);
      REQUIRE(IndexWriter::recover(path) == (has_changes || uncounted ? 2U : 0U));
      REQUIRE(read_text_file(path) == (uncounted ? changed : whole));
    }
  }

  // Nothing can stand in place of what was cut off, nor between the items and their changes.
  const auto refusal = [](const std::string& file) {
    return error_text(ErrorCode::kFormat, [&] { (void)RetrievalIndex::parse(file.data(), file.size(), "x"); });
  };
  contains(refusal(changed.substr(0, changed.size() - 8) + noise), "x: journal record 1: expected");
  contains(refusal(saved.substr(0, saved.size() - 8) + noise), "x: journal: expected");
  contains(refusal(saved.substr(0, saved.size() - 16) + 'x' + saved.substr(saved.size() - 16)), "x: journal: expected");
}
