// AUROC with patient bootstraps, retrieval figures of scored galleries, pixel figures and the tests. With
// DAUG_PEER_FILES scores, labels and figures are written for peers/bench_metrics_peers.py.

#include <set>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/io/safetensors.h"
#include "daug/metrics/bootstrap.h"
#include "daug/metrics/classification.h"
#include "daug/metrics/classification_bootstrap.h"
#include "daug/metrics/comparison.h"
#include "daug/metrics/delong.h"
#include "daug/metrics/localization.h"
#include "daug/metrics/retrieval.h"
#include "support/context.h"
#include "support/peer_files.h"

namespace {

constexpr std::size_t kFindings = 14;

/// Whether peers want the file of that name and it is the first time that it is asked for.
bool to_be_written(const std::string& name) {
  static std::set<std::string> written;
  return !daug::bench::peer_file(name).empty() && written.insert(name).second;
}

/// Rows of patients with two images each; a fifth of the cells is positive.
struct Rows {
  std::size_t rows, findings;
  std::vector<double> scores;
  std::vector<std::uint8_t> labels;
  std::vector<std::int64_t> groups;

  explicit Rows(std::int64_t count, std::size_t columns = 1)
      : rows(static_cast<std::size_t>(count)), findings(columns) {
    daug::RandomStream stream(0, 0, "bench metrics");
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t f = 0; f < findings; ++f) {
        labels.push_back(stream.uniform() < 0.2);
        scores.push_back(stream.normal() + labels.back());
      }
      groups.push_back(static_cast<std::int64_t>(i / 2));
    }
  }
  daug::MultiLabelData data() const { return {{scores, rows, findings}, {labels, rows, findings}, {}}; }
};

void auroc(benchmark::State& state) {
  const Rows rows(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(daug::auroc(rows.scores, rows.labels));
}
BENCHMARK(auroc)->Arg(1000)->Arg(10000)->Arg(100000);

void delong_test(benchmark::State& state) {
  const Rows rows(state.range(0)), other(state.range(0) + 1);
  const std::vector<double> second(other.scores.begin() + 1, other.scores.end());
  for (auto _ : state) benchmark::DoNotOptimize(daug::delong_test(rows.scores, second, rows.labels, rows.groups));
}
BENCHMARK(delong_test)->Arg(10000)->Unit(benchmark::kMillisecond);

void pixel_average_precision(benchmark::State& state) {
  const Rows rows(256 * 256);
  const std::vector<float> map(rows.scores.begin(), rows.scores.end());
  for (auto _ : state) benchmark::DoNotOptimize(daug::pixel_average_precision(map, rows.labels));
}
BENCHMARK(pixel_average_precision)->Unit(benchmark::kMillisecond);

/// metrics_auroc.io.safetensors: scores and labels [N, 14] of patients with two rows each, and for each finding the
/// AUROC with the ends of its interval, [14].
void write_for_peers(const Rows& rows) {
  const std::string name = "metrics_auroc.io.safetensors";
  if (!to_be_written(name)) return;
  std::vector<double> auroc, low, high;
  for (const auto& interval : daug::bootstrap_auroc(rows.data(), rows.groups).finding) {
    auroc.push_back(interval->value);
    low.push_back(interval->low);
    high.push_back(interval->high);
  }
  const auto count = static_cast<std::int64_t>(rows.rows), findings = static_cast<std::int64_t>(rows.findings);
  const std::vector<std::int64_t> labels(rows.labels.begin(), rows.labels.end());
  daug::SafetensorsFile file;
  file.tensors["scores"] = daug::Array::from(rows.scores, {count, findings});
  file.tensors["labels"] = daug::Array::from(labels, {count, findings});
  file.tensors["auroc"] = daug::Array::from(auroc, {findings});
  file.tensors["low"] = daug::Array::from(low, {findings});
  file.tensors["high"] = daug::Array::from(high, {findings});
  daug::write_safetensors(daug::bench::peer_file(name), file);
}

/// 1000 patient bootstraps of the AUROC of 14 findings: the rows are sorted once.
void auroc_bootstrap(benchmark::State& state) {
  const Rows rows(state.range(0), kFindings);
  write_for_peers(rows);
  for (auto _ : state) benchmark::DoNotOptimize(daug::bootstrap_auroc(rows.data(), rows.groups));
}
BENCHMARK(auroc_bootstrap)->Arg(10000)->Unit(benchmark::kMillisecond);

void auroc_bootstrap_bca(benchmark::State& state) {
  const Rows rows(state.range(0), kFindings);
  daug::BootstrapOptions options;
  options.method = daug::IntervalMethod::kBca;
  for (auto _ : state) benchmark::DoNotOptimize(daug::bootstrap_auroc(rows.data(), rows.groups, options));
}
BENCHMARK(auroc_bootstrap_bca)->Arg(10000)->Unit(benchmark::kMillisecond);

/// The same with a statistic of rows, which sorts every resample: ten of them, so times a hundred.
void auroc_bootstrap_by_rows(benchmark::State& state) {
  const Rows rows(state.range(0), kFindings);
  daug::BootstrapOptions options;
  options.resamples = 10;
  for (auto _ : state)
    benchmark::DoNotOptimize(daug::bootstrap(
        rows.groups,
        [data = rows.data()](const std::vector<std::size_t>& chosen) {
          return daug::auroc_by_finding(data, daug::ArrayView<std::size_t>(chosen)).macro;
        },
        options));
}
BENCHMARK(auroc_bootstrap_by_rows)->Arg(10000)->Unit(benchmark::kMillisecond);

/// 10,000 queries of `range(0)` scored items each, a tenth relevant.
struct Galleries {
  static constexpr std::size_t kQueries = 10000;
  std::size_t items;
  std::vector<float> scores;
  std::vector<std::uint8_t> relevant;

  explicit Galleries(std::int64_t count) : items(static_cast<std::size_t>(count)) {
    daug::RandomStream stream(1, 0, "bench metrics");
    for (std::size_t i = 0; i < kQueries * items; ++i) {
      relevant.push_back(stream.uniform() < 0.1);
      scores.push_back(static_cast<float>(stream.uniform()));
    }
  }
  daug::ArrayView<float> scores_of(std::size_t query) const { return {scores.data() + query * items, items}; }
  daug::ArrayView<std::uint8_t> relevant_of(std::size_t query) const {
    return {relevant.data() + query * items, items};
  }
};

double mean_ap_at_10(const Galleries& galleries) {
  double sum = 0;
  std::vector<std::uint8_t> hits;
  for (std::size_t q = 0; q < Galleries::kQueries; ++q) {
    const auto relevant = galleries.relevant_of(q);
    hits.clear();
    for (std::int64_t item : daug::first_k(galleries.scores_of(q), 10))
      hits.push_back(relevant[static_cast<std::size_t>(item)]);
    sum += daug::average_precision_at_k(hits, galleries.items, 10, daug::ApDefinition::kReference);  // R is not in it
  }
  return sum / Galleries::kQueries;
}

double mean_tied_ndcg(const Galleries& galleries, std::size_t k) {
  double sum = 0;
  for (std::size_t q = 0; q < Galleries::kQueries; ++q)
    sum += daug::tied_ndcg_at_k(galleries.scores_of(q), galleries.relevant_of(q), k, daug::Compat::kPublished);
  return sum / Galleries::kQueries;
}

/// metrics_ITEMS.io.safetensors: scores and relevance [10000, ITEMS], and the means of the figures, [1].
void write_for_peers(const Galleries& galleries) {
  const std::string name = "metrics_" + std::to_string(galleries.items) + ".io.safetensors";
  if (!to_be_written(name)) return;
  const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(Galleries::kQueries),
                                           static_cast<std::int64_t>(galleries.items)};
  const std::vector<float> relevant(galleries.relevant.begin(), galleries.relevant.end());
  const auto mean = [](double value) { return daug::Array::from(std::vector<double>{value}, {1}); };
  daug::SafetensorsFile file;
  file.tensors["scores"] = daug::Array::from(galleries.scores, shape);
  file.tensors["relevant"] = daug::Array::from(relevant, shape);
  file.tensors["map_at_10"] = mean(mean_ap_at_10(galleries));
  file.tensors["ndcg_at_10"] = mean(mean_tied_ndcg(galleries, 10));
  file.tensors["ndcg_at_100"] = mean(mean_tied_ndcg(galleries, 100));
  daug::write_safetensors(daug::bench::peer_file(name), file);
}

void map_at_10(benchmark::State& state) {
  const Galleries galleries(state.range(0));
  write_for_peers(galleries);
  for (auto _ : state) benchmark::DoNotOptimize(mean_ap_at_10(galleries));
}
BENCHMARK(map_at_10)->Arg(100)->Arg(1000)->Unit(benchmark::kMillisecond);

void tied_ndcg(benchmark::State& state) {
  const Galleries galleries(state.range(0));
  write_for_peers(galleries);
  const auto k = static_cast<std::size_t>(state.range(1));
  for (auto _ : state) benchmark::DoNotOptimize(mean_tied_ndcg(galleries, k));
}
BENCHMARK(tied_ndcg)->Args({100, 10})->Args({1000, 10})->Args({100, 100})->Unit(benchmark::kMillisecond);

/// Multi-label queries against rankings of ten: counting the relevant items of every query included.
void retrieval_evaluation(benchmark::State& state) {
  const Rows queries(10000, kFindings), gallery(20000, kFindings);
  std::vector<std::vector<std::int64_t>> rankings;
  daug::RandomStream stream(2, 0, "bench metrics");
  for (std::size_t q = 0; q < queries.rows; ++q) {
    rankings.emplace_back();
    for (std::int64_t rank = 0; rank < 10; ++rank) rankings.back().push_back(stream.below(1900) * 10 + rank + 1000);
  }
  const daug::RetrievalTask task{
      rankings, {queries.labels, queries.rows, kFindings}, {gallery.labels, gallery.rows, kFindings}, {}, {}};
  const auto relevance = static_cast<daug::Relevance>(state.range(0));
  for (auto _ : state) {
    const daug::RetrievalEvaluation evaluation(task, {relevance, daug::NothingToFind::kSkip});
    benchmark::DoNotOptimize(evaluation.values(daug::RetrievalMetric::kApTruncated, 10).summarize().macro);
    benchmark::DoNotOptimize(evaluation.values(daug::RetrievalMetric::kNdcg, 10).summarize().macro);
  }
}
BENCHMARK(retrieval_evaluation)
    ->ArgName("relevance")
    ->Arg(static_cast<int>(daug::Relevance::kSameFinding))
    ->Arg(static_cast<int>(daug::Relevance::kJaccard))
    ->Unit(benchmark::kMillisecond);

void sign_flip_test(benchmark::State& state) {
  const Rows rows(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(daug::sign_flip_test(rows.groups, rows.scores));
}
BENCHMARK(sign_flip_test)->Arg(10000)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_BENCHMARK_MAIN()
