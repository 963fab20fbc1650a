#pragma once
/// @file
/// Which rows belong to the same patient: what every interval and test resamples, permutes or sums over.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/view.h"

namespace daug {

/// Rows grouped by patient. Patients get dense numbers 0, 1, ... in rising order of their names, so nothing depends on
/// the order of the rows.
class PatientGroups {
 public:
  /// `names` [N]: the patient of each row, any numbers. O(N log N). Throws kUnsupported from 2^30 rows on.
  explicit PatientGroups(ArrayView<std::int64_t> names) : patient_(names.size()), rows_(names.size()) {
    if (names.size() >= (std::size_t{1} << 30))
      fail(ErrorCode::kUnsupported, "PatientGroups", "names", "fewer than 2^30 rows", names.size());
    std::vector<std::int64_t> distinct(names.begin(), names.end());
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    first_.assign(distinct.size() + 1, 0);
    for (std::size_t row = 0; row < names.size(); ++row) {
      const auto at = std::lower_bound(distinct.begin(), distinct.end(), names[row]);
      patient_[row] = static_cast<std::uint32_t>(at - distinct.begin());
      ++first_[patient_[row] + 1];
    }
    for (std::size_t patient = 0; patient < size(); ++patient) first_[patient + 1] += first_[patient];
    std::vector<std::size_t> next(first_.begin(), first_.end() - 1);
    for (std::size_t row = 0; row < names.size(); ++row) rows_[next[patient_[row]]++] = row;
  }

  /// Number of patients.
  std::size_t size() const { return first_.size() - 1; }
  /// Number of rows.
  std::size_t rows() const { return rows_.size(); }
  /// Patient of a row, in [0, size()). Unchecked, row < rows().
  std::uint32_t of(std::size_t row) const { return patient_[row]; }
  /// Rows of a patient, rising. Unchecked, patient < size().
  ArrayView<std::size_t> rows_of(std::size_t patient) const {
    return {rows_.data() + first_[patient], first_[patient + 1] - first_[patient]};
  }

 private:
  std::vector<std::uint32_t> patient_;  ///< [N]
  std::vector<std::size_t> rows_;       ///< [N], patient by patient
  std::vector<std::size_t> first_;      ///< [patients + 1], where a patient's rows begin
};

/// For each row a row of another patient, every row once: whose maps (or whatever else was made of an image) a control
/// is given that must fail, because they were made of someone else. Empty when a patient has more than half of the
/// rows. `patients` [N]: the patient of each row. O(N log N).
inline std::vector<std::size_t> rows_of_other_patients(ArrayView<std::int64_t> patients) {
  const PatientGroups groups(patients);
  std::vector<std::size_t> order;  // rows patient by patient, which a shift by the most that one has takes to others
  std::size_t most = 0;
  for (std::size_t patient = 0; patient < groups.size(); ++patient) {
    const auto rows = groups.rows_of(patient);
    order.insert(order.end(), rows.begin(), rows.end());
    most = std::max(most, rows.size());
  }
  if (2 * most > order.size()) return {};
  std::vector<std::size_t> other(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) other[order[i]] = order[(i + most) % order.size()];
  return other;
}

namespace detail {

/// The given patients, or every row its own patient when none are given. Throws kInvalidArgument for a wrong length.
inline PatientGroups patients_or_rows(const char* function, ArrayView<std::int64_t> groups, std::size_t rows) {
  if (!groups.empty() || rows == 0) {
    require(groups.size() == rows, function, "groups", rows, groups.size());
    return PatientGroups(groups);
  }
  std::vector<std::int64_t> each(rows);
  for (std::size_t row = 0; row < rows; ++row) each[row] = static_cast<std::int64_t>(row);
  return PatientGroups(each);
}

}  // namespace detail

}  // namespace daug
