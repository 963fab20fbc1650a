#pragma once
/// @file
/// Bootstrap intervals of FROC sensitivities of many findings, fast: candidates are sorted once, and a resample only
/// reweighs them by how often their patient was drawn.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/bootstrap.h"
#include "daug/metrics/froc.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/view.h"

namespace daug {

/// The candidates of some images sorted by score, so that the sensitivities for any copies of the patients cost one
/// pass, O(D). Immutable after construction; any number of threads may ask it.
class RankedDetections {
 public:
  /// `images` as in `froc_curve`; `patients` [images], the dense number of each image's patient. Errors as in
  /// `froc_curve`; kInvalidArgument for another number of patients.
  RankedDetections(ArrayView<FrocImage> images, ArrayView<std::uint32_t> patients) {
    detail::require_same_size("RankedDetections", "patients", images, patients);
    for (const detail::FrocEvent& event : detail::froc_events(images))
      events_.push_back({event.score, patients[event.image], event.hit});
    for (std::size_t i = 0; i < images.size(); ++i) {
      if (patients[i] >= of_patient_.size()) of_patient_.resize(std::size_t{patients[i]} + 1);
      ++of_patient_[patients[i]].images;
      of_patient_[patients[i]].lesions += images[i].lesions;
    }
  }

  /// `sensitivity_at_false_positives` of the curve of the images, each as often as `copies` [patients] has its patient,
  /// at each of `rates`, rising; NaN without a lesion. Throws kInvalidArgument for copies of fewer patients.
  std::vector<double> sensitivities(const PatientCopies& copies, const std::vector<double>& rates) const {
    if (copies.size() < of_patient_.size())
      fail(ErrorCode::kInvalidArgument, "RankedDetections", "copies", detail::concat("at least ", of_patient_.size()),
           copies.size());
    std::uint64_t images = 0, lesions = 0;
    for (std::size_t patient = 0; patient < of_patient_.size(); ++patient) {
      images += copies[patient] * of_patient_[patient].images;
      lesions += copies[patient] * of_patient_[patient].lesions;
    }
    if (lesions == 0) return std::vector<double>(rates.size(), std::numeric_limits<double>::quiet_NaN());
    const auto share = [](std::uint64_t part, std::uint64_t of) {
      return static_cast<double>(part) / static_cast<double>(of);
    };
    std::vector<double> result;
    std::uint64_t found = 0, alarms = 0, found_before = 0;
    for (std::size_t i = 0; i < events_.size() && result.size() < rates.size(); ++i) {
      (events_[i].hit ? found : alarms) += copies[events_[i].patient];
      if (i + 1 < events_.size() && events_[i + 1].score == events_[i].score) continue;
      const double rate = share(alarms, images);
      while (result.size() < rates.size() && rate > rates[result.size()])
        result.push_back(share(found_before, lesions));
      found_before = found;
    }
    result.resize(rates.size(), share(found_before, lesions));
    return result;
  }

 private:
  struct Event {
    double score;
    std::uint32_t patient;
    bool hit;
  };
  struct Count {
    std::uint64_t images = 0, lesions = 0;
  };

  std::vector<Event> events_;      ///< highest score first
  std::vector<Count> of_patient_;  ///< [patients]
};

/// What was found of one finding in the images whose truth is known, normal ones included.
struct FrocFinding {
  std::vector<FrocImage> images;  ///< in any order
  std::vector<std::size_t> rows;  ///< [images], where each stands among the rows whose patients are resampled
};

/// Intervals of FROC sensitivities.
struct FrocIntervals {
  std::vector<std::optional<Interval>> finding;  ///< [findings], `mean_i S_f(rate_i)` (`froc_score`)
  std::vector<std::optional<Interval>> macro;    ///< [rates], `mean_f S_f(rate_i)`, f with a lesion
  std::optional<Interval> score;                 ///< `mean_i mean_f S_f(rate_i)`
};

/// Patient-bootstrap intervals of `sensitivity_at_false_positives` of each finding's curve, averaged, all on the same
/// resamples.
///
/// `groups` [N]: the patients of the rows that `findings` refer to; all of them are resampled, as `bootstrap` with the
/// same options does. `rates`: false alarms per image, rising, each >= 0, at least one. What has no lesion, in the data
/// or in a resample, is in no average. Cost: one sort per finding, then O(D) per finding and resample. Throws
/// kInvalidArgument for rates that do not rise, a row that is not there, and what `froc_curve` throws.
inline FrocIntervals bootstrap_froc(ArrayView<FrocFinding> findings, ArrayView<std::int64_t> groups,
                                    const std::vector<double>& rates = froc_rates(),
                                    const BootstrapOptions& options = {}) {
  constexpr const char* kFunction = "bootstrap_froc";
  const bool rising =
      !rates.empty() && rates[0] >= 0 &&
      std::adjacent_find(rates.begin(), rates.end(), [](double a, double b) { return !(a < b); }) == rates.end();
  require(rising, kFunction, "rates", "at least one, rising from 0 or more", rates.size());
  const PatientGroups patients(groups);
  std::vector<RankedDetections> ranked;
  for (const FrocFinding& finding : findings) {
    detail::require_same_size(kFunction, "rows", finding.images, finding.rows);
    std::vector<std::uint32_t> owners;
    for (std::size_t row : finding.rows) {
      if (row >= groups.size())
        fail(ErrorCode::kInvalidArgument, kFunction, "rows", detail::concat("values below ", groups.size()), row);
      owners.push_back(patients.of(row));
    }
    ranked.emplace_back(finding.images, owners);
  }
  const auto mean = [](double sum, double count) { return count > 0 ? sum / count : std::nan(""); };
  const auto measure = [&](const PatientCopies& copies) {
    std::vector<double> figures, sums(rates.size(), 0);
    double defined = 0, total = 0;
    for (const RankedDetections& detections : ranked) {
      const std::vector<double> found = detections.sensitivities(copies, rates);
      double sum = 0;
      for (double one : found) sum += one;
      figures.push_back(sum / static_cast<double>(rates.size()));
      if (std::isnan(sum)) continue;
      ++defined;
      for (std::size_t r = 0; r < rates.size(); ++r) sums[r] += found[r];
    }
    for (double sum : sums) {
      figures.push_back(mean(sum, defined));
      total += mean(sum, defined);
    }
    figures.push_back(total / static_cast<double>(rates.size()));
    return figures;
  };
  auto intervals = bootstrap_copies(patients, measure, options);
  FrocIntervals result;
  result.score = intervals.back();
  const auto first_rate = intervals.begin() + static_cast<std::ptrdiff_t>(findings.size());
  result.finding.assign(intervals.begin(), first_rate);
  result.macro.assign(first_rate, intervals.end() - 1);
  return result;
}

}  // namespace daug
