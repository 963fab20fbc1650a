#include "daug/index/query.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "brute_force.h"
#include "support/catch.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;

namespace {
Eigen::RowVectorXf pair(float x, float y) { return Eigen::RowVector2f(x, y); }
}  // namespace

TEST_CASE("a fused query is the weighted sum of directions", "[index]") {
  // (3, 4) / 5 + 0.5 (0, -2) / 2 = (0.6, 0.3)
  CHECK(fused_query({{pair(3, 4), 1}, {pair(0, -2), 0.5}}).isApprox(pair(0.6F, 0.3F)));
  CHECK(fused_query({{pair(3, 4), 1}, {pair(0, -2), -0.5}}).isApprox(pair(0.6F, 1.3F)));
  CHECK(fused_query({{pair(1e-30F, 0), 2}}).isApprox(pair(2, 0)));
}

TEST_CASE("searching with a fused query ranks by the weighted sum of cosines", "[index]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(1, item, "fused");
    const RowMatrix vectors = random_rows(random, Kind::kGaussian, 200, 24);
    const RowMatrix parts = random_rows(random, Kind::kGaussian, 2, 24);
    const double weights[] = {random.uniform(0.1, 1), random.uniform(-0.5, 1)};
    RetrievalIndex index(24, Metric::kCosine);
    Ids ids(200);
    std::iota(ids.begin(), ids.end(), 0);
    index.add(ids, vectors);
    std::vector<double> expected;
    for (Eigen::Index row = 0; row < 200; ++row) {
      expected.push_back(0);
      for (int part = 0; part < 2; ++part)
        expected.back() += weights[part] * brute_score(Metric::kCosine, parts.row(part), vectors.row(row));
    }
    const auto query = fused_query({{parts.row(0), weights[0]}, {parts.row(1), weights[1]}});
    const auto hits = index.search(query, 200)[0];
    for (std::size_t i = 1; i < hits.size(); ++i)
      REQUIRE(expected[static_cast<std::size_t>(hits[i - 1].id)] >=
              expected[static_cast<std::size_t>(hits[i].id)] - 1e-6);
  }
}

TEST_CASE("feedback moves a query by the means of what was marked", "[index]") {
  const RowMatrix relevant = (RowMatrix(2, 2) << 0, 5, 3, 4).finished();
  const RowMatrix irrelevant = (RowMatrix(1, 2) << -2, 0).finished();
  // (1, 0) + 0.75 ((0, 1) + (0.6, 0.8)) / 2 + 0.15 (1, 0)
  CHECK(feedback_query(pair(7, 0), relevant, irrelevant).isApprox(pair(1.375F, 0.675F)));
  CHECK(feedback_query(pair(7, 0), RowMatrix(0, 2), RowMatrix(0, 2)).isApprox(pair(1, 0)));
  CHECK(feedback_query(pair(7, 0), relevant.row(0), RowMatrix(0, 2), {0, 2, 0}).isApprox(pair(0, 2)));
}

TEST_CASE("parts that make no query are refused", "[index]") {
  const auto code = [](const auto& action) { return caught(action).code(); };
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  CHECK(code([] { (void)fused_query({}); }) == ErrorCode::kInvalidArgument);
  CHECK(code([] { (void)fused_query({{pair(0, 0), 1}}); }) == ErrorCode::kInvalidArgument);
  CHECK(code([&] { (void)fused_query({{pair(1, not_a_number), 1}}); }) == ErrorCode::kInvalidArgument);
  CHECK(code([] { (void)fused_query({{pair(1, 0), std::nan("")}}); }) == ErrorCode::kInvalidArgument);
  CHECK(code([] { (void)fused_query({{pair(1, 0), 1}, {pair(-2, 0), 1}}); }) == ErrorCode::kInvalidArgument);
  check_refused(ErrorCode::kMismatch, "fused_query: parts[1]: expected 2 components, got 3", [] {
    (void)fused_query({{pair(1, 0), 1}, {Eigen::RowVector3f(1, 0, 0), 1}});
  });
  CHECK(code([] { (void)feedback_query(pair(1, 0), RowMatrix::Ones(1, 3), RowMatrix(0, 2)); }) == ErrorCode::kMismatch);
  CHECK(code([] {
          (void)feedback_query(pair(1, 0), RowMatrix(0, 2), RowMatrix(0, 2), {-1, 1, 1});
        }) == ErrorCode::kInvalidArgument);
}
