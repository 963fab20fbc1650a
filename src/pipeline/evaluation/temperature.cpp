#include "temperature.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "daug/core/error.h"
#include "daug/metrics/calibration.h"

namespace daug {

namespace {

double logit(double probability) {
  constexpr double kLeast = 1.0 / (1 << 24);
  require_range(probability, 0.0, 1.0, "daug::temperature", "probabilities");
  const double inside = std::clamp(probability, kLeast, 1 - kLeast);
  return std::log(inside) - std::log1p(-inside);
}

}  // namespace

FittedTemperature temperature_of(const std::vector<double>& probabilities, const std::vector<std::uint8_t>& positive,
                                 const std::vector<std::uint8_t>& known) {
  constexpr const char* kFunction = "daug::temperature_of";
  require(positive.size() == probabilities.size(), kFunction, "positive", probabilities.size(), positive.size());
  require(known.size() == probabilities.size(), kFunction, "known", probabilities.size(), known.size());
  std::vector<double> logits;
  std::vector<std::uint8_t> labels;
  for (std::size_t k = 0; k < probabilities.size(); ++k) {
    if (!known[k]) continue;
    logits.push_back(logit(probabilities[k]));
    labels.push_back(positive[k]);
  }
  FittedTemperature fitted;
  fitted.labels = static_cast<std::int64_t>(labels.size());
  const auto positives = std::count(labels.begin(), labels.end(), 1);
  if (positives == 0 || positives == fitted.labels) {
    fitted.reason = labels.empty() ? "no validation image has a known label"
                                   : "the known labels of the validation images are all of one class";
    return fitted;
  }
  fitted.value = fit_temperature(logits, labels);
  if (!fitted.value)
    fitted.reason =
        "no temperature fits best: on the validation images the probabilities rank the wrong way round, "
        "separate the classes or are all 0.5";
  return fitted;
}

std::vector<double> at_temperature(const std::vector<double>& probabilities, double temperature) {
  std::vector<double> logits;
  for (const double probability : probabilities) logits.push_back(logit(probability));
  return tempered_probabilities(logits, temperature);
}

}  // namespace daug
