// The retrieval figures against the DAug authors' code and torchmetrics; run by the golden test case in
// golden_test.cpp.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/retrieval.h"
#include "golden_support.h"

namespace daug::test {
namespace {

/// The stored rankings against the stored embeddings: at each rank the similarity that belongs there, and the very
/// item, but for similarities that upstream's float32 may not tell apart.
void check_rankings(Comparison& compare, const std::string& prefix, const std::string& mode, const std::string& name,
                    const std::vector<std::vector<std::int64_t>>& rankings, double tolerance) {
  const auto query = compare.at(prefix + (mode == "x2x" ? "query_image" : "query_report")).to_double();
  const auto gallery = compare.at(prefix + "gallery_image").to_double();
  const auto scores = compare.at(prefix + mode + ".topk_scores").to_double();
  const std::size_t queries = rankings.size(), size = query.size() / queries, rows = gallery.size() / size;
  const std::size_t stored = scores.size() / queries;
  std::vector<double> expected, found;
  for (std::size_t q = 0; q < queries; ++q) {
    std::vector<double> similarity(rows, 0);
    for (std::size_t g = 0; g < rows; ++g)
      for (std::size_t d = 0; d < size; ++d) similarity[g] += query[q * size + d] * gallery[g * size + d];
    for (std::size_t rank = 0; rank < rankings[q].size(); ++rank) {
      expected.push_back(scores[q * stored + rank]);
      found.push_back(similarity[static_cast<std::size_t>(rankings[q][rank])]);
    }
    const auto mine = first_k(similarity, rankings[q].size());
    REQUIRE(mine.size() == rankings[q].size());
    for (std::size_t rank = 0; rank < mine.size(); ++rank) {
      INFO("query " << q << " rank " << rank);
      const auto at = [&](std::int64_t item) { return similarity[static_cast<std::size_t>(item)]; };
      CHECK((mine[rank] == rankings[q][rank] || std::abs(at(mine[rank]) - at(rankings[q][rank])) <= tolerance));
    }
    const auto first = first_k(similarity, stored);
    for (std::size_t rank = 0; rank < stored; ++rank) {
      expected.push_back(scores[q * stored + rank]);
      found.push_back(similarity[static_cast<std::size_t>(first[rank])]);
    }
  }
  compare.near(name + ", similarities", found, expected, tolerance);
}

}  // namespace

double check_retrieval(const GoldenSet& set) {
  Comparison compare(set);
  const double upstream = absolute_tolerance(set, 1), by_definition = absolute_tolerance(set, 2);
  for (const auto& config : set.settings.at("config")) {
    const std::size_t queries = config.at("Q"), gallery = config.at("G"), findings = config.at("K");
    const std::string prefix = "case" + std::to_string(config.at("case").get<int>()) + ".";
    const auto query_labels = labels_of(compare.at(prefix + "query_labels"));
    const auto gallery_labels = labels_of(compare.at(prefix + "gallery_labels"));
    const std::string ending = ".topk_indices";
    for (const auto& [key, indices] : set.file.tensors) {
      if (key.rfind(prefix, 0) != 0 || !ends_with(key, ending)) continue;
      const std::string name = key.substr(0, key.size() - ending.size());  // caseN.x2x.kM
      const auto k = static_cast<std::size_t>(indices.shape.at(1));
      const auto flat = compare.at(key).to_int64();
      std::vector<std::vector<std::int64_t>> rankings;
      for (std::size_t q = 0; q < queries; ++q)
        rankings.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(q * k),
                              flat.begin() + static_cast<std::ptrdiff_t>((q + 1) * k));
      const RetrievalEvaluation evaluation(
          {rankings, {query_labels, queries, findings}, {gallery_labels, gallery, findings}, {}, {}},
          {Relevance::kSameFinding, NothingToFind::kZero});
      const std::string mode = name.substr(prefix.size(), name.rfind('.') - prefix.size());
      check_rankings(compare, prefix, mode, name, rankings, upstream);

      const std::pair<const char*, RetrievalMetric> figures[] = {{"ap_reference", RetrievalMetric::kApReference},
                                                                 {"ap_truncated", RetrievalMetric::kApTruncated},
                                                                 {"precision", RetrievalMetric::kPrecision},
                                                                 {"recall", RetrievalMetric::kRecall},
                                                                 {"ndcg", RetrievalMetric::kNdcg}};
      for (const auto& [figure, metric] : figures)
        compare.near(name + "." + figure, evaluation.values(metric, k).values, by_definition);

      const auto summary =
          evaluation.values(RetrievalMetric::kApReference, k).summarize(std::nullopt, EmptyFinding::kReferenceZeroOnce);
      std::vector<double> per_finding;
      for (const auto& value : summary.finding) per_finding.push_back(or_nan(value));
      compare.near(name + ".AP", per_finding, upstream);
      const std::vector<double> averages{or_nan(summary.macro), or_nan(summary.weighted)};
      compare.near(name + ".mAP_wmAP", averages, upstream);
      const auto& printed = config.at("authors_rounded").at(mode).at(std::to_string(k));
      compare.rounded(name + " AP as printed", per_finding, printed.at("AP"), 5e-4 + upstream);
      compare.rounded(name + " averages as printed", averages, {printed.at("mAP"), printed.at("wmAP")},
                      5e-4 + upstream);
    }
  }
  return compare.largest();
}

namespace {

/// Items by score with the k first as torch.topk lists them on a CPU, equal ones as the standard library's selection
/// leaves them.
std::vector<std::int64_t> order_of_topk(const std::vector<double>& scores, std::size_t k) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto higher = [&](std::int64_t x, std::int64_t y) {
    return scores[static_cast<std::size_t>(x)] > scores[static_cast<std::size_t>(y)];
  };
  k = std::min(k, order.size());
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(k);
  if (64 * k <= order.size()) {
    std::partial_sort(order.begin(), end, order.end(), higher);
  } else {
    std::nth_element(order.begin(), end - 1, order.end(), higher);
    std::sort(order.begin(), end - 1, higher);
  }
  return order;
}

/// One query of a torchmetrics set with its gallery of scored items.
struct ScoredQuery {
  std::vector<double> scores;
  std::vector<std::uint8_t> target;

  bool has_ties() const {
    auto sorted = scores;
    std::sort(sorted.begin(), sorted.end());
    return std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  }

  /// [average precision, precision, recall] at k. Items score first to last, ties in their own order (trial 0), in
  /// torch.topk's (trial 1) or in the one that `trial` shuffles them into.
  std::vector<double> figures(std::size_t k, std::uint64_t trial, NothingToFind nothing) const {
    std::vector<std::int64_t> ranking =
        trial == 1 ? order_of_topk(scores, k) : first_k(scores, scores.size(), Compat::kPublished);
    if (trial > 1) {
      RandomStream random(1, trial, "tie order");
      random.shuffle(ranking.begin(), ranking.end());
      const auto score = [this](std::int64_t item) { return scores[static_cast<std::size_t>(item)]; };
      std::stable_sort(ranking.begin(), ranking.end(), [&](auto x, auto y) { return score(x) > score(y); });
    }
    const std::vector<std::vector<std::int64_t>> rankings{ranking};
    const std::vector<std::uint8_t> positive{1};
    const RetrievalEvaluation evaluation({rankings, {positive, 1, 1}, {target, target.size(), 1}, {}, {}},
                                         {Relevance::kSameFinding, nothing});
    std::vector<double> values;
    for (auto metric : {RetrievalMetric::kApReference, RetrievalMetric::kPrecision, RetrievalMetric::kRecall})
      values.push_back(evaluation.values(metric, k).values.at(0));
    return values;
  }

  double ndcg(std::size_t k, NothingToFind nothing) const {
    const bool nothing_relevant = std::count(target.begin(), target.end(), 1) == 0;
    if (nothing_relevant && nothing == NothingToFind::kSkip) return kNaN;
    if (nothing_relevant && nothing == NothingToFind::kOne) return 1;
    return tied_ndcg_at_k(scores, target, k, Compat::kPublished);
  }
};

/// The values closest to the expected ones over ways to break ties, each figure by itself: upstream keeps no order
/// among equal scores, and not even the same one for precision and recall.
template <class Actual>
std::vector<double> best_tie_order(bool ties, const std::vector<double>& expected, double tolerance, Actual&& actual) {
  std::vector<double> best = actual(0);
  for (std::uint64_t trial = 1; ties && trial < 20000 && absolute_error(best, expected) > tolerance; ++trial) {
    const std::vector<double> values = actual(trial);
    for (std::size_t i = 0; i < best.size(); ++i)
      if (std::abs(values[i] - expected[i]) < std::abs(best[i] - expected[i])) best[i] = values[i];
  }
  return best;
}

}  // namespace

double check_torchmetrics(const GoldenSet& set) {
  Comparison compare(set);
  const double tolerance = absolute_tolerance(set);
  std::vector<ScoredQuery> queries;
  bool any_ties = false;
  for (const std::string name : set.settings.at("config")) {
    const ScoredQuery query{compare.at(name + ".scores").to_double(), labels_of(compare.at(name + ".target"))};
    for (const auto& [key, tensor] : set.file.tensors) {
      const std::size_t size = query.scores.size();
      std::size_t k = 0;
      if (key == name + ".all")
        k = size;
      else if (key.rfind(name + ".k", 0) == 0)
        k = static_cast<std::size_t>(std::stoul(key.substr(name.size() + 2)));
      else
        continue;
      const auto expected = compare.at(key).to_double();  // [ap, ndcg, precision, precision(adaptive_k), recall]
      const double ndcg = query.ndcg(k, NothingToFind::kZero);
      compare.near(key,
                   best_tie_order(query.has_ties(), expected, tolerance,
                                  [&](std::uint64_t trial) {
                                    const auto at_k = query.figures(k, trial, NothingToFind::kZero);
                                    const auto adaptive = query.figures(std::min(k, size), trial, NothingToFind::kZero);
                                    return std::vector<double>{at_k[0], ndcg, at_k[1], adaptive[1], at_k[2]};
                                  }),
                   expected, tolerance);
    }
    queries.push_back(query);
    any_ties = any_ties || query.has_ties();
  }

  const std::pair<const char*, NothingToFind> actions[] = {{"module.empty_neg", NothingToFind::kZero},
                                                           {"module.empty_pos", NothingToFind::kOne},
                                                           {"module.empty_skip", NothingToFind::kSkip}};
  for (const auto& [key, action] : actions) {
    if (!set.file.contains(key)) continue;
    const std::string meaning = set.settings.at("tensors").at(key).at("meaning");
    const std::string parameter = "top_k=";
    const auto found = meaning.find(parameter);
    REQUIRE(found != std::string::npos);
    const std::string limit = meaning.substr(found + parameter.size());  // begins with a number, or None
    const std::size_t top_k = limit.rfind("None", 0) == 0 ? 0 : std::stoul(limit);
    const auto expected = compare.at(key).to_double();  // [ap, ndcg, precision, recall]
    const auto mean = [&queries, top_k, nothing = action](std::uint64_t trial) {
      std::vector<double> sum(4, 0);
      double count = 0;
      for (const auto& query : queries) {
        const std::size_t k = top_k > 0 ? top_k : query.scores.size();
        const auto values = query.figures(k, trial, nothing);
        if (std::isnan(values[0])) continue;
        const double all[] = {values[0], query.ndcg(k, nothing), values[1], values[2]};
        for (std::size_t i = 0; i < 4; ++i) sum[i] += all[i];
        ++count;
      }
      for (double& value : sum) value /= count;
      return sum;
    };
    compare.near(key, best_tie_order(any_ties, expected, tolerance, mean), expected, tolerance);
  }
  return compare.largest();
}

}  // namespace daug::test
