// Exact search of 100k x 512 random unit vectors, ten nearest: queries a second (items_per_second) by storage, batch
// and threads; with a filter; through a graph; opening; and adding. benchmarks/peers/bench_faiss.py does the same work
// with FAISS.

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "support/context.h"

namespace {

constexpr std::int64_t kItems = 100'000;
constexpr std::int64_t kDimension = 512;
constexpr std::int64_t kNearest = 10;

daug::RowMatrix random_rows(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  daug::RowMatrix matrix(rows, columns);
  daug::RandomStream stream(seed, 0, "bench index");
  for (std::int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(stream.normal());
  matrix.rowwise().normalize();
  return matrix;
}

const daug::RowMatrix& items() {
  static const daug::RowMatrix rows = random_rows(kItems, kDimension, 1);
  return rows;
}

/// The items under one storage, the last one made: every tenth, hundredth and thousandth has a tag.
const daug::RetrievalIndex& index_at(daug::Storage storage) {
  static std::pair<daug::Storage, std::unique_ptr<daug::RetrievalIndex>> kept;
  if (!kept.second || kept.first != storage) {
    kept = {storage, nullptr};
    kept.second =
        std::make_unique<daug::RetrievalIndex>(kDimension, daug::Metric::kCosine, "", daug::IndexOptions{storage});
    std::vector<std::int64_t> ids;
    std::vector<daug::Metadata> metadata(static_cast<std::size_t>(kItems));
    daug::RandomStream stream(3, 0, "bench index");
    for (std::int64_t i = 0; i < kItems; ++i) {
      ids.push_back(i);
      const double place = stream.uniform();
      auto& texts = metadata[static_cast<std::size_t>(i)];
      for (const auto& [tag, share] : {std::pair{"50%", 0.5}, {"10%", 0.1}, {"1%", 0.01}, {"0.1%", 0.001}})
        if (place < share) texts[tag] = "yes";
    }
    kept.second->add(ids, items(), metadata);
  }
  return *kept.second;
}

void search(benchmark::State& state) {
  const auto storage = static_cast<daug::Storage>(state.range(0));
  const auto& index = index_at(storage);
  const auto queries = random_rows(state.range(1), kDimension, 2);
  daug::SearchStats stats;
  const daug::SearchOptions options{.threads = static_cast<int>(state.range(2)), .stats = &stats};
  for (auto _ : state) benchmark::DoNotOptimize(index.search(queries, kNearest, options));
  state.SetItemsProcessed(state.iterations() * state.range(1));
  state.counters["rescored"] = static_cast<double>(stats.rescored) / static_cast<double>(stats.queries);
  state.counters["fallbacks"] = static_cast<double>(stats.float32_fallbacks);
  state.SetLabel(daug::storage_name(storage));
}
BENCHMARK(search)
    ->ArgsProduct({{3, 0, 1, 2}, {1, 16, 64, 1000}, {2}})
    ->ArgNames({"storage", "batch", "threads"})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void filtered(benchmark::State& state, const std::string& tag) {
  const auto& index = index_at(daug::Storage::kInt8);
  const auto queries = random_rows(1, kDimension, 2);
  const auto filter = daug::Filter::equals(tag, "yes");
  for (auto _ : state) benchmark::DoNotOptimize(index.search(queries, kNearest, filter, {.threads = 2}));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK_CAPTURE(filtered, half, "50%")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(filtered, tenth, "10%")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(filtered, hundredth, "1%")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(filtered, thousandth, "0.1%")->UseRealTime()->Unit(benchmark::kMillisecond);

/// Through a graph of clustered vectors; recall is measured on 200 of them.
void approximate(benchmark::State& state) {
  static const daug::RetrievalIndex index = [] {
    daug::RowMatrix rows = random_rows(kItems, kDimension, 4);
    const auto centres = random_rows(1000, kDimension, 5);
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < kItems; ++i) {
      rows.row(i) += 1.5F * centres.row(i % 1000);
      ids.push_back(i);
    }
    daug::RetrievalIndex made(kDimension, daug::Metric::kCosine);
    made.add(ids, rows);
    made.build_graph();
    return made;
  }();
  const daug::SearchOptions options{.threads = 2, .breadth = static_cast<int>(state.range(0))};
  daug::RowMatrix queries(64, kDimension);
  for (std::int64_t i = 0; i < queries.rows(); ++i) queries.row(i) = index.vector(1501 * i + 7);
  for (auto _ : state) benchmark::DoNotOptimize(index.search(queries, kNearest, options));
  state.SetItemsProcessed(state.iterations() * queries.rows());
  state.counters["recall"] = index.verify(200, options).recall;
}
BENCHMARK(approximate)->Arg(32)->Arg(100)->Arg(300)->ArgName("breadth")->UseRealTime()->Unit(benchmark::kMillisecond);

void open(benchmark::State& state) {
  const std::string path = "/tmp/daug-bench.daugindex";
  index_at(daug::Storage::kInt8).save(path);
  for (auto _ : state) benchmark::DoNotOptimize(daug::RetrievalIndex::load(path).size());
  std::remove(path.c_str());
}
BENCHMARK(open)->Unit(benchmark::kMicrosecond);

void add(benchmark::State& state) {
  const auto rows = items().topRows(10'000);
  std::vector<std::int64_t> ids(10'000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
  for (auto _ : state) {
    daug::RetrievalIndex index(kDimension, daug::Metric::kCosine);
    index.add(ids, rows);
    benchmark::DoNotOptimize(index.size());
  }
  state.SetItemsProcessed(state.iterations() * rows.rows());
}
BENCHMARK(add)->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  daug::bench::add_context();
  benchmark::AddCustomContext("search_instruction_set", daug::search_instruction_set());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
