// Searches through a graph: how much they find, and that nothing else about a search becomes approximate.

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "brute_force.h"
#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/child.h"
#include "support/full_disk.h"
#include "support/long_tests.h"

using namespace daug;
using namespace daug::test;

namespace {

const SearchOptions kApproximate{.threads = 2, .breadth = 64};

/// Vectors around a hundred centres, as embeddings are.
RowMatrix clustered(RandomStream& random, Eigen::Index count, Eigen::Index dimension) {
  RowMatrix rows = random_rows(random, Kind::kGaussian, count, dimension);
  RandomStream centre_stream(41, 0, "centres");
  const RowMatrix centres = random_rows(centre_stream, Kind::kGaussian, 100, dimension);
  for (Eigen::Index row = 0; row < count; ++row) rows.row(row) = 0.5F * rows.row(row) + centres.row(random.below(100));
  return rows;
}

Ids numbers(std::int64_t first, std::int64_t count) {
  Ids ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(first + i);
  return ids;
}

double recall(const std::vector<Hits>& found, const std::vector<Hits>& expected) {
  std::size_t seen = 0;
  std::size_t all = 0;
  for (std::size_t q = 0; q < found.size(); ++q) {
    REQUIRE(found[q].size() == expected[q].size());
    std::set<std::int64_t> ids;
    for (const auto& hit : found[q]) ids.insert(hit.id);
    REQUIRE(ids.size() == found[q].size());
    for (const auto& hit : expected[q]) seen += ids.count(hit.id);
    all += expected[q].size();
  }
  return static_cast<double>(seen) / static_cast<double>(all);
}

/// Scores are exact and in order even where a neighbour was missed.
void require_scores(const RetrievalIndex& index, const RowMatrix& queries, const std::vector<Hits>& found) {
  for (std::size_t q = 0; q < found.size(); ++q) {
    for (std::size_t i = 0; i < found[q].size(); ++i) {
      const double score =
          brute_score(index.metric(), queries.row(static_cast<Eigen::Index>(q)), index.vector(found[q][i].id));
      REQUIRE(found[q][i].score == Approx(score).epsilon(1e-12));
      if (i == 0) continue;
      const Hit& before = found[q][i - 1];
      REQUIRE((before.score == found[q][i].score
                   ? before.id < found[q][i].id
                   : (before.score > found[q][i].score) == (index.metric() != Metric::kL2)));
    }
  }
}

}  // namespace

TEST_CASE("an approximate search finds nearly all, with exact scores, under every metric", "[index][graph]") {
  for (const Metric metric : kMetrics) {
    RandomStream random(42, static_cast<std::uint64_t>(metric), "graph");
    RetrievalIndex index(32, metric);
    index.add(numbers(0, 4000), clustered(random, 4000, 32));
    const RowMatrix queries = clustered(random, 50, 32);
    CHECK(caught([&] { (void)index.search(queries, 10, kApproximate); }).code() == ErrorCode::kInvalidArgument);
    index.build_graph();
    SearchStats stats;
    auto options = kApproximate;
    options.stats = &stats;
    const auto found = index.search(queries, 10, options);
    const auto expected = index.search(queries, 10);
    INFO(metric_name(metric));
    CHECK(recall(found, expected) >= (metric == Metric::kInnerProduct ? 0.9 : 0.97));
    CHECK(stats.graph_queries == 50);
    CHECK(stats.queries == 50);
    require_scores(index, queries, found);
    options.breadth = 1;
    const double narrow = recall(index.search(queries, 10, options), expected);
    options.breadth = 1000;
    CHECK(recall(index.search(queries, 10, options), expected) >= narrow);
    const auto check = index.verify(100, kApproximate);
    CHECK(check.items == 4000);
    CHECK(check.recall >= (metric == Metric::kInnerProduct ? 0.9 : 0.97));
    CHECK(check.recall <= 1);
    CHECK(index.verify(100).recall == 1);
    require_identical(index.search(queries, 10), expected);  // an exact search stays one
  }
}

TEST_CASE("an approximate search under a filter is never short, at any selectivity", "[index][graph]") {
  RandomStream random(43, 0, "graph filter");
  const Eigen::Index count = 5000;
  RetrievalIndex index(16, Metric::kCosine);
  std::vector<Metadata> metadata(static_cast<std::size_t>(count));
  const std::vector<std::pair<std::string, double>> tags = {{"90", 0.9}, {"50", 0.5}, {"20", 0.2},
                                                            {"10", 0.1}, {"1", 0.01}, {"0.1", 0.001}};
  for (std::size_t i = 0; i < metadata.size(); ++i) {
    const double place = random.uniform();
    for (const auto& [tag, share] : tags)
      if (place < share) metadata[i][tag] = "yes";
    metadata[i]["patient"] = std::to_string(i / 4);
    if (i == 77) metadata[i]["one"] = "yes";
  }
  index.add(numbers(0, count), clustered(random, count, 16), metadata);
  index.build_graph();
  const RowMatrix queries = clustered(random, 20, 16);
  std::vector<Filter> filters = {Filter(), Filter::equals("one", "yes"), Filter::equals("patient", "nobody"),
                                 Filter::exclude_patient("3"), Filter::ids({1, 2, 3})};
  for (const auto& [tag, share] : tags) filters.push_back(Filter::equals(tag, "yes"));
  for (std::size_t i = 0; i < filters.size(); ++i) {
    const auto found = index.search(queries, 10, filters[i], kApproximate);
    const auto expected = index.search(queries, 10, filters[i]);
    INFO("filter " << i);
    for (const auto& hits : found)
      for (const auto& hit : hits) REQUIRE(filters[i].matches(hit.id, index.metadata(hit.id)));
    if (!expected[0].empty()) CHECK(recall(found, expected) >= 0.99);
    require_scores(index, queries, found);
  }
  std::vector<Filter> own;
  for (Eigen::Index q = 0; q < queries.rows(); ++q)
    own.push_back(filters[static_cast<std::size_t>(q) % filters.size()]);
  const auto found = index.search(queries, 10, own, kApproximate);
  CHECK(recall(found, index.search(queries, 10, own)) >= 0.99);
  CHECK(index.search(queries, 5000, kApproximate)[0].size() == 5000);
  CHECK(caught([&] { (void)index.search(queries, 1, Filter::equals("sex", "F"), kApproximate); }).code() ==
        ErrorCode::kNotFound);
}

TEST_CASE("a filter that goes with the distance to the query costs no recall", "[index][graph]") {
  RandomStream random(47, 0, "graph filter and distance");
  constexpr Eigen::Index kCount = 12'000, kQueries = 40;
  RetrievalIndex index(16, Metric::kL2);
  const RowMatrix vectors = random_rows(random, Kind::kGaussian, kCount, 16);
  RowMatrix queries = random_rows(random, Kind::kGaussian, kQueries, 16);
  queries.col(0).setConstant(-1.5F);
  // The half, quarter and seventh on the queries' side of the first component, and on the other, where nothing is near.
  std::vector<float> places(vectors.col(0).begin(), vectors.col(0).end());
  std::sort(places.begin(), places.end());
  const auto place = [&](double share) { return places[static_cast<std::size_t>(share * (kCount - 1))]; };
  const std::vector<std::pair<std::string, double>> shares = {{"half", 0.5}, {"quarter", 0.25}, {"seventh", 0.143}};
  std::vector<Metadata> metadata(static_cast<std::size_t>(kCount));
  for (Eigen::Index row = 0; row < kCount; ++row)
    for (const auto& [name, share] : shares) {
      auto& texts = metadata[static_cast<std::size_t>(row)];
      if (vectors(row, 0) <= place(share)) texts["near " + name] = "yes";
      if (vectors(row, 0) >= place(1 - share)) texts["far " + name] = "yes";
    }
  index.add(numbers(0, kCount), vectors, metadata);
  index.build_graph();
  SearchStats stats;
  const SearchOptions options{.threads = 2, .breadth = 128, .stats = &stats};
  for (const auto& [name, share] : shares)
    for (const auto& side : {"near ", "far "}) {
      INFO(side << name);
      const auto filter = Filter::has(side + name);
      const auto expected = index.search(queries, 10, filter);
      CHECK(recall(index.search(queries, 10, filter, options), expected) >= 0.99);
      const std::vector<Filter> own(static_cast<std::size_t>(kQueries), filter);
      CHECK(recall(index.search(queries, 10, own, options), expected) >= 0.99);
    }
  CHECK(stats.queries == 12 * kQueries);
  CHECK(stats.graph_queries >= 2 * kQueries);  // some are not answered exactly
}

TEST_CASE("items that come, change and go after a graph was built are found, moved and left out", "[index][graph]") {
  RandomStream random(44, 0, "graph changes");
  RetrievalIndex index(12, Metric::kL2);
  index.add(numbers(0, 1500), clustered(random, 1500, 12));
  index.build_graph({.threads = 1});
  const RowMatrix queries = clustered(random, 30, 12);
  for (int round = 0; round < 12; ++round) {
    const auto first = 10'000 + 100 * round;
    index.add(numbers(first, 20), clustered(random, 20, 12));
    index.remove(numbers(60 * round, 40));
    index.update(numbers(60 * round + 40, 10), clustered(random, 10, 12));
    // What is nearest to the query now was added, removed or moved after the graph.
    const RowMatrix spot = queries.row(round);
    index.add({first + 50}, spot);
    index.update({60 * round + 50}, spot);
    if (round % 4 == 3) index.compact();
    const auto found = index.search(queries, 10, kApproximate);
    for (const auto& hits : found)
      for (const auto& hit : hits) REQUIRE(index.contains(hit.id));
    CHECK(recall(found, index.search(queries, 10)) >= 0.97);
    require_scores(index, queries, found);
    const auto& nearest = found[static_cast<std::size_t>(round)];
    CHECK(nearest[0].score == 0);
    CHECK(nearest[1].score == 0);
    CHECK(nearest[0].id == 60 * round + 50);
    CHECK(nearest[1].id == first + 50);
  }
  const RetrievalIndex copy = index;
  index.build_graph();
  CHECK(recall(index.search(queries, 10, kApproximate), index.search(queries, 10)) >= 0.97);
  index.remove(index.ids());
  CHECK(caught([&] { index.build_graph(); }).code() == ErrorCode::kInvalidArgument);
  CHECK(copy.search(queries, 10, kApproximate)[0].size() == 10);
}

TEST_CASE("one thread builds the same graph every time", "[index][graph]") {
  RandomStream random(45, 0, "graph again");
  const RowMatrix vectors = clustered(random, 800, 8);
  const RowMatrix queries = clustered(random, 20, 8);
  std::vector<std::vector<Hits>> found;
  for (int build = 0; build < 2; ++build) {
    RetrievalIndex index(8, Metric::kCosine);
    index.add(numbers(0, 800), vectors);
    index.build_graph({.links = 4, .breadth = 10, .threads = 1});
    found.push_back(index.search(queries, 5, SearchOptions{.breadth = 5}));
  }
  require_identical(found[0], found[1]);
}

TEST_CASE("approximate searches run while an index changes and its graph is built anew", "[index][concurrency]") {
  RandomStream random(46, 0, "graph threads");
  RetrievalIndex index(8, Metric::kCosine);
  index.add(numbers(0, 400), clustered(random, 400, 8));
  index.build_graph({.threads = 1});
  const RowMatrix queries = clustered(random, 4, 8);
  std::atomic<bool> done{false};
  std::atomic<int> short_answers{0};
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 2; ++reader)
    readers.emplace_back([&] {
      while (!done)
        for (const auto& hits : index.search(queries, 10, SearchOptions{.threads = 1, .breadth = 30}))
          short_answers += hits.size() != 10;
    });
  for (int i = 0; i < 25; ++i) {
    index.add(numbers(1000 + 10 * i, 10), clustered(random, 10, 8));
    index.remove(numbers(10 * i, 5));
    if (i % 8 == 7) index.build_graph({.threads = 1});
  }
  done = true;
  for (auto& reader : readers) reader.join();
  CHECK(short_answers == 0);
}

TEST_CASE("settings of graphs out of range are refused", "[index][graph]") {
  RetrievalIndex index(2, Metric::kL2);
  CHECK(caught([&] { index.build_graph(); }).code() == ErrorCode::kInvalidArgument);
  index.add({1, 2}, RowMatrix::Identity(2, 2));
  CHECK(caught([&] { index.build_graph({.links = 1}); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { index.build_graph({.breadth = 1}); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { index.build_graph({.threads = -1}); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { (void)index.search(RowMatrix::Ones(1, 2), 1, SearchOptions{.breadth = -1}); }).code() ==
        ErrorCode::kInvalidArgument);
  index.build_graph();
  CHECK(index.search(RowMatrix::Identity(1, 2), 2, SearchOptions{.breadth = 1})[0].size() == 2);
}

TEST_CASE("a graph that there is no memory for is an error of the library's own, and changes nothing",
          "[index][graph]") {
  if (kSanitized) return;
  RetrievalIndex index(64, Metric::kL2);
  index.add(numbers(0, 40'000), RowMatrix::Random(40'000, 64));  // 10 MB, and 90 MB of links
  const auto work = [&] {
    limit_memory(std::size_t{40} << 20U);
    try {
      index.build_graph({.links = 256, .threads = 1});
    } catch (const Error& error) {
      return error.code() != ErrorCode::kUnsupported ? 2 : index.search(RowMatrix::Ones(1, 64), 3)[0].size() != 3;
    }
    return 1;
  };
  CHECK(in_child(work) == 0);
}
