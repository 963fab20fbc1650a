#pragma once
/// @file
/// Figures of one ranked list, each under a name that says which definition it is.
///
/// `hits` [places]: 1 where the item at that rank is relevant, best rank first; places beyond the end of the list count
/// as misses. `r_i` is the hit at rank i, `P(i) = sum_{j <= i} r_j / i` the precision there, `R` the relevant items of
/// the gallery (`relevant`). A cut-off k of 0 throws kInvalidArgument, and so does R = 0 where a figure is divided by
/// it: no list could do better or worse, so such queries belong in no average (`RetrievalEvaluation` leaves them
/// out); so does an R below the hits that are looked at. All figures lie in [0, 1]. Deterministic, float64.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/view.h"

namespace daug {

/// What the average precision at k is divided by. All of them divide `sum_{i <= k} r_i P(i)`.
enum class ApDefinition {
  kReference,  ///< `sum_{i <= k} r_i`, the relevant items *retrieved* (DAug's released code, torchmetrics): one hit at
               ///< rank 1 scores 1
  kTruncated,  ///< `min(k, R)`: the best sum that k places allow, so only a perfect list scores 1
  kAll,        ///< `R`, the relevant items there are (trec_eval): below 1 whenever R > k
  kCutoff,     ///< `k`: below 1 whenever R < k
};

namespace detail {

/// `sum_{i <= k} r_i`.
inline std::size_t hits_at_k(const char* function, ArrayView<std::uint8_t> hits, std::size_t k) {
  require(k >= 1, function, "k", "a value >= 1", k);
  const auto end = hits.begin() + std::min(k, hits.size());
  return static_cast<std::size_t>(std::count_if(hits.begin(), end, [](auto hit) { return hit != 0; }));
}

/// `found` of them are in the list.
inline void require_relevant(const char* function, std::size_t relevant, std::size_t found) {
  require(relevant >= 1, function, "relevant", "at least one item to find (leave other queries out)", relevant);
  require(relevant >= found, function, "relevant", "at least the hits in the list", relevant);
}

}  // namespace detail

/// Precision at k: `sum_{i <= k} r_i / k`.
inline double precision_at_k(ArrayView<std::uint8_t> hits, std::size_t k) {
  return static_cast<double>(detail::hits_at_k("precision_at_k", hits, k)) / static_cast<double>(k);
}

/// Recall at k: `sum_{i <= k} r_i / R`.
inline double recall_at_k(ArrayView<std::uint8_t> hits, std::size_t relevant, std::size_t k) {
  const std::size_t found = detail::hits_at_k("recall_at_k", hits, k);
  detail::require_relevant("recall_at_k", relevant, found);
  return static_cast<double>(found) / static_cast<double>(relevant);
}

/// R-precision: `sum_{i <= R} r_i / R`, the precision at the rank where precision and recall meet. A list shorter than
/// R counts misses for the places it lacks.
inline double r_precision(ArrayView<std::uint8_t> hits, std::size_t relevant) {
  detail::require_relevant("r_precision", relevant, 0);
  return precision_at_k(hits, relevant);
}

/// Average precision at k under a named definition, `sum_{i <= k} r_i P(i) / divisor`; 0 when nothing relevant is
/// retrieved.
inline double average_precision_at_k(ArrayView<std::uint8_t> hits, std::size_t relevant, std::size_t k,
                                     ApDefinition definition) {
  detail::require_relevant("average_precision_at_k", relevant, detail::hits_at_k("average_precision_at_k", hits, k));
  double sum = 0;
  std::size_t found = 0;
  for (std::size_t rank = 1; rank <= std::min(k, hits.size()); ++rank)
    if (hits[rank - 1]) sum += static_cast<double>(++found) / static_cast<double>(rank);
  if (found == 0) return 0;
  const std::size_t divisor = definition == ApDefinition::kReference   ? found
                              : definition == ApDefinition::kTruncated ? std::min(k, relevant)
                              : definition == ApDefinition::kAll       ? relevant
                                                                       : k;
  return sum / static_cast<double>(divisor);
}

namespace detail {

/// 1 / log2(rank + 1) for rank = index + 1.
inline double discount(std::size_t index) {
  static const std::vector<double> table = [] {
    std::vector<double> values;
    for (int i = 0; i < 1024; ++i) values.push_back(1 / std::log2(i + 2.0));
    return values;
  }();
  return index < table.size() ? table[index] : 1 / std::log2(static_cast<double>(index) + 2);
}

}  // namespace detail

/// Discounted cumulative gain at k: `sum_{i <= k} g_i / log2(i + 1)` of the gains `g_i` at each rank (Jarvelin &
/// Kekalainen, 2002). For the exponential form give `2^g - 1`. Gains are finite and >= 0 (kInvalidArgument). In [0,
/// inf).
inline double dcg_at_k(ArrayView<double> gains, std::size_t k) {
  require(k >= 1, "dcg_at_k", "k", "a value >= 1", k);
  double sum = 0;
  for (std::size_t i = 0; i < std::min(k, gains.size()); ++i) {
    require(gains[i] >= 0 && std::isfinite(gains[i]), "dcg_at_k", "gains", "finite values >= 0", gains[i]);
    sum += gains[i] * detail::discount(i);
  }
  return sum;
}

/// Normalised discounted cumulative gain with gains 0 and 1: `sum_{i <= k} r_i / log2(i + 1)` over that of the ideal
/// list, `sum_{i <= min(k, R)} 1 / log2(i + 1)`.
inline double ndcg_at_k(ArrayView<std::uint8_t> hits, std::size_t relevant, std::size_t k) {
  detail::require_relevant("ndcg_at_k", relevant, detail::hits_at_k("ndcg_at_k", hits, k));
  double gain = 0, ideal = 0;
  for (std::size_t i = 0; i < std::min(k, hits.size()); ++i) gain += hits[i] ? detail::discount(i) : 0;
  for (std::size_t i = 0; i < std::min(k, relevant); ++i) ideal += detail::discount(i);
  return gain / ideal;
}

/// Reciprocal rank at k: `1 / i` for the first hit at rank i <= k, 0 without one; its mean over queries is the MRR at
/// k.
inline double reciprocal_rank_at_k(ArrayView<std::uint8_t> hits, std::size_t k) {
  require(k >= 1, "reciprocal_rank_at_k", "k", "a value >= 1", k);
  for (std::size_t rank = 1; rank <= std::min(k, hits.size()); ++rank)
    if (hits[rank - 1]) return 1 / static_cast<double>(rank);
  return 0;
}

/// Figures of a ranked list, for tables.
enum class RetrievalMetric {
  kPrecision,       ///< `precision_at_k`
  kRecall,          ///< `recall_at_k`
  kApReference,     ///< `average_precision_at_k`, ApDefinition::kReference
  kApTruncated,     ///< `average_precision_at_k`, ApDefinition::kTruncated
  kApAll,           ///< `average_precision_at_k`, ApDefinition::kAll
  kNdcg,            ///< `ndcg_at_k`; with graded gains for Relevance::kJaccard
  kReciprocalRank,  ///< `reciprocal_rank_at_k`
  kApCutoff,        ///< `average_precision_at_k`, ApDefinition::kCutoff
  kRPrecision,      ///< `r_precision`: k is not used
};

/// The metric's definition in words, for reports.
inline const char* retrieval_metric_definition(RetrievalMetric metric) {
  switch (metric) {
    case RetrievalMetric::kPrecision:
      return "relevant items among the first k, divided by k";
    case RetrievalMetric::kRecall:
      return "relevant items among the first k, divided by the relevant items in the gallery";
    case RetrievalMetric::kApReference:
      return "sum of P(r) over the relevant ranks r <= k, divided by the relevant items among the first k";
    case RetrievalMetric::kApTruncated:
      return "sum of P(r) over the relevant ranks r <= k, divided by min(k, relevant items in the gallery)";
    case RetrievalMetric::kApAll:
      return "sum of P(r) over the relevant ranks r <= k, divided by the relevant items in the gallery";
    case RetrievalMetric::kNdcg:
      return "sum of gain/log2(r+1) over the ranks r <= k, divided by that of the ideal list";
    case RetrievalMetric::kReciprocalRank:
      return "1/r for the first relevant rank r <= k, 0 without one";
    case RetrievalMetric::kApCutoff:
      return "sum of P(r) over the relevant ranks r <= k, divided by k";
    case RetrievalMetric::kRPrecision:
      return "relevant items among the first R, divided by R, the relevant items in the gallery";
  }
  fail(ErrorCode::kInvalidArgument, "retrieval_metric_definition", "metric", "an enumerator", static_cast<int>(metric));
}

/// The metric of one list, with gains 0 and 1.
inline double retrieval_figure(RetrievalMetric metric, ArrayView<std::uint8_t> hits, std::size_t relevant,
                               std::size_t k) {
  switch (metric) {
    case RetrievalMetric::kPrecision:
      return precision_at_k(hits, k);
    case RetrievalMetric::kRecall:
      return recall_at_k(hits, relevant, k);
    case RetrievalMetric::kApReference:
      return average_precision_at_k(hits, relevant, k, ApDefinition::kReference);
    case RetrievalMetric::kApTruncated:
      return average_precision_at_k(hits, relevant, k, ApDefinition::kTruncated);
    case RetrievalMetric::kApAll:
      return average_precision_at_k(hits, relevant, k, ApDefinition::kAll);
    case RetrievalMetric::kNdcg:
      return ndcg_at_k(hits, relevant, k);
    case RetrievalMetric::kReciprocalRank:
      return reciprocal_rank_at_k(hits, k);
    case RetrievalMetric::kApCutoff:
      return average_precision_at_k(hits, relevant, k, ApDefinition::kCutoff);
    case RetrievalMetric::kRPrecision:
      return r_precision(hits, relevant);
  }
  fail(ErrorCode::kInvalidArgument, "retrieval_figure", "metric", "an enumerator", static_cast<int>(metric));
}

}  // namespace daug
