#include "index/exact_search.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/index/retrieval_index.h"
#include "index/exact_order.h"
#include "index/score_bounds.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/long_tests.h"

using namespace daug;
using namespace daug::test;

namespace {

RetrievalIndex index_of(const RowMatrix& vectors, Metric metric, Storage storage) {
  RetrievalIndex index(vectors.cols(), metric, "", {storage});
  Ids ids(static_cast<std::size_t>(vectors.rows()));
  std::iota(ids.begin(), ids.end(), 0);
  index.add(ids, vectors);
  return index;
}

/// The items of an index without one, in one part.
detail::Snapshot snapshot_of(const Ids& ids, const RowMatrix& vectors, Metric metric) {
  detail::Snapshot snapshot(std::make_shared<const detail::IndexSettings>(
      detail::IndexSettings{vectors.cols(), metric, "", {Storage::kFloat32}}));
  const RowMatrixRef rows = vectors;
  const std::vector<Metadata> none;
  snapshot.append(detail::CheckedItems{ids, rows, snapshot.checked_norms(rows, "test", "vectors"), none});
  return snapshot;
}

/// How much bounds leave open.
enum class Bounds { kTight, kCoarse, kNone };

/// All items of a part, the largest bound first.
std::vector<detail::BoundedPlace> bounded_items(const detail::Snapshot& snapshot, const float* query, double norm,
                                                Bounds bounds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const detail::QueryRank rank(snapshot.settings().metric, snapshot.settings().components(), norm);
  std::vector<detail::BoundedPlace> items;
  for (std::uint32_t row = 0; row < snapshot.size(); ++row) {
    const detail::Place place{0, row};
    const double exact = rank.rank_of(detail::scores_at<1>(snapshot, query, norm, &place)[0]);
    // Coarse ones are the same for many items, and some say nothing.
    const bool none = bounds == Bounds::kNone || (bounds == Bounds::kCoarse && row % 50 == 7);
    const double upper = bounds == Bounds::kCoarse ? std::ceil(4 * exact) / 4 : exact;
    items.push_back({place, none ? kInfinity : std::nextafter(static_cast<float>(upper), kInfinity)});
  }
  std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.bound > b.bound; });
  return items;
}

}  // namespace

TEST_CASE("given items are scored until their bounds rule out all others, and nothing is missed", "[index]") {
  constexpr Eigen::Index kItems = 300, kAsked = 5;
  std::uint64_t item = 0;
  for (const Kind kind : {Kind::kGaussian, Kind::kGrid, Kind::kNearTies, Kind::kCopies, Kind::kTiny})
    for (const Metric metric : kMetrics) {
      RandomStream random(9, ++item, "given items");
      const RowMatrix vectors = random_rows(random, kind, kItems, 12);
      RowMatrix queries = random_rows(random, kind, kAsked, 12);
      queries.row(0) = vectors.row(0);
      const detail::Snapshot snapshot = snapshot_of(shuffled_ids(random, kItems), vectors, metric);
      const std::vector<double> norms = snapshot.checked_norms(queries, "test", "queries");
      const auto nearest = [&](Bounds bounds, std::size_t k, std::int64_t& rescored) {
        std::vector<std::vector<detail::BoundedPlace>> items;
        for (Eigen::Index query = 0; query < kAsked; ++query)
          items.push_back(bounded_items(snapshot, queries.data() + query * queries.cols(),
                                        norms[static_cast<std::size_t>(query)], bounds));
        SearchStats stats;
        auto hits = detail::nearest_of(snapshot, queries, norms, items, k, SearchOptions{.stats = &stats}, "test");
        rescored = stats.rescored;
        return hits;
      };
      for (const std::size_t k : {1, 10, 37, 299, 400}) {
        INFO("kind " << static_cast<int>(kind) << " metric " << metric_name(metric) << " k " << k);
        std::int64_t all = 0, of_tight = 0, of_coarse = 0;
        const auto expected = nearest(Bounds::kNone, k, all);
        CHECK(all == kAsked * kItems);
        require_identical(expected, detail::exact_search(snapshot, queries, {.count = k}, {Filter()}, {}, "test"));
        require_identical(nearest(Bounds::kTight, k, of_tight), expected);
        require_identical(nearest(Bounds::kCoarse, k, of_coarse), expected);
        CHECK(of_tight <= of_coarse);
        if (kind == Kind::kGaussian && k == 10) {
          CHECK(of_tight == kAsked * 12);  // in whole fours
          CHECK(of_coarse < all);
        }
        // There is no bound of a distance this small.
        if (kind == Kind::kTiny && metric == Metric::kL2) CHECK(of_tight == all);
      }
    }
}

TEST_CASE("norms are those of single rows, bit for bit, however many there are", "[index]") {
  for (const Kind kind : {Kind::kGaussian, Kind::kWideRange, Kind::kTiny, Kind::kHuge})
    for (Eigen::Index count = 1; count < 10; ++count) {
      RandomStream random(10, static_cast<std::uint64_t>(count), "norms");
      const RowMatrix rows = random_rows(random, kind, count, 37);
      const auto norms = detail::norms_of_rows(Metric::kL2, rows, "test", "rows");
      REQUIRE(norms.size() == static_cast<std::size_t>(count));
      for (Eigen::Index i = 0; i < count; ++i)
        CHECK(norms[static_cast<std::size_t>(i)] == detail::norm_of(rows.data() + i * 37, 37));
    }
}

TEST_CASE("search equals a full sort of double scores on every kind of data, at every storage", "[index]") {
  for (std::uint64_t item = 0; item < (kSanitized ? 30 : 210); ++item) {
    RandomStream random(1, item, "brute force");
    const auto kind = static_cast<Kind>(item % static_cast<std::uint64_t>(Kind::kCount));
    const Eigen::Index dimension = 1 + random.below(item % 10 == 0 ? 600 : 40);
    const Eigen::Index count = 1 + random.below(item % 15 == 0 ? 2500 : 150);
    const auto k = std::min<std::int64_t>(count, 1 + random.below(item % 4 == 0 ? 200 : 8));
    const RowMatrix vectors = random_rows(random, kind, count, dimension);
    RowMatrix queries = random_rows(random, kind, 1 + random.below(item % 20 == 0 ? 70 : 20), dimension);
    queries.row(0) = vectors.row(0);
    const Ids ids = shuffled_ids(random, count);
    for (const Metric metric : kMetrics) {
      RetrievalIndex index(dimension, metric, "", {kStorages[item % 4]});
      index.add(ids, vectors);
      std::vector<Hits> expected;
      for (Eigen::Index q = 0; q < queries.rows(); ++q)
        expected.push_back(brute_search(index, queries.row(q), static_cast<std::size_t>(k), {}));
      for (const Storage storage : kStorages) {
        INFO("item " << item << " kind " << static_cast<int>(kind) << " metric " << metric_name(metric) << " storage "
                     << storage_name(storage) << " n " << count << " d " << dimension << " k " << k);
        RetrievalIndex other(dimension, metric, "", {storage});
        other.add(ids, vectors);
        SearchOptions options;
        options.max_candidates = random.below(2) ? 4096 : 1;  // 1: nearly every query falls back
        options.threads = static_cast<int>(1 + random.below(3));
        const auto found = other.search(queries, k, options);
        REQUIRE(found.size() == expected.size());
        for (std::size_t q = 0; q < found.size(); ++q) require_same(found[q], expected[q]);
      }
    }
  }
}

TEST_CASE("results are the same bit for bit whatever the storage, the batch and the threads", "[index]") {
  for (std::uint64_t item = 0; item < 6; ++item) {  // every metric with every kind of data
    RandomStream random(4, item, "threads");
    const Metric metric = kMetrics[item % 3];
    const auto kind = item % 2 ? Kind::kNearTies : Kind::kGaussian;
    const Eigen::Index dimension = 64 + random.below(100);
    const RowMatrix vectors = random_rows(random, kind, kSanitized ? 1500 : 6000, dimension);
    const RowMatrix queries = random_rows(random, kind, 65, dimension);
    const auto expected = index_of(vectors, metric, Storage::kFloat32).search(queries, 12, SearchOptions{.threads = 1});
    for (const Storage storage : kStorages) {
      const auto index = index_of(vectors, metric, storage);
      for (const int threads : {0, 1, 2, 5})
        require_identical(index.search(queries, 12, SearchOptions{.threads = threads}), expected);
      std::vector<Hits> single;
      for (Eigen::Index q = 0; q < queries.rows(); ++q) single.push_back(index.search(queries.row(q), 12)[0]);
      require_identical(single, expected);
      for (const std::int64_t k : {1, 5}) {  // fewer are the first of more
        const auto fewer = index.search(queries, k);
        for (std::size_t q = 0; q < fewer.size(); ++q) {
          REQUIRE(fewer[q].size() == static_cast<std::size_t>(k));
          for (std::size_t i = 0; i < fewer[q].size(); ++i) REQUIRE(fewer[q][i].id == expected[q][i].id);
        }
      }
    }
  }
}

TEST_CASE("bounds decide most pairs, and searches say how many they left open", "[index]") {
  RandomStream random(5, 0, "stats");
  const RowMatrix vectors = random_rows(random, Kind::kGaussian, 5000, 128);
  const RowMatrix queries = random_rows(random, Kind::kGaussian, 9, 128);
  for (const Storage storage : kStorages) {
    INFO(storage_name(storage));
    SearchStats stats;
    const auto index = index_of(vectors, Metric::kCosine, storage);
    (void)index.search(queries, 10, SearchOptions{.stats = &stats});
    CHECK(stats.queries == 9);
    CHECK(stats.scanned >= 9 * 5000);
    CHECK(stats.scanned < 9 * 5016);
    CHECK(stats.rescored >= 9 * 10);
    CHECK(stats.rescored < (storage == Storage::kInt8 || storage == Storage::kBFloat16 ? 9 * 100 : 9 * 15));
    CHECK(stats.float32_fallbacks == 0);
    CHECK(stats.float64_fallbacks == 0);
    SearchStats of_one;
    (void)index.search(queries, 1, Filter::ids({4000}), SearchOptions{.stats = &of_one});
    CHECK(of_one.scanned == 9 * 16);  // blocks without a match are not read
  }
}

TEST_CASE("what reduced precision cannot tell apart is read again in finer precision", "[index]") {
  RandomStream random(6, 0, "fallback");
  RowMatrix vectors = random_rows(random, Kind::kGaussian, 3000, 32);
  for (Eigen::Index row = 1; row < vectors.rows(); ++row)  // neighbours that int8 cannot tell apart and float32 can
    vectors.row(row) = vectors.row(0) + 1e-3F * vectors.row(row);
  const RowMatrix query = random_rows(random, Kind::kGaussian, 1, 32);
  const auto index = index_of(vectors, Metric::kCosine, Storage::kInt8);
  SearchStats stats;
  const auto found = index.search(query, 5, SearchOptions{.max_candidates = 200, .stats = &stats});
  require_same(found[0], brute_search(index, query.row(0), 5, {}));
  CHECK(stats.float32_fallbacks == 1);
  CHECK(stats.float64_fallbacks == 0);

  const RowMatrix copies = vectors.row(0).replicate(3000, 1);
  const auto same = index_of(copies, Metric::kCosine, Storage::kInt8);
  SearchStats all;
  const auto tied = same.search(query, 5, SearchOptions{.max_candidates = 200, .stats = &all});
  CHECK(all.float32_fallbacks == 1);
  CHECK(all.float64_fallbacks == 1);
  for (std::size_t i = 0; i < 5; ++i) CHECK(tied[0][i].id == static_cast<std::int64_t>(i));
}

TEST_CASE("the largest dimensions and codes do not overflow", "[index]") {
  for (const Eigen::Index dimension : {2000, 70'000, 1 << 20}) {
    RowMatrix vectors(3, dimension);
    vectors.row(0).setConstant(1);
    vectors.row(1).setConstant(-1);
    vectors.row(2).setConstant(0.5F);
    vectors(2, 0) = 1;
    for (const Storage storage : kStorages) {
      const auto index = index_of(vectors, Metric::kInnerProduct, storage);
      for (Eigen::Index row = 0; row < 3; ++row)
        require_same(index.search(vectors.row(row), 3)[0], brute_search(index, vectors.row(row), 3, {}));
    }
  }
}

TEST_CASE("a range search finds all that score as well, edges included", "[index]") {
  for (std::uint64_t item = 0; item < 84; ++item) {
    RandomStream random(7, item, "range");
    const auto kind = static_cast<Kind>(item % static_cast<std::uint64_t>(Kind::kCount));
    const Metric metric = kMetrics[item / 7 % 3];
    const Storage storage = kStorages[item / 21];
    const Eigen::Index count = 300;
    const RowMatrix vectors = random_rows(random, kind, count, 1 + random.below(50));
    const RowMatrix queries = random_rows(random, kind, 3, vectors.cols());
    const auto index = index_of(vectors, metric, storage);
    for (Eigen::Index q = 0; q < queries.rows(); ++q) {
      const auto all = brute_search(index, queries.row(q), static_cast<std::size_t>(count), {});
      const double score = index.search(queries.row(q), 40)[0][random.below(40)].score;
      const auto found = index.search_range(queries.row(q), score)[0];
      const auto is_outside = [&](const Hit& hit) {
        return metric == Metric::kL2 ? hit.score > score : hit.score < score;
      };
      INFO("item " << item << " score " << score);
      REQUIRE(found.size() >= 1);
      REQUIRE(std::none_of(found.begin(), found.end(), is_outside));
      const Hits nearest(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(found.size()));
      require_same(found, nearest);
      if (found.size() < all.size()) {
        // The next one is outside; the oracle's own rounding may differ by some units in the last place.
        const double next = all[found.size()].score;
        REQUIRE((is_outside({0, next}) || std::abs(next - score) <= 1e-12 * std::abs(score)));
      }
    }
  }
  const auto index = index_of(RowMatrix::Identity(3, 3), Metric::kCosine, Storage::kInt8);
  const RowMatrix query = RowMatrix::Identity(1, 3);
  CHECK(index.search_range(query, 1)[0].size() == 1);
  CHECK(index.search_range(query, 1.5)[0].empty());
  CHECK(index.search_range(query, -1)[0].size() == 3);
  CHECK(index.search_range(query, -1, Filter::ids({2}))[0].size() == 1);
  for (const double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
    CHECK(caught([&] { (void)index.search_range(query, bad); }).code() == ErrorCode::kInvalidArgument);
}

TEST_CASE("results depend on neither batch, order of insertion nor removed items", "[index]") {
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(2, item, "independence");
    const auto kind = static_cast<Kind>(item % static_cast<std::uint64_t>(Kind::kCount));
    const Eigen::Index dimension = 1 + random.below(30);
    const Eigen::Index count = 200;
    const Metric metric = kMetrics[item % 3];
    const RowMatrix vectors = random_rows(random, kind, count, dimension);
    const RowMatrix queries = random_rows(random, kind, 80, dimension);
    const Ids ids = shuffled_ids(random, count);
    RetrievalIndex index(dimension, metric);
    index.add(ids, vectors);
    const auto batch = index.search(queries, 7);

    // One by one, in another order, with items in between that are removed again.
    RetrievalIndex other(dimension, metric);
    std::vector<std::size_t> order(ids.size());
    std::iota(order.begin(), order.end(), 0);
    random.shuffle(order.begin(), order.end());
    Ids passing;
    for (const auto i : order) {
      const RowMatrix row = vectors.row(static_cast<Eigen::Index>(i));
      if (i % 3 == 0) {
        passing.push_back(1'000 + static_cast<std::int64_t>(i));
        other.add({passing.back()}, row);
      }
      other.add({ids[i]}, row);
    }
    other.remove(passing);
    REQUIRE(other.size() == count);
    for (Eigen::Index q = 0; q < queries.rows(); ++q) {
      const auto single = other.search(queries.row(q), 7)[0];
      const auto& expected = batch[static_cast<std::size_t>(q)];
      REQUIRE(single.size() == expected.size());
      for (std::size_t i = 0; i < single.size(); ++i) {
        REQUIRE(single[i].id == expected[i].id);
        REQUIRE(single[i].score == expected[i].score);
      }
    }
  }
}

TEST_CASE("a filtered search returns k items whenever k match, and no others", "[index]") {
  for (std::uint64_t item = 0; item < (kSanitized ? 12 : 60); ++item) {
    RandomStream random(3, item, "filters");
    const Eigen::Index count = 1500;
    const Metric metric = kMetrics[item % 3];
    const RowMatrix vectors = random_rows(random, item % 2 ? Kind::kGrid : Kind::kGaussian, count, 6);
    const Ids ids = shuffled_ids(random, count);
    std::vector<Metadata> metadata(ids.size());
    for (auto& each : metadata) {
      if (random.below(10) != 0) each["patient"] = std::to_string(random.below(40));
      each["view"] = random.below(3) ? "PA" : "AP";
      each["findings"] = random.below(20) ? "Edema" : "Edema|Nodule";
    }
    RetrievalIndex index(6, metric);
    index.add(ids, vectors, metadata);
    const RowMatrix queries = random_rows(random, Kind::kGaussian, 3, 6);
    const Ids few(ids.begin(), ids.begin() + 5);
    const Filter filters[] = {
        Filter::equals("patient", "3"),
        Filter::exclude_patient("3") && Filter::lists("findings", "Nodule"),
        (Filter::equals("view", "AP") || Filter::equals("patient", "5")) && !Filter::lists("findings", "Nodule"),
        Filter::ids(few),
        !Filter::has("patient"),
        Filter::equals("patient", "nobody"),
        !Filter::ids(few) && Filter([](std::int64_t id, const Metadata&) { return id % 2 == 0; }),
        Filter::between("patient", 10, 12) || Filter::has("absent"),
    };
    for (const auto& filter : filters) {
      const auto found = index.search(queries, 10, filter);
      for (Eigen::Index q = 0; q < queries.rows(); ++q)
        require_same(found[static_cast<std::size_t>(q)], brute_search(index, queries.row(q), 10, filter));
    }
    for (std::size_t first = 0; first + 3 <= std::size(filters); ++first) {
      const std::vector<Filter> own(filters + first, filters + first + 3);
      const auto found = index.search(queries, 10, own);
      for (std::size_t q = 0; q < 3; ++q)
        require_same(found[q], brute_search(index, queries.row(static_cast<Eigen::Index>(q)), 10, own[q]));
    }
    CHECK(index.search(queries, 10, filters[3])[0].size() == few.size());
    CHECK(index.search(queries, 10, filters[5])[0].empty());
  }
}

TEST_CASE("settings of a search out of range are refused", "[index]") {
  const auto index = index_of(RowMatrix::Identity(3, 3), Metric::kCosine, Storage::kInt8);
  const RowMatrix query = RowMatrix::Identity(1, 3);
  const auto refused = [&](const SearchOptions& options, const std::string& message) {
    check_refused(ErrorCode::kInvalidArgument, message, [&] { (void)index.search(query, 1, options); });
  };
  refused({.threads = -1}, "threads");
  refused({.threads = 1025}, "threads");
  refused({.max_candidates = 0}, "max_candidates");
  CHECK(caught([] { RetrievalIndex(2, Metric::kL2, "", {static_cast<Storage>(9)}); }).code() ==
        ErrorCode::kInvalidArgument);
  CHECK(std::string(storage_name(Storage::kBFloat16)) == "bfloat16");
  CHECK_FALSE(std::string(search_instruction_set()).empty());
}

TEST_CASE("nearly all of many items are found where every one has to be scored", "[index]") {
  RandomStream random(9, 0, "many wanted");
  constexpr Eigen::Index kItems = 10'000;
  // Distances from such a query are beyond float, so no bound is of use.
  const auto index = index_of(random_rows(random, Kind::kHuge, kItems, 2), Metric::kL2, Storage::kInt8);
  const RowMatrix query = random_rows(random, Kind::kHuge, 1, 2);
  SearchStats stats;
  for (const std::int64_t k : {1, 5'000, 9'000, 10'000})
    require_same(index.search(query, k, SearchOptions{.stats = &stats})[0],
                 brute_search(index, query.row(0), static_cast<std::size_t>(k), {}));
  CHECK(stats.float64_fallbacks == 4);
  require_same(index.search_range(query, 1e300)[0], brute_search(index, query.row(0), 10'000, {}));
}
