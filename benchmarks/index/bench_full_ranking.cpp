// Average precision over rankings of a whole gallery: in blocks of LibTorch's on the CPU, beside what it stands for, a
// search for every item and the measurement of what it finds. "error" is the largest difference between the two.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "daug/core/random.h"
#include "daug/index/full_ranking.h"
#include "daug/index/retrieval_index.h"
#include "daug/metrics/retrieval.h"
#include "index/rows.h"
#include "support/torch_context.h"

namespace {

constexpr std::int64_t kQueries = 500, kItems = 20'000, kDimension = 512, kFindings = 14;

/// Unit vectors; a fifth of the cells is positive.
struct Cohort {
  daug::RowMatrix queries = daug::bench::clustered_rows(kQueries, kDimension, 1);
  daug::RowMatrix gallery = daug::bench::clustered_rows(kItems, kDimension, 2);
  daug::RankingMarks marks;
  daug::RetrievalIndex index{kDimension, daug::Metric::kCosine};

  Cohort() {
    daug::RandomStream stream(3, 0, "bench full ranking");
    marks.columns = kFindings;
    for (std::int64_t i = 0; i < kQueries * kFindings; ++i) marks.queries.push_back(stream.uniform() < 0.2);
    for (std::int64_t i = 0; i < kItems * kFindings; ++i) marks.gallery.push_back(stream.uniform() < 0.2);
    std::vector<std::int64_t> ids(static_cast<std::size_t>(kItems));
    std::iota(ids.begin(), ids.end(), 0);
    index.add(ids, gallery);
  }
};

const Cohort& cohort() {
  static const Cohort kept;
  return kept;
}

std::vector<double> in_blocks() {
  return daug::full_average_precision(cohort().queries, cohort().gallery, daug::Metric::kCosine, cohort().marks,
                                      at::kCPU);
}

std::vector<double> by_search() {
  std::vector<std::vector<std::int64_t>> rankings;
  for (const daug::Hits& hits : cohort().index.search(cohort().queries, kItems)) {
    rankings.emplace_back();
    for (const daug::Hit& hit : hits) rankings.back().push_back(hit.id);
  }
  const auto columns = static_cast<std::size_t>(kFindings);
  const daug::RetrievalTask task = {rankings,
                                    {cohort().marks.queries, static_cast<std::size_t>(kQueries), columns},
                                    {cohort().marks.gallery, static_cast<std::size_t>(kItems), columns},
                                    {},
                                    {}};
  return daug::RetrievalEvaluation(task).values(daug::RetrievalMetric::kApAll, static_cast<std::size_t>(kItems)).values;
}

void full_ranking(benchmark::State& state, std::vector<double> (*figures)()) {
  (void)cohort();
  std::vector<double> found;
  for (auto _ : state) found = figures();
  state.SetItemsProcessed(state.iterations() * kQueries);
  static const std::vector<double> expected = by_search();
  double error = 0;
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!std::isnan(expected[i])) error = std::max(error, std::abs(found[i] - expected[i]));
  state.counters["error"] = error;
}
BENCHMARK_CAPTURE(full_ranking, in_blocks, in_blocks)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(full_ranking, by_search, by_search)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
