#pragma once
/// @file
/// Retrieval figures of multi-label queries at a cut-off k. One list is measured by ranking.h, relevance is decided by
/// relevance.h, and a figure comes as a table [queries, findings] (retrieval_values.h), so that averages and bootstrap
/// intervals are taken over any selection of queries.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/ranking.h"
#include "daug/metrics/relevance.h"
#include "daug/metrics/retrieval_values.h"
#include "daug/metrics/scored_ranking.h"
#include "daug/metrics/view.h"

namespace daug {

/// What a query with no relevant item in the gallery counts as.
enum class NothingToFind {
  kZero,  ///< 0 (DAug's released code; torchmetrics unless told otherwise)
  kOne,   ///< 1
  kSkip,  ///< leaves the query out: no ranking could do better or worse
};

/// What counts as relevant, and what a query without anything relevant counts as.
struct RetrievalOptions {
  Relevance relevance = Relevance::kSameFinding;         ///< when an item is relevant
  NothingToFind nothing_to_find = NothingToFind::kSkip;  ///< value of a query without relevant items
  double jaccard_from = 0.5;                             ///< Relevance::kJaccard: relevant from this gain on, in (0, 1]

  /// Throws kInvalidArgument for a value out of its range.
  void validate() const {
    require(jaccard_from > 0 && jaccard_from <= 1, "RetrievalOptions", "jaccard_from", "a value in (0, 1]",
            jaccard_from);
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
      : task_(task),
        options_(options),
        query_sets_(kName, "query_labels", task.query_labels),
        gallery_sets_(kName, "gallery_labels", task.gallery_labels) {
    options.validate();
    check_shapes();
    check_rankings();
    for (std::size_t row = 0; row < task_.gallery_groups.size(); ++row)
      rows_of_group_[task_.gallery_groups[row]].push_back(row);
    relevant_.assign(queries() * columns(), 0);
    if (options_.relevance == Relevance::kSameFinding)
      count_by_finding();
    else
      count_by_gain();
  }

  /// One figure at cut-off k >= 1 for every query and column.
  RetrievalValues values(RetrievalMetric metric, std::size_t k) const {
    require(k >= 1, "RetrievalEvaluation::values", "k", "a value >= 1", k);
    const bool graded = options_.relevance == Relevance::kJaccard && metric == RetrievalMetric::kNdcg;
    std::vector<std::uint8_t> hits;
    return table([&](std::size_t q, std::size_t c, std::size_t relevant) {
      if (graded) return graded_ndcg(q, k);
      if (relevant == 0) return empty_value();
      const auto& ranking = task_.rankings[q];
      hits.resize(std::min(metric == RetrievalMetric::kRPrecision ? relevant : k, ranking.size()));
      for (std::size_t i = 0; i < hits.size(); ++i) hits[i] = matches(q, c, gallery_row(ranking[i]));
      return retrieval_figure(metric, hits, relevant, k);
    });
  }

  /// Precision at k >= 1, on average over all orders of the gallery: `min(k, c) / k * r / c`, r of the c items that can
  /// be retrieved being relevant. A table as of `values`; what was ranked does not matter.
  RetrievalValues chance_precision(std::size_t k) const {
    require(k >= 1, "RetrievalEvaluation::chance_precision", "k", "a value >= 1", k);
    return table([&](std::size_t q, std::size_t, std::size_t relevant) {
      if (relevant == 0) return empty_value();
      std::size_t candidates = gallery_sets_.rows();
      for_each_own(q, [&](std::size_t) { --candidates; });
      return static_cast<double>(std::min(k, candidates) * relevant) / static_cast<double>(k * candidates);
    });
  }

  /// Number of queries.
  std::size_t queries() const { return query_sets_.rows(); }
  /// Number of findings for Relevance::kSameFinding, else 1.
  std::size_t columns() const { return options_.relevance == Relevance::kSameFinding ? query_sets_.findings() : 1; }
  /// Relevant gallery items of a query, those of its own group left out; 0 when the query lacks the finding.
  std::size_t relevant(std::size_t query, std::size_t column) const { return relevant_[query * columns() + column]; }

 private:
  static constexpr const char* kName = "RetrievalEvaluation";
  /// How many gallery rows have each gain, highest first.
  using GainCounts = std::vector<std::pair<double, std::size_t>>;
  using Words = std::vector<std::uint64_t>;

  static std::size_t gallery_row(std::int64_t index) { return static_cast<std::size_t>(index); }
  bool grouped() const { return !task_.query_groups.empty() || !task_.gallery_groups.empty(); }

  void check_shapes() const {
    const auto& [rankings, query_labels, gallery_labels, query_groups, gallery_groups] = task_;
    require(rankings.size() == query_labels.rows(), kName, "rankings", query_labels.rows(), rankings.size());
    require(gallery_labels.columns() == query_labels.columns(), kName, "gallery_labels columns", query_labels.columns(),
            gallery_labels.columns());
    if (!grouped()) return;
    require(query_groups.size() == query_labels.rows(), kName, "query_groups", query_labels.rows(),
            query_groups.size());
    require(gallery_groups.size() == gallery_labels.rows(), kName, "gallery_groups", gallery_labels.rows(),
            gallery_groups.size());
  }

  void check_rankings() const {
    const std::size_t gallery = gallery_sets_.rows();
    std::vector<std::size_t> last_query(gallery, queries());
    for (std::size_t q = 0; q < queries(); ++q)
      for (std::int64_t index : task_.rankings[q]) {
        const auto refuse = [&](const std::string& expected) {
          fail(ErrorCode::kInvalidArgument, kName, detail::concat("rankings[", q, "]"), expected, index);
        };
        if (index < 0 || gallery_row(index) >= gallery) refuse(detail::concat("gallery rows below ", gallery));
        if (std::exchange(last_query[gallery_row(index)], q) == q) refuse("each gallery row once");
        if (grouped() && task_.gallery_groups[gallery_row(index)] == task_.query_groups[q])
          refuse("no item of the query's own group");
      }
  }

  /// `figure(query, column, relevant items)` where the query is one of the column's queries, else NaN.
  template <class Figure>
  RetrievalValues table(Figure&& figure) const {
    RetrievalValues result{queries(), columns(), {}};
    result.values.reserve(queries() * columns());
    for (std::size_t q = 0; q < queries(); ++q)
      for (std::size_t c = 0; c < columns(); ++c)
        result.values.push_back(asks(q, c) ? figure(q, c, relevant(q, c)) : std::numeric_limits<double>::quiet_NaN());
    return result;
  }

  /// Calls `visit(row)` for the gallery rows of the query's own group.
  template <class Visit>
  void for_each_own(std::size_t query, Visit&& visit) const {
    if (!grouped()) return;
    const auto own = rows_of_group_.find(task_.query_groups[query]);
    if (own == rows_of_group_.end()) return;
    for (std::size_t row : own->second) visit(row);
  }

  void count_by_finding() {
    std::vector<std::size_t> positives(columns(), 0);
    for (std::size_t row = 0; row < gallery_sets_.rows(); ++row)
      for (std::size_t f = 0; f < columns(); ++f) positives[f] += gallery_sets_.holds(row, f);
    for (std::size_t q = 0; q < queries(); ++q) {
      for (std::size_t f = 0; f < columns(); ++f)
        if (asks(q, f)) relevant_[q * columns() + f] = positives[f];
      for_each_own(q, [&](std::size_t row) {
        for (std::size_t f = 0; f < columns(); ++f) relevant_[q * columns() + f] -= matches(q, f, row);
      });
    }
  }

  /// How many gallery rows have each gain for the query. There are far fewer distinct sets than rows, and for one query
  /// a gain depends on two small numbers: the findings in common and those of the item.
  GainCounts count_gains(std::size_t query, const std::map<Words, std::size_t>& gallery) const {
    const auto set = query_sets_.set(query);
    const std::size_t size = common_findings(set, set), sizes = gallery_sets_.findings() + 1;
    std::vector<std::size_t> rows_with((size + 1) * sizes, 0);
    for (const auto& [other, rows] : gallery)
      rows_with[common_findings(set, other) * sizes + common_findings(other, other)] += rows;
    std::map<double, std::size_t, std::greater<>> counts;
    for (std::size_t both = 0; both <= size; ++both)
      for (std::size_t other = both; other < sizes; ++other)
        if (const std::size_t rows = rows_with[both * sizes + other]; rows > 0)
          counts[relevance_gain(options_.relevance, both, size + other - both)] += rows;
    return {counts.begin(), counts.end()};
  }

  void count_by_gain() {
    const auto words = [](ArrayView<std::uint64_t> set) { return Words(set.begin(), set.end()); };
    std::map<Words, std::size_t> gallery, seen;
    for (std::size_t row = 0; row < gallery_sets_.rows(); ++row) ++gallery[words(gallery_sets_.set(row))];
    for (std::size_t q = 0; q < queries(); ++q) {
      const auto [known, is_new] = seen.try_emplace(words(query_sets_.set(q)), gains_.size());
      if (is_new) gains_.push_back(count_gains(q, gallery));
      gains_of_query_.push_back(known->second);
      if (!asks(q, 0)) continue;
      for (const auto& [gain, rows] : gains_[known->second])
        if (is_relevant(gain)) relevant_[q] += rows;
      for_each_own(q, [&](std::size_t row) { relevant_[q] -= matches(q, 0, row); });
    }
  }

  double gain(std::size_t query, std::size_t row) const {
    return relevance_gain(options_.relevance, query_sets_.set(query), gallery_sets_.set(row));
  }
  bool is_relevant(double gain) const {
    return gain >= (options_.relevance == Relevance::kJaccard ? options_.jaccard_from : 1);
  }
  bool matches(std::size_t query, std::size_t column, std::size_t row) const {
    if (options_.relevance == Relevance::kSameFinding)
      return query_sets_.holds(query, column) && gallery_sets_.holds(row, column);
    return is_relevant(gain(query, row));
  }

  /// Whether the query is one of the column's queries.
  bool asks(std::size_t query, std::size_t column) const {
    if (options_.relevance == Relevance::kSameFinding) return query_sets_.holds(query, column);
    const auto set = query_sets_.set(query);
    return options_.relevance == Relevance::kExactSet ||
           std::any_of(set.begin(), set.end(), [](std::uint64_t word) { return word != 0; });
  }

  double empty_value() const {
    if (options_.nothing_to_find == NothingToFind::kSkip) return std::numeric_limits<double>::quiet_NaN();
    return options_.nothing_to_find == NothingToFind::kOne ? 1 : 0;
  }

  double graded_ndcg(std::size_t query, std::size_t k) const {
    GainCounts counts = gains_[gains_of_query_[query]];
    for_each_own(query, [&](std::size_t row) {
      const double own = gain(query, row);
      --std::find_if(counts.begin(), counts.end(), [own](const auto& entry) { return entry.first == own; })->second;
    });
    std::vector<double> ideal, gains;
    for (const auto& [value, rows] : counts) ideal.insert(ideal.end(), std::min(rows, k - ideal.size()), value);
    const auto& ranking = task_.rankings[query];
    for (std::size_t i = 0; i < std::min(k, ranking.size()); ++i) gains.push_back(gain(query, gallery_row(ranking[i])));
    const double best = dcg_at_k(ideal, k);
    return best > 0 ? dcg_at_k(gains, k) / best : empty_value();
  }

  RetrievalTask task_;
  RetrievalOptions options_;
  LabelSets query_sets_, gallery_sets_;
  std::map<std::int64_t, std::vector<std::size_t>> rows_of_group_;  ///< gallery rows
  std::vector<GainCounts> gains_;            ///< of each distinct query set, over the whole gallery
  std::vector<std::size_t> gains_of_query_;  ///< [Q], into `gains_`; both empty for Relevance::kSameFinding
  std::vector<std::size_t> relevant_;        ///< [Q, columns]
};

}  // namespace daug
