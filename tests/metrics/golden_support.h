#pragma once
// What the golden checks of the metrics share: reading a set's numbers, and an account of what was compared.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/golden.h"

namespace daug::test {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

inline double or_nan(const std::optional<double>& value) { return value.value_or(kNaN); }

/// The number after the n-th "atol" of the set's tolerance sentence.
inline double absolute_tolerance(const GoldenSet& set, int n = 1) {
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
inline double number(const nlohmann::json& value) {
  return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
}

inline std::vector<std::uint8_t> labels_of(const Array& array) {
  const auto values = array.to_int64();
  return {values.begin(), values.end()};
}

inline bool ends_with(const std::string& text, const std::string& ending) {
  return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

/// Collects the largest error of a set, and asserts on each comparison.
class Comparison {
 public:
  explicit Comparison(const GoldenSet& set) : set_(set) {}

  /// A tensor of the set; reading it counts as comparing it.
  const Array& at(const std::string& tensor) const { return set_.at(tensor); }
  void near(const std::string& what, const std::vector<double>& actual, const std::vector<double>& expected,
            double tolerance) {
    INFO(what);
    const double error = absolute_error(actual, expected);
    CHECK(error <= tolerance);
    largest_ = std::max(largest_, error);
    ++compared_;
  }
  /// The same against a tensor of the set.
  void near(const std::string& tensor, const std::vector<double>& actual, double tolerance) {
    near(tensor, actual, at(tensor).to_double(), tolerance);
  }
  /// A figure that was rounded for printing: asserted, but no part of the reported error.
  void rounded(const std::string& what, const std::vector<double>& actual, const nlohmann::json& expected,
               double tolerance) {
    INFO(what);
    std::vector<double> numbers;
    for (const auto& value : expected) numbers.push_back(number(value));
    CHECK(absolute_error(actual, numbers) <= tolerance);
  }
  /// The largest error; fails for a tensor that nothing was compared with and `unread` does not allow for.
  double largest(const std::vector<Unread>& unread = {}) const {
    REQUIRE(compared_ > 0);
    check_outputs_read(set_, unread, {"*"});
    return largest_;
  }

 private:
  const GoldenSet& set_;
  double largest_ = 0;
  int compared_ = 0;
};

/// The authors' retrieval evaluation: every tensor of the set.
double check_retrieval(const GoldenSet& set);
/// torchmetrics' retrieval figures, by query and averaged.
double check_torchmetrics(const GoldenSet& set);

}  // namespace daug::test
