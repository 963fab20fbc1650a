#pragma once
/// @file
/// Retrieval figures at a cut-off k, each under a name that says which definition it is.
///
/// Two layers: functions of one ranked list of hits and misses, and RetrievalEvaluation, which applies them to
/// multi-label queries. A figure is always first a table [queries, findings], so that averages and bootstrap
/// intervals are taken over any selection of queries.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/summary.h"
#include "daug/metrics/view.h"

namespace daug {

/// What the average precision at k is divided by. With P(r) the precision at rank r, all of them divide
/// `sum of P(r) over the relevant ranks r <= k`.
enum class ApDefinition {
  kReference,  ///< the relevant items *retrieved* (DAug's released code, torchmetrics): one hit at rank 1 scores 1
  kTruncated,  ///< min(k, R): the best sum that k places allow, so only a perfect list scores 1
  kAll,        ///< R, the relevant items there are (trec_eval): below 1 whenever R > k
};

/// Share of relevant items among the first k. `hits`: 1 where the item at that rank is relevant, best rank first.
/// Places beyond the end of the list count as misses. k >= 1. In [0, 1].
inline double precision_at_k(ArrayView<std::uint8_t> hits, std::size_t k) {
  require(k >= 1, "precision_at_k", "k", "a value >= 1", k);
  const auto end = hits.begin() + std::min(k, hits.size());
  return static_cast<double>(std::count_if(hits.begin(), end, [](auto hit) { return hit != 0; })) /
         static_cast<double>(k);
}

/// Share of the `relevant` items that are among the first k; 0 when there are none. `hits` as in `precision_at_k`.
inline double recall_at_k(ArrayView<std::uint8_t> hits, std::size_t relevant, std::size_t k) {
  if (relevant == 0) return 0;
  return precision_at_k(hits, k) * static_cast<double>(k) / static_cast<double>(relevant);
}

/// Average precision at k under a named definition; 0 when nothing relevant is retrieved. `relevant` is R, the number
/// of relevant items in the gallery, at least the hits in the list; `hits` as in `precision_at_k`. In [0, 1].
inline double average_precision_at_k(ArrayView<std::uint8_t> hits, std::size_t relevant, std::size_t k,
                                     ApDefinition definition) {
  require(k >= 1, "average_precision_at_k", "k", "a value >= 1", k);
  double sum = 0;
  std::size_t found = 0;
  for (std::size_t rank = 1; rank <= std::min(k, hits.size()); ++rank)
    if (hits[rank - 1]) sum += static_cast<double>(++found) / static_cast<double>(rank);
  if (found == 0) return 0;
  require(relevant >= found, "average_precision_at_k", "relevant", "at least the hits in the list", relevant);
  const std::size_t divisor = definition == ApDefinition::kReference   ? found
                              : definition == ApDefinition::kTruncated ? std::min(k, relevant)
                                                                       : relevant;
  return sum / static_cast<double>(divisor);
}

/// Normalised discounted cumulative gain with gains 0 and 1 and discount 1 / log2(rank + 1), relative to the ideal
/// list of min(k, R) hits (Jarvelin & Kekalainen, 2002); 0 when R = 0. Arguments as in `average_precision_at_k`.
inline double ndcg_at_k(ArrayView<std::uint8_t> hits, std::size_t relevant, std::size_t k) {
  require(k >= 1, "ndcg_at_k", "k", "a value >= 1", k);
  const auto discount = [](std::size_t index) { return 1 / std::log2(static_cast<double>(index) + 2); };
  double gain = 0, ideal = 0;
  for (std::size_t i = 0; i < std::min(k, hits.size()); ++i) gain += hits[i] ? discount(i) : 0;
  for (std::size_t i = 0; i < std::min(k, relevant); ++i) ideal += discount(i);
  return ideal > 0 ? gain / ideal : 0;
}

/// The same for unsorted items with scores that may tie: tied items share the mean of their gains over the places they
/// occupy, so the result does not depend on how ties are broken (scikit-learn, torchmetrics). O(n log n).
///
/// `scores` [N]: any contiguous container of float or double, finite (kNumeric); `relevance` [N]: 0 or 1, of *all*
/// items of the gallery.
template <class Scores>
double tied_ndcg_at_k(const Scores& scores, ArrayView<std::uint8_t> relevance, std::size_t k) {
  constexpr const char* kFunction = "tied_ndcg_at_k";
  require(k >= 1, kFunction, "k", "a value >= 1", k);
  const ArrayView values(scores);
  require(relevance.size() == values.size(), kFunction, "relevance", values.size(), relevance.size());
  for (auto score : values)
    if (!std::isfinite(score)) fail(ErrorCode::kNumeric, kFunction, "scores", "finite values", score);
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });

  const auto discount = [k](std::size_t i) { return i < k ? 1 / std::log2(static_cast<double>(i) + 2) : 0.0; };
  double gain = 0, ideal = 0;
  std::size_t relevant = 0;
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    double discounts = 0, hits = 0;
    for (; last < order.size() && values[order[last]] == values[order[first]]; ++last) {
      discounts += discount(last);
      if (relevance[order[last]]) ideal += discount(relevant++), ++hits;
    }
    gain += discounts * hits / static_cast<double>(last - first);
  }
  return ideal > 0 ? gain / ideal : 0;
}

/// 1 / rank of the first hit among the first k, 0 without one; its mean over queries is the MRR at k. `hits` as in
/// `precision_at_k`.
inline double reciprocal_rank_at_k(ArrayView<std::uint8_t> hits, std::size_t k) {
  require(k >= 1, "reciprocal_rank_at_k", "k", "a value >= 1", k);
  for (std::size_t rank = 1; rank <= std::min(k, hits.size()); ++rank)
    if (hits[rank - 1]) return 1 / static_cast<double>(rank);
  return 0;
}

/// Figures that RetrievalEvaluation computes.
enum class RetrievalMetric {
  kPrecision,       ///< `precision_at_k`
  kRecall,          ///< `recall_at_k`
  kApReference,     ///< `average_precision_at_k`, ApDefinition::kReference
  kApTruncated,     ///< `average_precision_at_k`, ApDefinition::kTruncated
  kApAll,           ///< `average_precision_at_k`, ApDefinition::kAll
  kNdcg,            ///< `ndcg_at_k`
  kReciprocalRank,  ///< `reciprocal_rank_at_k`
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
      return "sum of 1/log2(r+1) over the relevant ranks r <= k, divided by that of the ideal list";
    case RetrievalMetric::kReciprocalRank:
      return "1/r for the first relevant rank r <= k, 0 without one";
  }
  fail(ErrorCode::kInvalidArgument, "retrieval_metric_definition", "metric", "an enumerator", static_cast<int>(metric));
}

/// When a retrieved item is relevant to a query with several labels.
enum class Relevance {
  kSameFinding,  ///< one column per finding f, over the queries positive for f: the item is positive for f too
  kAnyFinding,   ///< one column, over the queries positive for anything: the item shares at least one finding
};

/// What a query with no relevant item in the gallery counts as.
enum class NothingToFind {
  kZero,  ///< 0 (the reference)
  kOne,   ///< 1
  kSkip,  ///< leaves the query out
};

/// What a finding without any query does to the averages.
enum class EmptyFinding {
  kLeaveOut,           ///< it is in neither average
  kReferenceZeroOnce,  ///< it counts as a single query with value 0 (what DAug's released code means to do; it raises)
};

/// What counts as relevant, and what a query without anything relevant counts as.
struct RetrievalOptions {
  Relevance relevance = Relevance::kSameFinding;         ///< when an item is relevant
  NothingToFind nothing_to_find = NothingToFind::kZero;  ///< value of a query without relevant items
};

/// A figure for each query and finding.
struct RetrievalValues {
  std::size_t queries = 0;     ///< number of rows
  std::size_t columns = 0;     ///< findings, or 1 for Relevance::kAnyFinding
  std::vector<double> values;  ///< [queries, columns] row-major; NaN where the query lacks the finding or is left out

  /// Mean over the queries of each finding; `macro` is the mAP-like mean over findings, `weighted` the wmAP-like mean
  /// weighted by the number of queries (so the mean over all (query, finding) pairs). `rows` selects queries.
  FindingSummary summarize(const RowSelection& rows = std::nullopt,
                           EmptyFinding empty = EmptyFinding::kLeaveOut) const {
    std::vector<double> sum(columns, 0);
    std::vector<std::size_t> count(columns, 0);
    detail::for_each_row("RetrievalValues::summarize", rows, queries, [&](std::size_t row) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double value = values[row * columns + c];
        if (std::isnan(value)) continue;
        sum[c] += value;
        ++count[c];
      }
    });
    std::vector<std::optional<double>> mean(columns);
    for (std::size_t c = 0; c < columns; ++c) {
      if (count[c] == 0 && empty == EmptyFinding::kReferenceZeroOnce) count[c] = 1;
      if (count[c] > 0) mean[c] = sum[c] / static_cast<double>(count[c]);
    }
    return summarize_findings(std::move(mean), std::move(count));
  }
};

/// What was ranked against what. Views and the rankings are kept, not copied: they must outlive the evaluation.
struct RetrievalTask {
  /// [Q]: for each query the gallery rows, best first, without repeats; as long as the largest k that will be asked
  /// for, or shorter when no more can be found (the missing places are misses).
  ArrayView<std::vector<std::int64_t>> rankings;
  MatrixView<std::uint8_t> query_labels;    ///< [Q, K]: 1 positive, 0 anything else
  MatrixView<std::uint8_t> gallery_labels;  ///< [G, K]
  ArrayView<std::int64_t> query_groups;     ///< [Q] patients; empty (with `gallery_groups`): all the gallery counts
  ArrayView<std::int64_t> gallery_groups;   ///< [G] patients; a query's own are neither retrieved nor relevant
};

/// Multi-label retrieval figures. Deterministic; memory O(Q K), independent of the length of the rankings.
///
/// A "No Finding" column is a finding here like any other; leave the column out of the labels to measure disease only.
class RetrievalEvaluation {
 public:
  /// Counts the relevant items of every query. Throws kInvalidArgument for shapes that do not agree, a label other
  /// than 0 and 1, a gallery row out of range or retrieved twice, or an item of the query's own group in its list.
  explicit RetrievalEvaluation(const RetrievalTask& task, const RetrievalOptions& options = {})
      : task_(task), options_(options) {
    check();
    count_relevant();
  }

  /// One figure at cut-off k >= 1 for every query and column.
  RetrievalValues values(RetrievalMetric metric, std::size_t k) const {
    require(k >= 1, "RetrievalEvaluation::values", "k", "a value >= 1", k);
    RetrievalValues result{queries(), columns(), {}};
    result.values.reserve(queries() * columns());
    std::vector<std::uint8_t> hits;
    for (std::size_t q = 0; q < queries(); ++q)
      for (std::size_t c = 0; c < columns(); ++c) {
        const std::size_t relevant = relevant_[q * columns() + c];
        if (!asks(q, c)) {
          result.values.push_back(std::numeric_limits<double>::quiet_NaN());
        } else if (relevant == 0) {
          result.values.push_back(empty_value());
        } else {
          const auto& ranking = task_.rankings[q];
          hits.resize(std::min(k, ranking.size()));
          for (std::size_t i = 0; i < hits.size(); ++i) hits[i] = matches(q, c, gallery_row(ranking[i]));
          result.values.push_back(value(metric, hits, relevant, k));
        }
      }
    return result;
  }

  /// Number of queries.
  std::size_t queries() const { return task_.query_labels.rows(); }
  /// Number of findings, or 1 for Relevance::kAnyFinding.
  std::size_t columns() const {
    return options_.relevance == Relevance::kAnyFinding ? 1 : task_.query_labels.columns();
  }
  /// Relevant gallery items of a query, those of its own group left out; 0 when the query lacks the finding.
  std::size_t relevant(std::size_t query, std::size_t column) const { return relevant_[query * columns() + column]; }

 private:
  static constexpr const char* kName = "RetrievalEvaluation";
  /// Gallery rows by label pattern: far fewer than rows, so counting is fast.
  using PatternCounts = std::map<std::vector<std::uint8_t>, std::size_t>;

  static std::size_t gallery_row(std::int64_t index) { return static_cast<std::size_t>(index); }

  void check() const {
    const auto& [rankings, query_labels, gallery_labels, query_groups, gallery_groups] = task_;
    require(rankings.size() == query_labels.rows(), kName, "rankings", query_labels.rows(), rankings.size());
    require(gallery_labels.columns() == query_labels.columns(), kName, "gallery_labels columns", query_labels.columns(),
            gallery_labels.columns());
    const bool grouped = !query_groups.empty() || !gallery_groups.empty();
    if (grouped) {
      require(query_groups.size() == query_labels.rows(), kName, "query_groups", query_labels.rows(),
              query_groups.size());
      require(gallery_groups.size() == gallery_labels.rows(), kName, "gallery_groups", gallery_labels.rows(),
              gallery_groups.size());
    }
    for (const auto* labels : {&query_labels, &gallery_labels})
      for (std::size_t row = 0; row < labels->rows(); ++row)
        for (std::size_t f = 0; f < labels->columns(); ++f)
          require((*labels)(row, f) <= 1, kName, labels == &query_labels ? "query_labels" : "gallery_labels", "0 or 1",
                  static_cast<int>((*labels)(row, f)));
    std::vector<std::size_t> last_query(gallery_labels.rows(), rankings.size());
    for (std::size_t q = 0; q < rankings.size(); ++q)
      for (std::int64_t index : rankings[q]) {
        const auto refuse = [&](const std::string& expected) {
          fail(ErrorCode::kInvalidArgument, kName, detail::concat("rankings[", q, "]"), expected, index);
        };
        if (index < 0 || gallery_row(index) >= gallery_labels.rows())
          refuse(detail::concat("gallery rows below ", gallery_labels.rows()));
        if (std::exchange(last_query[gallery_row(index)], q) == q) refuse("each gallery row once");
        if (grouped && gallery_groups[gallery_row(index)] == query_groups[q])
          refuse("no item of the query's own group");
      }
  }

  void count_relevant() {
    const std::size_t findings = task_.gallery_labels.columns();
    PatternCounts all;
    std::map<std::int64_t, PatternCounts> by_group;
    for (std::size_t row = 0; row < task_.gallery_labels.rows(); ++row) {
      std::vector<std::uint8_t> pattern(findings);
      for (std::size_t f = 0; f < findings; ++f) pattern[f] = task_.gallery_labels(row, f);
      if (!task_.gallery_groups.empty()) ++by_group[task_.gallery_groups[row]][pattern];
      ++all[std::move(pattern)];
    }
    relevant_.assign(queries() * columns(), 0);
    for (std::size_t q = 0; q < queries(); ++q) {
      const auto own = task_.query_groups.empty() ? by_group.end() : by_group.find(task_.query_groups[q]);
      for (std::size_t c = 0; c < columns(); ++c) {
        const auto count = [&](const PatternCounts& patterns) {
          std::size_t total = 0;
          for (const auto& [pattern, rows] : patterns)
            if (shares(q, c, [&p = pattern](std::size_t f) { return p[f]; })) total += rows;
          return total;
        };
        relevant_[q * columns() + c] = count(all) - (own == by_group.end() ? 0 : count(own->second));
      }
    }
  }

  /// Whether the item whose label for finding f is `label(f)` is relevant to the query.
  template <class Label>
  bool shares(std::size_t query, std::size_t column, Label&& label) const {
    if (options_.relevance == Relevance::kSameFinding) return task_.query_labels(query, column) && label(column);
    for (std::size_t f = 0; f < task_.query_labels.columns(); ++f)
      if (task_.query_labels(query, f) && label(f)) return true;
    return false;
  }

  bool matches(std::size_t query, std::size_t column, std::size_t row) const {
    return shares(query, column, [&](std::size_t f) { return task_.gallery_labels(row, f); });
  }

  /// Whether the query is one of the column's queries: it shares a finding with itself.
  bool asks(std::size_t query, std::size_t column) const {
    return shares(query, column, [&](std::size_t f) { return task_.query_labels(query, f); });
  }

  double empty_value() const {
    if (options_.nothing_to_find == NothingToFind::kSkip) return std::numeric_limits<double>::quiet_NaN();
    return options_.nothing_to_find == NothingToFind::kOne ? 1 : 0;
  }

  static double value(RetrievalMetric metric, ArrayView<std::uint8_t> hits, std::size_t relevant, std::size_t k) {
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
    }
    fail(ErrorCode::kInvalidArgument, "RetrievalEvaluation::values", "metric", "an enumerator",
         static_cast<int>(metric));
  }

  RetrievalTask task_;
  RetrievalOptions options_;
  std::vector<std::size_t> relevant_;  ///< [Q, columns]
};

}  // namespace daug
