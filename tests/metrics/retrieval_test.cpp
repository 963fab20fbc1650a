#include "daug/metrics/retrieval.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;
using Rankings = std::vector<std::vector<std::int64_t>>;

constexpr RetrievalMetric kAllMetrics[] = {RetrievalMetric::kPrecision,     RetrievalMetric::kRecall,
                                           RetrievalMetric::kApReference,   RetrievalMetric::kApTruncated,
                                           RetrievalMetric::kApAll,         RetrievalMetric::kNdcg,
                                           RetrievalMetric::kReciprocalRank};

/// Rankings, labels and patients of a random multi-label task in which patients span queries and gallery.
struct RandomTask {
  std::size_t queries, gallery, findings;
  Labels query_labels, gallery_labels;
  std::vector<std::int64_t> query_groups, gallery_groups;
  Rankings rankings;

  explicit RandomTask(std::uint64_t item) {
    RandomStream random(21, item, "retrieval test");
    queries = 4 + random.below(6);
    gallery = 5 + random.below(30);
    findings = 1 + random.below(5);
    for (std::size_t i = 0; i < queries * findings; ++i) query_labels.push_back(random.uniform() < 0.4);
    for (std::size_t i = 0; i < gallery * findings; ++i) gallery_labels.push_back(random.uniform() < 0.3);
    for (std::size_t i = 0; i < queries; ++i) query_groups.push_back(random.below(6));
    for (std::size_t i = 0; i < gallery; ++i) gallery_groups.push_back(random.below(6));
    for (std::size_t q = 0; q < queries; ++q) {
      std::vector<std::int64_t> list;
      for (std::size_t g = 0; g < gallery; ++g)
        if (gallery_groups[g] != query_groups[q]) list.push_back(static_cast<std::int64_t>(g));
      random.shuffle(list.begin(), list.end());
      rankings.push_back(list);
    }
  }

  RetrievalTask view() const {
    return {
        rankings, {query_labels, queries, findings}, {gallery_labels, gallery, findings}, query_groups, gallery_groups};
  }
};

/// The definitions once more, written as naively as possible.
double naive(RetrievalMetric metric, const std::vector<bool>& hits, double relevant, std::size_t k) {
  std::vector<bool> first = hits;
  first.resize(k, false);
  double found = 0, ap = 0, dcg = 0, ideal = 0, reciprocal = 0;
  for (std::size_t r = 1; r <= k; ++r) {
    if (r <= relevant) ideal += std::log(2.0) / std::log(r + 1.0);
    if (!first[r - 1]) continue;
    found += 1;
    if (found == 1) reciprocal = 1.0 / static_cast<double>(r);
    dcg += std::log(2.0) / std::log(r + 1.0);
    double precision = 0;
    for (std::size_t i = 0; i < r; ++i) precision += first[i] ? 1.0 / static_cast<double>(r) : 0;
    ap += precision;
  }
  switch (metric) {
    case RetrievalMetric::kPrecision:
      return found / static_cast<double>(k);
    case RetrievalMetric::kRecall:
      return relevant > 0 ? found / relevant : 0;
    case RetrievalMetric::kApReference:
      return found > 0 ? ap / found : 0;
    case RetrievalMetric::kApTruncated:
      return relevant > 0 ? ap / std::min(static_cast<double>(k), relevant) : 0;
    case RetrievalMetric::kApAll:
      return relevant > 0 ? ap / relevant : 0;
    case RetrievalMetric::kNdcg:
      return relevant > 0 ? dcg / ideal : 0;
    case RetrievalMetric::kReciprocalRank:
      return reciprocal;
  }
  return -1;
}

}  // namespace

TEST_CASE("retrieval figures of a hand-computed list", "[metrics]") {
  const Labels hits{1, 0, 1, 0, 0};
  CHECK(precision_at_k(hits, 1) == 1);
  CHECK(precision_at_k(hits, 5) == Approx(0.4));
  CHECK(precision_at_k(hits, 10) == Approx(0.2));
  CHECK(recall_at_k(hits, 4, 5) == Approx(0.5));
  CHECK(recall_at_k(hits, 0, 5) == 0);
  const double sum = 1 + 2 / 3.0;
  CHECK(average_precision_at_k(hits, 4, 5, ApDefinition::kReference) == Approx(sum / 2));
  CHECK(average_precision_at_k(hits, 4, 5, ApDefinition::kTruncated) == Approx(sum / 4));
  CHECK(average_precision_at_k(hits, 9, 5, ApDefinition::kTruncated) == Approx(sum / 5));
  CHECK(average_precision_at_k(hits, 9, 5, ApDefinition::kAll) == Approx(sum / 9));
  CHECK(ndcg_at_k(hits, 2, 5) == Approx(1.5 / (1 + 1 / std::log2(3.0))));
  CHECK(reciprocal_rank_at_k(hits, 5) == 1);
  CHECK(reciprocal_rank_at_k(Labels{0, 0, 1}, 5) == Approx(1 / 3.0));
  CHECK(reciprocal_rank_at_k(Labels{0, 0, 1}, 2) == 0);

  SECTION("one hit at rank 1 and nine misses is perfect by the reference's definition only") {
    const Labels lucky{1, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    CHECK(average_precision_at_k(lucky, 50, 10, ApDefinition::kReference) == 1);
    CHECK(average_precision_at_k(lucky, 50, 10, ApDefinition::kTruncated) == Approx(0.1));
  }
  SECTION("nothing retrieved is 0 by every definition") {
    for (auto definition : {ApDefinition::kReference, ApDefinition::kTruncated, ApDefinition::kAll}) {
      CHECK(average_precision_at_k(Labels{0, 0}, 3, 2, definition) == 0);
      CHECK(average_precision_at_k(Labels{}, 0, 2, definition) == 0);
    }
    CHECK(ndcg_at_k(Labels{}, 0, 2) == 0);
  }
  SECTION("a cut-off of 0 and more hits than relevant items are refused") {
    CHECK_THROWS_AS(precision_at_k(hits, 0), Error);
    CHECK_THROWS_AS(ndcg_at_k(hits, 2, 0), Error);
    CHECK_THROWS_AS(reciprocal_rank_at_k(hits, 0), Error);
    CHECK_THROWS_AS(average_precision_at_k(hits, 1, 5, ApDefinition::kTruncated), Error);
  }
}

TEST_CASE("nDCG with ties is the mean over all ways to break them", "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(31, item, "tied ndcg");
    const std::size_t size = 1 + random.below(7);
    std::vector<float> scores;
    Labels relevance;
    for (std::size_t i = 0; i < size; ++i) {
      scores.push_back(static_cast<float>(random.below(3)) - 1.0F);
      relevance.push_back(random.below(2));
    }
    const auto relevant = static_cast<std::size_t>(std::count(relevance.begin(), relevance.end(), 1));
    std::vector<std::size_t> order(size);
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t k : {std::size_t{1}, std::size_t{3}, size}) {
      double sum = 0;
      int ways = 0;
      do {
        if (!std::is_sorted(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; }))
          continue;
        Labels hits;
        for (std::size_t i : order) hits.push_back(relevance[i]);
        sum += ndcg_at_k(hits, relevant, k);
        ++ways;
      } while (std::next_permutation(order.begin(), order.end()));
      CHECK(tied_ndcg_at_k(scores, relevance, k) == Approx(sum / ways).epsilon(1e-12));
    }
  }
  CHECK_THROWS_AS(tied_ndcg_at_k(std::vector<double>{std::nan("")}, Labels{1}, 1), Error);
  CHECK_THROWS_AS(tied_ndcg_at_k(std::vector<double>{1.0}, Labels{1, 0}, 1), Error);
}

TEST_CASE("multi-label retrieval agrees with the definitions taken literally", "[metrics]") {
  for (std::uint64_t item = 0; item < 15; ++item) {
    const RandomTask random(item);
    for (auto relevance : {Relevance::kSameFinding, Relevance::kAnyFinding}) {
      const RetrievalEvaluation evaluation(random.view(), {relevance, NothingToFind::kZero});
      const bool any = relevance == Relevance::kAnyFinding;
      REQUIRE(evaluation.columns() == (any ? 1 : random.findings));
      const auto relevant_to = [&](std::size_t q, std::size_t c, std::size_t row, const Labels& labels) {
        for (std::size_t f = any ? 0 : c; f < (any ? random.findings : c + 1); ++f)
          if (random.query_labels[q * random.findings + f] && labels[row * random.findings + f]) return true;
        return false;
      };
      for (std::size_t k : {1, 3, 5, 10, 50})
        for (RetrievalMetric metric : kAllMetrics) {
          const RetrievalValues table = evaluation.values(metric, k);
          for (std::size_t q = 0; q < random.queries; ++q)
            for (std::size_t c = 0; c < evaluation.columns(); ++c) {
              const double value = table.values[q * table.columns + c];
              if (!relevant_to(q, c, q, random.query_labels)) {
                REQUIRE(std::isnan(value));
                continue;
              }
              double relevant = 0;
              for (std::size_t g = 0; g < random.gallery; ++g)
                relevant +=
                    random.gallery_groups[g] != random.query_groups[q] && relevant_to(q, c, g, random.gallery_labels);
              std::vector<bool> hits;
              for (std::int64_t g : random.rankings[q])
                hits.push_back(relevant_to(q, c, static_cast<std::size_t>(g), random.gallery_labels));
              REQUIRE(evaluation.relevant(q, c) == relevant);
              REQUIRE(value == Approx(naive(metric, hits, relevant, k)).epsilon(1e-12));
            }
        }
    }
  }
}

TEST_CASE("named retrieval figures are ordered as their divisors are", "[metrics]") {
  for (std::uint64_t item = 50; item < 60; ++item) {
    const RandomTask random(item);
    const RetrievalEvaluation evaluation(random.view());
    for (std::size_t k : {1, 5, 10}) {
      const auto reference = evaluation.values(RetrievalMetric::kApReference, k).values;
      const auto truncated = evaluation.values(RetrievalMetric::kApTruncated, k).values;
      const auto all = evaluation.values(RetrievalMetric::kApAll, k).values;
      const auto precision = evaluation.values(RetrievalMetric::kPrecision, k).values;
      for (std::size_t i = 0; i < reference.size(); ++i) {
        if (std::isnan(reference[i])) continue;
        CHECK(reference[i] >= truncated[i]);
        CHECK(truncated[i] >= all[i]);
        if (k == 1) CHECK(reference[i] == precision[i]);
      }
    }
  }
}

TEST_CASE("averages over findings leave out a finding without queries unless told", "[metrics]") {
  // Two queries: the first has findings 0 and 1, the second finding 0; nobody has finding 2.
  const Labels query_labels{1, 1, 0, 1, 0, 0};
  const Labels gallery_labels{1, 0, 0, 0, 1, 0, 0, 0, 1};
  const Rankings rankings{{0, 1, 2}, {2, 0, 1}};
  const RetrievalEvaluation evaluation({rankings, {query_labels, 2, 3}, {gallery_labels, 3, 3}, {}, {}});
  const RetrievalValues ap = evaluation.values(RetrievalMetric::kApTruncated, 3);
  const FindingSummary summary = ap.summarize();
  CHECK(summary.finding[0].value() == Approx((1 + 0.5) / 2));
  CHECK(summary.finding[1].value() == Approx(0.5));
  CHECK_FALSE(summary.finding[2]);
  CHECK(summary.left_out == 1);
  CHECK(summary.weight == std::vector<std::size_t>{2, 1, 0});
  CHECK(summary.macro.value() == Approx((0.75 + 0.5) / 2));
  CHECK(summary.weighted.value() == Approx((1 + 0.5 + 0.5) / 3));

  SECTION("the reference means to count it once with value 0") {
    const FindingSummary compatible = ap.summarize(std::nullopt, EmptyFinding::kReferenceZeroOnce);
    CHECK(compatible.finding[2].value() == 0);
    CHECK(compatible.macro.value() == Approx((0.75 + 0.5) / 3));
    CHECK(compatible.weighted.value() == Approx((1 + 0.5 + 0.5) / 4));
  }
  SECTION("a resample of the queries repeats their values") {
    const std::vector<std::size_t> rows{1, 1, 0}, none;
    CHECK(ap.summarize(rows).finding[0].value() == Approx((0.5 + 0.5 + 1) / 3));
    CHECK(ap.summarize(rows).weight == std::vector<std::size_t>{3, 1, 0});
    CHECK_FALSE(ap.summarize(none).macro);
  }
}

TEST_CASE("queries with nothing to find count as asked", "[metrics]") {
  const Labels query_labels{1, 1}, gallery_labels{1, 0};
  const Rankings rankings{{1, 0}, {1}};
  const std::vector<std::int64_t> query_groups{7, 8}, gallery_groups{8, 9};
  const auto mean = [&](NothingToFind choice) {
    // The only relevant item belongs to the second query's own patient, so that query has nothing to find.
    const RetrievalEvaluation evaluation(
        {rankings, {query_labels, 2, 1}, {gallery_labels, 2, 1}, query_groups, gallery_groups},
        {Relevance::kSameFinding, choice});
    return evaluation.values(RetrievalMetric::kApTruncated, 2).summarize().macro.value();
  };
  CHECK(mean(NothingToFind::kZero) == Approx(0.25));
  CHECK(mean(NothingToFind::kOne) == Approx(0.75));
  CHECK(mean(NothingToFind::kSkip) == Approx(0.5));
}

TEST_CASE("retrieval refuses inconsistent input by name", "[metrics]") {
  const Labels query_labels{1, 0}, gallery_labels{1, 0, 1};
  const auto evaluate = [&](const Rankings& rankings, const std::vector<std::int64_t>& query_groups = {},
                            const std::vector<std::int64_t>& gallery_groups = {}) {
    RetrievalEvaluation({rankings, {query_labels, 2, 1}, {gallery_labels, 3, 1}, query_groups, gallery_groups});
  };
  CHECK_NOTHROW(evaluate({{0, 1, 2}, {}}));
  CHECK_THROWS_WITH(evaluate({{0, 3}, {1}}), "RetrievalEvaluation: rankings[0]: expected gallery rows below 3, got 3");
  CHECK_THROWS_WITH(evaluate({{0}, {-1}}), "RetrievalEvaluation: rankings[1]: expected gallery rows below 3, got -1");
  CHECK_THROWS_WITH(evaluate({{0}, {2, 1, 2}}),
                    "RetrievalEvaluation: rankings[1]: expected each gallery row once, got 2");
  CHECK_THROWS_AS(evaluate({{0}}), Error);
  CHECK_THROWS_AS(evaluate({{0}, {1}}, {5, 6}), Error);
  CHECK_THROWS_WITH(evaluate({{0}, {1}}, {5, 6}, {4, 6, 4}),
                    "RetrievalEvaluation: rankings[1]: expected no item of the query's own group, got 1");
  const Rankings rankings{{0}, {1}};
  const Labels bad{2, 0};
  CHECK_THROWS_AS(RetrievalEvaluation({rankings, {bad, 2, 1}, {gallery_labels, 3, 1}, {}, {}}), Error);
  CHECK_THROWS_AS(RetrievalEvaluation({rankings, {query_labels, 2, 1}, {bad, 1, 2}, {}, {}}), Error);
}

TEST_CASE("every retrieval metric says what it is", "[metrics]") {
  for (RetrievalMetric metric : kAllMetrics) CHECK(std::string(retrieval_metric_definition(metric)).size() > 10);
}

}  // namespace daug
