#include "support/golden.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <limits>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "support/catch.h"

namespace daug::test {
namespace fs = std::filesystem;

std::optional<std::string> shared_data() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value ? value : "");
  };
  fs::path folder = variable("DAUG_SHARED_DATA");
  // ctest runs elsewhere than in the source tree and names it.
  if (folder.empty()) folder = fs::path(variable("DAUG_TEST_SOURCE_DIR")) / "../shared";
  if (!fs::is_directory(folder / "golden") && !fs::is_directory(folder / "data")) return std::nullopt;
  return folder.string();
}

std::string absent_data(const std::optional<std::string>& shared, const std::string& part) {
  return shared ? "no " + part + " in the shared data" : "shared data absent";
}

const std::vector<std::string>& golden_prefixes() {
  static const std::vector<std::string> prefixes = {
      "classifier_",
      "clip_",
      "diffusion_chain",
      "diffusion_compat",
      "diffusion_loss",
      "diffusion_p",
      "diffusion_q",
      "diffusion_respace",
      "diffusion_step",
      "diffusion_tables",
      "heatmap_encoder_modes",
      "heatmap_postprocess",
      "knn_",
      "loss_clip",
      "loss_hybrid",
      "loss_siglip",
      "metrics_",
      "resize_clip",
      "resize_pil",
      "resize_torch",
      "sampler_ddim",
      "sampler_dpm",
      "tokenizer_",
      "unet_",
  };
  return prefixes;
}

namespace {
/// Names of the sets in a folder, if it is one, for which `wanted` holds.
template <class Wanted>
std::vector<std::string> sets_in(const fs::path& folder, const Wanted& wanted) {
  std::vector<std::string> names;
  if (!fs::is_directory(folder)) return names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() == ".json" && wanted(stem)) names.push_back(stem);
  }
  std::sort(names.begin(), names.end());
  return names;
}
}  // namespace

std::vector<std::string> golden_sets(const std::string& prefix) {
  const auto& prefixes = golden_prefixes();
  require(std::any_of(prefixes.begin(), prefixes.end(),
                      [&](const std::string& known) { return prefix.starts_with(known); }),
          "golden_sets", "prefix", "one of golden_prefixes(), or longer", prefix);
  const auto shared = shared_data();
  if (!shared) return {};
  return sets_in(*shared + "/golden", [&](const std::string& name) { return name.starts_with(prefix); });
}

std::vector<std::string> unknown_golden_sets(const std::string& folder) {
  return sets_in(folder, [](const std::string& name) {
    const auto& prefixes = golden_prefixes();
    return std::none_of(prefixes.begin(), prefixes.end(),
                        [&](const std::string& prefix) { return name.starts_with(prefix); });
  });
}

GoldenSet load_golden(const std::string& name) {
  const std::string folder = shared_data().value() + "/golden";
  GoldenSet set;
  set.name = name;
  set.folder = folder;
  set.settings = nlohmann::json::parse(read_text_file(folder + "/" + name + ".json"));
  const std::string tensors = folder + "/" + name + ".safetensors";
  if (fs::exists(tensors)) set.file = read_safetensors(tensors);
  return set;
}

void for_each_golden(const std::string& prefix, const std::function<double(const GoldenSet&)>& check) {
  const auto names = golden_sets(prefix);
  const auto shared = shared_data();
  if (!shared || !fs::is_directory(*shared + "/golden")) {
    std::cout << "golden " << prefix << "*: skipped (" << absent_data(shared, "golden") << ")\n";
    return;
  }
  if (names.empty()) {
    std::cout << "golden " << prefix << "*: skipped (no set with this prefix)\n";
    return;
  }
  for (const auto& name : names) {
    INFO("golden set " << name);
    const int failed_before = failed_assertions();
    try {
      const GoldenSet set = load_golden(name);
      const double error = check(set);
      const char* verdict = failed_assertions() == failed_before ? ": ok (max error " : ": FAILED (max error ";
      std::cout << "golden " << name << verdict << error << ")";
      for (const auto& what : set.left_out)
        std::cout << (&what == &set.left_out[0] ? "; not compared: " : ", ") << what;
      std::cout << "\n";
    } catch (const Skip& skip) {
      std::cout << "golden " << name << ": skipped (" << skip.why << ")\n";
    } catch (const std::exception& error) {
      std::cout << "golden " << name << ": FAILED\n";
      FAIL_CHECK(error.what());
    } catch (...) {  // a REQUIRE, which has failed this test case already
      std::cout << "golden " << name << ": FAILED\n";
      if (failed_assertions() == failed_before) throw;
    }
  }
}

namespace {
bool matches(const std::string& name, const std::string& pattern) {
  return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}
}  // namespace

std::vector<std::string> unread_outputs(const GoldenSet& set, const std::vector<std::string>& outputs) {
  const nlohmann::json described = set.settings.value("tensors", nlohmann::json::object());
  const auto is_output = [&](const std::string& name) {
    const std::string role = described.value(name, nlohmann::json::object()).value("role", "");
    if (!role.empty()) return role == "output";
    const bool computed = (name.ends_with(".f32") || name.ends_with(".f64")) && !name.starts_with("in.");
    return computed || std::any_of(outputs.begin(), outputs.end(),
                                   [&](const std::string& pattern) { return matches(name, pattern); });
  };
  std::vector<std::string> unread;
  for (const auto& [name, array] : set.file.tensors)
    if (set.read.count(name) == 0 && is_output(name)) unread.push_back(name);
  return unread;
}

void check_outputs_read(const GoldenSet& set, const std::vector<Unread>& unread,
                        const std::vector<std::string>& outputs) {
  std::vector<std::string> names = unread_outputs(set, outputs);
  for (const Unread& allowed : unread) {
    const auto erased = std::erase_if(names, [&](const std::string& name) { return matches(name, allowed.names); });
    if (erased > 0) set.left_out.push_back(allowed.names + " (" + allowed.why + ")");
  }
  for (const auto& name : names) FAIL_CHECK("an output of the set that the test does not read: " << name);
}

namespace {
double largest_difference(const std::vector<double>& actual, const std::vector<double>& expected, double& scale) {
  REQUIRE(actual.size() == expected.size());
  double largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) != std::isnan(expected[i])) return std::numeric_limits<double>::infinity();
    if (std::isnan(expected[i]) || actual[i] == expected[i]) continue;
    largest = std::max(largest, std::abs(actual[i] - expected[i]));
    if (std::isfinite(expected[i])) scale = std::max(scale, std::abs(expected[i]));
  }
  for (double value : expected)
    if (std::isfinite(value)) scale = std::max(scale, std::abs(value));
  return largest;
}
}  // namespace

double relative_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  double scale = 0;
  const double largest = largest_difference(actual, expected, scale);
  return largest == 0 ? 0 : largest / std::max(scale, std::numeric_limits<double>::min());
}

double absolute_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  double scale = 0;
  return largest_difference(actual, expected, scale);
}

}  // namespace daug::test
