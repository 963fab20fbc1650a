#include "daug/index/device_search.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

#include "backend/best_rows.h"
#include "backend/device_kernels.h"
#include "backend/fitting_rows.h"
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
constexpr const char* kLeastWork = "one query and 32 items";
/// Twice what rounding a query can do: tensor cores, which cut small terms off, need the rest.
constexpr double kBFloat16Rounding = 0x1p-8;
/// Largest code of a query's component of which int8 holds both halves, 256 high + low.
constexpr double kLargestHalvedCode = 127 * 256 + 127;
/// More than by how much it is coarser for that than kLargestQueryCode.
constexpr double kCoarserQuery = 0x1p-7;
constexpr float kNothingBeyond = -std::numeric_limits<float>::infinity();

// Products of int8 want whole eights of rows and components, and more than 16 queries.
constexpr std::int64_t kInt8Width = 8, kInt8Queries = 32;
constexpr std::int64_t kRowsOfWord = 32;         ///< that a word of a filter's bits is about
constexpr std::int64_t kLeastRows = 8192;        ///< of a block at a time, unless one query has no memory for them
constexpr std::int64_t kWorthAThread = 1 << 15;  ///< components of queries to code

std::int64_t rounded_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

/// Rows of these numbers, one behind the other.
RowMatrix rows_of(const RowMatrixRef& queries, const std::size_t* numbers, std::size_t count) {
  RowMatrix rows(static_cast<Eigen::Index>(count), queries.cols());
  for (std::size_t i = 0; i < count; ++i)
    rows.row(static_cast<Eigen::Index>(i)) = queries.row(static_cast<Eigen::Index>(numbers[i]));
  return rows;
}

/// Calls work(i) for every i < count, `at_once` of them in a row on a thread.
template <class Work>
void for_each_in_turn(std::int64_t count, std::int64_t at_once, std::size_t threads, const Work& work) {
  const auto tasks = static_cast<std::size_t>((count + at_once - 1) / at_once);
  detail::for_each_task(tasks, threads, [&](std::size_t, std::size_t task) {
    const std::int64_t begin = static_cast<std::int64_t>(task) * at_once;
    for (std::int64_t i = begin; i < std::min(count, begin + at_once); ++i) work(i);
  });
}

/// Items as they are multiplied, and what makes bounds of the products.
struct ItemBlock {
  at::Tensor rows;    ///< [T, D] float32, bfloat16 or, both of whole eights, int8
  at::Tensor scale;   ///< [T], of int8
  at::Tensor error;   ///< [T]
  at::Tensor offset;  ///< [T], of kL2

  /// The block of copy(tensor) of each.
  template <class Copy>
  ItemBlock copied(const Copy& copy) const {
    const auto there = [&](const at::Tensor& tensor) { return tensor.defined() ? copy(tensor) : tensor; };
    return {there(rows), there(scale), there(error), there(offset)};
  }
};

/// Queries as they are multiplied.
struct QueryCodes {
  at::Tensor codes;            ///< [Q, D] of the rows' type; of int8 high halves and, `low` rows below, low halves
  std::int64_t low = 0;        ///< at least Q, of int8
  at::Tensor inverse, factor;  ///< [Q]; factor: of int8
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

/// The same as whole numbers, times the scale among the terms.
detail::RowTerms code_item(const detail::IndexSettings& settings, const float* values, double norm,
                           std::int8_t* codes) {
  float largest = 0;
  for (std::size_t i = 0; i < settings.components(); ++i) largest = std::max(largest, std::abs(values[i]));
  const double scale = static_cast<double>(largest) / 127;
  double left_out = 0;
  for (std::size_t i = 0; i < settings.components(); ++i) {
    const auto value = static_cast<double>(values[i]);
    const double code = scale > 0 ? std::nearbyint(value / scale) : 0.0;
    codes[i] = static_cast<std::int8_t>(code);
    const double error = value - scale * code;
    left_out += error * error;
  }
  const double coding = std::sqrt(left_out) * (1 + 0x1p-20);
  const double of_query = kCoarserQuery * detail::query_slack(Storage::kInt8, settings.components()) * (norm + coding);
  return detail::row_terms(settings.metric, Storage::kInt8, settings.components(), norm, scale, coding + of_query);
}

/// Writes the halves of a query's codes, whose sums of products with a row's stay in int32; what makes their product
/// that of the query divided by `unit`.
float code_query(const float* values, std::size_t dimension, double unit, std::int8_t* high, std::int8_t* low) {
  float largest = 0;
  for (std::size_t i = 0; i < dimension; ++i) largest = std::max(largest, std::abs(values[i]));
  if (largest == 0) return 0;
  const double scale =
      std::min(kLargestHalvedCode / static_cast<double>(largest), detail::query_norm_limit(dimension) / unit);
  for (std::size_t i = 0; i < dimension; ++i) {
    const auto code = static_cast<int>(std::nearbyint(static_cast<double>(values[i]) * scale));
    const int upper = (code + 128) >> 8;  // rounds down
    high[i] = static_cast<std::int8_t>(upper);
    low[i] = static_cast<std::int8_t>(code - 256 * upper);
  }
  return static_cast<float>(1 / (scale * unit));
}

/// queries rows^T [Q, T] in float32.
at::Tensor scores_of(const at::Tensor& queries, const at::Tensor& rows) {
  const at::NoTF32Guard products_of_float32;
  if (rows.scalar_type() == at::kFloat) return at::mm(queries, rows.t());
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 8)
  if (rows.is_cuda()) return at::mm(queries, rows.t(), at::kFloat);  // LibTorch has it nowhere else
#endif
  return at::mm(queries.to(at::kFloat), rows.to(at::kFloat).t());
}

/// The same of int8 in int32. On the CPU, where tests alone come, by way of float64, which is as exact.
at::Tensor sums_of(const at::Tensor& queries, const at::Tensor& rows) {
  if (rows.is_cuda()) return at::_int_mm(queries, rows.t());
  return at::mm(queries.to(at::kDouble), rows.to(at::kDouble).t()).to(at::kInt);
}

}  // namespace

void DeviceSearchOptions::validate() const {
  constexpr const char* kName = "DeviceSearchOptions";
  const bool known = storage == Storage::kFloat32 || storage == Storage::kBFloat16 || storage == Storage::kInt8;
  require(known, kName, "storage", "kFloat32, kBFloat16 or kInt8", storage_name(storage));
  require(memory_budget >= 1, kName, "memory_budget", "at least 1 byte", memory_budget);
}

class DeviceSearch::Items {
 public:
  Items(std::shared_ptr<const detail::Snapshot> snapshot, const c10::Device& device, const DeviceSearchOptions& options)
      : snapshot_(std::move(snapshot)), device_(device), options_(options) {
    const auto& parts = snapshot_->parts();
    places_.reserve(snapshot_->size());
    for (std::uint32_t part = 0; part < parts.size(); ++part)
      for (std::uint32_t row = 0; row < parts[part].chunk->rows(); ++row)
        if (parts[part].has(row)) places_.push_back({part, row});
    const std::int64_t row_bytes = width() * static_cast<std::int64_t>(at::elementSize(type())) + (whole() ? 12 : 8);
    const auto plan = [&](std::int64_t budget) { return kernels::cuda::search_blocks(size(), row_bytes, budget); };
    std::int64_t budget = options.memory_budget;
    blocks_plan_ = plan(budget);
    if (!lay_out()) {
      TORCH_WARN_ONCE(
          "daug: the items of a DeviceSearch did not fit into the memory of their device, which has less of "
          "it left than memory_budget. They stay in the CPU's, and every search sends them there.");
      while (blocks_plan_.resident) blocks_plan_ = plan(budget /= 2);
      (void)lay_out();
    }
    if (resident() && !blocks_.empty()) device_ = blocks_.front().rows.device();  // "cuda" is now a certain one
  }

  const detail::Snapshot& snapshot() const { return *snapshot_; }
  std::int64_t size() const { return static_cast<std::int64_t>(places_.size()); }
  bool resident() const { return blocks_plan_.resident; }

  /// Of some queries: the items that may be among the k nearest, the largest bound first, and that of all others.
  struct Candidates {
    std::vector<std::vector<detail::BoundedPlace>> items;
    std::vector<float> beyond;
  };

  /// `filters` holds one for all queries or one for each.
  Candidates candidates(const RowMatrixRef& queries, const std::vector<double>& norms, std::int64_t k,
                        const std::vector<Filter>& filters, const SearchOptions& options) const {
    const std::size_t threads = detail::thread_count(options.threads);
    std::vector<detail::SnapshotFilter> ready(filters.size());
    detail::for_each_task(filters.size(), threads, [&](std::size_t, std::size_t i) {
      for (const auto& part : snapshot_->parts()) ready[i].emplace_back(filters[i], *part.chunk);
    });
    const std::int64_t wanted = kernels::cuda::search_candidates(k, options_.storage != Storage::kFloat32);
    const bool fused = backend::use_fused(options_.execution, backend::BestRows::has_kernel(device_, wanted),
                                          kDeviceSearch, backend::ran_on_a_device("search_select"));
    Candidates all{std::vector<std::vector<detail::BoundedPlace>>(norms.size()), std::vector<float>(norms.size())};
    // Each half of a query counts. A search begins with all again: shortage passes, and few at a time take long.
    const backend::FittingRows at_once(kDeviceSearch, kLeastWork, kernels::cuda::kQueriesAtOnce / (whole() ? 2 : 1));
    List asked(norms.size());
    std::iota(asked.begin(), asked.end(), 0);
    const auto find = [&](const List& which, const Bits& bits) {
      if (which.empty()) return;
      at_once.each(static_cast<std::int64_t>(which.size()), [&](std::int64_t first, std::int64_t some) {
        const std::size_t* numbers = which.data() + first;
        const auto count = static_cast<std::size_t>(some);
        std::vector<double> some_norms(count);
        for (std::size_t i = 0; i < count; ++i) some_norms[i] = norms[numbers[i]];
        const backend::FoundRows found =
            scan(coded(rows_of(queries, numbers, count), some_norms, threads), wanted, bits(numbers, count), fused);
        take(found, wanted, numbers, count, all);
      });
    };
    if (filters.size() == 1) {
      const at::Tensor bits = ready[0][0].everything() ? at::Tensor() : on_device(bits_of({&ready[0]}, threads));
      find(asked, [&](const std::size_t*, std::size_t) { return bits; });
      return all;
    }
    // As the index does: of a filter that most items pass, what was found is asked about.
    const auto rare = std::stable_partition(asked.begin(), asked.end(), [&](std::size_t query) {
      return detail::sampled_share(*snapshot_, ready[query]) > detail::kCommonShare;
    });
    const List common(asked.begin(), rare), selective(rare, asked.end());
    find(common, [](const std::size_t*, std::size_t) { return at::Tensor(); });
    for (const std::size_t query : common)
      std::erase_if(all.items[query], [&](const detail::BoundedPlace& item) {
        return !ready[query][item.place.part].matches(item.place.row);
      });
    find(selective, [&](const std::size_t* numbers, std::size_t count) {
      std::vector<const detail::SnapshotFilter*> some;
      for (std::size_t i = 0; i < count; ++i) some.push_back(&ready[numbers[i]]);
      return bits_of(some, threads);
    });
    return all;
  }

 private:
  using List = std::vector<std::size_t>;
  /// What bits_of says of queries of these numbers, there or on the device; undefined for all items.
  using Bits = std::function<at::Tensor(const std::size_t* numbers, std::size_t count)>;

  bool whole() const { return options_.storage == Storage::kInt8; }
  at::ScalarType type() const {
    return whole() ? at::kChar : options_.storage == Storage::kBFloat16 ? at::kBFloat16 : at::kFloat;
  }
  /// Components as they are multiplied.
  std::int64_t width() const {
    const std::int64_t dimension = snapshot_->settings().dimension;
    return whole() ? rounded_up(dimension, kInt8Width) : dimension;
  }

  /// Codes all items and puts them where they are to lie; false, and nothing is laid out, where the device has no
  /// memory for those that are to stay there.
  bool lay_out() {
    try {
      for (std::int64_t first = 0; first < size(); first += blocks_plan_.rows) {
        const ItemBlock block = coded(first, std::min(blocks_plan_.rows, size() - first));
        // What stays on the device is there when this returns: searches may use other streams.
        const bool pinned = device_.is_cuda() && !resident();
        blocks_.push_back(block.copied([&](const at::Tensor& t) { return pinned ? t.pin_memory() : t.to(device_); }));
      }
      return true;
    } catch (const std::exception& error) {
      const char* text = backend::out_of_memory(error);
      if (!text) throw;
      if (!resident())
        fail(ErrorCode::kOutOfMemory, "DeviceSearch", "memory", "enough of the CPU's for the items", text);
    }
    blocks_.clear();
    return false;
  }

  /// Items from `first` on. Rows that fill up have a bound of nothing.
  ItemBlock coded(std::int64_t first, std::int64_t count) const {
    const detail::IndexSettings& settings = snapshot_->settings();
    const std::int64_t rows = whole() ? rounded_up(count, kInt8Width) : count, stride = width();
    ItemBlock block;
    block.rows = at::zeros({rows, stride}, type());
    block.error = at::full({rows}, kNothingBeyond, at::kFloat);
    if (whole()) block.scale = at::zeros({rows}, at::kFloat);
    if (settings.metric == Metric::kL2) block.offset = at::zeros({rows}, at::kFloat);
    float* error = block.error.mutable_data_ptr<float>();
    float* scale = block.scale.defined() ? block.scale.mutable_data_ptr<float>() : nullptr;
    float* offset = block.offset.defined() ? block.offset.mutable_data_ptr<float>() : nullptr;
    const auto code = [&](auto* codes) {
      constexpr std::int64_t kAtOnce = 1024;
      for_each_in_turn(count, kAtOnce, detail::thread_count(0), [&](std::int64_t i) {
        const detail::Place place = places_[static_cast<std::size_t>(first + i)];
        const detail::Chunk& chunk = *snapshot_->parts()[place.part].chunk;
        const float* values = chunk.values(place.row);
        const detail::RowTerms terms = code_item(settings, values, chunk.norms()[place.row], codes + i * stride);
        error[i] = terms.error;
        if (scale) scale[i] = terms.scale;
        if (offset) offset[i] = terms.offset;
      });
    };
    if (whole())
      code(block.rows.mutable_data_ptr<std::int8_t>());
    else if (type() == at::kBFloat16)
      code(block.rows.mutable_data_ptr<at::BFloat16>());
    else
      code(block.rows.mutable_data_ptr<float>());
    return block;
  }

  /// On the device. Queries that no bound is known of are zero.
  QueryCodes coded(const RowMatrix& queries, const std::vector<double>& norms, std::size_t threads) const {
    const detail::IndexSettings& settings = snapshot_->settings();
    const std::int64_t count = queries.rows(), stride = width();
    QueryCodes result;
    result.inverse = at::zeros({count}, at::kFloat);
    if (whole()) {
      result.low = rounded_up(count, kInt8Queries);
      result.codes = at::zeros({2 * result.low, stride}, at::kChar);
      result.factor = at::zeros({count}, at::kFloat);
    } else {
      result.codes = at::zeros({count, stride}, at::kFloat);
    }
    float* inverse = result.inverse.mutable_data_ptr<float>();
    float* factor = whole() ? result.factor.mutable_data_ptr<float>() : nullptr;
    std::int8_t* halves = whole() ? result.codes.mutable_data_ptr<std::int8_t>() : nullptr;
    float* codes = whole() ? nullptr : result.codes.mutable_data_ptr<float>();
    for_each_in_turn(count, std::max<std::int64_t>(kWorthAThread / stride, 1), threads, [&](std::int64_t query) {
      const detail::QueryRank rank(settings.metric, settings.components(), norms[static_cast<std::size_t>(query)]);
      if (!rank.bounded()) return;
      const float* values = queries.data() + query * queries.cols();
      inverse[query] = rank.inverse();
      if (halves) {
        std::int8_t* high = halves + query * stride;
        factor[query] = code_query(values, settings.components(), rank.unit(), high, high + result.low * stride);
        return;
      }
      float* code = codes + query * stride;
      for (std::int64_t i = 0; i < stride; ++i)
        code[i] = static_cast<float>(static_cast<double>(values[i]) / rank.unit());
    });
    result.codes = backend::upload(result.codes, device_).to(type());
    result.inverse = backend::upload(result.inverse, device_);
    if (whole()) result.factor = backend::upload(result.factor, device_);
    return result;
  }

  /// A bit an item, [filters, words] on the CPU: whether each filter lets it through.
  at::Tensor bits_of(const std::vector<const detail::SnapshotFilter*>& filters, std::size_t threads) const {
    const std::int64_t words = (size() + 31) / 32;
    const at::Tensor bits = at::zeros({static_cast<std::int64_t>(filters.size()), words}, at::kInt);
    std::int32_t* all = bits.mutable_data_ptr<std::int32_t>();
    detail::for_each_task(filters.size(), threads, [&](std::size_t, std::size_t filter) {
      const detail::RowSet rows(*snapshot_, *filters[filter]);
      std::vector<std::uint32_t> of_filter(static_cast<std::size_t>(words));
      for (std::size_t i = 0; i < places_.size(); ++i)
        if (rows.has(places_[i])) of_filter[i / 32] |= std::uint32_t{1} << (i % 32);
      std::copy(of_filter.begin(), of_filter.end(), all + static_cast<std::int64_t>(filter) * words);
    });
    return bits;
  }

  /// The bits of a filter for all queries where the device has room for them, so that they go there once; else they
  /// stay, and go tile by tile.
  at::Tensor on_device(const at::Tensor& bits) const {
    try {
      return backend::upload(bits, device_);
    } catch (const std::exception& error) {
      if (!backend::out_of_memory(error)) throw;
      return bits;
    }
  }

  backend::FoundRows scan(const QueryCodes& queries, std::int64_t wanted, const at::Tensor& bits, bool fused) const {
    const std::int64_t count = queries.inverse.size(0);
    backend::BestRows best(queries.inverse, queries.factor, wanted, fused);
    // Short tiles are slow: they are the last resort, for one query, and the next search does not begin with them.
    const backend::FittingRows fewest(kDeviceSearch, kLeastWork, kLeastRows, kRowsOfWord);
    std::int64_t before = 0;
    for (const ItemBlock& kept : blocks_) {
      const auto add = [&](std::int64_t begin, std::int64_t rows) {
        const ItemBlock block =
            kept.copied([&](const at::Tensor& t) { return backend::upload(t.narrow(0, begin, rows), device_); });
        const std::int64_t first = before + begin;
        backend::ScoredRows tile;
        if (whole()) {
          const at::Tensor sums = sums_of(queries.codes, block.rows);
          tile.high = sums.narrow(0, 0, count);
          tile.low = sums.narrow(0, queries.low, count);
          tile.scale = block.scale;
        } else {
          tile.scores = scores_of(queries.codes, block.rows);
        }
        tile.error = block.error;
        tile.offset = block.offset;
        if (bits.defined()) {
          const std::int64_t words = (rows + kRowsOfWord - 1) / kRowsOfWord;
          tile.allowed = backend::upload(bits.narrow(1, first / kRowsOfWord, words).contiguous(), device_);
        }
        tile.first_row = first;
        best.add(tile);
      };
      const std::int64_t all = kept.rows.size(0);
      rows_.each(all, [&](std::int64_t begin, std::int64_t rows) {
        if (count > 1 || rows > kLeastRows) return add(begin, rows);
        fewest.each(rows, [&](std::int64_t first, std::int64_t some) { add(begin + first, some); });
      });
      before += all;
    }
    return best.found();
  }

  /// Takes what was found for the queries of these numbers.
  void take(const backend::FoundRows& found, std::int64_t wanted, const std::size_t* numbers, std::size_t count,
            Candidates& all) const {
    const std::int64_t most = found.rows.size(1);
    for (std::size_t query = 0; query < count; ++query) {
      const float* bounds = found.bounds.const_data_ptr<float>() + static_cast<std::int64_t>(query) * most;
      const std::int64_t* rows = found.rows.const_data_ptr<std::int64_t>() + static_cast<std::int64_t>(query) * most;
      auto& items = all.items[numbers[query]];
      items.reserve(static_cast<std::size_t>(most));
      for (std::int64_t i = 0; i < most && bounds[i] != kNothingBeyond; ++i)  // a NaN is scored, and refused
        items.push_back({places_[static_cast<std::size_t>(rows[i])], bounds[i]});
      const bool more = static_cast<std::int64_t>(items.size()) == wanted && wanted < size();
      all.beyond[numbers[query]] = more ? bounds[most - 1] : kNothingBeyond;
    }
  }

  std::shared_ptr<const detail::Snapshot> snapshot_;
  c10::Device device_;
  DeviceSearchOptions options_;
  /// Of a block at a time.
  backend::FittingRows rows_{kDeviceSearch, kLeastWork, kernels::cuda::kMostBlockRows, kLeastRows};
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
  if (options.storage == Storage::kInt8 && index.dimension() > DeviceSearchOptions::kMostInt8Components)
    fail(ErrorCode::kUnsupported, "DeviceSearch", "options.storage",
         detail::concat("another one than kInt8 for more than ", DeviceSearchOptions::kMostInt8Components,
                        " components"),
         index.dimension());
  items_ = std::make_shared<const Items>(std::move(snapshot), device, options);
}

bool DeviceSearch::resident() const { return items_->resident(); }

std::vector<Hits> DeviceSearch::search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter,
                                       const SearchOptions& options) const {
  return nearest(queries, k, {filter}, options);
}

std::vector<Hits> DeviceSearch::search(const RowMatrixRef& queries, std::int64_t k, const std::vector<Filter>& filters,
                                       const SearchOptions& options) const {
  if (filters.size() != static_cast<std::size_t>(queries.rows()))
    fail(ErrorCode::kMismatch, kDeviceSearch, "filters", detail::concat(queries.rows(), ", one a query"),
         filters.size());
  return nearest(queries, k, filters, options);
}

std::vector<Hits> DeviceSearch::nearest(const RowMatrixRef& queries, std::int64_t k, const std::vector<Filter>& filters,
                                        const SearchOptions& options) const {
  const detail::Snapshot& snapshot = items_->snapshot();
  const detail::IndexSettings& settings = snapshot.settings();
  options.validate();
  require(k >= 1 && k <= items_->size(), kDeviceSearch, "k",
          detail::concat("a value in [1, ", items_->size(), "], the size of the index"), k);
  require(options.breadth == 0, kDeviceSearch, "options.breadth", "0, an exact search", options.breadth);
  if (!options.fingerprint.empty()) snapshot.require_encoder(options.fingerprint, kDeviceSearch);
  const std::vector<double> norms = snapshot.checked_norms(queries, kDeviceSearch, "queries");
  for (const Filter& filter : filters) snapshot.require_fields(filter, kDeviceSearch);
  if (queries.rows() == 0) return {};
  const auto count = static_cast<std::size_t>(k);
  const auto [candidates, beyond] = items_->candidates(queries, norms, k, filters, options);
  auto hits = detail::nearest_of(snapshot, queries, norms, candidates, count, options, kDeviceSearch);

  std::vector<std::size_t> open;
  for (std::size_t query = 0; query < hits.size(); ++query) {
    const detail::QueryRank rank(settings.metric, settings.components(), norms[query]);
    const bool certified =
        rank.bounded() && (beyond[query] == kNothingBeyond ||
                           (hits[query].size() == count && rank.rules_out(beyond[query], hits[query].back().score)));
    if (!certified) open.push_back(query);
  }
  SearchStats on_cpu;
  if (!open.empty()) {
    std::vector<Filter> of_open = filters;
    if (filters.size() > 1) {
      of_open.clear();
      for (const std::size_t query : open) of_open.push_back(filters[query]);
    }
    SearchOptions exact = options;
    exact.stats = &on_cpu;
    auto found = detail::exact_search(snapshot, rows_of(queries, open.data(), open.size()), {.count = count}, of_open,
                                      exact, kDeviceSearch);
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
