// Exact search: queries a second by gallery size and batch.

#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "support/context.h"

namespace {

daug::RowMatrix random_rows(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  daug::RowMatrix matrix(rows, columns);
  daug::RandomStream stream(seed, 0, "bench index");
  for (std::int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(stream.normal());
  return matrix;
}

void search(benchmark::State& state) {
  constexpr std::int64_t kDimension = 128;
  const std::int64_t items = state.range(0), batch = state.range(1);
  daug::RetrievalIndex index(kDimension, daug::Metric::kCosine);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(items));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
  index.add(ids, random_rows(items, kDimension, 1));
  const auto queries = random_rows(batch, kDimension, 2);
  for (auto _ : state) benchmark::DoNotOptimize(index.search(queries, 10));
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(search)->Args({1000, 1})->Args({1000, 64})->Args({50000, 1})->Args({50000, 64});

}  // namespace

DAUG_BENCHMARK_MAIN()
