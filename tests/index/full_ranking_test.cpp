// Average precision over whole rankings, against the plain metric over what the index finds.

#include "daug/index/full_ranking.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/core/error.h"
#include "daug/metrics/retrieval.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/memory_count.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Queries and a gallery in which patients span both, with marks of three columns: common, rare, and never relevant.
struct MarkedGallery {
  RowMatrix queries, gallery;
  RankingMarks marks;

  MarkedGallery(std::uint64_t item, Kind kind, Eigen::Index asked, Eigen::Index items, Eigen::Index width,
                bool grouped) {
    RandomStream random(73, item, "full ranking");
    gallery = random_rows(random, kind, items, width);
    queries = random_rows(random, kind, asked, width);
    queries.row(0) = gallery.row(0);
    marks.columns = 3;
    for (Eigen::Index i = 0; i < 3 * asked; ++i) marks.queries.push_back(random.uniform() < 0.7);
    for (Eigen::Index i = 0; i < items; ++i)
      for (const double share : {0.4, 0.05, 0.0}) marks.gallery.push_back(random.uniform() < share);
    if (!grouped) return;
    for (Eigen::Index i = 0; i < asked; ++i) marks.query_groups.push_back(random.below(9));
    for (Eigen::Index i = 0; i < items; ++i) marks.gallery_groups.push_back(random.below(9));
  }

  /// The figures by their definition: rankings of the index, without the query's own patient, as long as they get.
  std::vector<double> plain(Metric metric) const {
    RetrievalIndex index(gallery.cols(), metric);
    Ids ids(static_cast<std::size_t>(gallery.rows()));
    std::iota(ids.begin(), ids.end(), 0);
    std::vector<Metadata> metadata;
    for (const auto group : marks.gallery_groups) metadata.push_back({{"patient", std::to_string(group)}});
    index.add(ids, gallery, metadata);
    std::vector<Filter> filters(static_cast<std::size_t>(queries.rows()));
    for (std::size_t q = 0; q < marks.query_groups.size(); ++q)
      filters[q] = Filter::exclude_patient(std::to_string(marks.query_groups[q]));
    std::vector<std::vector<std::int64_t>> rankings;
    for (const Hits& hits : index.search(queries, index.size(), filters)) {
      rankings.emplace_back();
      for (const Hit& hit : hits) rankings.back().push_back(hit.id);
    }
    const auto columns = static_cast<std::size_t>(marks.columns);
    const RetrievalTask task = {rankings,
                                {marks.queries, filters.size(), columns},
                                {marks.gallery, ids.size(), columns},
                                marks.query_groups,
                                marks.gallery_groups};
    return RetrievalEvaluation(task).values(RetrievalMetric::kApAll, ids.size()).values;
  }
};

/// Checks figures against others; returns how many there are.
std::size_t require_same_figures(const std::vector<double>& found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  std::size_t figures = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO("figure " << i << " is " << found[i] << ", expected " << expected[i]);
    REQUIRE(std::isnan(found[i]) == std::isnan(expected[i]));
    if (std::isnan(found[i])) continue;
    REQUIRE(std::abs(found[i] - expected[i]) <= 1e-12);
    ++figures;
  }
  return figures;
}

void check_full_rankings(const at::Device& device) {
  std::uint64_t item = 0;
  for (int kind = 0; kind < static_cast<int>(Kind::kCount); ++kind)
    for (const Metric metric : kMetrics)
      for (const bool grouped : {false, true}) {
        const MarkedGallery problem(++item, static_cast<Kind>(kind), 12, 200, 1 + 7 * (kind % 4), grouped);
        const std::vector<double> expected = problem.plain(metric);
        for (const std::int64_t budget : {std::int64_t{1} << 30, std::int64_t{64} * 200 * 5, std::int64_t{1}}) {
          INFO("kind " << kind << " metric " << metric_name(metric) << " grouped " << grouped << " budget " << budget);
          FullRankingOptions options;
          options.memory_budget = budget;
          const auto found =
              full_average_precision(problem.queries, problem.gallery, metric, problem.marks, device, options);
          const std::size_t figures = require_same_figures(found, expected);
          CHECK(figures > 8);
        }
      }
  // Cosines that are equal but for the rounding of those that decide: multiples of a few vectors.
  for (const bool grouped : {false, true}) {
    MarkedGallery problem(++item, Kind::kGrid, 12, 200, 9, grouped);
    for (Eigen::Index row = 5; row < 200; ++row)
      problem.gallery.row(row) = problem.gallery.row(row % 5) * static_cast<float>(1 + row % 7);
    const auto found = full_average_precision(problem.queries, problem.gallery, Metric::kCosine, problem.marks, device);
    const std::size_t figures = require_same_figures(found, problem.plain(Metric::kCosine));
    CHECK(figures > 8);
  }
  // Longer than what is widened at once.
  const MarkedGallery longer(++item, Kind::kGaussian, 40, 3000, 65, true);
  const auto found = full_average_precision(longer.queries, longer.gallery, Metric::kCosine, longer.marks, device);
  const std::size_t figures = require_same_figures(found, longer.plain(Metric::kCosine));
  CHECK(figures > 40);
}

/// Two queries for (1, 0), of which the second asks for the last column alone, and three items there, one elsewhere.
MarkedGallery copies_of_one() {
  MarkedGallery problem(1, Kind::kGaussian, 2, 4, 2, false);
  problem.gallery << 1, 0, 1, 0, 1, 0, 0, 1;
  problem.queries << 1, 0, 1, 0;
  problem.marks.queries = {1, 1, 0, 0, 0, 1};
  problem.marks.gallery = {0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1};
  return problem;
}

}  // namespace

TEST_CASE("average precision over whole rankings is that of the index's, on every kind of data", "[index][device]") {
  check_full_rankings(at::kCPU);
}

TEST_CASE("average precision over whole rankings of a device is that of the index's", "[index][gpu]") {
  if (no_device()) return;
  check_full_rankings(at::Device(at::kCUDA, 0));
}

TEST_CASE("average precision over whole rankings: equal scores by row, the own patient left out", "[index][device]") {
  MarkedGallery problem = copies_of_one();
  const auto figures = [&] {
    return full_average_precision(problem.queries, problem.gallery, Metric::kCosine, problem.marks, at::kCPU);
  };
  const double none = std::numeric_limits<double>::quiet_NaN();
  // Relevant to the first column are rows 1 and 3, at ranks 2 and 4; to the second none; to the third all.
  require_same_figures(figures(), {(1.0 / 2 + 2.0 / 4) / 2, none, none, none, none, 1});
  problem.marks.query_groups = {7, 8};
  problem.marks.gallery_groups = {7, 8, 1, 1};  // the first query's without row 0, the second's without row 1
  require_same_figures(figures(), {(1.0 / 1 + 2.0 / 3) / 2, none, none, none, none, 1});
  problem.marks.gallery_groups = {1, 7, 1, 7};  // all that is relevant to the first column is the first query's own
  require_same_figures(figures(), {none, none, none, none, none, 1});

  // A gallery of one, and none; queries that lie apart.
  const MarkedGallery one(2, Kind::kGaussian, 3, 1, 4, false);
  require_same_figures(full_average_precision(one.queries, one.gallery, Metric::kL2, one.marks, at::kCPU),
                       one.plain(Metric::kL2));
  RankingMarks nothing = one.marks;
  nothing.gallery.clear();
  const auto empty = full_average_precision(one.queries, RowMatrix(0, 4), Metric::kL2, nothing, at::kCPU);
  require_same_figures(empty, std::vector<double>(9, none));
  nothing = one.marks;
  nothing.queries.clear();
  CHECK(full_average_precision(RowMatrix(0, 4), one.gallery, Metric::kL2, nothing, at::kCPU).empty());
  const MarkedGallery many(3, Kind::kGaussian, 20, 100, 8, false);
  RowMatrix wide = RowMatrix::Constant(20, 13, 5);
  wide.leftCols(8) = many.queries;
  require_same_figures(full_average_precision(wide.leftCols(8), many.gallery, Metric::kCosine, many.marks, at::kCPU),
                       many.plain(Metric::kCosine));
}

TEST_CASE("the memory of whole rankings is the gallery in float64 and the budget", "[index][device]") {
  constexpr std::int64_t kItems = 3000, kWidth = 64, kGallery = 8 * kItems * kWidth;
  const MarkedGallery problem(6, Kind::kGaussian, 64, kItems, kWidth, true);
  for (const Metric metric : kMetrics)
    for (const std::int64_t at_once : {1, 4}) {  // all 64 queries at once would take more than 64 * 24 bytes an item
      FullRankingOptions options;
      options.memory_budget = 64 * kItems * at_once;
      const MemoryCount count;
      const auto found =
          full_average_precision(problem.queries, problem.gallery, metric, problem.marks, at::kCPU, options);
      INFO("metric " << metric_name(metric) << ", " << at_once << " at once: " << count.peak() << " bytes");
      CHECK(found.size() == 64 * 3);
      CHECK(count.peak() > kGallery);
      CHECK(count.peak() <= kGallery + options.memory_budget + 64 * kItems);  // the last: what an item takes once
    }
}

TEST_CASE("average precision over whole rankings reports its progress and stops between blocks", "[index][device]") {
  const MarkedGallery problem(4, Kind::kGaussian, 5, 50, 8, false);
  std::vector<std::int64_t> done;
  StopSource source;
  RunControl control;
  control.progress = [&](const Progress& progress) {
    CHECK(progress.total == 5);
    done.push_back(progress.done);
  };
  FullRankingOptions two_queries;
  two_queries.memory_budget = 64 * 50 * 2;
  const auto run = [&] {
    return full_average_precision(problem.queries, problem.gallery, Metric::kCosine, problem.marks, at::kCPU,
                                  two_queries, control);
  };
  (void)run();
  CHECK(done == std::vector<std::int64_t>{2, 4, 5});
  control.stop = source.token();
  control.progress = [&](const Progress&) { source.request_stop(); };
  CHECK(caught(run).code() == ErrorCode::kCancelled);
}

TEST_CASE("average precision over whole rankings refuses what does not fit together", "[index][device]") {
  const MarkedGallery good(5, Kind::kGaussian, 4, 9, 3, true);
  const auto refused = [&](ErrorCode code, const std::string& part, const auto& change) {
    MarkedGallery bad = good;
    change(bad);
    check_refused(code, "full_average_precision: " + part, [&] {
      (void)full_average_precision(bad.queries, bad.gallery, Metric::kCosine, bad.marks, at::kCPU);
    });
  };
  refused(ErrorCode::kMismatch, "queries: expected 3 columns", [](auto& bad) { bad.queries.setOnes(4, 2); });
  refused(ErrorCode::kMismatch, "marks.queries", [](auto& bad) { bad.marks.queries.pop_back(); });
  refused(ErrorCode::kMismatch, "marks.gallery", [](auto& bad) { bad.marks.gallery.push_back(0); });
  refused(ErrorCode::kMismatch, "marks.query_groups", [](auto& bad) { bad.marks.query_groups.clear(); });
  refused(ErrorCode::kMismatch, "marks.gallery_groups", [](auto& bad) { bad.marks.gallery_groups.clear(); });
  refused(ErrorCode::kInvalidArgument, "marks.columns", [](auto& bad) { bad.marks.columns = 0; });
  refused(ErrorCode::kMismatch, "marks.queries", [](auto& bad) { bad.marks.columns = std::int64_t{1} << 62; });
  refused(ErrorCode::kInvalidArgument, "marks.gallery", [](auto& bad) { bad.marks.gallery[2] = 2; });
  refused(ErrorCode::kInvalidArgument, "gallery row 8", [](auto& bad) { bad.gallery.row(8).setZero(); });
  refused(ErrorCode::kInvalidArgument, "queries row 1",
          [](auto& bad) { bad.queries(1, 2) = std::numeric_limits<float>::quiet_NaN(); });
  FullRankingOptions options;
  options.memory_budget = 0;
  check_refused(ErrorCode::kInvalidArgument, "memory_budget", [&] {
    (void)full_average_precision(good.queries, good.gallery, Metric::kCosine, good.marks, at::kCPU, options);
  });
  CHECK(caught([&] {
          (void)full_average_precision(good.queries, good.gallery, Metric::kCosine, good.marks, at::kMeta);
        }).code() == ErrorCode::kUnsupported);
}
