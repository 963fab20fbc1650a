#include "daug/heatmap/precompute.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <unordered_set>

#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "heatmap_file.h"

namespace daug {

namespace {

/// precompute_heatmaps with maps of either type: `append(key, maps)` puts those of an image into the store.
template <class Value, class Append>
PrecomputeReport fill_store(HeatmapStoreWriter& store, const std::vector<std::uint64_t>& keys,
                            const std::function<void(const std::vector<std::size_t>&, Value*)>& compute,
                            const PrecomputeOptions& options, const RunControl& control, const Append& append) {
  options.validate();
  // Batches of neighbours in the list, whatever is there already: a run that goes on makes the calls of one that was
  // not stopped.
  std::vector<std::vector<std::size_t>> batches;
  std::size_t missing = 0;
  std::unordered_set<std::uint64_t> wanted;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (store.contains(keys[i]) || !wanted.insert(keys[i]).second) continue;
    if (batches.empty() || batches.back().front() / options.batch != i / options.batch) batches.emplace_back();
    batches.back().push_back(i);
    ++missing;
  }
  const std::size_t values = store.layout().values();

  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  PrecomputeReport report;
  report.skipped = keys.size() - missing;
  std::atomic<std::size_t> computed{0};
  RunControl inner;
  inner.stop = control.stop;
  inner.progress = [&](const Progress&) {
    const double done = static_cast<double>(computed), rate = done / std::max(elapsed(), 1e-9);
    const double left = done > 0 ? (static_cast<double>(missing) - done) / rate : 0;
    control.report({options.stage, static_cast<std::int64_t>(report.skipped + computed),
                    static_cast<std::int64_t>(keys.size()), "images",
                    fmt::format("{:.2f} images/s, {:.0f} s left", rate, left)});
  };
  parallel_for(batches.size(), options.threads, options.stage, inner, [&](std::size_t batch) {
    const std::vector<std::size_t>& images = batches[batch];
    std::vector<Value> maps(images.size() * values);
    compute(images, maps.data());
    for (std::size_t i = 0; i < images.size(); ++i) {
      append(keys[images[i]], maps.data() + i * values);
      ++computed;
    }
  });
  report.computed = computed;
  report.seconds = elapsed();
  return report;
}

}  // namespace

void PrecomputeOptions::validate() const {
  require(batch >= 1, "PrecomputeOptions::validate", "batch", "at least 1", batch);
  require(threads >= 1, "PrecomputeOptions::validate", "threads", "at least 1", threads);
}

PrecomputeReport precompute_heatmaps(HeatmapStoreWriter& store, const std::vector<std::uint64_t>& keys,
                                     const ComputeMaps& compute, const PrecomputeOptions& options,
                                     const RunControl& control) {
  return fill_store(store, keys, compute, options, control,
                    [&](std::uint64_t key, const float* maps) { store.append(key, maps, store.layout().values()); });
}

PrecomputeReport precompute_half_heatmaps(HeatmapStoreWriter& store, const std::vector<std::uint64_t>& keys,
                                          const ComputeHalfMaps& compute, const PrecomputeOptions& options,
                                          const RunControl& control) {
  detail::require_float16(store.layout(), "precompute_half_heatmaps");
  return fill_store(store, keys, compute, options, control, [&](std::uint64_t key, const std::uint16_t* maps) {
    store.append_halves(key, maps, store.layout().values());
  });
}

}  // namespace daug
