#pragma once
/// @file
/// From unsorted scores to ranked lists: the first k of a query's items, and nDCG that does not depend on how ties are
/// broken.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
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

/// Indices of the k largest of `values`, largest first, ties by index; checks on its way that all are finite. One
/// comparison or two for most values when k is much smaller than their number.
template <class T>
std::vector<std::uint32_t> largest_k(const char* function, const char* argument, ArrayView<T> values, std::size_t k) {
  if (values.size() > std::numeric_limits<std::uint32_t>::max())
    fail(ErrorCode::kUnsupported, function, argument, "fewer than 2^32 values", values.size());
  using Item = std::pair<T, std::uint32_t>;
  const auto better = [](const Item& a, const Item& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  const std::size_t count = std::min(k, values.size());
  std::vector<Item> best;
  best.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    require_finite(function, argument, values[i]);
    best.emplace_back(values[i], static_cast<std::uint32_t>(i));
  }
  if (count > 0 && count < values.size()) {
    std::make_heap(best.begin(), best.end(), better);  // its front is the worst of the best
    for (std::size_t i = count; i < values.size(); ++i) {
      const T value = values[i];
      if (value <= best.front().first && value >= std::numeric_limits<T>::lowest()) continue;
      require_finite(function, argument, value);
      std::pop_heap(best.begin(), best.end(), better);
      best.back() = {value, static_cast<std::uint32_t>(i)};
      std::push_heap(best.begin(), best.end(), better);
    }
  }
  std::sort(best.begin(), best.end(), better);
  std::vector<std::uint32_t> order;
  order.reserve(count);
  for (const Item& item : best) order.push_back(item.second);
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
