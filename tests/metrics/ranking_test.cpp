#include "daug/metrics/ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/scored_ranking.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;

}  // namespace

TEST_CASE("retrieval figures of a hand-computed list", "[metrics]") {
  const Labels hits{1, 0, 1, 0, 0};
  CHECK(precision_at_k(hits, 1) == 1);
  CHECK(precision_at_k(hits, 5) == Approx(0.4));
  CHECK(precision_at_k(hits, 10) == Approx(0.2));
  CHECK(recall_at_k(hits, 4, 5) == Approx(0.5));
  const double sum = 1 + 2 / 3.0;
  CHECK(average_precision_at_k(hits, 4, 5, ApDefinition::kReference) == Approx(sum / 2));
  CHECK(average_precision_at_k(hits, 4, 5, ApDefinition::kTruncated) == Approx(sum / 4));
  CHECK(average_precision_at_k(hits, 9, 5, ApDefinition::kTruncated) == Approx(sum / 5));
  CHECK(average_precision_at_k(hits, 9, 5, ApDefinition::kAll) == Approx(sum / 9));
  CHECK(average_precision_at_k(hits, 2, 5, ApDefinition::kCutoff) == Approx(sum / 5));
  CHECK(r_precision(hits, 2) == 0.5);
  CHECK(r_precision(hits, 3) == Approx(2 / 3.0));
  CHECK(r_precision(hits, 8) == Approx(0.25));  // the places the list lacks are misses
  CHECK(ndcg_at_k(hits, 2, 5) == Approx(1.5 / (1 + 1 / std::log2(3.0))));
  CHECK(reciprocal_rank_at_k(hits, 5) == 1);
  CHECK(reciprocal_rank_at_k(Labels{0, 0, 1}, 5) == Approx(1 / 3.0));
  CHECK(reciprocal_rank_at_k(Labels{0, 0, 1}, 2) == 0);

  SECTION("one hit at rank 1 and nine misses is perfect by the reference's definition only") {
    const Labels lucky{1, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    CHECK(average_precision_at_k(lucky, 50, 10, ApDefinition::kReference) == 1);
    CHECK(average_precision_at_k(lucky, 50, 10, ApDefinition::kTruncated) == Approx(0.1));
  }
  SECTION("nothing retrieved is 0 by every definition, and nothing to find is refused") {
    for (auto definition :
         {ApDefinition::kReference, ApDefinition::kTruncated, ApDefinition::kAll, ApDefinition::kCutoff}) {
      CHECK(average_precision_at_k(Labels{0, 0}, 3, 2, definition) == 0);
      CHECK_THROWS_AS(average_precision_at_k(Labels{0, 0}, 0, 2, definition), Error);
    }
    CHECK(ndcg_at_k(Labels{}, 2, 2) == 0);
    CHECK_THROWS_AS(ndcg_at_k(Labels{0, 0}, 0, 2), Error);
    CHECK_THROWS_AS(recall_at_k(Labels{0, 0}, 0, 2), Error);
    CHECK_THROWS_AS(r_precision(Labels{0, 0}, 0), Error);
  }
  SECTION("a cut-off of 0 and more hits than relevant items are refused") {
    CHECK_THROWS_AS(precision_at_k(hits, 0), Error);
    CHECK_THROWS_AS(recall_at_k(hits, 4, 0), Error);
    CHECK_THROWS_AS(ndcg_at_k(hits, 2, 0), Error);
    CHECK_THROWS_AS(reciprocal_rank_at_k(hits, 0), Error);
    CHECK_THROWS_AS(average_precision_at_k(hits, 1, 5, ApDefinition::kTruncated), Error);
    CHECK_THROWS_AS(recall_at_k(hits, 1, 5), Error);
    CHECK_THROWS_AS(ndcg_at_k(hits, 1, 5), Error);
    CHECK(recall_at_k(hits, 1, 2) == 1);  // of those it looks at
  }
  SECTION("a list with all that there is to find has a recall of 1, without rounding") {
    for (std::size_t found = 1; found <= 100; ++found)
      for (std::size_t k = found; k <= 100; ++k) REQUIRE(recall_at_k(Labels(found, 1), found, k) == 1);
  }
}

TEST_CASE("discounted gain of a hand-computed list", "[metrics]") {
  const std::vector<double> gains{3, 0, 1};
  CHECK(dcg_at_k(gains, 3) == Approx(3 + 1 / 2.0));
  CHECK(dcg_at_k(gains, 2) == 3);
  CHECK(dcg_at_k(gains, 9) == Approx(3.5));
  CHECK(dcg_at_k(std::vector<double>(2000, 1.0), 2000) - dcg_at_k(std::vector<double>(2000, 1.0), 1999) ==
        Approx(1 / std::log2(2001.0)));
  CHECK_THROWS_AS(dcg_at_k(gains, 0), Error);
  CHECK_THROWS_AS(dcg_at_k(std::vector<double>{-1}, 1), Error);
  CHECK_THROWS_AS(dcg_at_k(std::vector<double>{std::nan("")}, 1), Error);
}

TEST_CASE("the first k of scored items", "[metrics]") {
  using Items = std::vector<std::int64_t>;
  const std::vector<float> scores{0.5F, -1, 2, 0.5F, 0};
  CHECK(first_k(scores, 1) == Items{2});
  CHECK(first_k(scores, 3) == Items{2, 0, 3});
  CHECK(first_k(scores, 9) == Items{2, 0, 3, 4, 1});
  CHECK(first_k(scores, 9, Compat::kPublished) == Items{2, 0, 3});  // torchmetrics drops what scores 0 or less
  CHECK(first_k(std::vector<float>{}, 3).empty());
  CHECK_THROWS_AS(first_k(scores, 0), Error);
  CHECK_THROWS_AS(first_k(std::vector<double>{1, std::nan("")}, 1), Error);
  for (const float value :
       {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()})
    for (const std::size_t at : {0, 3, 199})
      for (const std::size_t k : {1, 150, 200}) {
        std::vector<float> broken(200, 1.0F);
        broken[at] = value;
        CHECK_THROWS_AS(first_k(broken, k), Error);
      }
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(37, item, "first k");
    std::vector<double> values;  // of both signs, and both zeros
    for (std::uint32_t i = random.below(item % 4 ? 60 : 400); i > 0; --i)
      values.push_back((random.below(2) ? -0.5 : 0.25) * random.below(item % 2 ? 5 : 100000));
    const std::vector<float> narrow(values.begin(), values.end());
    Items order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
      return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
    });
    for (std::size_t k : {1, 2, 7, 60, 128, 129, 300, 500}) {
      Items expected = order;
      expected.resize(std::min(k, expected.size()));
      CHECK(first_k(values, k) == expected);
      CHECK(first_k(narrow, k) == expected);
    }
  }
}

TEST_CASE("nDCG with ties is the mean over all ways to break them", "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(31, item, "tied ndcg");
    const std::size_t size = 1 + random.below(7);
    std::vector<float> scores;
    std::vector<double> gains;  // 0 and 1, or graded
    for (std::size_t i = 0; i < size; ++i) {
      scores.push_back(static_cast<float>(random.below(3)) - 1.0F);
      gains.push_back(random.below(item % 2 ? 2 : 4));
    }
    std::vector<double> ideal = gains;
    std::sort(ideal.rbegin(), ideal.rend());
    std::vector<std::size_t> order(size);
    std::iota(order.begin(), order.end(), std::size_t{0});
    for (std::size_t k : {std::size_t{1}, std::size_t{3}, size}) {
      double sum = 0;
      int ways = 0;
      do {
        if (!std::is_sorted(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; }))
          continue;
        std::vector<double> ranked;
        for (std::size_t i : order) ranked.push_back(gains[i]);
        if (ideal[0] > 0) sum += dcg_at_k(ranked, k) / dcg_at_k(ideal, k);
        ++ways;
      } while (std::next_permutation(order.begin(), order.end()));
      CHECK(tied_ndcg_at_k(scores, gains, k, Compat::kPublished) == Approx(sum / ways).epsilon(1e-12));
      if (!(ideal[0] > 0)) CHECK_THROWS_AS(tied_ndcg_at_k(scores, gains, k), Error);
    }
  }
  CHECK_THROWS_AS(tied_ndcg_at_k(std::vector<double>{std::nan("")}, Labels{1}, 1), Error);
  CHECK_THROWS_AS(tied_ndcg_at_k(std::vector<double>{1.0}, Labels{1, 0}, 1), Error);
  CHECK_THROWS_AS(tied_ndcg_at_k(std::vector<double>{1.0}, std::vector<double>{-1}, 1), Error);
  CHECK_THROWS_AS(tied_ndcg_at_k(std::vector<double>{1.0}, Labels{1}, 0), Error);
  CHECK(tied_ndcg_at_k(std::vector<double>{}, Labels{}, 3, Compat::kPublished) == 0);
  CHECK_THROWS_AS(tied_ndcg_at_k(std::vector<double>{}, Labels{}, 3), Error);
}

TEST_CASE("tied nDCG without ties is nDCG", "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(38, item, "untied ndcg");
    std::vector<double> scores;
    Labels relevance;
    for (std::uint32_t i = 1 + random.below(80); i > 0; --i) {
      scores.push_back(random.normal());
      relevance.push_back(random.uniform() < 0.2);
    }
    relevance.back() = 1;  // something to find
    const auto relevant = static_cast<std::size_t>(std::count(relevance.begin(), relevance.end(), 1));
    Labels hits;
    for (std::int64_t index : first_k(scores, scores.size()))
      hits.push_back(relevance[static_cast<std::size_t>(index)]);
    for (std::size_t k : {1, 5, 10, 100})
      CHECK(tied_ndcg_at_k(scores, relevance, k) == Approx(ndcg_at_k(hits, relevant, k)).epsilon(1e-12));
  }
}

TEST_CASE("every retrieval metric says what it is", "[metrics]") {
  for (int metric = 0; metric <= static_cast<int>(RetrievalMetric::kRPrecision); ++metric)
    CHECK(std::string(retrieval_metric_definition(static_cast<RetrievalMetric>(metric))).size() > 10);
  CHECK_THROWS_AS(retrieval_metric_definition(static_cast<RetrievalMetric>(99)), Error);
  CHECK_THROWS_AS(retrieval_figure(static_cast<RetrievalMetric>(99), Labels{1}, 1, 1), Error);
}

}  // namespace daug
