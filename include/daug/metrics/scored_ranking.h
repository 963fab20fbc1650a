#pragma once
/// @file
/// From unsorted scores to ranked lists: the first k of a query's items, and nDCG that does not depend on how ties are
/// broken.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/ranking.h"
#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

namespace detail {

template <class T>
void require_finite(const char* function, const char* argument, T value) {
  if (!std::isfinite(static_cast<double>(value))) fail(ErrorCode::kNumeric, function, argument, "finite values", value);
}

/// A value and its index; the smaller of two ranks first: the larger value, of equal ones the smaller index.
template <class T>
struct RankedItem {
  T value;
  std::uint32_t index;

  RankedItem(T value_, std::uint32_t index_) : value(value_), index(index_) {}
  bool operator<(const RankedItem& other) const {
    return value != other.value ? value > other.value : index < other.index;
  }
};

/// Of a float both are one number, which sorts twice as fast.
template <>
struct RankedItem<float> {
  std::uint32_t falling;  ///< falls where the value rises
  std::uint32_t index;

  RankedItem(float value, std::uint32_t index_) : falling(0), index(index_) {
    value += 0.0F;  // there is one zero
    std::memcpy(&falling, &value, sizeof value);
    if (falling >> 31 == 0) falling ^= 0x7FFFFFFFU;  // a negative value's bits rise as it falls
  }
  bool operator<(const RankedItem& other) const {
    return (std::uint64_t{falling} << 32 | index) < (std::uint64_t{other.falling} << 32 | other.index);
  }
};

/// Indices of the k >= 1 largest of `values`, largest first, ties by index; checks on its way that all are finite. One
/// comparison or two for most values when k is much smaller than their number.
template <class T>
std::vector<std::uint32_t> largest_k(const char* function, const char* argument, ArrayView<T> values, std::size_t k) {
  if (values.size() > std::numeric_limits<std::uint32_t>::max())
    fail(ErrorCode::kUnsupported, function, argument, "fewer than 2^32 values", values.size());
  constexpr std::size_t kFew = 128;  // so few are kept in order; for more, all values are parted at once
  const std::size_t count = std::min(k, values.size());
  const std::size_t first = count <= kFew ? count : values.size();
  std::vector<RankedItem<T>> best;
  best.reserve(first);
  for (std::size_t i = 0; i < first; ++i) {
    require_finite(function, argument, values[i]);
    best.emplace_back(values[i], static_cast<std::uint32_t>(i));
  }
  if (count < first) {
    const auto end = best.begin() + static_cast<std::ptrdiff_t>(count);
    std::nth_element(best.begin(), end, best.end());
    best.erase(end, best.end());
  }
  std::sort(best.begin(), best.end());
  T worst = best.empty() ? T() : values[best.back().index];
  for (std::size_t i = first; i < values.size(); ++i) {
    const T value = values[i];
    if (value <= worst && value >= std::numeric_limits<T>::lowest()) continue;
    require_finite(function, argument, value);
    const RankedItem<T> item(value, static_cast<std::uint32_t>(i));
    auto place = best.end() - 1;
    for (; place != best.begin() && item < place[-1]; --place) *place = place[-1];
    *place = item;
    worst = values[best.back().index];
  }
  std::vector<std::uint32_t> order;
  order.reserve(count);
  for (const auto& item : best) order.push_back(item.index);
  return order;
}

/// `sum_{i <= k} g*_i / log2(i + 1)` over the gains in falling order; checks that they are finite and >= 0.
template <class T>
double ideal_dcg(const char* function, ArrayView<T> gains, std::size_t k) {
  for (T gain : gains)
    if (!(gain >= 0)) fail(ErrorCode::kInvalidArgument, function, "gains", "values >= 0", static_cast<double>(gain));
  double sum = 0;
  if constexpr (sizeof(T) == 1) {  // 0 and 1 as a rule: count them
    std::array<std::size_t, 256> counts{};
    for (T gain : gains) ++counts[static_cast<std::uint8_t>(gain)];
    std::size_t place = 0;
    for (std::size_t gain = counts.size(); gain-- > 1;)
      for (std::size_t left = counts[gain]; left > 0 && place < k; --left)
        sum += static_cast<double>(gain) * discount(place++);
  } else {
    const auto order = largest_k(function, "gains", gains, k);
    for (std::size_t i = 0; i < order.size(); ++i) sum += static_cast<double>(gains[order[i]]) * discount(i);
  }
  return sum;
}

}  // namespace detail

/// The first k items by falling score, ties by index: a ranking for RetrievalTask.
///
/// `scores` [N]: contiguous float or double, finite (kNumeric). k >= 1; fewer than k when N is smaller. Under
/// Compat::kPublished items with a score <= 0 are never retrieved, which is what torchmetrics makes of them.
template <class Scores>
std::vector<std::int64_t> first_k(const Scores& scores, std::size_t k, Compat compat = Compat::kNone) {
  require(k >= 1, "first_k", "k", "a value >= 1", k);
  const ArrayView values(scores);
  const auto order = detail::largest_k("first_k", "scores", values, k);
  auto end = order.end();
  if (compat == Compat::kPublished)
    end = std::find_if(order.begin(), order.end(), [&](std::uint32_t item) { return values[item] <= 0; });
  return {order.begin(), end};
}

/// nDCG at k of unsorted items whose scores may tie: tied items share the mean of their gains over the places they
/// occupy, so the result does not depend on how ties are broken (scikit-learn, torchmetrics):
/// `sum_{i <= k} mean(g_j : s_j = s_(i)) / log2(i + 1)` over `sum_{i <= k} g*_i / log2(i + 1)` with the scores sorted
/// as `s_(1) >= s_(2) >= ...` and the gains as `g*_1 >= g*_2 >= ...`. Throws kInvalidArgument when no item has a gain;
/// under Compat::kPublished it is 0 then.
///
/// `scores` [N]: contiguous float or double, finite (kNumeric). `gains` [N]: contiguous numbers, finite and >= 0, of
/// *all* items of the gallery: 0 or 1, or graded. k >= 1. O(N + k log k) for N much larger than k.
template <class Scores, class Gains>
double tied_ndcg_at_k(const Scores& scores, const Gains& gains, std::size_t k, Compat compat = Compat::kNone) {
  constexpr const char* kFunction = "tied_ndcg_at_k";
  require(k >= 1, kFunction, "k", "a value >= 1", k);
  const ArrayView values(scores);
  const ArrayView gain(gains);
  detail::require_same_size(kFunction, "gains", values, gain);
  const auto order = detail::largest_k(kFunction, "scores", values, k);
  const double ideal = detail::ideal_dcg(kFunction, gain, k);
  if (!(ideal > 0)) {
    require(compat == Compat::kPublished, kFunction, "gains", "at least one above 0 (leave other queries out)", ideal);
    return 0;
  }

  const auto score = [&](std::size_t place) { return values[order[place]]; };
  double sum = 0;
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    double discounts = 0, tied_gain = 0, tied = 0;
    for (; last < order.size() && score(last) == score(first); ++last) {
      discounts += detail::discount(last);
      tied_gain += static_cast<double>(gain[order[last]]);
      ++tied;
    }
    if (last == order.size() && last < values.size()) {  // the tie may reach beyond place k
      tied_gain = tied = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i] != score(first)) continue;
        tied_gain += static_cast<double>(gain[i]);
        ++tied;
      }
    }
    sum += discounts * tied_gain / tied;
  }
  return sum / ideal;
}

}  // namespace daug
