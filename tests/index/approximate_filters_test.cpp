// Searches through a graph with a filter for each query: what a sample says of a filter, and the memory they take.

#include <sys/resource.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "support/catch.h"
#include "support/child.h"
#include "support/long_tests.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Items 0, 1, ... with a graph and a tag that `tag` gives.
template <class Tag>
RetrievalIndex tagged_index(Eigen::Index items, Eigen::Index dimension, const Tag& tag) {
  RandomStream random(81, 0, "graph filters");
  RetrievalIndex index(dimension, Metric::kL2);
  Ids ids(static_cast<std::size_t>(items));
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<Metadata> metadata;
  for (const auto id : ids) metadata.push_back({{"tag", tag(id)}});
  index.add(ids, random_rows(random, Kind::kGaussian, items, dimension), metadata);
  index.build_graph({.links = 4, .breadth = 20, .threads = 1});
  return index;
}

/// Peak of this process's memory, in bytes.
std::int64_t peak() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{1024} * usage.ru_maxrss;
}

}  // namespace

TEST_CASE("a search is not short where a sample of the items misleads about its filter", "[index][graph]") {
  // Of 2570 rows every tenth is looked at; those, or all others, have the tag.
  const auto index = tagged_index(2570, 5, [](std::int64_t id) { return id % 10 == 0 ? "sampled" : "other"; });
  RandomStream random(82, 0, "graph filters");
  const RowMatrix queries = random_rows(random, Kind::kGaussian, 4, 5);
  const std::vector<Filter> filters = {Filter::equals("tag", "sampled"), Filter::equals("tag", "other"),
                                       !Filter::equals("tag", "sampled"), Filter()};
  for (const std::int64_t k : {1, 200, 257, 258, 400, 2313, 2314, 2570}) {
    SearchOptions options;
    options.threads = 2;
    options.breadth = 30;
    const auto found = index.search(queries, k, filters, options);
    for (std::size_t q = 0; q < filters.size(); ++q) {
      const std::int64_t matching = q == 0 ? 257 : q == 3 ? 2570 : 2313;
      INFO("query " << q << ", k " << k);
      REQUIRE(found[q].size() == static_cast<std::size_t>(std::min(k, matching)));
      for (const auto& hit : found[q]) REQUIRE(filters[q].matches(hit.id, index.metadata(hit.id)));
      if (k >= matching)  // all of them, so nothing could be missed
        require_same(found[q], brute_search(index, queries.row(static_cast<Eigen::Index>(q)),
                                            static_cast<std::size_t>(k), filters[q]));
    }
  }
}

TEST_CASE("a filter for each query takes no memory for all items and queries at once", "[index][graph]") {
  if (kSanitized) return;  // a sanitizer keeps what was freed
  constexpr Eigen::Index kItems = 20'000, kQueries = 4'000;
  const auto index = tagged_index(kItems, 3, [](std::int64_t id) { return std::to_string(id % 5); });
  RandomStream random(83, 0, "graph filters");
  const RowMatrix queries = random_rows(random, Kind::kGaussian, kQueries, 3);
  std::vector<Filter> filters;
  for (Eigen::Index q = 0; q < kQueries; ++q) filters.push_back(Filter::equals("tag", std::to_string(q % 5)));
  const auto work = [&] {  // a child's peak is its own
    const auto before = peak();
    const auto found = index.search(queries, 5, filters, {.threads = 1, .breadth = 5});
    const bool whole = found.size() == static_cast<std::size_t>(kQueries) && found.back().size() == 5;
    // A byte for every item and query would be 80 MB.
    return !whole ? 2 : peak() - before > kItems * kQueries / 4 ? 1 : 0;
  };
  CHECK(in_child(work) == 0);
}
