#include "kernels/contrastive_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/contrastive_tile.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef DAUG_KERNELS_CONTRASTIVE_ONCE
#define DAUG_KERNELS_CONTRASTIVE_ONCE
namespace daug::kernels {

/// A block of scores stays in the second-level cache between the search for its largest and the exponentials.
constexpr std::int64_t kBlockRows = 64, kBlockColumns = 256;
/// Score of a pair that is left out: its exponential is nothing beside any other's.
constexpr float kLeftOut = -1e38F;
/// Exponents that differ by no more than this share one exponential: what is lost is below e^-27 of what is kept.
constexpr float kSpread = 60;

/// Which pairs attract: a row's own one, those of its group, or every one by a number of its own.
enum class Attracting { kOwn, kGroup, kSoft };

/// The running sums of the columns after each block of rows, [blocks, columns].
struct ColumnParts {
  float* max;
  float* sum;
};

/// How one exponential serves row and column: column softmax = row softmax * row_ratio * column_ratio. Null: it cannot.
struct Ratios {
  const float* row = nullptr;
  const float* column = nullptr;
};

}  // namespace daug::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {

/// Lanes that are added up or compared at the end; whole vectors apart from what is done one by one.
struct LaneSum {
  hn::Vec<FullTag> full;
  float rest;

  HWY_INLINE LaneSum() : full(hn::Zero(FullTag())), rest(0) {}

  template <class Tag, class V>
  HWY_INLINE void add(Tag tag, V v) {
    if constexpr (std::is_same_v<Tag, FullTag>)
      full = hn::Add(full, v);
    else
      rest += hn::GetLane(v);
    (void)tag;
  }
  HWY_INLINE float total() const { return hn::GetLane(hn::SumOfLanes(FullTag(), full)) + rest; }
};

struct LaneMax {
  hn::Vec<FullTag> full;
  float rest;

  HWY_INLINE LaneMax()
      : full(hn::Set(FullTag(), std::numeric_limits<float>::lowest())), rest(std::numeric_limits<float>::lowest()) {}

  template <class Tag, class V>
  HWY_INLINE void add(Tag tag, V v) {
    if constexpr (std::is_same_v<Tag, FullTag>)
      full = hn::Max(full, v);
    else
      rest = std::max(rest, hn::GetLane(v));
    (void)tag;
  }
  HWY_INLINE float largest() const { return std::max(hn::GetLane(hn::MaxOfLanes(FullTag(), full)), rest); }
};

/// e^-y of y >= 0 (or just below): held at e^-87, which is nothing beside 1.
template <class Tag, class V>
HWY_INLINE V fading(Tag tag, V y) {
  return exp_of_minus(tag, hn::Min(y, hn::Set(tag, 87.0F)));
}

/// log(1 + e^x).
template <class Tag, class V>
HWY_INLINE V softplus(Tag tag, V x) {
  return hn::Add(hn::Max(x, hn::Zero(tag)), hn::Log1p(tag, fading(tag, hn::Abs(x))));
}

template <class Tag, class V>
HWY_INLINE V sigmoid(Tag tag, V x) {
  const V e = fading(tag, hn::Abs(x)), one = hn::Set(tag, 1.0F);
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(tag)), e, one), hn::Add(one, e));
}

/// One row of a tile: its scores, and which of them attract or are left out.
template <Attracting kAttracting, bool kIgnored, bool kScaled>
class Row {
  static constexpr bool kGroup = kAttracting == Attracting::kGroup, kSoft = kAttracting == Attracting::kSoft;

 public:
  Row(const ScoreTile& tile, std::int64_t row)
      : products_(tile.products + row * tile.columns),
        column_factor_(tile.column_factor),
        column_positive_(tile.column_positive),
        column_ignored_(tile.column_ignored),
        column_weight_(tile.column_weight),
        soft_(kSoft ? tile.soft + row * tile.columns : nullptr),
        factor(tile.row_factor[row]),
        weight_(tile.row_weight ? tile.row_weight[row] : 1.0F),
        positive_(kGroup ? tile.row_positive[row] : 0.0F),
        ignored_(kIgnored ? tile.row_ignored[row] : 0.0F),
        own_(kSoft ? -1 : row + tile.own) {}

  /// body(tag, column, score, attracts, left_out) for the columns [begin, end), the item's own pair by itself. What
  /// attracts is for the functions below, as soft pairs have numbers instead.
  template <class Body>
  HWY_INLINE void for_pairs(std::int64_t begin, std::int64_t end, const Body& body) const {
    const bool own = own_ >= begin && own_ < end;
    const std::int64_t stop = own ? own_ : end;
    for_lanes(stop - begin, [&](auto tag, std::int64_t i) HWY_ATTR { pair(tag, begin + i, body); });
    if (!own) return;
    const OneTag one;
    const auto yes = hn::Eq(hn::Zero(one), hn::Zero(one)), no = hn::Ne(hn::Zero(one), hn::Zero(one));
    body(one, own_, score(one, own_), yes, no);
    for_lanes(end - own_ - 1, [&](auto tag, std::int64_t i) HWY_ATTR { pair(tag, own_ + 1 + i, body); });
  }

  /// By how much a pair attracts.
  template <class Tag, class Mask>
  HWY_INLINE hn::Vec<Tag> attraction(Tag tag, std::int64_t column, Mask attracts) const {
    const auto weight = hn::Set(tag, weight_);
    if constexpr (kSoft) {
      const auto twice = hn::Add(weight, hn::LoadU(tag, column_weight_ + column));
      return hn::Mul(hn::LoadU(tag, soft_ + column), hn::Mul(twice, hn::Set(tag, 0.5F)));
    } else {
      return hn::IfThenElseZero(attracts, weight);
    }
  }

  /// What of a score counts for the row's attraction, but for whole_attraction.
  template <class Tag, class Mask, class V>
  HWY_INLINE V attracted(Tag tag, std::int64_t column, Mask attracts, V s) const {
    if constexpr (kSoft)
      return hn::Mul(attraction(tag, column, attracts), s);
    else
      return hn::IfThenElseZero(attracts, s);
  }
  float whole_attraction(float sum) const { return kSoft ? sum : weight_ * sum; }

  /// Sigmoid loss of a pair, x being its score and the bias.
  template <class Tag, class Mask, class V>
  HWY_INLINE V loss(Tag tag, std::int64_t column, Mask attracts, V x) const {
    if constexpr (kSoft) {
      // a softplus(-x) + (1 - a) softplus(x), which have their logarithm in common.
      const V a = hn::LoadU(tag, soft_ + column), zero = hn::Zero(tag), one = hn::Set(tag, 1.0F);
      const V linear = hn::MulAdd(a, hn::Max(hn::Neg(x), zero), hn::Mul(hn::Sub(one, a), hn::Max(x, zero)));
      return hn::Add(linear, softplus(tag, hn::Neg(hn::Abs(x))));
    } else {
      return softplus(tag, hn::IfThenElse(attracts, hn::Neg(x), x));
    }
  }

  /// Its derivative by x: sigmoid(x) - a, as (1 - a) sigmoid(x) - a sigmoid(-x), which keeps its digits.
  template <class Tag, class Mask, class V>
  HWY_INLINE V slope(Tag tag, std::int64_t column, Mask attracts, V x) const {
    if constexpr (kSoft) {
      const V a = hn::LoadU(tag, soft_ + column), one = hn::Set(tag, 1.0F);
      return hn::NegMulAdd(a, sigmoid(tag, hn::Neg(x)), hn::Mul(hn::Sub(one, a), sigmoid(tag, x)));
    } else {
      const V p = sigmoid(tag, hn::IfThenElse(attracts, hn::Neg(x), x));
      return hn::IfThenElse(attracts, hn::Neg(p), p);
    }
  }

 private:
  template <class Tag>
  HWY_INLINE hn::Vec<Tag> score(Tag tag, std::int64_t column) const {
    const auto product = hn::LoadU(tag, products_ + column);
    if constexpr (kScaled) return product;
    return hn::Mul(product, hn::Mul(hn::Set(tag, factor), hn::LoadU(tag, column_factor_ + column)));
  }

  template <class Tag, class Body>
  HWY_INLINE void pair(Tag tag, std::int64_t column, const Body& body) const {
    const auto zero = hn::Zero(tag);
    auto attracts = hn::Ne(zero, zero), left_out = attracts;
    if constexpr (kGroup) attracts = hn::Eq(hn::LoadU(tag, column_positive_ + column), hn::Set(tag, positive_));
    auto s = score(tag, column);
    if constexpr (kIgnored) {
      left_out = hn::Eq(hn::LoadU(tag, column_ignored_ + column), hn::Set(tag, ignored_));
      if constexpr (kGroup) left_out = hn::AndNot(attracts, left_out);
      s = hn::IfThenElse(left_out, hn::Set(tag, kLeftOut), s);
    }
    body(tag, column, s, attracts, left_out);
  }

  const float *products_, *column_factor_, *column_positive_, *column_ignored_, *column_weight_, *soft_;

 public:
  const float factor;  ///< row_factor of this row

 private:
  float weight_, positive_, ignored_;
  std::int64_t own_;
};

/// The softmax sums of rows [first, last) of a tile; the columns' go to a part of their own.
template <class RowType>
void sums_of_rows(const ScoreTile& t, float* scores, const SoftmaxSums& sums, std::int64_t first, std::int64_t last,
                  const ColumnParts& parts) {
  float row_max[kBlockRows], row_sum[kBlockRows];
  std::fill_n(parts.max, t.columns, std::numeric_limits<float>::lowest());
  std::fill_n(parts.sum, t.columns, 0.0F);
  for (std::int64_t begin = 0; begin < t.columns; begin += kBlockColumns) {
    const std::int64_t end = std::min(t.columns, begin + kBlockColumns);
    float highest = std::numeric_limits<float>::lowest(), lowest = std::numeric_limits<float>::max();
    for (std::int64_t i = first; i < last; ++i) {
      const RowType row(t, i);
      float* out = scores + i * t.columns;
      LaneMax largest;
      LaneSum attraction;
      row.for_pairs(begin, end, [&](auto tag, std::int64_t j, auto s, auto attracts, auto) HWY_ATTR {
        hn::StoreU(s, tag, out + j);
        largest.add(tag, s);
        hn::StoreU(hn::Max(hn::LoadU(tag, parts.max + j), s), tag, parts.max + j);
        attraction.add(tag, row.attracted(tag, j, attracts, s));
      });
      row_max[i - first] = largest.largest();
      sums.row_attraction[i] += row.whole_attraction(attraction.total());
      highest = std::max(highest, row_max[i - first]);
      lowest = std::min(lowest, row_max[i - first]);
    }
    for (std::int64_t j = begin; j < end; ++j) lowest = std::min(lowest, parts.max[j]);

    const bool shared = highest - lowest <= kSpread;
    for (std::int64_t i = first; i < last; ++i) {
      const float* in = scores + i * t.columns + begin;
      float *column_max = parts.max + begin, *column_sum = parts.sum + begin;
      LaneSum sum;
      const float top = shared ? highest : row_max[i - first];
      for_lanes(end - begin, [&](auto tag, std::int64_t j) HWY_ATTR {
        const auto s = hn::LoadU(tag, in + j);
        const auto e = fading(tag, hn::Sub(hn::Set(tag, top), s));
        sum.add(tag, e);
        const auto down = shared ? e : fading(tag, hn::Sub(hn::LoadU(tag, column_max + j), s));
        hn::StoreU(hn::Add(hn::LoadU(tag, column_sum + j), down), tag, column_sum + j);
      });
      row_max[i - first] = top;
      row_sum[i - first] = sum.total();
    }
    if (shared) std::fill(parts.max + begin, parts.max + end, highest);
    for (std::int64_t i = first; i < last; ++i) {
      const float before = sums.row_max[i], here = row_max[i - first], top = std::max(before, here);
      sums.row_sum[i] = sums.row_sum[i] * std::exp(before - top) + row_sum[i - first] * std::exp(here - top);
      sums.row_max[i] = top;
    }
  }
}

/// Joins the parts of the columns [begin, end) with what they were before.
void join_columns(const SoftmaxSums& sums, const ColumnParts& parts, std::int64_t blocks, std::int64_t columns,
                  std::int64_t begin, std::int64_t end) {
  for_lanes(end - begin, [&](auto tag, std::int64_t i) HWY_ATTR {
    const std::int64_t j = begin + i;
    const auto before = hn::LoadU(tag, sums.column_max + j);
    auto top = before;
    for (std::int64_t b = 0; b < blocks; ++b) top = hn::Max(top, hn::LoadU(tag, parts.max + b * columns + j));
    auto sum = hn::Mul(hn::LoadU(tag, sums.column_sum + j), fading(tag, hn::Sub(top, before)));
    for (std::int64_t b = 0; b < blocks; ++b) {
      const auto part = hn::LoadU(tag, parts.sum + b * columns + j);
      sum = hn::MulAdd(part, fading(tag, hn::Sub(top, hn::LoadU(tag, parts.max + b * columns + j))), sum);
    }
    hn::StoreU(top, tag, sums.column_max + j);
    hn::StoreU(sum, tag, sums.column_sum + j);
  });
}

/// Calls body(the Row type for this tile).
template <class Body>
HWY_INLINE void with_row_type(const ScoreTile& t, const Body& body) {
  const auto second = [&](auto attracting, auto ignored) HWY_ATTR {
    if (t.scaled)
      body(static_cast<Row<decltype(attracting)::value, decltype(ignored)::value, true>*>(nullptr));
    else
      body(static_cast<Row<decltype(attracting)::value, decltype(ignored)::value, false>*>(nullptr));
  };
  const auto first = [&](auto attracting) HWY_ATTR {
    if (t.row_ignored)
      second(attracting, std::true_type());
    else
      second(attracting, std::false_type());
  };
  if (t.soft)
    second(std::integral_constant<Attracting, Attracting::kSoft>(), std::false_type());
  else if (t.row_positive)
    first(std::integral_constant<Attracting, Attracting::kGroup>());
  else
    first(std::integral_constant<Attracting, Attracting::kOwn>());
}

void sums_here(const ScoreTile& t, float* scores, const SoftmaxSums& sums, std::int64_t begin, std::int64_t end,
               const ColumnParts& parts) {
  with_row_type(t, [&](auto* type) HWY_ATTR {
    using RowType = std::remove_pointer_t<decltype(type)>;
    for (std::int64_t block = begin; block < end; ++block)
      sums_of_rows<RowType>(t, scores, sums, block * kBlockRows, std::min(t.rows, (block + 1) * kBlockRows),
                            {parts.max + block * t.columns, parts.sum + block * t.columns});
  });
}

void softmax_gradient_here(const ScoreTile& t, const SoftmaxLogs& logs, const Ratios& ratios, float scale,
                           float* gradient, std::int64_t begin, std::int64_t end) {
  with_row_type(t, [&](auto* type) HWY_ATTR {
    using RowType = std::remove_pointer_t<decltype(type)>;
    for (std::int64_t i = begin; i < end; ++i) {
      const RowType row(t, i);
      float* out = gradient + i * t.columns;
      const float row_max = logs.row_max[i], row_log_sum = logs.row_log_sum[i];
      const float ratio = ratios.row ? ratios.row[i] : 0.0F;
      const float factor = scale * row.factor;
      row.for_pairs(0, t.columns, [&](auto tag, std::int64_t j, auto s, auto attracts, auto left_out) HWY_ATTR {
        const auto half = hn::Set(tag, 0.5F);
        const auto p = fading(tag, hn::Add(hn::Sub(hn::Set(tag, row_max), s), hn::Set(tag, row_log_sum)));
        auto d = hn::Mul(half, p);
        if (ratios.row) {
          d = hn::MulAdd(d, hn::Mul(hn::Set(tag, ratio), hn::LoadU(tag, ratios.column + j)), d);
        } else {
          const auto down = hn::Sub(hn::LoadU(tag, logs.column_max + j), s);
          d = hn::MulAdd(half, fading(tag, hn::Add(down, hn::LoadU(tag, logs.column_log_sum + j))), d);
        }
        d = hn::Sub(d, row.attraction(tag, j, attracts));
        d = hn::Mul(d, hn::Mul(hn::Set(tag, factor), hn::LoadU(tag, t.column_factor + j)));
        hn::StoreU(hn::IfThenZeroElse(left_out, d), tag, out + j);
      });
    }
  });
}

void sigmoid_loss_here(const ScoreTile& t, float bias, double* row_sum, std::int64_t begin, std::int64_t end) {
  with_row_type(t, [&](auto* type) HWY_ATTR {
    using RowType = std::remove_pointer_t<decltype(type)>;
    for (std::int64_t i = begin; i < end; ++i) {
      const RowType row(t, i);
      for (std::int64_t first = 0; first < t.columns; first += kBlockColumns) {  // float32 sums of few numbers only
        LaneSum sum;
        row.for_pairs(first, std::min(t.columns, first + kBlockColumns),
                      [&](auto tag, std::int64_t j, auto s, auto attracts, auto left_out) HWY_ATTR {
                        const auto loss = row.loss(tag, j, attracts, hn::Add(s, hn::Set(tag, bias)));
                        sum.add(tag, hn::IfThenZeroElse(left_out, loss));
                      });
        row_sum[i] += static_cast<double>(sum.total());
      }
    }
  });
}

void sigmoid_gradient_here(const ScoreTile& t, float bias, float scale, float* gradient, double* row_sum,
                           std::int64_t begin, std::int64_t end) {
  with_row_type(t, [&](auto* type) HWY_ATTR {
    using RowType = std::remove_pointer_t<decltype(type)>;
    for (std::int64_t i = begin; i < end; ++i) {
      const RowType row(t, i);
      float* out = gradient + i * t.columns;
      const float factor = scale * row.factor;
      for (std::int64_t first = 0; first < t.columns; first += kBlockColumns) {
        LaneSum sum;
        row.for_pairs(first, std::min(t.columns, first + kBlockColumns),
                      [&](auto tag, std::int64_t j, auto s, auto attracts, auto left_out) HWY_ATTR {
                        const auto slope = row.slope(tag, j, attracts, hn::Add(s, hn::Set(tag, bias)));
                        const auto d = hn::IfThenZeroElse(left_out, slope);
                        sum.add(tag, d);
                        const auto both = hn::Mul(hn::Set(tag, factor), hn::LoadU(tag, t.column_factor + j));
                        hn::StoreU(hn::Mul(d, both), tag, out + j);
                      });
        row_sum[i] += static_cast<double>(sum.total());
      }
    }
  });
}

}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {

HWY_EXPORT(sums_here);
HWY_EXPORT(join_columns);
HWY_EXPORT(softmax_gradient_here);
HWY_EXPORT(sigmoid_loss_here);
HWY_EXPORT(sigmoid_gradient_here);

/// Rows a thread takes at least.
constexpr std::int64_t kGrain = 8;

}  // namespace

void add_softmax_sums(const ScoreTile& tile, float* scores, const SoftmaxSums& sums, const Parallel& parallel) {
  if (tile.rows == 0 || tile.columns == 0) return;
  const std::int64_t blocks = (tile.rows + kBlockRows - 1) / kBlockRows;
  std::vector<float> scratch(static_cast<std::size_t>(2 * blocks * tile.columns));
  const ColumnParts parts{scratch.data(), scratch.data() + blocks * tile.columns};
  parallel(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(sums_here)(tile, scores, sums, begin, end, parts);
  });
  // Pieces of whole vectors of any set, so that a column is rounded alike whoever computes it.
  constexpr std::int64_t kPiece = 64;
  parallel((tile.columns + kPiece - 1) / kPiece, 4, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(join_columns)
    (sums, parts, blocks, tile.columns, begin * kPiece, std::min(tile.columns, end * kPiece));
  });
}

void softmax_gradient(const ScoreTile& tile, const SoftmaxLogs& logs, float scale, float* gradient,
                      const Parallel& parallel) {
  if (tile.rows == 0 || tile.columns == 0) return;
  std::vector<double> row(static_cast<std::size_t>(tile.rows)), column(static_cast<std::size_t>(tile.columns));
  const auto logarithms = [](std::vector<double>& out, const float* max, const float* log_sum) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<double>(max[i]) + static_cast<double>(log_sum[i]);
    const auto [low, high] = std::minmax_element(out.begin(), out.end());
    return std::make_pair(*low, *high);
  };
  const auto rows = logarithms(row, logs.row_max, logs.row_log_sum);
  const auto columns = logarithms(column, logs.column_max, logs.column_log_sum);
  const double low = std::min(rows.first, columns.first), high = std::max(rows.second, columns.second);
  const double middle = (low + high) / 2;
  std::vector<float> row_ratio, column_ratio;
  if (high - low <= static_cast<double>(kSpread)) {
    for (const double x : row) row_ratio.push_back(static_cast<float>(std::exp(x - middle)));
    for (const double x : column) column_ratio.push_back(static_cast<float>(std::exp(middle - x)));
  }
  const Ratios ratios{row_ratio.empty() ? nullptr : row_ratio.data(), column_ratio.data()};
  parallel(tile.rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(softmax_gradient_here)(tile, logs, ratios, scale, gradient, begin, end);
  });
}

void add_sigmoid_loss(const ScoreTile& tile, float bias, double* row_sum, const Parallel& parallel) {
  parallel(tile.rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(sigmoid_loss_here)(tile, bias, row_sum, begin, end);
  });
}

void sigmoid_gradient(const ScoreTile& tile, float bias, float scale, float* gradient, double* row_sum,
                      const Parallel& parallel) {
  parallel(tile.rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(sigmoid_gradient_here)(tile, bias, scale, gradient, row_sum, begin, end);
  });
}

}  // namespace daug::kernels
#endif
