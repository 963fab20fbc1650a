// An IndexWriter's index and file in the hands of others: searches while it compacts, and a second writer.

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "brute_force.h"
#include "daug/core/random.h"
#include "daug/index/index_writer.h"
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
