// The metrics against what scikit-learn, torchmetrics and the DAug authors' code computed. Sets are told apart by the
// "kind" in their JSON; cases, cut-offs, bin counts and tolerances are read from the files.

#include "support/golden.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/classification.h"
#include "daug/metrics/retrieval.h"
#include "support/catch.h"

namespace daug::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double or_nan(const std::optional<double>& value) { return value.value_or(kNaN); }

/// The number after the n-th "atol" of the set's tolerance sentence.
double absolute_tolerance(const GoldenSet& set, int n = 1) {
  const std::string text = set.settings.at("tolerance");
  std::size_t at = 0;
  for (; n > 0; --n) {
    at = text.find("atol ", at);
    REQUIRE(at != std::string::npos);
    at += 5;
  }
  return std::stod(text.substr(at));
}

/// A number that JSON may hold as the string "nan".
double number(const nlohmann::json& value) {
  return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
}

std::vector<std::uint8_t> labels_of(const Array& array) {
  const auto values = array.to_int64();
  return {values.begin(), values.end()};
}

std::vector<double> column(const std::vector<double>& matrix, std::size_t columns, std::size_t index) {
  std::vector<double> result;
  for (std::size_t i = index; i < matrix.size(); i += columns) result.push_back(matrix[i]);
  return result;
}

std::vector<std::uint8_t> column(const std::vector<std::uint8_t>& matrix, std::size_t columns, std::size_t index) {
  std::vector<std::uint8_t> result;
  for (std::size_t i = index; i < matrix.size(); i += columns) result.push_back(matrix[i]);
  return result;
}

bool ends_with(const std::string& text, const std::string& ending) {
  return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

/// Collects the largest error of a set and asserts on each comparison.
class Comparison {
 public:
  void near(const std::string& what, const std::vector<double>& actual, const std::vector<double>& expected,
            double tolerance) {
    INFO(what);
    const double error = absolute_error(actual, expected);
    expect(error <= tolerance);
    largest_ = std::max(largest_, error);
    ++compared_;
  }
  /// A figure that was rounded for printing: asserted, but no part of the reported error.
  void rounded(const std::string& what, const std::vector<double>& actual, const nlohmann::json& expected,
               double tolerance) {
    INFO(what);
    std::vector<double> numbers;
    for (const auto& value : expected) numbers.push_back(number(value));
    expect(absolute_error(actual, numbers) <= tolerance);
  }
  void expect(bool holds) {
    CHECK(holds);
    failed_ += !holds;
  }
  /// Ends the test case unless something was compared and everything agreed, so that no "ok" line is printed.
  double largest() const {
    REQUIRE(compared_ > 0);
    REQUIRE(failed_ == 0);
    return largest_;
  }

 private:
  double largest_ = 0;
  int compared_ = 0;
  int failed_ = 0;
};

double check_classification(const GoldenSet& set) {
  Comparison compare;
  const double tolerance = absolute_tolerance(set);
  const std::size_t rows = set.settings.at("config").at("N"), findings = set.settings.at("config").at("K");
  const auto labels = labels_of(set.at("labels"));
  const auto scores = set.at("scores").to_double(), weights = set.at("weights").to_double();
  const MultiLabelData data{{scores, rows, findings}, {labels, rows, findings}, {}};

  std::vector<double> area, area_weighted, precision, precision_weighted;
  for (std::size_t f = 0; f < findings; ++f) {
    const auto s = column(scores, findings, f);
    const auto l = column(labels, findings, f);
    area.push_back(or_nan(auroc(s, l)));
    area_weighted.push_back(or_nan(auroc(s, l, weights)));
    // scikit-learn says 0 where no positive exists; here that is undefined.
    precision.push_back(average_precision(s, l).value_or(0));
    precision_weighted.push_back(average_precision(s, l, weights).value_or(0));
  }
  compare.near("auroc", area, set.at("auroc").to_double(), tolerance);
  compare.near("auroc, sample weights", area_weighted, set.at("auroc_weighted_samples").to_double(), tolerance);
  compare.near("ap", precision, set.at("ap").to_double(), tolerance);
  compare.near("ap, sample weights", precision_weighted, set.at("ap_weighted_samples").to_double(), tolerance);

  const auto areas = auroc_by_finding(data), precisions = average_precision_by_finding(data);
  if (areas.left_out == 0) {  // otherwise scikit-learn averages NaN or a conventional 0
    compare.near("auroc averages", {or_nan(areas.macro), or_nan(areas.weighted), or_nan(micro_auroc(data))},
                 set.at("auroc_averages").to_double(), tolerance);
    compare.near("ap averages",
                 {or_nan(precisions.macro), or_nan(precisions.weighted), or_nan(micro_average_precision(data))},
                 set.at("ap_averages").to_double(), tolerance);
  }

  for (std::size_t f = 0; f < findings; ++f) {
    const auto s = column(scores, findings, f);
    const auto l = column(labels, findings, f);
    if (const std::string name = "roc" + std::to_string(f); set.file.contains(name + ".fpr")) {
      const RocCurve curve = roc_curve(s, l).value();
      compare.near(name + ".fpr", curve.fpr, set.at(name + ".fpr").to_double(), tolerance);
      compare.near(name + ".tpr", curve.tpr, set.at(name + ".tpr").to_double(), tolerance);
      compare.near(name + ".thresholds", curve.thresholds, set.at(name + ".thresholds").to_double(), tolerance);
    }
    if (const std::string name = "pr" + std::to_string(f); set.file.contains(name + ".precision")) {
      const PrecisionRecallCurve curve = precision_recall_curve(s, l).value();
      compare.near(name + ".precision", curve.precision, set.at(name + ".precision").to_double(), tolerance);
      compare.near(name + ".recall", curve.recall, set.at(name + ".recall").to_double(), tolerance);
      compare.near(name + ".thresholds", curve.thresholds, set.at(name + ".thresholds").to_double(), tolerance);
    }
  }

  for (const auto& [name, expected] : set.settings.at("degenerate").items()) {
    const auto s = set.at("degenerate.scores").to_double();
    const auto l = labels_of(set.at("degenerate." + name + ".labels"));
    compare.near("degenerate " + name + " auroc", {or_nan(auroc(s, l))},
                 {number(expected.at("roc_auc_score").at("value"))}, tolerance);
    const auto ap = average_precision(s, l);
    compare.expect(ap.has_value() == (std::count(l.begin(), l.end(), 1) > 0));
    compare.near("degenerate " + name + " ap", {ap.value_or(0)},
                 {number(expected.at("average_precision_score").at("value"))}, tolerance);
  }

  for (const auto& [name, expected] : set.settings.at("authors_evaluate_classification").items()) {
    const auto l = name == "as_is" ? labels : labels_of(set.at("labels_" + name));
    const auto summary = auroc_by_finding({{scores, rows, findings}, {l, rows, findings}, {}});
    std::vector<double> per_finding;
    for (const auto& value : summary.finding) per_finding.push_back(or_nan(value));
    if (set.file.contains("auroc_" + name))
      compare.near("auroc " + name, per_finding, set.at("auroc_" + name).to_double(), tolerance);
    compare.rounded("authors' auc, " + name, per_finding, expected.at("auc"), 5e-4 + 1e-9);
    // The authors' plain average becomes NaN with one undefined finding; here that finding is left out.
    if (const double mean = number(expected.at("avg_auc")); std::isnan(mean))
      compare.expect(summary.left_out > 0);
    else
      compare.rounded("authors' avg_auc, " + name, {or_nan(summary.macro)}, {mean}, 1e-6);
    compare.rounded("authors' w_avg_auc, " + name, {or_nan(summary.weighted)}, {expected.at("w_avg_auc")}, 1e-6);
  }
  return compare.largest();
}

template <class T>
std::vector<double> calibration_norms(const std::vector<T>& probabilities, const std::vector<std::uint8_t>& labels,
                                      int bins) {
  std::vector<double> values;
  for (auto norm : {CalibrationNorm::kL1, CalibrationNorm::kL2, CalibrationNorm::kMax})
    values.push_back(or_nan(calibration_error(probabilities, labels, bins, norm)));
  return values;
}

double check_calibration(const GoldenSet& set) {
  Comparison compare;
  const double tolerance = absolute_tolerance(set);
  for (const auto& config : set.settings.at("config")) {
    const std::string name = config.at("name");
    const auto probabilities = set.at(name + ".probabilities").to_float();
    const auto labels = labels_of(set.at(name + ".labels"));
    const std::string prefix = name + ".bins";
    for (const auto& [key, tensor] : set.file.tensors) {
      if (key.rfind(prefix, 0) != 0 || key.find('.', prefix.size()) != std::string::npos) continue;
      const int bins = std::stoi(key.substr(prefix.size()));
      compare.near(key, calibration_norms(probabilities, labels, bins), tensor.to_double(), tolerance);
      compare.near(key + ".f64",
                   calibration_norms(std::vector<double>(probabilities.begin(), probabilities.end()), labels, bins),
                   set.at(key + ".f64").to_double(), 1e-9);
      const auto edges = calibration_edges<float>(bins);
      std::vector<std::int64_t> index;
      for (float p : probabilities) index.push_back(static_cast<std::int64_t>(calibration_bin(edges, p)));
      INFO(key);
      compare.expect(index == set.at(key + ".index").to_int64());
    }
  }
  return compare.largest();
}

double check_retrieval(const GoldenSet& set) {
  Comparison compare;
  const double upstream = absolute_tolerance(set, 1), by_definition = absolute_tolerance(set, 2);
  for (const auto& config : set.settings.at("config")) {
    const std::size_t queries = config.at("Q"), gallery = config.at("G"), findings = config.at("K");
    const std::string prefix = "case" + std::to_string(config.at("case").get<int>()) + ".";
    const auto query_labels = labels_of(set.at(prefix + "query_labels"));
    const auto gallery_labels = labels_of(set.at(prefix + "gallery_labels"));
    const std::string ending = ".topk_indices";
    for (const auto& [key, indices] : set.file.tensors) {
      if (key.rfind(prefix, 0) != 0 || !ends_with(key, ending)) continue;
      const std::string name = key.substr(0, key.size() - ending.size());  // caseN.x2x.kM
      const auto k = static_cast<std::size_t>(indices.shape.at(1));
      const auto flat = indices.to_int64();
      std::vector<std::vector<std::int64_t>> rankings;
      for (std::size_t q = 0; q < queries; ++q)
        rankings.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(q * k),
                              flat.begin() + static_cast<std::ptrdiff_t>((q + 1) * k));
      const RetrievalEvaluation evaluation(
          {rankings, {query_labels, queries, findings}, {gallery_labels, gallery, findings}, {}, {}});

      const std::pair<const char*, RetrievalMetric> figures[] = {{"ap_reference", RetrievalMetric::kApReference},
                                                                 {"ap_truncated", RetrievalMetric::kApTruncated},
                                                                 {"precision", RetrievalMetric::kPrecision},
                                                                 {"recall", RetrievalMetric::kRecall},
                                                                 {"ndcg", RetrievalMetric::kNdcg}};
      for (const auto& [figure, metric] : figures)
        compare.near(name + "." + figure, evaluation.values(metric, k).values, set.at(name + "." + figure).to_double(),
                     by_definition);

      const auto summary =
          evaluation.values(RetrievalMetric::kApReference, k).summarize(std::nullopt, EmptyFinding::kReferenceZeroOnce);
      std::vector<double> per_finding;
      for (const auto& value : summary.finding) per_finding.push_back(or_nan(value));
      compare.near(name + ".AP", per_finding, set.at(name + ".AP").to_double(), upstream);
      const std::vector<double> averages{or_nan(summary.macro), or_nan(summary.weighted)};
      compare.near(name + ".mAP_wmAP", averages, set.at(name + ".mAP_wmAP").to_double(), upstream);
      const std::string mode = name.substr(prefix.size(), name.rfind('.') - prefix.size());
      const auto& printed = config.at("authors_rounded").at(mode).at(std::to_string(k));
      compare.rounded(name + " AP as printed", per_finding, printed.at("AP"), 5e-4 + upstream);
      compare.rounded(name + " averages as printed", averages, {printed.at("mAP"), printed.at("wmAP")},
                      5e-4 + upstream);
    }
  }
  return compare.largest();
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

  /// [average precision, precision, recall] at k. Items score first to last, ties in the order that `trial` shuffles
  /// them into; items without a positive score are never retrieved, which is what torchmetrics makes of them.
  std::vector<double> figures(std::size_t k, std::uint64_t trial, NothingToFind nothing) const {
    std::vector<std::int64_t> ranking(scores.size());
    std::iota(ranking.begin(), ranking.end(), 0);
    RandomStream random(1, trial, "tie order");
    random.shuffle(ranking.begin(), ranking.end());
    const auto score = [this](std::int64_t item) { return scores[static_cast<std::size_t>(item)]; };
    std::stable_sort(ranking.begin(), ranking.end(), [&](auto a, auto b) { return score(a) > score(b); });
    ranking.erase(std::find_if(ranking.begin(), ranking.end(), [&](auto item) { return score(item) <= 0; }),
                  ranking.end());
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
    return tied_ndcg_at_k(scores, target, k);
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

double check_torchmetrics(const GoldenSet& set) {
  Comparison compare;
  const double tolerance = absolute_tolerance(set);
  std::vector<ScoredQuery> queries;
  bool any_ties = false;
  for (const std::string name : set.settings.at("config")) {
    const ScoredQuery query{set.at(name + ".scores").to_double(), labels_of(set.at(name + ".target"))};
    for (const auto& [key, tensor] : set.file.tensors) {
      const std::size_t size = query.scores.size();
      std::size_t k = 0;
      if (key == name + ".all")
        k = size;
      else if (key.rfind(name + ".k", 0) == 0)
        k = static_cast<std::size_t>(std::stoul(key.substr(name.size() + 2)));
      else
        continue;
      const auto expected = tensor.to_double();  // [ap, ndcg, precision, precision(adaptive_k), recall]
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

  const std::size_t top_k = 5;  // stated in the meaning of the module tensors
  const std::pair<const char*, NothingToFind> actions[] = {{"module.empty_neg", NothingToFind::kZero},
                                                           {"module.empty_pos", NothingToFind::kOne},
                                                           {"module.empty_skip", NothingToFind::kSkip}};
  for (const auto& [key, action] : actions) {
    if (!set.file.contains(key)) continue;
    const std::string meaning = set.settings.at("tensors").at(key).at("meaning");
    REQUIRE(meaning.find("top_k=" + std::to_string(top_k)) != std::string::npos);
    const auto expected = set.at(key).to_double();  // [ap, ndcg, precision, recall]
    const auto mean = [&queries, nothing = action](std::uint64_t trial) {
      std::vector<double> sum(4, 0);
      double count = 0;
      for (const auto& query : queries) {
        const auto values = query.figures(top_k, trial, nothing);
        if (std::isnan(values[0])) continue;
        const double all[] = {values[0], query.ndcg(top_k, nothing), values[1], values[2]};
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

}  // namespace

TEST_CASE("metrics agree with the published implementations", "[metrics][golden]") {
  for_each_golden("metrics_", [](const GoldenSet& set) {
    const std::string kind = set.settings.at("kind");
    if (kind == "classification metrics") return check_classification(set);
    if (kind == "calibration error") return check_calibration(set);
    if (kind == "retrieval metrics") return check_retrieval(set);
    if (kind == "torchmetrics retrieval") return check_torchmetrics(set);
    throw Skip{"unknown kind: " + kind};
  });
}

}  // namespace daug::test
