#include "daug/index/retrieval_index.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "io/scratch.h"
#include "support/catch.h"

using namespace daug;
using daug::test::caught;
using daug::test::mentions;

namespace {

constexpr Metric kMetrics[] = {Metric::kCosine, Metric::kInnerProduct, Metric::kL2};
using Ids = std::vector<std::int64_t>;

double brute_score(Metric metric, const Eigen::RowVectorXf& a, const Eigen::RowVectorXf& b) {
  double product = 0;
  double aa = 0;
  double bb = 0;
  double distance = 0;
  for (Eigen::Index i = 0; i < a.size(); ++i) {
    const double x = a[i];
    const double y = b[i];
    product += x * y;
    aa += x * x;
    bb += y * y;
    distance += (x - y) * (x - y);
  }
  if (metric == Metric::kL2) return distance;
  if (metric == Metric::kInnerProduct) return product;
  return std::min(1.0, std::max(-1.0, product / (std::sqrt(aa) * std::sqrt(bb))));
}

/// Every item scored and all of them sorted.
Hits brute_search(const RetrievalIndex& index, const Eigen::RowVectorXf& query, std::size_t k, const Filter& filter) {
  Hits hits;
  for (const auto id : index.ids())
    if (filter.matches(id, index.metadata(id)))
      hits.push_back({id, brute_score(index.metric(), query, index.vector(id))});
  const double sign = index.metric() == Metric::kL2 ? 1 : -1;
  std::sort(hits.begin(), hits.end(), [&](const Hit& a, const Hit& b) {
    return a.score != b.score ? sign * a.score < sign * b.score : a.id < b.id;
  });
  hits.resize(std::min(k, hits.size()));
  return hits;
}

void require_same(const Hits& found, const Hits& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO("rank " << i << " score " << found[i].score << " expected " << expected[i].score);
    REQUIRE(found[i].id == expected[i].id);
    REQUIRE(std::abs(found[i].score - expected[i].score) <= 1e-12 * std::abs(expected[i].score));
  }
}

/// Kinds of data, from easy to as awkward as floats get.
enum class Kind { kGaussian, kGrid, kNearTies, kCopies, kWideRange, kTiny, kHuge, kCount };

RowMatrix random_rows(RandomStream& random, Kind kind, Eigen::Index rows, Eigen::Index columns) {
  RowMatrix matrix(rows, columns);
  for (Eigen::Index row = 0; row < rows; ++row) {
    const float scale = kind == Kind::kWideRange ? static_cast<float>(std::pow(10, random.uniform(-20, 20)))
                        : kind == Kind::kTiny    ? 1e-40F
                        : kind == Kind::kHuge    ? 1e38F
                                                 : 1.0F;
    for (Eigen::Index column = 0; column < columns; ++column) {
      const double value = kind == Kind::kGrid ? static_cast<double>(random.below(5)) / 4 - 0.5 : random.normal();
      matrix(row, column) = static_cast<float>(std::clamp(value, -3.0, 3.0)) * scale;
    }
    // Neighbours that differ by one rounding in one component: below what a float product can tell apart.
    if (kind == Kind::kNearTies && row > 0) {
      matrix.row(row) = matrix.row(row - 1);
      float& value = matrix(row, random.below(static_cast<std::uint32_t>(columns)));
      value = std::nextafter(value, random.below(2) ? 10.0F : -10.0F);
    }
    if (kind == Kind::kCopies && row > 0 && random.below(4) != 0)
      matrix.row(row) = matrix.row(random.below(static_cast<std::uint32_t>(row)));
    if (matrix.row(row).isZero(0)) matrix(row, 0) = scale;
  }
  return matrix;
}

Ids shuffled_ids(RandomStream& random, Eigen::Index count) {
  Ids ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), -count / 2);
  for (auto& id : ids) id *= 1'000'000'007;
  random.shuffle(ids.begin(), ids.end());
  return ids;
}

RetrievalIndex four_points(Metric metric) {
  RetrievalIndex index(2, metric);
  RowMatrix vectors(4, 2);
  vectors << 1, 0, 0, 2, 3, 4, -1, 0;
  index.add({10, 20, 30, 40}, vectors,
            {{{"patient", "a"}}, {{"patient", "b"}}, {{"patient", "a"}, {"findings", "Edema|Nodule"}}, {}});
  return index;
}

/// Everything an index holds, to see that a failed change changed nothing.
struct Snapshot {
  explicit Snapshot(const RetrievalIndex& index) : ids(index.ids()) {
    for (const auto id : ids) {
      vectors.push_back(index.vector(id));
      metadata.push_back(index.metadata(id));
    }
  }
  bool operator==(const Snapshot& other) const {
    return ids == other.ids && vectors == other.vectors && metadata == other.metadata;
  }
  Ids ids;
  std::vector<Eigen::RowVectorXf> vectors;
  std::vector<Metadata> metadata;
};

}  // namespace

TEST_CASE("scores of a few points by hand", "[index]") {
  const RowMatrix query = (RowMatrix(1, 2) << 0, 1).finished();
  const auto cosine = four_points(Metric::kCosine).search(query, 4)[0];
  REQUIRE(cosine.size() == 4);
  CHECK(cosine[0].id == 20);
  CHECK(cosine[0].score == 1);
  CHECK(cosine[1].id == 30);
  CHECK(cosine[1].score == Approx(0.8).epsilon(1e-15));
  CHECK(cosine[2].id == 10);  // 10 and 40 tie at 0
  CHECK(cosine[3].id == 40);
  CHECK(cosine[3].score == 0);

  const auto product = four_points(Metric::kInnerProduct).search(query, 2)[0];
  REQUIRE(product.size() == 2);
  CHECK(product[0].id == 30);
  CHECK(product[0].score == 4);
  CHECK(product[1].id == 20);
  CHECK(product[1].score == 2);

  const auto distance = four_points(Metric::kL2).search(query, 3)[0];
  REQUIRE(distance.size() == 3);
  CHECK(distance[0].id == 20);
  CHECK(distance[0].score == 1);
  CHECK(distance[1].id == 10);
  CHECK(distance[1].score == 2);
  CHECK(distance[2].id == 40);
  CHECK(distance[2].score == 2);
}

TEST_CASE("search equals a full sort of double scores on every kind of data", "[index]") {
  for (std::uint64_t item = 0; item < 210; ++item) {
    RandomStream random(1, item, "brute force");
    const auto kind = static_cast<Kind>(item % static_cast<std::uint64_t>(Kind::kCount));
    const Eigen::Index dimension = 1 + random.below(item % 10 == 0 ? 600 : 40);
    const Eigen::Index count = random.below(item % 15 == 0 ? 2500 : 150);
    const auto k = static_cast<std::int64_t>(1 + random.below(item % 4 == 0 ? 200 : 8));
    const RowMatrix vectors = random_rows(random, kind, count, dimension);
    RowMatrix queries = random_rows(random, kind, 1 + random.below(item % 20 == 0 ? 70 : 4), dimension);
    if (count > 0) queries.row(0) = vectors.row(0);
    for (const Metric metric : kMetrics) {
      INFO("item " << item << " kind " << static_cast<int>(kind) << " metric " << metric_name(metric) << " n " << count
                   << " d " << dimension << " k " << k);
      RetrievalIndex index(dimension, metric);
      index.add(shuffled_ids(random, count), vectors);
      const auto found = index.search(queries, k);
      REQUIRE(found.size() == static_cast<std::size_t>(queries.rows()));
      for (Eigen::Index q = 0; q < queries.rows(); ++q)
        require_same(found[static_cast<std::size_t>(q)],
                     brute_search(index, queries.row(q), static_cast<std::size_t>(k), {}));
    }
  }
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
  for (std::uint64_t item = 0; item < 60; ++item) {
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
    };
    for (const auto& filter : filters) {
      const auto found = index.search(queries, 10, filter);
      for (Eigen::Index q = 0; q < queries.rows(); ++q)
        require_same(found[static_cast<std::size_t>(q)], brute_search(index, queries.row(q), 10, filter));
    }
    CHECK(index.search(queries, 10, filters[3])[0].size() == few.size());
    CHECK(index.search(queries, 10, filters[5])[0].empty());
  }
}

TEST_CASE("each query may have its own filter", "[index]") {
  const auto index = four_points(Metric::kL2);
  const RowMatrix queries = (RowMatrix(3, 2) << 1, 0, 1, 0, 1, 0).finished();
  const auto found =
      index.search(queries, 1, {Filter(), Filter::exclude_patient("a"), Filter::lists("findings", "Nodule")});
  CHECK(found[0][0].id == 10);
  CHECK(found[1][0].id == 40);
  CHECK(found[2][0].id == 30);
  CHECK(caught([&] { (void)index.search(queries, 1, std::vector<Filter>(2)); }).code() == ErrorCode::kMismatch);
}

TEST_CASE("k beyond the matches returns all of them, k below one is an error", "[index]") {
  const auto index = four_points(Metric::kL2);
  const RowMatrix query = RowMatrix::Ones(1, 2);
  CHECK(index.search(query, 4)[0].size() == 4);
  CHECK(index.search(query, 5)[0].size() == 4);
  CHECK(index.search(query, std::numeric_limits<std::int64_t>::max())[0].size() == 4);
  for (const std::int64_t k : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min()}) {
    const auto error = caught([&] { (void)index.search(query, k); });
    CHECK(error.code() == ErrorCode::kInvalidArgument);
    CHECK(mentions(error, "RetrievalIndex::search: k: expected at least 1"));
  }
}

TEST_CASE("an empty index and an empty batch are not errors", "[index]") {
  const RetrievalIndex empty(2, Metric::kCosine);
  CHECK(empty.size() == 0);
  const auto found = empty.search(RowMatrix::Ones(2, 2), 3);
  REQUIRE(found.size() == 2);
  CHECK(found[0].empty());
  CHECK(four_points(Metric::kCosine).search(RowMatrix(0, 2), 3).empty());
  RetrievalIndex index(2, Metric::kL2);
  index.add({}, RowMatrix(0, 2));
  index.remove({});
  CHECK(index.size() == 0);
}

TEST_CASE("vectors and metadata come back by id, after removals too", "[index]") {
  auto index = four_points(Metric::kInnerProduct);
  CHECK(index.contains(20));
  CHECK(index.vector(30) == Eigen::RowVector2f(3, 4));
  CHECK(index.metadata(20).at("patient") == "b");
  index.remove({10, 30});
  CHECK(index.ids() == Ids{20, 40});
  CHECK_FALSE(index.contains(10));
  CHECK(index.vector(40) == Eigen::RowVector2f(-1, 0));
  CHECK(index.metadata(20).at("patient") == "b");
  CHECK(index.metadata(40).empty());
  CHECK(caught([&] { (void)index.vector(10); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { (void)index.metadata(10); }).code() == ErrorCode::kNotFound);
  index.add({10}, RowMatrix::Ones(1, 2));
  CHECK(index.ids() == Ids{20, 40, 10});
  index.remove({10, 20, 40});
  CHECK(index.size() == 0);
}

TEST_CASE("matrices of any layout are accepted", "[index]") {
  Eigen::MatrixXf columns(3, 2);
  columns << 1, 2, 3, 4, 5, 6;
  RowMatrix wide(3, 5);
  wide.setConstant(9);
  wide.middleCols(1, 2) = columns;
  RetrievalIndex a(2, Metric::kL2);
  RetrievalIndex b(2, Metric::kL2);
  a.add({1, 2, 3}, columns);
  b.add({1, 2, 3}, wide.middleCols(1, 2));
  for (const std::int64_t id : {1, 2, 3}) CHECK(a.vector(id) == b.vector(id));
  const auto found = a.search(wide.middleCols(1, 2), 1);
  for (std::size_t q = 0; q < 3; ++q) {
    CHECK(found[q][0].id == static_cast<std::int64_t>(q) + 1);
    CHECK(found[q][0].score == 0);
  }
}

TEST_CASE("a refused change names its cause and leaves the index as it was", "[index]") {
  auto index = four_points(Metric::kCosine);
  const Snapshot before(index);
  const RowMatrix two = (RowMatrix(2, 2) << 1, 2, 3, 4).finished();
  const auto with = [&](float value) {
    RowMatrix changed = two;
    changed(1, 0) = value;
    return changed;
  };
  const auto refused = [&](ErrorCode code, const std::string& message, const auto& action) {
    const auto error = caught(action);
    INFO(error.what());
    CHECK(error.code() == code);
    CHECK(mentions(error, message));
    CHECK(Snapshot(index) == before);
    CHECK_FALSE(index.contains(50));
  };
  const float infinity = std::numeric_limits<float>::infinity();
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  refused(ErrorCode::kMismatch, "2 columns, got 3", [&] { index.add({50, 60}, RowMatrix::Ones(2, 3)); });
  refused(ErrorCode::kMismatch, "1 rows, one an id, got 2", [&] { index.add({50}, two); });
  refused(ErrorCode::kMismatch, "metadata", [&] { index.add({50, 60}, two, {{}}); });
  refused(ErrorCode::kInvalidArgument, "vectors row 1", [&] { index.add({50, 60}, with(not_a_number)); });
  refused(ErrorCode::kInvalidArgument, "finite", [&] { index.add({50, 60}, with(-infinity)); });
  refused(ErrorCode::kInvalidArgument, "ids[1]: expected a new id, got 20", [&] { index.add({50, 20}, two); });
  refused(ErrorCode::kInvalidArgument, "ids[1]: expected a new id, got 50", [&] { index.add({50, 50}, two); });
  refused(ErrorCode::kInvalidArgument, "a zero vector", [&] { index.add({50, 60}, RowMatrix::Zero(2, 2)); });
  refused(ErrorCode::kNotFound, "got 50", [&] { index.remove({10, 50}); });
  refused(ErrorCode::kNotFound, "10 twice", [&] { index.remove({10, 20, 10}); });

  index.add({50, 60}, two);  // the refused ids are still free
  CHECK(index.size() == 6);
  CHECK(index.vector(60) == Eigen::RowVector2f(3, 4));
}

TEST_CASE("a refused query names its row", "[index]") {
  const auto index = four_points(Metric::kCosine);
  RowMatrix queries = RowMatrix::Ones(3, 2);
  CHECK(caught([&] { (void)index.search(RowMatrix::Ones(1, 3), 1); }).code() == ErrorCode::kMismatch);
  queries.row(2).setZero();
  const auto zero = caught([&] { (void)index.search(queries, 1); });
  CHECK(zero.code() == ErrorCode::kInvalidArgument);
  CHECK(mentions(zero, "queries row 2: expected a direction"));
  queries(1, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK(mentions(caught([&] { (void)index.search(queries, 1); }), "queries row 1: expected finite values"));
  CHECK(four_points(Metric::kL2).search(RowMatrix::Zero(1, 2), 1)[0][0].id == 10);  // zero is fine elsewhere
}

TEST_CASE("an error thrown by a user's filter reaches the caller", "[index]") {
  const Filter throwing([](std::int64_t, const Metadata&) -> bool { throw std::runtime_error("user"); });
  CHECK_THROWS_AS(four_points(Metric::kL2).search(RowMatrix::Ones(1, 2), 1, throwing), std::runtime_error);
}

TEST_CASE("an index cannot be made with a nonsense dimension or metric", "[index]") {
  for (const std::int64_t dimension : {std::int64_t{0}, std::int64_t{-3}, (std::int64_t{1} << 20) + 1})
    CHECK(caught([&] { RetrievalIndex(dimension, Metric::kL2); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([] { RetrievalIndex(2, static_cast<Metric>(7)); }).code() == ErrorCode::kInvalidArgument);
  CHECK(std::string(metric_name(Metric::kCosine)) == "cosine");
  CHECK(std::string(metric_name(Metric::kInnerProduct)) == "inner_product");
  CHECK(std::string(metric_name(Metric::kL2)) == "l2");
}
