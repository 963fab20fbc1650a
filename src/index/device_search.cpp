#include "daug/index/device_search.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <type_traits>
#include <utility>

#include "backend/best_rows.h"
#include "backend/device_kernels.h"
#include "backend/fused_ops.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "exact_search.h"
#include "index_state.h"
#include "kernels/cuda/launch_plan.h"
#include "row_set.h"
#include "score_bounds.h"

namespace daug {
namespace {

constexpr const char* kDeviceSearch = "DeviceSearch::search";
/// Twice what rounding a query can do: tensor cores, which cut small terms off, need the rest.
constexpr double kBFloat16Rounding = 0x1p-8;
constexpr float kNothingBeyond = -std::numeric_limits<float>::infinity();

/// Items as they are multiplied, and what makes bounds of the products.
struct ItemBlock {
  at::Tensor rows;    ///< [T, D] float32 or bfloat16
  at::Tensor error;   ///< [T]
  at::Tensor offset;  ///< [T], of kL2

  /// The block of copy(tensor) of each.
  template <class Copy>
  ItemBlock copied(const Copy& copy) const {
    return {copy(rows), copy(error), offset.defined() ? copy(offset) : offset};
  }
};

/// Writes a vector as it is multiplied (score_bounds.h); under cosine it has length 1.
template <class Code>
detail::RowTerms code_item(const detail::IndexSettings& settings, const float* values, double norm, Code* codes) {
  const bool cosine = settings.metric == Metric::kCosine;
  const bool bounded = cosine || detail::in_float_range(norm);
  const double scale = cosine ? norm : 1;
  double left_out = 0;
  for (std::size_t i = 0; i < settings.components(); ++i) {
    const auto value = static_cast<double>(values[i]);
    codes[i] = static_cast<Code>(bounded ? static_cast<float>(value / scale) : 0.0F);
    const double error = value - scale * static_cast<double>(static_cast<float>(codes[i]));
    left_out += error * error;
  }
  const double coding = std::sqrt(left_out) * (1 + 0x1p-20);
  // The terms allow for a query in float32.
  const double of_query = std::is_same_v<Code, float> ? 0.0 : kBFloat16Rounding * (norm + coding);
  // As of a 16-bit copy: under cosine no norm is too small or large, since the row's length is 1.
  return detail::row_terms(settings.metric, Storage::kBFloat16, settings.components(), norm, scale, coding + of_query);
}

/// queries rows^T [Q, T] in float32.
at::Tensor scores_of(const at::Tensor& queries, const at::Tensor& rows) {
  const at::NoTF32Guard products_of_float32;
  if (rows.scalar_type() == at::kFloat) return at::mm(queries, rows.t());
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 8
  if (rows.is_cuda()) return at::mm(queries, rows.t(), at::kFloat);  // LibTorch has it nowhere else
#endif
  return at::mm(queries.to(at::kFloat), rows.to(at::kFloat).t());
}

}  // namespace

void DeviceSearchOptions::validate() const {
  constexpr const char* kName = "DeviceSearchOptions";
  require(storage == Storage::kFloat32 || storage == Storage::kBFloat16, kName, "storage", "kFloat32 or kBFloat16",
          storage_name(storage));
  require(memory_budget >= 1, kName, "memory_budget", "at least 1 byte", memory_budget);
}

class DeviceSearch::Items {
 public:
  Items(std::shared_ptr<const detail::Snapshot> snapshot, const c10::Device& device, const DeviceSearchOptions& options)
      : snapshot_(std::move(snapshot)), device_(device), options_(options) {
    const detail::IndexSettings& settings = snapshot_->settings();
    const auto& parts = snapshot_->parts();
    places_.reserve(snapshot_->size());
    for (std::uint32_t part = 0; part < parts.size(); ++part)
      for (std::uint32_t row = 0; row < parts[part].chunk->rows(); ++row)
        if (parts[part].has(row)) places_.push_back({part, row});
    const std::int64_t row_bytes = settings.dimension * (half() ? 2 : 4) + 8;
    blocks_plan_ = kernels::cuda::search_blocks(size(), row_bytes, options.memory_budget);
    for (std::int64_t first = 0; first < size(); first += blocks_plan_.rows) {
      const ItemBlock block = coded(first, std::min(blocks_plan_.rows, size() - first));
      // What stays on the device is there when this returns: searches may use other streams.
      const bool pinned = device.is_cuda() && !resident();
      blocks_.push_back(block.copied([&](const at::Tensor& t) { return pinned ? t.pin_memory() : t.to(device); }));
    }
    if (resident() && !blocks_.empty()) device_ = blocks_.front().rows.device();  // "cuda" is now a certain one
  }

  const detail::Snapshot& snapshot() const { return *snapshot_; }
  std::int64_t size() const { return static_cast<std::int64_t>(places_.size()); }
  bool resident() const { return blocks_plan_.resident; }
  bool half() const { return options_.storage == Storage::kBFloat16; }

  /// Of some queries: the items that may be among the k nearest, and the largest bound of all others.
  struct Candidates {
    std::vector<std::vector<detail::Place>> items;
    std::vector<float> beyond;
  };

  Candidates candidates(const RowMatrixRef& queries, const std::vector<double>& norms, std::int64_t k,
                        const Filter& filter) const {
    const std::int64_t wanted = kernels::cuda::search_candidates(k, half());
    const bool fused = backend::use_fused(options_.execution, backend::BestRows::has_kernel(device_, wanted),
                                          kDeviceSearch, backend::ran_on_a_device("search_select"));
    const at::Tensor allowed = allowed_items(filter);
    Candidates all;
    for (std::int64_t first = 0; first < queries.rows(); first += kernels::cuda::kQueriesAtOnce) {
      const std::int64_t count = std::min<std::int64_t>(kernels::cuda::kQueriesAtOnce, queries.rows() - first);
      const backend::FoundRows found =
          scan(queries.middleRows(first, count), norms.data() + first, wanted, allowed, fused);
      const std::int64_t width = found.rows.size(1);
      for (std::int64_t query = 0; query < count; ++query) {
        const float* bounds = found.bounds.const_data_ptr<float>() + query * width;
        const std::int64_t* rows = found.rows.const_data_ptr<std::int64_t>() + query * width;
        auto& items = all.items.emplace_back();
        for (std::int64_t i = 0; i < width && bounds[i] != kNothingBeyond; ++i)  // a NaN is scored, and refused
          items.push_back(places_[static_cast<std::size_t>(rows[i])]);
        const bool more = static_cast<std::int64_t>(items.size()) == wanted && wanted < size();
        all.beyond.push_back(more ? bounds[width - 1] : kNothingBeyond);
      }
    }
    return all;
  }

 private:
  /// Items from `first` on.
  ItemBlock coded(std::int64_t first, std::int64_t count) const {
    const detail::IndexSettings& settings = snapshot_->settings();
    ItemBlock block{at::empty({count, settings.dimension}, half() ? at::kBFloat16 : at::kFloat),
                    at::empty({count}, at::kFloat),
                    {}};
    if (settings.metric == Metric::kL2) block.offset = at::empty({count}, at::kFloat);
    float* error = block.error.mutable_data_ptr<float>();
    float* offset = block.offset.defined() ? block.offset.mutable_data_ptr<float>() : nullptr;
    const auto code = [&](auto* codes) {
      constexpr std::int64_t kAtOnce = 1024;
      const auto tasks = static_cast<std::size_t>((count + kAtOnce - 1) / kAtOnce);
      detail::for_each_task(
          tasks, std::max(1U, std::thread::hardware_concurrency()), [&](std::size_t, std::size_t task) {
            const std::int64_t begin = static_cast<std::int64_t>(task) * kAtOnce;
            for (std::int64_t i = begin; i < std::min(count, begin + kAtOnce); ++i) {
              const detail::Place place = places_[static_cast<std::size_t>(first + i)];
              const detail::Chunk& chunk = *snapshot_->parts()[place.part].chunk;
              const float* values = chunk.values(place.row);
              const detail::RowTerms terms =
                  code_item(settings, values, chunk.norms()[place.row], codes + i * settings.dimension);
              error[i] = terms.error;
              if (offset) offset[i] = terms.offset;
            }
          });
    };
    if (half())
      code(block.rows.mutable_data_ptr<at::BFloat16>());
    else
      code(block.rows.mutable_data_ptr<float>());
    return block;
  }

  /// A bit an item: whether the filter lets it through. Undefined: all of them.
  at::Tensor allowed_items(const Filter& filter) const {
    if (!filter.root()) return {};
    detail::SnapshotFilter ready;
    for (const auto& part : snapshot_->parts()) ready.emplace_back(filter, *part.chunk);
    const detail::RowSet rows(*snapshot_, ready);
    std::vector<std::uint32_t> words((places_.size() + 31) / 32);
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (rows.has(places_[i])) words[i / 32] |= std::uint32_t{1} << (i % 32);
    const std::vector<std::int32_t> bits(words.begin(), words.end());
    return backend::upload(at::tensor(bits, at::kInt), device_);
  }

  backend::FoundRows scan(const RowMatrixRef& queries, const double* norms, std::int64_t wanted,
                          const at::Tensor& allowed, bool fused) const {
    const detail::IndexSettings& settings = snapshot_->settings();
    const at::Tensor codes = at::zeros({queries.rows(), settings.dimension}, at::kFloat);
    const at::Tensor inverse = at::zeros({queries.rows()}, at::kFloat);
    for (std::int64_t query = 0; query < queries.rows(); ++query) {
      const detail::QueryRank rank(settings.metric, settings.components(), norms[query]);
      if (!rank.bounded()) continue;
      const float* values = queries.data() + query * queries.outerStride();
      float* code = codes.mutable_data_ptr<float>() + query * settings.dimension;
      for (std::int64_t i = 0; i < settings.dimension; ++i)
        code[i] = static_cast<float>(static_cast<double>(values[i]) / rank.unit());
      inverse.mutable_data_ptr<float>()[query] = rank.inverse();
    }
    const at::Tensor coded_queries = backend::upload(codes, device_).to(half() ? at::kBFloat16 : at::kFloat);
    backend::BestRows best(backend::upload(inverse, device_), wanted, fused);
    std::int64_t first = 0;
    for (const ItemBlock& kept : blocks_) {
      const ItemBlock block = kept.copied([&](const at::Tensor& t) { return backend::upload(t, device_); });
      const std::int64_t count = block.rows.size(0);
      best.add({scores_of(coded_queries, block.rows), block.error, block.offset,
                allowed.defined() ? allowed.narrow(0, first / 32, (count + 31) / 32) : allowed, first});
      first += count;
    }
    return best.found();
  }

  std::shared_ptr<const detail::Snapshot> snapshot_;
  c10::Device device_;
  DeviceSearchOptions options_;
  std::vector<detail::Place> places_;  ///< of the items, in the order of rows on the device
  kernels::cuda::SearchBlocks blocks_plan_;
  std::vector<ItemBlock> blocks_;
};

DeviceSearch::DeviceSearch(const RetrievalIndex& index, const c10::Device& device, const DeviceSearchOptions& options) {
  options.validate();
  if (!device.is_cpu() && !device.is_cuda())
    fail(ErrorCode::kUnsupported, "DeviceSearch", "device", "the CPU or a CUDA device", device);
  auto snapshot = index.state_->snapshot();
  if (static_cast<std::int64_t>(snapshot->size()) >= kernels::cuda::kMostRows)
    fail(ErrorCode::kUnsupported, "DeviceSearch", "index", "fewer than 2^32 - 1 items", snapshot->size());
  items_ = std::make_shared<const Items>(std::move(snapshot), device, options);
}

bool DeviceSearch::resident() const { return items_->resident(); }

std::vector<Hits> DeviceSearch::search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter,
                                       const SearchOptions& options) const {
  const detail::Snapshot& snapshot = items_->snapshot();
  const detail::IndexSettings& settings = snapshot.settings();
  options.validate();
  require(k >= 1 && k <= items_->size(), kDeviceSearch, "k",
          detail::concat("a value in [1, ", items_->size(), "], the size of the index"), k);
  require(options.breadth == 0, kDeviceSearch, "options.breadth", "0, an exact search", options.breadth);
  if (!options.fingerprint.empty()) snapshot.require_encoder(options.fingerprint, kDeviceSearch);
  const std::vector<double> norms = snapshot.checked_norms(queries, kDeviceSearch, "queries");
  snapshot.require_fields(filter, kDeviceSearch);
  if (queries.rows() == 0) return {};
  const auto count = static_cast<std::size_t>(k);
  const auto [candidates, beyond] = items_->candidates(queries, norms, k, filter);
  auto hits = detail::nearest_of(snapshot, queries, candidates, count, options, kDeviceSearch);

  std::vector<std::size_t> open;
  for (std::size_t query = 0; query < hits.size(); ++query) {
    const detail::QueryRank rank(settings.metric, settings.components(), norms[query]);
    // Whatever scores as high as the k-th hit has a bound of at least this threshold.
    const bool certified = rank.bounded() && (beyond[query] == kNothingBeyond ||
                                              beyond[query] < rank.threshold(rank.rank_of(hits[query].back().score)));
    if (!certified) open.push_back(query);
  }
  SearchStats on_cpu;
  if (!open.empty()) {
    RowMatrix rest(static_cast<Eigen::Index>(open.size()), queries.cols());
    for (std::size_t i = 0; i < open.size(); ++i)
      rest.row(static_cast<Eigen::Index>(i)) = queries.row(static_cast<Eigen::Index>(open[i]));
    SearchOptions exact = options;
    exact.stats = &on_cpu;
    auto found = detail::exact_search(snapshot, rest, {.count = count}, {filter}, exact, kDeviceSearch);
    for (std::size_t i = 0; i < open.size(); ++i) hits[open[i]] = std::move(found[i]);
  }
  if (options.stats) {
    options.stats->scanned += items_->size() * static_cast<std::int64_t>(hits.size()) + on_cpu.scanned;
    options.stats->rescored += on_cpu.rescored;
    options.stats->float32_fallbacks += static_cast<std::int64_t>(open.size());
    options.stats->float64_fallbacks += on_cpu.float64_fallbacks;
  }
  return hits;
}

}  // namespace daug
