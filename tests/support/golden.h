#pragma once
// Discovery and reading of golden sets: NAME.json (settings, tolerance) beside NAME.safetensors (tensors).

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
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
  mutable std::set<std::string> read;         ///< the tensors that `at` gave

  const Array& at(const std::string& tensor) const {
    const Array& found = file.at(tensor);
    read.insert(tensor);
    return found;
  }
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

/// Tensors that a check leaves alone: their names as a pattern of fnmatch(3), and why.
struct Unread {
  std::string names, why;
};
/// The set's reference outputs that `at` did not give, in name order. A tensor to which the JSON gives a role is an
/// output if that says so; of the others those are whose names end in the precision they were computed in (".f32",
/// ".f64"; what begins with "in." is an input) or match one of the patterns `outputs` of fnmatch(3).
std::vector<std::string> unread_outputs(const GoldenSet& set, const std::vector<std::string>& outputs = {});
/// Fails the test for each of them that no entry of `unread` allows for; entries that do go to the set's left_out. A
/// check ends with it, since it may look for tensors under names that the set does not have.
void check_outputs_read(const GoldenSet& set, const std::vector<Unread>& unread = {},
                        const std::vector<std::string>& outputs = {});

/// Assertions of this program that failed so far.
int failed_assertions();

/// max|a-b| / max|b| over two equally long arrays (0 when both are empty); NaN matches NaN in the same place only.
double relative_error(const std::vector<double>& actual, const std::vector<double>& expected);
/// max|a-b|, same rules.
double absolute_error(const std::vector<double>& actual, const std::vector<double>& expected);

}  // namespace daug::test
