// An IndexWriter's index and file in the hands of others: searches and changes while it compacts and folds, a second
// writer, and readers of a file whose end is cut off.

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "brute_force.h"
#include "daug/core/random.h"
#include "daug/index/index_writer.h"
#include "daug/io/file.h"
#include "daug/io/random_access_file.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("what a writer's index says of itself stays where it is while the writer compacts", "[index][concurrency]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  const std::string encoder = "a fingerprint that is too long to be kept within a text's own object";
  RandomStream random(71, 0, "writer and readers");
  RetrievalIndex(6, Metric::kCosine, encoder).save(path);
  IndexWriter writer(path, encoder, false);
  const RowMatrix first = random_rows(random, Kind::kGaussian, 20, 6);
  Ids ids(20);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
  writer.add(ids, first);

  const RetrievalIndex& index = writer.index();
  const std::string& fingerprint = index.fingerprint();
  const IndexOptions& options = index.options();
  std::atomic<bool> done{false};
  std::atomic<std::int64_t> wrong{0};
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 2; ++reader)
    readers.emplace_back([&] {
      while (!done) {
        // The nearest to an item is the item, which stays.
        const auto hits = index.search(first.topRows(1), 3, SearchOptions{.threads = 1});
        const bool same = hits[0].size() == 3 && hits[0][0].id == 0 && index.vector(0) == first.row(0) &&
                          index.dimension() == 6 && index.metric() == Metric::kCosine && fingerprint == encoder &&
                          index.fingerprint() == encoder && options.storage == Storage::kInt8;
        wrong += same ? 0 : 1;
      }
    });
  for (std::int64_t number = 0; number < 40; ++number) {
    writer.add({100 + number}, random_rows(random, Kind::kGaussian, 1, 6));
    writer.compact();
  }
  done = true;
  for (auto& reader : readers) reader.join();
  CHECK(wrong == 0);
  CHECK(&index.fingerprint() == &fingerprint);
  CHECK(&index.options() == &options);
  CHECK(fingerprint == encoder);
  CHECK(index.size() == 60);
}

TEST_CASE("several threads change and search a writer's index while it folds changes", "[index][concurrency]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  RetrievalIndex(6, Metric::kL2).save(path);
  constexpr std::int64_t kEach = 60;
  {
    IndexWriter writer(path, "", false, 300);
    std::atomic<bool> done{false};
    std::atomic<std::int64_t> wrong{0};
    std::thread reader([&] {
      std::int64_t last = 0;
      while (!done) {
        const RetrievalIndex moment = writer.index();
        const auto size = moment.size();
        wrong += size >= last && static_cast<std::int64_t>(moment.ids().size()) == size ? 0 : 1;
        last = size;
        if (size == 0) continue;
        // Item i is at distance i^2 * 6 from the origin; of those that are there the nearest has the smallest number.
        const auto hits = moment.search(RowMatrix::Zero(1, 6), size, SearchOptions{.threads = 1})[0];
        for (std::size_t i = 1; i < hits.size(); ++i) wrong += hits[i - 1].id < hits[i].id ? 0 : 1;
      }
    });
    std::vector<std::thread> writers;
    for (std::int64_t first = 1; first <= 3; ++first)
      writers.emplace_back([&, first] {
        for (std::int64_t i = 0; i < kEach; ++i) {
          const std::int64_t id = first + 3 * i;
          writer.add({id}, RowMatrix::Constant(1, 6, static_cast<float>(id)));
        }
      });
    for (auto& thread : writers) thread.join();
    done = true;
    reader.join();
    CHECK(wrong == 0);
    CHECK(writer.index().size() == 3 * kEach);
    CHECK(writer.journal_records() < 3 * kEach);  // all others have been folded
  }
  const auto index = RetrievalIndex::load(path);
  CHECK(index.verify().items == 3 * kEach);
  for (std::int64_t id = 1; id <= 3 * kEach; ++id) CHECK(index.vector(id)[5] == static_cast<float>(id));
}

TEST_CASE("a file has one writer, by whatever name it is opened", "[index]") {
  namespace fs = std::filesystem;
  const Scratch scratch;
  fs::create_directory(scratch.path("folder"));
  const auto path = scratch.path("folder/a");
  RetrievalIndex(2, Metric::kL2).save(path);
  fs::create_symlink("folder/a", scratch.path("link"));
  fs::create_directory_symlink("folder", scratch.path("other"));
  for (const std::string& name : {scratch.path("link"), scratch.path("other/a"), scratch.path("other/../folder/./a")}) {
    INFO(name);
    {
      const IndexWriter writer(path, "");
      CHECK(caught([&] { IndexWriter(name, ""); }).code() == ErrorCode::kBusy);
    }
    IndexWriter writer(name, "");
    CHECK(caught([&] { IndexWriter(path, ""); }).code() == ErrorCode::kBusy);
    writer.add({writer.index().size()}, RowMatrix::Ones(1, 2));
    writer.compact();
    CHECK(RetrievalIndex::load(path).size() == writer.index().size());
  }
  CHECK(RetrievalIndex::load(path).size() == 3);
  CHECK(fs::is_symlink(scratch.path("link")));
  fs::create_symlink("round", scratch.path("round"));
  CHECK(caught([&] { IndexWriter(scratch.path("round"), ""); }).code() == ErrorCode::kIo);
}

TEST_CASE("nobody saves to a file that has a writer, which would replace what was saved when it folds", "[index]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  RetrievalIndex other(2, Metric::kL2);
  other.add({100, 101}, RowMatrix::Ones(2, 2));
  RetrievalIndex(2, Metric::kL2).save(path);
  CHECK(scratch.count() == 1);  // without a lock
  std::filesystem::create_symlink("a", scratch.path("link"));
  {
    IndexWriter writer(path, "", false, 0);
    writer.add({1}, RowMatrix::Zero(1, 2));
    const auto before = read_file(path);
    for (const auto& name : {path, scratch.path("link")})
      check_refused(ErrorCode::kBusy, "RetrievalIndex::save: " + name, [&] { other.save(name); });
    check_refused(ErrorCode::kBusy, "RetrievalIndex::save", [&] { writer.index().save(path); });
    CHECK(read_file(path) == before);
    writer.add({2}, RowMatrix::Zero(1, 2));  // folds, as nobody had put another file in place
    CHECK(writer.index().size() == 2);
    other.save(scratch.path("b"));
  }
  CHECK(RetrievalIndex::load(path).ids() == Ids{1, 2});
  other.save(path);
  CHECK(RetrievalIndex::load(path).ids() == Ids{100, 101});
  CHECK_FALSE(std::filesystem::exists(path + ".lock"));
}

TEST_CASE("several threads save to one file while others want to write it, and nothing that was changed is lost",
          "[index][concurrency]") {
  const Scratch scratch;
  const auto path = scratch.path("a");
  RetrievalIndex empty(2, Metric::kL2);
  empty.save(path);
  std::atomic<int> wrong{0};
  // Calls `action` until it was not kept out for the 30th time.
  const auto often = [&](const auto& action) {
    for (std::int64_t done = 0; done < 30;) {
      try {
        action(done);
        ++done;
      } catch (const Error& error) {
        if (error.code() == ErrorCode::kBusy) continue;
        ++wrong;
        return;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int saver = 0; saver < 2; ++saver) threads.emplace_back([&] { often([&](std::int64_t) { empty.save(path); }); });
  for (std::int64_t first = 0; first < 2; ++first)
    threads.emplace_back([&, first] {
      often([&](std::int64_t done) {
        IndexWriter writer(path, "", false, 0);
        const auto size = writer.index().size();  // what the writers made of the file since it was saved last
        writer.add({2 * done + first}, RowMatrix::Ones(1, 2));
        writer.compact();
        wrong += RetrievalIndex::load(path).size() == size + 1 ? 0 : 1;
      });
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK_NOTHROW((void)RetrievalIndex::load(path).verify());
}

TEST_CASE("a file can be opened while what a crash left behind its items is cut off and written anew",
          "[index][concurrency]") {
  // As a writer does that opens such a file, and one whose disk is full. What is cut off spans pages, which a reader
  // must not touch through a mapping.
  const Scratch scratch;
  const auto path = scratch.path("a");
  RandomStream random(72, 0, "cut journal");
  constexpr Eigen::Index kItems = 1500, kWidth = 64;
  RetrievalIndex index(kWidth, Metric::kInnerProduct);
  index.add({-1, -2}, random_rows(random, Kind::kGaussian, 2, kWidth));
  index.save(path);
  const auto before = read_text_file(path);
  const auto items = before.size();
  Ids ids(kItems);
  std::iota(ids.begin(), ids.end(), 0);
  IndexWriter(path, "", false).add(ids, random_rows(random, Kind::kGaussian, kItems, kWidth));
  const auto record = read_text_file(path).substr(items);
  REQUIRE(record.size() > 300'000);
  scratch.put("a", before + record);  // not counted yet

  std::atomic<bool> done{false};
  std::thread writer([&] {
    RandomAccessFile file(path, RandomAccessFile::Mode::kWrite);
    RandomStream sizes(73, 0, "cut journal");
    while (!done) {
      file.truncate(items + sizes.below(static_cast<std::uint32_t>(record.size())));
      file.truncate(items);
      file.write(items, record.data(), record.size());
    }
  });
  int whole = 0;
  for (int opened = 0; opened < 60; ++opened) whole += RetrievalIndex::load(path).size() == 2;
  done = true;
  writer.join();
  CHECK(whole == 60);
  CHECK(IndexWriter(path, "").index().size() == 2);
  CHECK(read_text_file(path) == before);
}
