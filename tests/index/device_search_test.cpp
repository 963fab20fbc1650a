// A search whose products are LibTorch's, on the CPU and on a device, against the index's own.

#include "daug/index/device_search.h"

#include <ATen/ATen.h>

#include <numeric>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/backend/determinism.h"
#include "daug/core/error.h"
#include "index/golden_knn.h"
#include "support/caught.h"
#include "support/full_device.h"
#include "support/golden_device.h"
#include "support/memory_count.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr Storage kDeviceStorages[] = {Storage::kFloat32, Storage::kBFloat16, Storage::kInt8};

/// An index with gaps, and queries of which the first is an item's vector; "site" is a name that one item has.
struct GappedIndex {
  RetrievalIndex index;
  RowMatrix queries;

  GappedIndex(std::uint64_t item, Metric metric, Kind kind, Eigen::Index items, Eigen::Index width,
              Eigen::Index asked = 6)
      : index(width, metric, "encoder") {
    RandomStream random(71, item, "device search");
    const RowMatrix vectors = random_rows(random, kind, items, width);
    const Ids ids = shuffled_ids(random, items);
    std::vector<Metadata> metadata;
    for (std::size_t i = 0; i < ids.size(); ++i) metadata.push_back({{"patient", "p" + std::to_string(i % 7)}});
    metadata[3]["site"] = "A";
    index.add(ids, vectors, metadata);
    index.remove({ids[1], ids[4]});
    queries = random_rows(random, kind, asked, width);
    queries.row(0) = vectors.row(0);
  }
};

/// A filter for each of six queries: some that most items pass, some that few or none do.
std::vector<Filter> filters_of_queries(const RetrievalIndex& index) {
  return {Filter::exclude_patient("p0"), Filter(),
          Filter::equals("site", "A"),   Filter::equals("patient", "p2"),
          !Filter::equals("site", "A"),  Filter::ids({index.ids()[5], index.ids()[7]})};
}

/// Searches of every kind of data beside the index's own.
void check_device_search(const at::Device& device, Execution execution) {
  std::uint64_t item = 0;
  for (int kind = 0; kind < static_cast<int>(Kind::kCount); ++kind)
    for (const Metric metric : kMetrics) {
      // 249 are left: no whole eights, so that rows of int8 are filled up.
      const GappedIndex problem(++item, metric, static_cast<Kind>(kind), 251, 1 + 7 * (kind % 4));
      for (const Storage storage : kDeviceStorages)
        for (const bool whole : {false, true}) {
          DeviceSearchOptions options;
          options.storage = storage, options.execution = execution;
          if (!whole) options.memory_budget = 1;  // 32 items at a time
          const DeviceSearch search(problem.index, device, options);
          CHECK(search.resident() == whole);
          for (const Filter& filter :
               {Filter(), Filter::exclude_patient("p3"), Filter::equals("site", "A"), Filter::equals("patient", "p99")})
            for (const std::int64_t k : {1, 9, 100}) {
              INFO("kind " << kind << " metric " << metric_name(metric) << " storage " << storage_name(storage) << " k "
                           << k << " whole " << whole << " filter " << filter.text());
              require_identical(search.search(problem.queries, k, filter),
                                problem.index.search(problem.queries, k, filter));
            }
          for (const std::int64_t k : {1, 9, 100}) {
            INFO("kind " << kind << " metric " << metric_name(metric) << " storage " << storage_name(storage) << " k "
                         << k << " whole " << whole << " a filter for each query");
            const std::vector<Filter> filters = filters_of_queries(problem.index);
            require_identical(search.search(problem.queries, k, filters),
                              problem.index.search(problem.queries, k, filters));
          }
        }
    }
}

}  // namespace

TEST_CASE("a search by LibTorch's products finds what the index finds, bit for bit", "[index][device]") {
  check_device_search(at::kCPU, Execution::kAuto);
  check_device_search(at::kCPU, Execution::kReference);
}

TEST_CASE("a search on a device finds what the index finds, bit for bit", "[index][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  for (const Execution execution : {Execution::kAuto, Execution::kReference, Execution::kFused})
    check_device_search(device, execution);
  // More than a chunk, several tiles, more queries than go at a time, and more hits than the kernel has room for.
  for (const Metric metric : kMetrics) {
    const GappedIndex problem(100, metric, Kind::kGaussian, 70000, 48, 1100);
    for (const Storage storage : kDeviceStorages)
      for (const std::int64_t budget : {std::int64_t{1} << 34, std::int64_t{1} << 27}) {
        DeviceSearchOptions options;
        options.storage = storage, options.memory_budget = budget, options.execution = Execution::kFused;
        const DeviceSearch search(problem.index, device, options);
        for (const std::int64_t k : {1, 100}) {
          INFO(metric_name(metric) << " " << storage_name(storage) << " k " << k << " budget " << budget);
          SearchStats stats;
          SearchOptions counted;
          counted.stats = &stats;
          require_identical(search.search(problem.queries, k, Filter::exclude_patient("p3"), counted),
                            problem.index.search(problem.queries, k, Filter::exclude_patient("p3")));
          CHECK(stats.float32_fallbacks == 0);
          // One query in fifty has a filter that few items match.
          std::vector<Filter> filters(1100, Filter::exclude_patient("p3"));
          for (std::size_t i = 0; i < filters.size(); i += 50) filters[i] = Filter::equals("patient", "p4");
          require_identical(search.search(problem.queries, k, filters),
                            problem.index.search(problem.queries, k, filters));
        }
        check_refused(ErrorCode::kUnsupported, "kFused", [&] { (void)search.search(problem.queries, 1000); });
      }
    require_identical(DeviceSearch(problem.index, device).search(problem.queries.topRows(9), 1000),
                      problem.index.search(problem.queries.topRows(9), 1000));
  }
}

TEST_CASE("a search on a device finds the same under determinism, with kernels and by LibTorch's operators",
          "[index][gpu]") {
  if (no_device()) return;
  const GappedIndex problem(6, Metric::kCosine, Kind::kGaussian, 20000, 48, 40);
  const auto expected = problem.index.search(problem.queries, 20);
  for (const Storage storage : kDeviceStorages)
    for (const Execution execution : {Execution::kReference, Execution::kFused}) {
      INFO(storage_name(storage) << ", execution " << static_cast<int>(execution));
      DeviceSearchOptions options;
      options.storage = storage, options.execution = execution;
      deterministically([&] {
        const DeviceSearch search(problem.index, at::Device(at::kCUDA, 0), options);
        for (int i = 0; i < 2; ++i) require_identical(search.search(problem.queries, 20), expected);
      });
    }
}

TEST_CASE("a search that is short of memory takes fewer items and queries at a time, and finds the same",
          "[index][device][memory]") {
  const GappedIndex problem(4, Metric::kL2, Kind::kGaussian, 3000, 16, 40);
  const Filter filter = Filter::exclude_patient("p3");
  const auto expected = problem.index.search(problem.queries, 9, filter);
  for (const Storage storage : kDeviceStorages)
    for (const bool whole : {true, false}) {
      DeviceSearchOptions options;
      options.storage = storage;
      if (!whole) options.memory_budget = 1;  // 32 items at a time: only queries can be fewer
      const auto searched = [&](const DeviceSearch& search) { return search.search(problem.queries, 9, filter); };
      const DeviceSearch ample(problem.index, at::kCPU, options);
      (void)searched(ample);  // what LibTorch makes once
      std::int64_t peak = 0;
      {
        const MemoryCount count;
        (void)searched(ample);
        peak = count.peak();
      }
      for (const double part : {0.7, 0.3, 0.1}) {
        if (!whole && part < 0.3) continue;  // int8 has products of 64 rows of queries at least
        INFO(storage_name(storage) << ", whole " << whole << ", " << part << " of " << peak << " bytes");
        const DeviceSearch search(problem.index, at::kCPU, options);  // one that was short of memory remembers it
        const MemoryCount limited(static_cast<std::int64_t>(part * static_cast<double>(peak)));
        require_identical(searched(search), expected);
        require_identical(searched(search), expected);
      }
      const MemoryCount none(512);
      check_refused(ErrorCode::kOutOfMemory,
                    "DeviceSearch::search: memory: expected enough for one query and 32 items, got no memory is left",
                    [&] { (void)searched(ample); });
    }
}

TEST_CASE("a moment without memory leaves no later search with short tiles or few queries", "[index][device][memory]") {
  constexpr std::int64_t kAsked = 64, kItems = 20000, kFloor = 8192;
  const GappedIndex problem(7, Metric::kCosine, Kind::kGaussian, kItems, 8, kAsked);
  const Filter filter = Filter::exclude_patient("p3");
  const auto expected = problem.index.search(problem.queries, 9, filter);
  const DeviceSearch search(problem.index, at::kCPU);
  const auto peak_of = [&](std::int64_t most) {
    const MemoryCount count(most);
    require_identical(search.search(problem.queries, 9, filter), expected);
    return count.peak();
  };
  constexpr std::int64_t kAmple = std::int64_t{1} << 40;
  (void)peak_of(kAmple);  // what LibTorch makes once
  const std::int64_t whole = peak_of(kAmple);
  CHECK(whole >= (kItems - 2) * kAsked * 4);  // scores of one tile, without the two that were removed
  (void)peak_of(24 << 10);                    // too little for the scores of one query and 8192 items
  const std::int64_t after = peak_of(kAmple);
  CHECK(after >= kFloor * kAsked * 4);  // a tile of all queries
  CHECK(static_cast<double>(after) < 0.6 * static_cast<double>(whole));
}

TEST_CASE("a search finds the same on a device that others have left little of", "[index][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const GappedIndex problem(5, Metric::kCosine, Kind::kGaussian, 250000, 64, 200);  // 66 MB with bounds
  const auto expected = problem.index.search(problem.queries, 10);
  {
    const DeviceSearch search(problem.index, device);  // LibTorch takes what it keeps
    CHECK(search.resident());
    require_identical(search.search(problem.queries, 10), expected);
  }
  // Kernels are loaded when they are first launched: those for items that do not stay there, too, before it is full.
  for (const std::int64_t budget : {std::int64_t{1} << 26, std::int64_t{1} << 22}) {
    DeviceSearchOptions options;
    options.memory_budget = budget;
    const DeviceSearch search(problem.index, device, options);
    CHECK_FALSE(search.resident());
    require_identical(search.search(problem.queries, 10), expected);
  }
  const FullDevice full(std::int64_t{40} << 20);
  const DeviceSearch search(problem.index, device);
  CHECK_FALSE(search.resident());
  require_identical(search.search(problem.queries, 10), expected);
}

namespace {

void check_golden_searches(const at::Device& device) {
  for (const Storage storage : kDeviceStorages) {
    INFO(storage_name(storage));
    DeviceSearchOptions options;
    options.storage = storage;
    knn::check_sets([&](const RetrievalIndex& index, const RowMatrix& queries, std::int64_t k) {
      return DeviceSearch(index, device, options).search(queries, k);
    });
  }
}

}  // namespace

TEST_CASE("a search by products of LibTorch agrees with published exact search", "[index][device][golden]") {
  check_golden_searches(at::kCPU);
}

TEST_CASE("golden exact searches on a device", "[gpu]") {
  if (!no_golden_on_device()) check_golden_searches(at::Device(at::kCUDA, 0));
}

TEST_CASE("what bounds decide is decided by them, the rest is searched on the CPU and counted", "[index][device]") {
  for (const Storage storage : kDeviceStorages) {
    const GappedIndex problem(1, Metric::kCosine, Kind::kGaussian, 1500, 24);
    DeviceSearchOptions options;
    options.storage = storage;
    SearchStats stats;
    SearchOptions counted;
    counted.stats = &stats;
    (void)DeviceSearch(problem.index, at::kCPU, options).search(problem.queries, 5, counted);
    const std::int64_t candidates = storage == Storage::kFloat32 ? 27 : 128;
    const auto fallbacks = [&](const std::vector<Filter>& filters) {
      SearchStats of_filters;
      SearchOptions counted_filters;
      counted_filters.stats = &of_filters;
      (void)DeviceSearch(problem.index, at::kCPU, options).search(problem.queries, 5, filters, counted_filters);
      return of_filters.float32_fallbacks;
    };
    CHECK(stats.queries == 6);
    CHECK(stats.scanned == 6 * 1498);
    CHECK(stats.rescored >= 6 * 5);
    CHECK(stats.rescored < 6 * candidates / 2);  // bounds rule out the others
    CHECK(stats.float32_fallbacks == 0);
    // Of the 27 or 128 found, those of six patients in seven are left, and those of one patient in seven are all found.
    CHECK(fallbacks(std::vector<Filter>(6, Filter::exclude_patient("p3"))) == 0);
    CHECK(fallbacks(std::vector<Filter>(6, Filter::equals("patient", "p3"))) == 0);

    RetrievalIndex alike(4, Metric::kCosine);
    Ids ids(300);
    std::iota(ids.rbegin(), ids.rend(), 0);
    alike.add(ids, RowMatrix::Ones(300, 4));
    const auto hits = DeviceSearch(alike, at::kCPU, options).search(RowMatrix::Ones(2, 4), 5, counted);
    for (const Hits& of_query : hits) {
      REQUIRE(of_query.size() == 5);
      for (std::size_t i = 0; i < 5; ++i) CHECK(of_query[i].id == static_cast<std::int64_t>(i));
    }
    CHECK(stats.float32_fallbacks == 2);
    CHECK(stats.queries == 8);
  }
}

TEST_CASE("rows that bounds cannot tell apart are scored, and copies are found by their ids", "[index][device]") {
  constexpr Eigen::Index kItems = 1500, kGroups = 40, kWidth = 24;
  RandomStream random(72, 0, "groups of rows");
  RowMatrix vectors = random_rows(random, Kind::kGaussian, kItems, kWidth);
  for (Eigen::Index row = kGroups; row < kItems; ++row) {  // copies, and rows that float32 alone can tell from these
    vectors.row(row) = vectors.row(row % kGroups);
    vectors(row, row % kWidth) *= 1 + 1e-4F * static_cast<float>(row % 3);
  }
  RowMatrix queries = vectors.topRows(7) + 0.1F * random_rows(random, Kind::kGaussian, 7, kWidth);
  queries.row(0) = vectors.row(3);
  const Ids ids = shuffled_ids(random, kItems);
  for (const Metric metric : kMetrics) {
    RetrievalIndex index(kWidth, metric);
    index.add(ids, vectors);
    for (const Storage storage : kDeviceStorages) {
      DeviceSearchOptions options;
      options.storage = storage;
      const DeviceSearch search(index, at::kCPU, options);
      for (const std::int64_t k : {1, 10, 60, 300, 1500}) {
        INFO(metric_name(metric) << " " << storage_name(storage) << " k " << k);
        SearchStats stats;
        SearchOptions counted;
        counted.stats = &stats;
        require_identical(search.search(queries, k, counted), index.search(queries, k));
        // A group has 37 or 38 rows: of the 128 that were found the other groups' are left out.
        if (metric == Metric::kCosine && storage != Storage::kFloat32 && k == 10) {
          CHECK(stats.float32_fallbacks == 0);
          CHECK(stats.rescored < 7 * 128);
        }
      }
    }
  }
}

TEST_CASE("many queries are searched alike on one thread and on several", "[index][device]") {
  for (const Metric metric : kMetrics) {
    const GappedIndex problem(8, metric, Kind::kGaussian, 400, 80, 1100);  // a thread codes 409 at a time
    const auto expected = problem.index.search(problem.queries, 5);
    for (const Storage storage : kDeviceStorages)
      for (const int threads : {1, 3}) {
        INFO(metric_name(metric) << " " << storage_name(storage) << ", " << threads << " threads");
        DeviceSearchOptions options;
        options.storage = storage;
        const DeviceSearch search(problem.index, at::kCPU, options);
        require_identical(search.search(problem.queries, 5, SearchOptions{.threads = threads}), expected);
      }
  }
}

TEST_CASE("a search on a device keeps the items of its moment, and takes empty batches", "[index][device]") {
  GappedIndex problem(2, Metric::kL2, Kind::kGrid, 60, 5);
  const RetrievalIndex before = problem.index;
  const DeviceSearch search(problem.index, at::kCPU);
  problem.index.add({1}, problem.queries.topRows(1));
  problem.index.remove({before.ids()[0]});
  require_identical(search.search(problem.queries, 20), before.search(problem.queries, 20));
  CHECK(search.search(RowMatrix(0, 5), 3).empty());
  const DeviceSearch copy = search;
  require_identical(copy.search(problem.queries, 3), before.search(problem.queries, 3));
}

TEST_CASE("a search on a device refuses what the index refuses, and what it cannot do", "[index][device]") {
  const GappedIndex problem(3, Metric::kCosine, Kind::kGaussian, 20, 4);
  const DeviceSearch search(problem.index, at::kCPU);
  for (const std::int64_t k : {0, 19})
    check_refused(ErrorCode::kInvalidArgument,
                  "DeviceSearch::search: k: expected a value in [1, 18], the size of the index",
                  [&] { (void)search.search(problem.queries, k); });
  check_refused(ErrorCode::kInvalidArgument, "options.breadth",
                [&] { (void)search.search(problem.queries, 1, SearchOptions{.breadth = 10}); });
  check_refused(ErrorCode::kMismatch, "DeviceSearch::search: queries",
                [&] { (void)search.search(RowMatrix::Ones(1, 3), 1); });
  check_refused(ErrorCode::kInvalidArgument, "queries row 0", [&] { (void)search.search(RowMatrix::Zero(1, 4), 1); });
  check_refused(ErrorCode::kMismatch, "fingerprint",
                [&] { (void)search.search(problem.queries, 1, SearchOptions{.fingerprint = "another"}); });
  check_refused(ErrorCode::kNotFound, "filter",
                [&] { (void)search.search(problem.queries, 1, Filter::equals("nothing", "a")); });
  const RetrievalIndex empty(4, Metric::kCosine);
  check_refused(ErrorCode::kInvalidArgument, "k",
                [&] { (void)DeviceSearch(empty, at::kCPU).search(problem.queries, 1); });
  DeviceSearchOptions options;
  options.execution = Execution::kFused;
  check_refused(ErrorCode::kUnsupported, "kFused",
                [&] { (void)DeviceSearch(problem.index, at::kCPU, options).search(problem.queries, 1); });
  check_refused(ErrorCode::kUnsupported, "DeviceSearch: device", [&] { (void)DeviceSearch(problem.index, at::kMeta); });
  check_refused(ErrorCode::kMismatch, "DeviceSearch::search: filters: expected 6, one a query",
                [&] { (void)search.search(problem.queries, 1, std::vector<Filter>(5)); });
  check_refused(ErrorCode::kNotFound, "filter", [&] {
    (void)search.search(problem.queries, 1, std::vector<Filter>(6, Filter::equals("nothing", "a")));
  });
  CHECK(search.search(RowMatrix(0, 4), 1, std::vector<Filter>()).empty());
  RetrievalIndex long_vectors(DeviceSearchOptions::kMostInt8Components + 1, Metric::kCosine);
  options.storage = Storage::kInt8;
  check_refused(ErrorCode::kUnsupported, "kInt8", [&] { (void)DeviceSearch(long_vectors, at::kCPU, options); });
  options.storage = Storage::kFloat16;
  check_refused(ErrorCode::kInvalidArgument, "DeviceSearchOptions: storage",
                [&] { (void)DeviceSearch(problem.index, at::kCPU, options); });
  options.storage = Storage::kFloat32, options.memory_budget = 0;
  check_refused(ErrorCode::kInvalidArgument, "DeviceSearchOptions: memory_budget",
                [&] { (void)DeviceSearch(problem.index, at::kCPU, options); });
}
