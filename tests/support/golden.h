#pragma once
// Discovery and reading of golden sets: NAME.json (settings, tolerance) beside NAME.safetensors (tensors).

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "daug/io/safetensors.h"

namespace daug::test {

/// Folder given by DAUG_SHARED_DATA (default ../shared), or nothing where it has neither golden/ nor data/.
std::optional<std::string> shared_data();

struct GoldenSet {
  std::string name;
  std::string folder;
  nlohmann::json settings;
  SafetensorsFile file;                       ///< empty when the set has no tensors
  mutable std::vector<std::string> left_out;  ///< what a check did not compare, and why; printed beside the verdict

  const Array& at(const std::string& tensor) const { return file.at(tensor); }
};

/// Why something is skipped: all shared data are absent, which ctest shows as a skipped test, or a part of them is.
std::string absent_data(const std::optional<std::string>& shared, const std::string& part);

/// The kinds of golden sets that tests of any program compare, as what the sets' names start with.
const std::vector<std::string>& golden_prefixes();
/// Every set under <shared>/golden whose name starts with `prefix`, in name order. Throws kInvalidArgument for a prefix
/// that starts with none of golden_prefixes().
std::vector<std::string> golden_sets(const std::string& prefix);
/// The sets in a folder that no test compares: their names start with none of golden_prefixes(); in name order.
std::vector<std::string> unknown_golden_sets(const std::string& folder);
GoldenSet load_golden(const std::string& name);

/// Runs `check` on every set with the prefix. `check` returns the largest error it saw (and asserts on it itself).
/// Prints one line a set: `golden NAME: ok (max error E)`, with `; not compared: ...` behind it where the check says
/// so, or `golden NAME: skipped (why)` when it throws Skip. Says so when there is no such folder or it holds no such
/// set, and prints `FAILED` for a set in which an assertion failed or anything else was thrown; the sets behind it are
/// compared all the same.
struct Skip {
  std::string why;
};
void for_each_golden(const std::string& prefix, const std::function<double(const GoldenSet&)>& check);

/// Assertions of this program that failed so far.
int failed_assertions();

/// max|a-b| / max|b| over two equally long arrays (0 when both are empty); NaN matches NaN in the same place only.
double relative_error(const std::vector<double>& actual, const std::vector<double>& expected);
/// max|a-b|, same rules.
double absolute_error(const std::vector<double>& actual, const std::vector<double>& expected);

}  // namespace daug::test
