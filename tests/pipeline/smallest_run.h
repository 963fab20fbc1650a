#pragma once
// A run at its smallest.

#include <cstddef>
#include <filesystem>
#include <string>

#include "daug/data/phantom.h"
#include "daug/pipeline/run.h"
#include "daug/pipeline/run_config.h"
#include "support/catch.h"
#include "support/scratch.h"

namespace daug::test {

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
  config.maps.evidence_levels = "100";
  config.maps.evidence_samples = 1;
  config.encoder.epochs = 2;
  config.encoder.batch = 12;
  config.encoder.width = 16;
  config.evaluate.resamples = 20;
  config.report.examples = 3;
  return config;
}

/// Writes as many phantoms as those settings make, or so many a split, as a cohort that a test may change: its folder.
inline std::string small_cohort(const std::string& folder, std::size_t train = 36, std::size_t val = 10,
                                std::size_t tests = 20) {
  PhantomOptions options;
  options.train_images = train;
  options.val_images = val;
  options.test_images = tests;
  write_phantom_cohort(folder, options);
  return folder;
}

/// The settings of a run of which all stages are done, in a copy of its folder; it is made once.
inline RunConfig finished_run(const Scratch& scratch) {
  static const Scratch original;
  static const RunConfig config = [] {
    const RunConfig made = smallest(original.path("run"));
    Run run(made, {});
    for (Stage stage : all_stages()) REQUIRE(run.execute(stage));
    return made;
  }();
  RunConfig copy = config;
  copy.out = scratch.path("run");
  std::filesystem::copy(config.out, copy.out, std::filesystem::copy_options::recursive);
  return copy;
}

}  // namespace daug::test
