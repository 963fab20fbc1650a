#pragma once
/// @file
/// From unsorted scores to ranked lists: the first k of a query's items, and nDCG that does not depend on how ties are
/// broken.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/ranking.h"
#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

namespace detail {

/// Indices of the k largest of `values`, largest first, ties by index. O(n) for n much larger than k, else O(n log k).
template <class T>
std::vector<std::int64_t> largest_k(ArrayView<T> values, std::size_t k) {
  using Item = std::pair<T, std::int64_t>;
  const auto better = [](const Item& a, const Item& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  const std::size_t count = std::min(k, values.size());
  std::vector<Item> best;  // a heap whose front is the worst of the best
  best.reserve(count);
  for (std::size_t i = 0; i < count; ++i) best.emplace_back(values[i], static_cast<std::int64_t>(i));
  std::make_heap(best.begin(), best.end(), better);
  for (std::size_t i = count; count > 0 && i < values.size(); ++i) {
    if (!(values[i] > best.front().first)) continue;
    std::pop_heap(best.begin(), best.end(), better);
    best.back() = {values[i], static_cast<std::int64_t>(i)};
    std::push_heap(best.begin(), best.end(), better);
  }
  std::sort(best.begin(), best.end(), better);
  std::vector<std::int64_t> order;
  order.reserve(count);
  for (const Item& item : best) order.push_back(item.second);
  return order;
}

template <class T>
void require_finite(const char* function, const char* argument, ArrayView<T> values) {
  for (auto value : values)
    if (!std::isfinite(static_cast<double>(value)))
      fail(ErrorCode::kNumeric, function, argument, "finite values", value);
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
  detail::require_finite("first_k", "scores", values);
  std::vector<std::int64_t> order = detail::largest_k(values, k);
  if (compat == Compat::kPublished)
    order.erase(std::find_if(order.begin(), order.end(),
                             [&](std::int64_t item) { return values[static_cast<std::size_t>(item)] <= 0; }),
                order.end());
  return order;
}

/// nDCG at k of unsorted items whose scores may tie: tied items share the mean of their gains over the places they
/// occupy, so the result does not depend on how ties are broken (scikit-learn, torchmetrics):
/// `sum_{i <= k} mean(g_j : s_j = s_(i)) / log2(i + 1)` over `sum_{i <= k} g*_i / log2(i + 1)` with the scores sorted
/// as `s_(1) >= s_(2) >= ...` and the gains as `g*_1 >= g*_2 >= ...`; 0 when no item has a gain.
///
/// `scores` [N]: contiguous float or double, finite (kNumeric). `gains` [N]: contiguous numbers, finite and >= 0, of
/// *all* items of the gallery: 0 or 1, or graded. k >= 1. O(N + k log k) for N much larger than k.
template <class Scores, class Gains>
double tied_ndcg_at_k(const Scores& scores, const Gains& gains, std::size_t k) {
  constexpr const char* kFunction = "tied_ndcg_at_k";
  require(k >= 1, kFunction, "k", "a value >= 1", k);
  const ArrayView values(scores);
  const ArrayView gain(gains);
  detail::require_same_size(kFunction, "gains", values, gain);
  detail::require_finite(kFunction, "scores", values);
  detail::require_finite(kFunction, "gains", gain);
  for (auto g : gain) require(g >= 0, kFunction, "gains", "values >= 0", static_cast<double>(g));

  double ideal = 0;
  const auto ideal_order = detail::largest_k(gain, k);
  for (std::size_t i = 0; i < ideal_order.size(); ++i)
    ideal += static_cast<double>(gain[static_cast<std::size_t>(ideal_order[i])]) * detail::discount(i);
  if (!(ideal > 0)) return 0;

  const auto order = detail::largest_k(values, k);
  const auto score = [&](std::size_t place) { return values[static_cast<std::size_t>(order[place])]; };
  double sum = 0;
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    double discounts = 0, tied_gain = 0, tied = 0;
    for (; last < order.size() && score(last) == score(first); ++last) {
      discounts += detail::discount(last);
      tied_gain += static_cast<double>(gain[static_cast<std::size_t>(order[last])]);
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
