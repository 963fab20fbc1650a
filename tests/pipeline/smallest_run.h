#pragma once
// A run at its smallest, in a folder that goes away.

#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>

#include "daug/core/error.h"
#include "daug/pipeline/run.h"
#include "daug/pipeline/run_config.h"
#include "support/catch.h"

namespace daug::test {

/// A folder that goes away with the test.
class ScratchRun {
 public:
  explicit ScratchRun(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / ("daug_" + name + "_" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~ScratchRun() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// Settings with which every stage takes seconds.
inline RunConfig smallest(const std::string& out) {
  RunConfig config;
  config.out = out;
  config.phantom.train = 36;
  config.phantom.val = 10;
  config.phantom.test = 20;
  config.diffusion.steps = 6;
  config.diffusion.base = 16;
  config.diffusion.norm_groups = 4;
  config.guide.steps = 3;
  config.guide.batch = 8;
  config.maps.steps = 2;
  config.maps.train_images = 24;
  config.encoder.epochs = 2;
  config.encoder.batch = 12;
  config.encoder.width = 16;
  config.evaluate.resamples = 20;
  config.report.examples = 3;
  return config;
}

/// The settings of a run of which all stages are done, in a copy of its folder; it is made once.
inline RunConfig finished_run(const ScratchRun& scratch) {
  static const ScratchRun original("finished");
  static const RunConfig config = [] {
    const RunConfig made = smallest(original / "run");
    Run run(made, {});
    for (Stage stage : all_stages()) REQUIRE(run.execute(stage));
    return made;
  }();
  RunConfig copy = config;
  copy.out = scratch / "run";
  std::filesystem::copy(config.out, copy.out, std::filesystem::copy_options::recursive);
  return copy;
}

/// The code of the daug::Error that `action` throws; fails the test when it throws none.
inline ErrorCode error_code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("expected daug::Error");
  return ErrorCode::kCancelled;
}

}  // namespace daug::test
