#include "daug/metrics/retrieval.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;
using Rankings = std::vector<std::vector<std::int64_t>>;

constexpr RetrievalMetric kAllMetrics[] = {
    RetrievalMetric::kPrecision,      RetrievalMetric::kRecall,   RetrievalMetric::kApReference,
    RetrievalMetric::kApTruncated,    RetrievalMetric::kApAll,    RetrievalMetric::kNdcg,
    RetrievalMetric::kReciprocalRank, RetrievalMetric::kApCutoff, RetrievalMetric::kRPrecision};

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
  if (metric == RetrievalMetric::kRPrecision)
    return relevant > 0 ? naive(RetrievalMetric::kPrecision, hits, relevant, static_cast<std::size_t>(relevant)) : 0;
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
    case RetrievalMetric::kApCutoff:
      return ap / static_cast<double>(k);
    case RetrievalMetric::kRPrecision:
      break;
  }
  return -1;
}

}  // namespace

TEST_CASE("multi-label retrieval agrees with the definitions taken literally", "[metrics]") {
  for (std::uint64_t item = 0; item < 15; ++item) {
    const RandomTask random(item);
    for (auto relevance :
         {Relevance::kSameFinding, Relevance::kAnyFinding, Relevance::kJaccard, Relevance::kExactSet}) {
      const RetrievalEvaluation evaluation(random.view(), {relevance, NothingToFind::kZero, 0.4});
      const bool by_finding = relevance == Relevance::kSameFinding;
      REQUIRE(evaluation.columns() == (by_finding ? random.findings : 1));
      /// Gain of an item of `labels` for query q, from the definition of the relevance.
      const auto gain = [&](std::size_t q, std::size_t c, std::size_t row, const Labels& labels) {
        double both = 0, either = 0;
        bool equal = true;
        for (std::size_t f = by_finding ? c : 0; f < (by_finding ? c + 1 : random.findings); ++f) {
          const bool a = random.query_labels[q * random.findings + f], b = labels[row * random.findings + f];
          both += a && b;
          either += a || b;
          equal = equal && a == b;
        }
        if (relevance == Relevance::kExactSet) return equal ? 1.0 : 0.0;
        if (relevance == Relevance::kJaccard) return either > 0 ? both / either : 0.0;
        return both > 0 ? 1.0 : 0.0;
      };
      const double from = relevance == Relevance::kJaccard ? 0.4 : 1;
      for (std::size_t k : {1, 3, 5, 10, 50})
        for (RetrievalMetric metric : kAllMetrics) {
          const RetrievalValues table = evaluation.values(metric, k);
          for (std::size_t q = 0; q < random.queries; ++q)
            for (std::size_t c = 0; c < evaluation.columns(); ++c) {
              const double value = table.values[q * table.columns + c];
              if (gain(q, c, q, random.query_labels) == 0) {  // it lacks the finding, or every finding
                REQUIRE(std::isnan(value));
                continue;
              }
              double relevant = 0;
              std::vector<double> gains, ideal;
              for (std::size_t g = 0; g < random.gallery; ++g)
                if (random.gallery_groups[g] != random.query_groups[q]) {
                  ideal.push_back(gain(q, c, g, random.gallery_labels));
                  relevant += ideal.back() >= from;
                }
              std::sort(ideal.rbegin(), ideal.rend());
              std::vector<bool> hits;
              for (std::int64_t g : random.rankings[q]) {
                gains.push_back(gain(q, c, static_cast<std::size_t>(g), random.gallery_labels));
                hits.push_back(gains.back() >= from);
              }
              REQUIRE(evaluation.relevant(q, c) == relevant);
              const bool graded = relevance == Relevance::kJaccard && metric == RetrievalMetric::kNdcg;
              const double best = graded ? dcg_at_k(ideal, k) : 0;
              const double expected = !graded    ? naive(metric, hits, relevant, k)
                                      : best > 0 ? dcg_at_k(gains, k) / best
                                                 : 0;
              REQUIRE(value == Approx(expected).epsilon(1e-12));
            }
        }
    }
  }
}

TEST_CASE("kinds of relevance of a hand-computed pair", "[metrics]") {
  const Labels labels{1, 1, 0,  //
                      0, 1, 1,  //
                      0, 0, 0};
  const LabelSets sets("test", "labels", {labels, 3, 3});
  CHECK(relevance_gain(Relevance::kAnyFinding, sets.set(0), sets.set(1)) == 1);
  CHECK(relevance_gain(Relevance::kJaccard, sets.set(0), sets.set(1)) == Approx(1 / 3.0));
  CHECK(relevance_gain(Relevance::kExactSet, sets.set(0), sets.set(1)) == 0);
  CHECK(relevance_gain(Relevance::kExactSet, sets.set(1), sets.set(1)) == 1);
  CHECK(relevance_gain(Relevance::kExactSet, sets.set(2), sets.set(2)) == 1);  // normal finds normal
  CHECK(relevance_gain(Relevance::kJaccard, sets.set(2), sets.set(2)) == 0);
  CHECK(sets.holds(1, 2));
  CHECK_FALSE(sets.holds(1, 0));

  SECTION("findings beyond the 64th count too") {
    Labels wide(200, 0);
    wide[99] = wide[199] = wide[100] = 1;  // two rows of 100; both have the last finding, the second the first as well
    const LabelSets wide_sets("test", "labels", {wide, 2, 100});
    CHECK(relevance_gain(Relevance::kJaccard, wide_sets.set(0), wide_sets.set(1)) == 0.5);
    CHECK(wide_sets.holds(0, 99));
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
  CHECK(RetrievalOptions{}.nothing_to_find == NothingToFind::kSkip);
}

TEST_CASE("a random order's precision is the mean over orders in which each item has each place as often",
          "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomTask task(item);
    for (const Relevance relevance : {Relevance::kSameFinding, Relevance::kAnyFinding}) {
      RetrievalOptions options;
      options.relevance = relevance;
      const RetrievalTask view = task.view();
      for (const std::size_t k : {1, 3, 40}) {
        INFO("task " << item << ", k " << k);
        const RetrievalValues chance = RetrievalEvaluation(view, options).chance_precision(k);
        std::vector<double> sum(chance.values.size(), 0);
        std::vector<std::size_t> orders(task.queries, 0);
        for (std::size_t q = 0; q < task.queries; ++q) {
          auto& list = task.rankings[q];
          for (orders[q] = 0; orders[q] < list.size(); ++orders[q]) {
            std::rotate(list.begin(), list.begin() + 1, list.end());
            const auto one = RetrievalEvaluation(view, options).values(RetrievalMetric::kPrecision, k);
            for (std::size_t c = 0; c < one.columns; ++c) sum[q * one.columns + c] += one.values[q * one.columns + c];
          }
        }
        for (std::size_t i = 0; i < sum.size(); ++i) {
          const auto count = static_cast<double>(orders[i / chance.columns]);
          if (std::isnan(chance.values[i]))
            CHECK((count == 0 || std::isnan(sum[i])));
          else
            CHECK(chance.values[i] == Approx(sum[i] / count).epsilon(1e-12));
        }
      }
    }
  }
  const RandomTask task(1);
  CHECK_THROWS_AS(RetrievalEvaluation(task.view()).chance_precision(0), Error);
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
  for (double bad : {0.0, 1.5, std::nan("")})
    CHECK_THROWS_AS(RetrievalEvaluation({rankings, {query_labels, 2, 1}, {gallery_labels, 3, 1}, {}, {}},
                                        {Relevance::kJaccard, NothingToFind::kSkip, bad}),
                    Error);
  const Labels bad{2, 0};
  CHECK_THROWS_AS(RetrievalEvaluation({rankings, {bad, 2, 1}, {gallery_labels, 3, 1}, {}, {}}), Error);
  CHECK_THROWS_AS(RetrievalEvaluation({rankings, {query_labels, 2, 1}, {bad, 1, 2}, {}, {}}), Error);
}

}  // namespace daug
