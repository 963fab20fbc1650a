#include "daug/index/retrieval_index.h"

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "fixtures.h"
#include "support/catch.h"
#include "support/caught.h"

using namespace daug;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::four_points;
using daug::test::Ids;
using daug::test::mentions;
using daug::test::Snapshot;

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

TEST_CASE("k is at least one and at most the size; fewer matches than k are all returned", "[index]") {
  const auto index = four_points(Metric::kL2);
  const RowMatrix query = RowMatrix::Ones(1, 2);
  CHECK(index.search(query, 4)[0].size() == 4);
  CHECK(index.search(query, 4, Filter::equals("patient", "a"))[0].size() == 2);
  constexpr auto kLargest = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t k : {std::int64_t{0}, std::int64_t{-1}, -kLargest - 1, std::int64_t{5}, kLargest}) {
    check_refused(ErrorCode::kInvalidArgument,
                  "RetrievalIndex::search: k: expected a value in [1, 4], the size of the index",
                  [&] { (void)index.search(query, k); });
    CHECK(caught([&] { (void)index.search(query, k, std::vector<Filter>(1)); }).code() == ErrorCode::kInvalidArgument);
  }
  const RetrievalIndex empty(2, Metric::kCosine);
  CHECK(caught([&] { (void)empty.search(query, 1); }).code() == ErrorCode::kInvalidArgument);
  CHECK(empty.search_range(query, 0)[0].empty());
}

TEST_CASE("an empty batch is no error", "[index]") {
  CHECK(four_points(Metric::kCosine).search(RowMatrix(0, 2), 3).empty());
  CHECK(four_points(Metric::kCosine).search(RowMatrix(0, 2), 3, std::vector<Filter>()).empty());
  RetrievalIndex index(2, Metric::kL2);
  index.add({}, RowMatrix(0, 2));
  index.update({}, RowMatrix(0, 2));
  index.remove({});
  index.compact();
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
    check_refused(code, message, action);
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
  refused(ErrorCode::kNotFound, "RetrievalIndex::update: id", [&] { index.update({10, 50}, two); });
  refused(ErrorCode::kInvalidArgument, "10 twice", [&] { index.update({10, 10}, two); });
  refused(ErrorCode::kMismatch, "1 rows, one an id", [&] { index.update({10}, two); });
  refused(ErrorCode::kMismatch, "metadata", [&] { index.update({10, 20}, two, {{}}); });
  refused(ErrorCode::kInvalidArgument, "finite", [&] { index.update({10, 20}, with(not_a_number)); });
  refused(ErrorCode::kInvalidArgument, "a zero vector", [&] { index.update({10, 20}, RowMatrix::Zero(2, 2)); });
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

TEST_CASE("a filter on a name that no item has is refused", "[index]") {
  const auto index = four_points(Metric::kL2);
  const RowMatrix query = RowMatrix::Ones(1, 2);
  for (const auto& filter : {Filter::equals("sex", "F"), !Filter::between("age", 0, 1) && Filter::has("patient"),
                             Filter::has("patient") || Filter::lists("sex", "F")}) {
    check_refused(ErrorCode::kNotFound, "metadata that an item of the index has",
                  [&] { (void)index.search(query, 1, filter); });
    CHECK(caught([&] { (void)index.search(query, 1, std::vector<Filter>{filter}); }).code() == ErrorCode::kNotFound);
    CHECK(caught([&] { (void)index.search_range(query, 1, filter); }).code() == ErrorCode::kNotFound);
  }
  CHECK(index.search(query, 1, Filter::has("sex"))[0].empty());
}
