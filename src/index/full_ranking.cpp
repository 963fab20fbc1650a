#include "daug/index/full_ranking.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <tuple>
#include <vector>

#include "backend/fitting_rows.h"
#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "exact_order.h"

namespace daug {
namespace {

constexpr const char* kFullAverage = "full_average_precision";
constexpr double kNotRanked = std::numeric_limits<double>::infinity();
constexpr std::int64_t kPairBytes = 64;           ///< of a query at a time and an item, when they are sorted
constexpr std::int64_t kMostRankedAtOnce = 4096;  ///< queries
constexpr std::int64_t kRowsWidenedAtOnce = 1024;

/// Throws kMismatch for another number of values, kInvalidArgument for one that is neither 0 nor 1.
void require_marks(const std::vector<std::uint8_t>& marks, std::int64_t rows, std::int64_t columns,
                   const char* argument) {
  const auto size = static_cast<std::int64_t>(marks.size());
  if (size % columns != 0 || size / columns != rows)  // a product might overflow
    fail(ErrorCode::kMismatch, kFullAverage, argument, detail::concat(rows, " x ", columns, " values"), marks.size());
  for (const std::uint8_t mark : marks) require(mark <= 1, kFullAverage, argument, "0 or 1", static_cast<int>(mark));
}

void require_groups(const std::vector<std::int64_t>& groups, std::int64_t rows, const char* argument) {
  if (static_cast<std::int64_t>(groups.size()) != rows)
    fail(ErrorCode::kMismatch, kFullAverage, argument, rows, groups.size());
}

/// A gallery on a device, and the rankings of it.
///
/// A ranking is by estimates, smaller is nearer: -q.x of unit vectors under cosine, -q.x, or |x|^2 - 2 q.x for L2.
/// Twice their error is their reach: estimates further apart are in the order of the scores that decide. With u = 2^-53
/// a sum of D products in any order, and that of the deciding score, are within D u |q| |x| of exact (Higham,
/// Accuracy and Stability of Numerical Algorithms, section 3.1), norms within D u / 2 of themselves, of which cosines
/// have two on either side; so is all of L2, relative to (|q| + |x|)^2. The bound taken, (D + 16) 2^-50, is twice the
/// largest sum of these. Products of floats neither over- nor underflow in float64.
class FullRanking {
 public:
  FullRanking(const RowMatrixRef& queries, const RowMatrixRef& gallery, Metric metric, const RankingMarks& marks,
              const c10::Device& device)
      : queries_{queries, detail::norms_of_rows(metric, queries, kFullAverage, "queries")},
        gallery_{gallery, detail::norms_of_rows(metric, gallery, kFullAverage, "gallery")},
        metric_(metric),
        marks_(marks),
        device_(device),
        items_(gallery.rows()) {
    if (!gallery_.norms.empty()) longest_ = *std::max_element(gallery_.norms.begin(), gallery_.norms.end());
    rows_ = on_device(gallery_, 0, items_);
    if (metric == Metric::kL2) squares_ = at::tensor(gallery_.norms, at::kDouble).to(device_).square();
    relevant_ = at::from_blob(const_cast<std::uint8_t*>(marks.gallery.data()), {items_, marks.columns}, at::kByte)
                    .to(device_)
                    .to(at::kBool)
                    .t()
                    .contiguous();
    if (grouped()) groups_ = at::tensor(marks.gallery_groups, at::kLong).to(device_);
    ranks_ = at::arange(1, items_ + 1, at::TensorOptions(device_).dtype(at::kDouble));
  }

  /// Writes the average precisions of queries [count, C].
  void measure(std::int64_t first, std::int64_t count, double* table) const {
    at::Tensor estimates = at::mm(on_device(queries_, first, count), rows_.t());
    if (metric_ == Metric::kL2)
      estimates.mul_(-2).add_(squares_);
    else
      estimates.neg_();
    if (grouped()) {
      const auto begin = marks_.query_groups.begin() + first;
      const at::Tensor own = at::tensor(std::vector<std::int64_t>(begin, begin + count), at::kLong).to(device_);
      estimates.masked_fill_(groups_.unsqueeze(0).eq(own.unsqueeze(1)), kNotRanked);
    }
    Sorted all;
    std::tie(all.estimates, all.order) = estimates.sort(1);
    estimates.reset();
    all.ranked = all.estimates.ne(kNotRanked);
    std::vector<double> reach;
    for (std::int64_t query = first; query < first + count; ++query) reach.push_back(reach_of(query));
    all.close =
        later(all.estimates).sub(earlier(all.estimates)).le(at::tensor(reach, at::kDouble).to(device_).unsqueeze(1));

    const at::Tensor values =
        at::full({count, marks_.columns}, std::numeric_limits<double>::quiet_NaN(), ranks_.options());
    const at::Tensor open = at::zeros({count, marks_.columns}, ranks_.options().dtype(at::kBool));
    for (std::int64_t column = 0; column < marks_.columns; ++column) measure_column(first, column, all, values, open);
    const at::Tensor known = values.cpu(), unknown = open.cpu();
    std::copy_n(known.const_data_ptr<double>(), known.numel(), table);
    settle(first, all, reach, unknown, table);
  }

 private:
  /// Rankings of some queries.
  struct Sorted {
    at::Tensor estimates;  ///< [Q, G] rising
    at::Tensor order;      ///< [Q, G] their items
    at::Tensor ranked;     ///< [Q, G] bool: not of the query's own group, which is behind all others
    at::Tensor close;      ///< [Q, G - 1] bool: a place and the next may be the other way round
  };

  bool grouped() const { return !marks_.gallery_groups.empty(); }

  /// [Q, G - 1] of [Q, G].
  at::Tensor earlier(const at::Tensor& places) const { return places.narrow(1, 0, items_ - 1); }
  at::Tensor later(const at::Tensor& places) const { return places.narrow(1, 1, items_ - 1); }

  /// Rows in float64, of length 1 under cosine. Their floats go to a device a few at a time: all of them beside the
  /// result would take half as much again.
  at::Tensor on_device(const detail::NormedRows& vectors, std::int64_t first, std::int64_t count) const {
    const at::Tensor floats = at::from_blob(const_cast<float*>(vectors.values(first)), {count, vectors.rows.cols()},
                                            {vectors.rows.outerStride(), 1}, at::kFloat);
    const at::Tensor values = at::empty(floats.sizes(), at::TensorOptions(device_).dtype(at::kDouble));
    for (std::int64_t row = 0; row < count; row += kRowsWidenedAtOnce) {
      const std::int64_t rows = std::min(kRowsWidenedAtOnce, count - row);
      values.narrow(0, row, rows).copy_(floats.narrow(0, row, rows).to(device_));
    }
    if (metric_ != Metric::kCosine) return values;
    const auto begin = vectors.norms.begin() + first;
    return values.div_(at::tensor(std::vector<double>(begin, begin + count), at::kDouble).to(device_).unsqueeze(1));
  }

  double reach_of(std::int64_t query) const {
    const double norm = queries_.norm(query);
    const double scale = metric_ == Metric::kCosine         ? 1
                         : metric_ == Metric::kInnerProduct ? norm * longest_
                                                            : (norm + longest_) * (norm + longest_);
    return 2 * (static_cast<double>(gallery_.rows.cols()) + 16) * 0x1p-50 * scale;
  }

  /// Writes a column of `values`, and of `open` whether close neighbours leave it so.
  void measure_column(std::int64_t first, std::int64_t column, const Sorted& all, const at::Tensor& values,
                      const at::Tensor& open) const {
    std::vector<std::int64_t> asking;
    for (std::int64_t query = 0; query < values.size(0); ++query)
      if (mark(marks_.queries, first + query, column)) asking.push_back(query);
    if (asking.empty()) return;
    const at::Tensor which = at::tensor(asking, at::kLong).to(device_);
    const at::Tensor hits = at::take(relevant_.select(0, column), all.order.index_select(0, which))
                                .logical_and(all.ranked.index_select(0, which));
    const at::Tensor found = hits.cumsum(1, at::kLong);
    const at::Tensor sums = (found / ranks_).masked_fill(hits.logical_not(), 0).sum(1);
    values.select(1, column).index_copy_(0, which, sums / found.select(1, items_ - 1));  // 0 / 0: NaN
    const at::Tensor undecided = later(hits).ne(earlier(hits)).logical_and(all.close.index_select(0, which));
    open.select(1, column).index_copy_(0, which, undecided.any(1));
  }

  /// Writes what was left open once more, from the scores that decide.
  void settle(std::int64_t first, const Sorted& all, const std::vector<double>& reach, const at::Tensor& open,
              double* table) const {
    const bool* is_open = open.const_data_ptr<bool>();
    std::vector<std::int64_t> queries;
    for (std::int64_t query = 0; query < open.size(0); ++query) {
      const bool* columns = is_open + query * marks_.columns;
      if (std::find(columns, columns + marks_.columns, true) != columns + marks_.columns) queries.push_back(query);
    }
    if (queries.empty()) return;
    const at::Tensor which = at::tensor(queries, at::kLong).to(device_);
    const at::Tensor estimates = all.estimates.index_select(0, which).cpu();
    const at::Tensor orders = all.order.index_select(0, which).cpu();
    const double* estimates_begin = estimates.const_data_ptr<double>();
    std::int64_t* orders_begin = orders.mutable_data_ptr<std::int64_t>();
    detail::for_each_task(queries.size(), detail::thread_count(0), [&](std::size_t, std::size_t i) {
      const std::int64_t query = queries[i], place = static_cast<std::int64_t>(i) * items_;
      const double* sorted = estimates_begin + place;
      std::int64_t* order = orders_begin + place;
      const auto ranked = static_cast<std::size_t>(std::lower_bound(sorted, sorted + items_, kNotRanked) - sorted);
      detail::settle_order(metric_, queries_, first + query, gallery_, sorted, reach[static_cast<std::size_t>(query)],
                           order, ranked);
      for (std::int64_t column = 0; column < marks_.columns; ++column)
        if (is_open[query * marks_.columns + column])
          table[query * marks_.columns + column] = average_precision(order, ranked, column);
    });
  }

  double average_precision(const std::int64_t* order, std::size_t ranked, std::int64_t column) const {
    double sum = 0, found = 0;
    for (std::size_t place = 0; place < ranked; ++place)
      if (mark(marks_.gallery, order[place], column)) sum += ++found / static_cast<double>(place + 1);
    return sum / found;
  }

  bool mark(const std::vector<std::uint8_t>& marks, std::int64_t row, std::int64_t column) const {
    return marks[static_cast<std::size_t>(row * marks_.columns + column)] != 0;
  }

  detail::NormedRows queries_, gallery_;
  Metric metric_;
  const RankingMarks& marks_;
  c10::Device device_;
  std::int64_t items_;
  double longest_ = 0;   ///< norm of the gallery
  at::Tensor rows_;      ///< [G, D] float64
  at::Tensor squares_;   ///< [G], of L2
  at::Tensor relevant_;  ///< [C, G] bool
  at::Tensor groups_;    ///< [G], where there are any
  at::Tensor ranks_;     ///< [G] from 1, float64
};

}  // namespace

void FullRankingOptions::validate() const {
  require(memory_budget >= 1, "FullRankingOptions", "memory_budget", "at least 1 byte", memory_budget);
}

std::vector<double> full_average_precision(const RowMatrixRef& queries, const RowMatrixRef& gallery, Metric metric,
                                           const RankingMarks& marks, const c10::Device& device,
                                           const FullRankingOptions& options, const RunControl& control) {
  options.validate();
  if (!device.is_cpu() && !device.is_cuda())
    fail(ErrorCode::kUnsupported, kFullAverage, "device", "the CPU or a CUDA device", device);
  if (queries.cols() != gallery.cols())
    fail(ErrorCode::kMismatch, kFullAverage, "queries", detail::concat(gallery.cols(), " columns"), queries.cols());
  require(marks.columns >= 1, kFullAverage, "marks.columns", "at least 1", marks.columns);
  require_marks(marks.queries, queries.rows(), marks.columns, "marks.queries");
  require_marks(marks.gallery, gallery.rows(), marks.columns, "marks.gallery");
  if (!marks.query_groups.empty() || !marks.gallery_groups.empty()) {
    require_groups(marks.query_groups, queries.rows(), "marks.query_groups");
    require_groups(marks.gallery_groups, gallery.rows(), "marks.gallery_groups");
  }
  std::vector<double> table(marks.queries.size(), std::numeric_limits<double>::quiet_NaN());
  if (queries.rows() == 0 || gallery.rows() == 0) return table;
  const FullRanking ranking = [&] {
    try {
      return FullRanking(queries, gallery, metric, marks, device);
    } catch (const std::exception& error) {
      const char* text = backend::out_of_memory(error);
      if (!text) throw;
      fail(ErrorCode::kOutOfMemory, kFullAverage, "memory", "enough for the gallery in float64", text);
    }
  }();
  const std::int64_t at_once = options.memory_budget / kPairBytes / gallery.rows();
  const backend::FittingRows fitting(kFullAverage, "one query",
                                     std::clamp<std::int64_t>(at_once, 1, kMostRankedAtOnce));
  fitting.each(queries.rows(), [&](std::int64_t first, std::int64_t count) {
    control.stop.throw_if_stopped(kFullAverage);
    ranking.measure(first, count, table.data() + first * marks.columns);
    control.report({"rank the gallery", first + count, queries.rows(), "queries", {}});
  });
  return table;
}

}  // namespace daug
