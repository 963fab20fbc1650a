#include "evaluate_classification.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>

#include "daug/metrics/calibration.h"
#include "daug/metrics/decision_curve.h"
#include "daug/metrics/precision_recall.h"
#include "daug/metrics/roc.h"
#include "pipeline/report/report_charts.h"
#include "temperature.h"

namespace daug {

namespace {

constexpr double kLeastBenefit = -0.5;  ///< standardised; what lies lower would flatten the chart

/// Do probabilities mean what they say, before and after a temperature that the validation images gave?
void calibration_figures(Measurements& out, const std::string& arm, const ClassifierScores& of,
                         const ValidationLabels& validation, const std::string& note) {
  const TestStates& states = out.of_findings;
  const std::size_t findings = states.columns;
  const auto put = [&](const std::string& ending, const std::vector<double>& probabilities, const std::string& how) {
    const auto n = static_cast<std::int64_t>(out.tests);
    const std::string pooled = ", all findings pooled" + how + note;
    out.put(
        "classification.ece" + ending, arm, out.slices[0].name,
        bootstrap_calibration_error(out.multi_label(probabilities, out.of_findings), out.patients, kCalibrationBins,
                                    out.bootstrap_options()),
        n,
        fmt::format("calibration error, {} bins of the probability of the positive class", kCalibrationBins) + pooled);
    RetrievalValues errors = out.empty_table(findings);
    std::vector<double> known;
    std::vector<std::uint8_t> truth;
    for (std::size_t k = 0; k < out.tests * findings; ++k) {
      if (!states.known[k]) continue;
      const double error = probabilities[k] - states.positive[k];
      errors.values[k] = error * error;
      known.push_back(probabilities[k]);
      truth.push_back(states.positive[k]);
    }
    out.put("classification.brier" + ending, arm, out.slices[0].name, out.means(errors, out.slices[0]).weighted, n,
            "Brier score, mean squared distance of probability and label" + pooled);
    for (const CalibrationBin& bin : calibration_bins(known, truth, kCalibrationBins))
      if (bin.count > 0) out.details["calibration" + ending][arm].push_back({bin.mean_probability, bin.positive_rate});
  };
  put("", of.tests, "");
  const FittedTemperature fitted = temperature_of(of.validation, validation.positive, validation.known);
  if (!fitted.value) {
    out.details["untempered"][arm] = fitted.reason;
    return;
  }
  out.figures.push_back({"classification.temperature",
                         arm,
                         "val",
                         *fitted.value,
                         {},
                         {},
                         fitted.labels,
                         "temperature T that makes the validation images' labels likeliest under the probabilities "
                         "1 / (1 + exp(-logit / T)), all findings pooled; above 1 where the arm was too sure" +
                             note});
  put("_tempered", at_temperature(of.tests, *fitted.value),
      " after temperature scaling: 1 / (1 + exp(-logit / T)), T fitted to the validation images and the same in "
      "every resample");
}

/// ROC and precision-recall curves, thinned for the report.
void ranking_curves(const std::vector<double>& scores, const std::vector<std::uint8_t>& truth, const std::string& arm,
                    nlohmann::ordered_json& out) {
  const auto thin = [](const std::vector<double>& x, const std::vector<double>& y) {
    nlohmann::ordered_json points = nlohmann::ordered_json::array();
    const std::size_t step = std::max<std::size_t>(1, x.size() / 100);
    for (std::size_t i = 0; i < x.size(); i += step) points.push_back({x[i], y[i]});
    if (!x.empty()) points.push_back({x.back(), y.back()});
    return points;
  };
  if (const auto roc = roc_curve(scores, truth)) out["roc"][arm] = thin(roc->fpr, roc->tpr);
  if (const auto pr = precision_recall_curve(scores, truth)) out["pr"][arm] = thin(pr->recall, pr->precision);
}

/// Curves pooled over findings.
void pooled_curves(Measurements& out, const std::string& arm, const std::vector<double>& scores, bool probabilities) {
  const TestStates& states = out.of_findings;
  const std::size_t findings = states.columns;
  std::vector<double> pooled;
  std::vector<std::uint8_t> truth;
  for (std::size_t k = 0; k < out.tests * findings; ++k)
    if (states.known[k]) {
      pooled.push_back(scores[k]);
      truth.push_back(states.positive[k]);
    }
  ranking_curves(pooled, truth, arm, out.details);
  if (probabilities) {
    std::vector<double> thresholds;
    for (int percent = 2; percent < 100; percent += 2) thresholds.push_back(percent / 100.0);
    if (const auto curve = decision_curve(pooled, truth, thresholds)) {
      const auto positives = static_cast<double>(std::count(truth.begin(), truth.end(), 1));
      const double prevalence = positives / static_cast<double>(truth.size());
      auto& all = out.details["net_benefit"][kTreatAll] = nlohmann::ordered_json::array();
      for (const NetBenefit& point : *curve)
        if (const double benefit = point.treat_all / prevalence; benefit > kLeastBenefit)
          all.push_back({point.threshold, benefit});
      for (const NetBenefit& point : *curve)
        if (point.standardized > kLeastBenefit)
          out.details["net_benefit"][arm].push_back({point.threshold, point.standardized});
    }
  }
}

}  // namespace

void add_classification(Measurements& out, const std::string& arm, const ClassifierScores& of,
                        const ValidationLabels& validation, const std::string& note, bool probabilities) {
  const TestStates& states = out.of_findings;
  const std::size_t findings = states.columns;
  const std::vector<double>& scores = of.tests;
  for (const auto& slice : out.slices) {
    const auto n = static_cast<std::int64_t>(slice.rows.size());
    const FindingIntervals auroc = out.auroc(scores, out.of_findings, slice);
    out.put("classification.auroc_macro", arm, slice.name, auroc.macro, n,
            "AUROC by finding, plain mean over findings with both classes" + note);
    out.put("classification.auroc_weighted", arm, slice.name, auroc.weighted, n,
            "AUROC by finding, mean weighted by positives" + note);
    out.put("classification.auprc_macro", arm, slice.name, out.average_precision(scores, out.of_findings, slice).macro,
            n, "average precision by finding, plain mean over findings" + note);
    if (&slice != &out.slices[0]) continue;
    for (std::size_t f = 0; f < findings; ++f) {
      std::int64_t known = 0;
      for (std::size_t i = 0; i < out.tests; ++i) known += states.known[i * findings + f];
      out.put("classification.auroc[" + out.data.cohort.findings[f] + "]", arm, slice.name, auroc.finding[f], known,
              "AUROC" + note);
    }
  }
  if (probabilities) calibration_figures(out, arm, of, validation, note);
  pooled_curves(out, arm, scores, probabilities);
}

void add_finding_curves(Measurements& out, const std::string& arm, const std::vector<double>& scores) {
  const TestStates& states = out.of_findings;
  const std::size_t findings = states.columns;
  for (std::size_t f = 0; f < findings; ++f) {
    std::vector<double> of_finding;
    std::vector<std::uint8_t> truth;
    for (std::size_t k = f; k < out.tests * findings; k += findings)
      if (states.known[k]) {
        of_finding.push_back(scores[k]);
        truth.push_back(states.positive[k]);
      }
    ranking_curves(of_finding, truth, arm, out.details["finding_curves"][out.data.cohort.findings[f]]);
  }
}

void add_errors(Measurements& out, const std::vector<double>& probabilities) {
  const TestStates& states = out.of_findings;
  const std::size_t findings = states.columns;
  constexpr std::size_t kErrors = 6;
  for (std::size_t f = 0; f < findings; ++f) {
    std::vector<std::pair<double, std::size_t>> wrong;  // how wrong, negated so that the largest comes first
    for (std::size_t i = 0; i < out.tests; ++i) {
      const std::size_t k = i * findings + f;
      const double distance = states.positive[k] ? 1 - probabilities[k] : probabilities[k];
      if (states.known[k] && distance > 0.5) wrong.emplace_back(-distance, i);
    }
    std::sort(wrong.begin(), wrong.end());
    auto& list = out.details["errors"][out.data.cohort.findings[f]] = nlohmann::ordered_json::array();
    for (std::size_t n = 0; n < std::min(kErrors, wrong.size()); ++n) {
      const std::size_t k = wrong[n].second * findings + f;
      list.push_back({{"row", out.data.test[wrong[n].second]},
                      {"probability", probabilities[k]},
                      {"positive", states.positive[k] != 0}});
    }
  }
}

}  // namespace daug
