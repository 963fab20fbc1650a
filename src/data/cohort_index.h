#pragma once
// Studies and findings of a cohort by number.

#include <cstddef>
#include <string>

#include "daug/core/error.h"
#include "daug/data/cohort.h"

namespace daug::detail {

/// Throws kInvalidArgument, naming the caller's argument, for a number that the cohort does not have.
inline const Study& study_at(const Cohort& cohort, std::size_t study, const char* function, const char* argument) {
  require(study < cohort.studies.size(), function, argument,
          concat("an index of the cohort's ", cohort.studies.size(), " studies"), study);
  return cohort.studies[study];
}

/// The same for findings.
inline const std::string& finding_at(const Cohort& cohort, std::size_t finding, const char* function) {
  require(finding < cohort.findings.size(), function, "finding",
          concat("an index of the cohort's ", cohort.findings.size(), " findings"), finding);
  return cohort.findings[finding];
}

}  // namespace daug::detail
