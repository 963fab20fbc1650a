// Exact search of 100k x 512 random unit vectors, ten nearest: queries a second (items_per_second) by storage, batch
// and threads; with a filter; by size, with memory a row; opening, also with changes behind the items; while others
// change the index; and adding.
// Approximate search is in bench_graph. With DAUG_PEER_FILES vectors and results are written for
// peers/bench_index_peers.py.

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "daug/core/random.h"
#include "daug/index/index_writer.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/safetensors.h"
#include "index/rows.h"
#include "support/context.h"
#include "support/peer_files.h"

namespace {

constexpr std::int64_t kItems = 100'000;
constexpr std::int64_t kDimension = 512;
constexpr std::int64_t kNearest = 10;

using daug::bench::random_rows;

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

/// index.io.safetensors: items [100k, 512], queries [1000, 512], of which a batch is the first, and for each the ids
/// and scores of its nearest [1000, 10].
void write_for_peers(const daug::RetrievalIndex& index) {
  static bool written = false;
  if (written || daug::bench::peer_file("").empty()) return;
  written = true;
  const auto queries = random_rows(1000, kDimension, 2);
  std::vector<std::int64_t> ids;
  std::vector<double> scores;
  for (const auto& hits : index.search(queries, kNearest))
    for (const auto& hit : hits) {
      ids.push_back(hit.id);
      scores.push_back(hit.score);
    }
  const auto array = [](const daug::RowMatrix& rows) {
    return daug::Array::from(std::vector<float>(rows.data(), rows.data() + rows.size()), {rows.rows(), rows.cols()});
  };
  daug::SafetensorsFile file;
  file.tensors["items"] = array(items());
  file.tensors["queries"] = array(queries);
  file.tensors["ids"] = daug::Array::from(ids, {queries.rows(), kNearest});
  file.tensors["scores"] = daug::Array::from(scores, {queries.rows(), kNearest});
  daug::write_safetensors(daug::bench::peer_file("index.io.safetensors"), file);
}

void search(benchmark::State& state) {
  const auto storage = static_cast<daug::Storage>(state.range(0));
  const auto& index = index_at(storage);
  write_for_peers(index);
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

/// An index of so many rows, added as they are made: at once they would take as much memory again.
daug::RetrievalIndex sized_index(std::int64_t rows) {
  constexpr std::int64_t kPiece = 50'000;
  daug::RetrievalIndex index(kDimension, daug::Metric::kCosine);
  for (std::int64_t first = 0; first < rows; first += kPiece) {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(std::min(kPiece, rows - first)));
    std::iota(ids.begin(), ids.end(), first);
    const auto rows_here = static_cast<std::int64_t>(ids.size());
    index.add(ids, random_rows(rows_here, kDimension, 100 + static_cast<std::uint64_t>(first)));
  }
  index.compact();
  return index;
}

/// Memory in use, in bytes.
double allocated() {
  const auto info = ::mallinfo2();
  return static_cast<double>(info.uordblks) + static_cast<double>(info.hblkhd);
}

/// Sizes of an index; those that take gigabytes are for those who ask.
std::vector<std::int64_t> sizes() {
  std::vector<std::int64_t> rows = {1'000, 10'000, 100'000};
  if (std::getenv("DAUG_BENCH_LARGE")) rows.insert(rows.end(), {1'000'000, 2'000'000});
  return rows;
}

/// What a query costs by size, one at a time and 64 at once, and the memory of a row.
void by_size(benchmark::State& state) {
  static std::map<std::int64_t, daug::RetrievalIndex> kept;  // the last
  static double bytes = 0;
  const std::int64_t batch = state.range(0), rows = state.range(1);
  if (!kept.count(rows)) {
    kept.clear();
    const double before = allocated();
    kept.emplace(rows, sized_index(rows));
    bytes = (allocated() - before) / static_cast<double>(rows);
  }
  const auto& index = kept.at(rows);
  const auto queries = random_rows(batch, kDimension, 2);
  for (auto _ : state) benchmark::DoNotOptimize(index.search(queries, kNearest, daug::SearchOptions{.threads = 2}));
  state.SetItemsProcessed(state.iterations() * batch);
  state.counters["bytes_a_row"] = bytes;
}
BENCHMARK(by_size)  // batches vary first, so that an index of each size is made once
    ->ArgsProduct({{1, 64}, sizes()})
    ->ArgNames({"batch", "items"})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// A file with so many items; the last one stays until the program ends.
const std::string& file_of(std::int64_t rows) {
  static struct Kept {
    ~Kept() {
      std::error_code ignored;
      std::filesystem::remove(path, ignored);
    }
    std::string path = (std::filesystem::temp_directory_path() / "daug-bench.daugindex").string();
    std::int64_t rows = 0;
  } kept;
  if (kept.rows != rows) {
    sized_index(rows).save(kept.path);
    kept.rows = rows;
  }
  return kept.path;
}

/// Opening a file, and opening it with a first query, which reads all codes.
void opening(benchmark::State& state, bool with_query) {
  const auto& path = file_of(state.range(0));
  const auto query = random_rows(1, kDimension, 2);
  for (auto _ : state) {
    const auto index = daug::RetrievalIndex::load(path);
    benchmark::DoNotOptimize(index.size());
    if (with_query) benchmark::DoNotOptimize(index.search(query, kNearest, daug::SearchOptions{.threads = 2}));
  }
}
BENCHMARK_CAPTURE(opening, alone, false)
    ->ArgsProduct({sizes()})
    ->ArgName("items")
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(opening, and_search, true)
    ->ArgsProduct({sizes()})
    ->ArgName("items")
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

/// Opening a file with as many changes of one item behind the others as a closed writer leaves at most.
void opening_changed(benchmark::State& state) {
  const std::string path = file_of(state.range(0)) + ".changed";
  std::filesystem::copy_file(file_of(state.range(0)), path, std::filesystem::copy_options::overwrite_existing);
  std::uint64_t changes = 0;
  {
    daug::IndexWriter writer(path, "", false);
    const auto vectors = random_rows(64, kDimension, 8);
    for (std::uint64_t record = 0; writer.journal_bytes() + record <= daug::IndexWriter::kJournalLimit; ++changes) {
      const auto number = static_cast<std::int64_t>(changes);
      writer.add({state.range(0) + number}, vectors.row(number % vectors.rows()));
      record = writer.journal_bytes() / writer.journal_records();  // all are as long
    }
  }
  for (auto _ : state) benchmark::DoNotOptimize(daug::RetrievalIndex::load(path).size());
  state.counters["changes"] = static_cast<double>(changes);
  std::filesystem::remove(path);
  std::filesystem::remove(path + ".lock");
}
BENCHMARK(opening_changed)->Arg(1'000)->Arg(100'000)->ArgName("items")->UseRealTime()->Unit(benchmark::kMicrosecond);

/// Single queries on one thread while another makes so many changes a second (add, update and remove in turn): medians
/// and 99th percentiles of their times.
void during_changes(benchmark::State& state) {
  daug::RetrievalIndex index = index_at(daug::Storage::kInt8);  // a copy costs nothing
  const auto queries = random_rows(1000, kDimension, 2);
  std::atomic<bool> done{false};
  std::atomic<std::int64_t> changes{0};
  std::thread writer([&] {
    const auto vectors = random_rows(64, kDimension, 7);
    const auto start = std::chrono::steady_clock::now();
    for (std::int64_t number = 0; !done && state.range(0) > 0; ++number) {
      std::this_thread::sleep_until(start + number * std::chrono::nanoseconds(1'000'000'000 / state.range(0)));
      const auto vector = vectors.row(number % vectors.rows());
      const std::int64_t item = kItems + number / 3;
      if (number % 3 == 0) index.add({item}, vector);
      if (number % 3 == 1) index.update({item}, vector);
      if (number % 3 == 2) index.remove({item});
      ++changes;
    }
  });
  std::vector<double> times;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    const auto row = static_cast<Eigen::Index>(times.size()) % queries.rows();
    benchmark::DoNotOptimize(index.search(queries.row(row), kNearest, daug::SearchOptions{.threads = 1}));
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  done = true;
  writer.join();
  std::sort(times.begin(), times.end());
  const auto percentile = [&](std::size_t percent) { return times[(times.size() - 1) * percent / 100]; };
  state.counters["p50_ms"] = percentile(50);
  state.counters["p99_ms"] = percentile(99);
  state.counters["changes"] = benchmark::Counter(static_cast<double>(changes.load()), benchmark::Counter::kIsRate);
}
BENCHMARK(during_changes)
    ->Arg(0)
    ->Arg(10)
    ->Arg(100)
    ->Arg(1000)
    ->ArgName("changes")
    ->MinTime(5)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

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
