// AUROC, pixel average precision and a patient bootstrap.

#include "daug/core/random.h"
#include "daug/metrics/bootstrap.h"
#include "daug/metrics/classification.h"
#include "daug/metrics/localization.h"
#include "support/context.h"

namespace {

struct Rows {
  std::vector<double> scores;
  std::vector<std::uint8_t> labels;
  std::vector<std::int64_t> groups;

  explicit Rows(std::int64_t count) {
    daug::RandomStream stream(0, 0, "bench metrics");
    for (std::int64_t i = 0; i < count; ++i) {
      labels.push_back(stream.uniform() < 0.2);
      scores.push_back(stream.normal() + labels.back());
      groups.push_back(i / 2);
    }
  }
};

void auroc(benchmark::State& state) {
  const Rows rows(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(daug::auroc(rows.scores, rows.labels));
}
BENCHMARK(auroc)->Arg(1000)->Arg(100000);

void pixel_average_precision(benchmark::State& state) {
  const Rows rows(256 * 256);
  const std::vector<float> map(rows.scores.begin(), rows.scores.end());
  for (auto _ : state) benchmark::DoNotOptimize(daug::pixel_average_precision(map, rows.labels));
}
BENCHMARK(pixel_average_precision)->Unit(benchmark::kMillisecond);

void auroc_with_bootstrap(benchmark::State& state) {
  const Rows rows(300);
  std::vector<double> scores;
  std::vector<std::uint8_t> labels;
  for (auto _ : state)
    benchmark::DoNotOptimize(daug::bootstrap(rows.groups, [&](const std::vector<std::size_t>& chosen) {
      scores.clear();
      labels.clear();
      for (std::size_t i : chosen) {
        scores.push_back(rows.scores[i]);
        labels.push_back(rows.labels[i]);
      }
      return daug::auroc(scores, labels);
    }));
}
BENCHMARK(auroc_with_bootstrap)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_BENCHMARK_MAIN()
