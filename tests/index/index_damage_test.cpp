// Random damage to a file of several chunks and a journal: never accepted, never a wrong result.
// DAUG_LONG_TESTS=1 tries 1e6 mutations.

#include <iostream>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/index/index_writer.h"
#include "daug/io/file.h"
#include "support/catch.h"
#include "support/long_tests.h"
#include "support/mutation.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a file that is damaged at random is refused, or finds what it found before", "[index]") {
  const Scratch scratch;
  RandomStream random(31, 0, "damage");
  RetrievalIndex index(16, Metric::kCosine, "fp");
  std::vector<Metadata> metadata(300);
  Ids ids(300);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int64_t>(i);
    metadata[i] = {{"patient", "p" + std::to_string(i / 3)}, {"view", i % 2 ? "PA" : "AP"}};
  }
  index.add(ids, random_rows(random, Kind::kGaussian, 300, 16), metadata);
  index.save(scratch.path("a"));
  const auto items = read_file(scratch.path("a")).size();
  {
    IndexWriter writer(scratch.path("a"), "fp");
    writer.add({1000, 1001}, random_rows(random, Kind::kGaussian, 2, 16));
    writer.remove({5, 6});
  }
  const auto whole = read_text_file(scratch.path("a"));
  const RowMatrix query = random_rows(random, Kind::kGaussian, 1, 16);
  const auto filter = Filter::equals("view", "PA");
  const SearchOptions options{.threads = 1};
  const auto expected = RetrievalIndex::parse(whole.data(), whole.size(), "x").search(query, 5, filter, options);

  const int mutations = long_tests() ? 1'000'000 : 4'000;
  std::int64_t unchanged = 0, shortened = 0, found_late = 0, accepted = 0, wrong = 0;
  for (int i = 0; i < mutations; ++i) {
    const auto bytes = mutated(whole, random);
    bool opened = false;
    try {
      const auto damaged = RetrievalIndex::parse(bytes.data(), bytes.size(), "x");
      opened = true;
      // A file that ends between or in records of the journal is one that has fewer of them.
      const bool shorter =
          bytes.size() >= items && bytes.size() < whole.size() && whole.compare(0, bytes.size(), bytes) == 0;
      if (bytes == whole || shorter) {
        (shorter ? shortened : unchanged)++;
        (void)damaged.verify();
        continue;
      }
      if (i % 8 == 0) {
        const auto found = damaged.search(query, 5, filter, options);
        for (std::size_t k = 0; k < 5; ++k)
          wrong +=
              found[0].size() != 5 || found[0][k].id != expected[0][k].id || found[0][k].score != expected[0][k].score;
      }
      (void)damaged.verify();
      // Bytes behind the last record may be the beginning of one that was not completed.
      if (bytes.size() > whole.size() && bytes.compare(0, whole.size(), whole) == 0 && bytes.size() - whole.size() < 40)
        ++shortened;
      else
        ++accepted;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kFormat) throw;
      found_late += opened;
    }
  }
  std::cout << mutations << " mutations: " << accepted << " accepted, " << found_late << " found when used, "
            << unchanged << " without effect, " << shortened << " that shorten the journal\n";
  CHECK(accepted == 0);
  CHECK(wrong == 0);
  CHECK(found_late > 0);
}
