// Which images the map study takes.

#include <cstddef>
#include <string>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/data/phantom.h"
#include "daug/io/file.h"
#include "pipeline/evaluation/localisation.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::Scratch;
using daug::test::smallest;

TEST_CASE("images with masks or boxes come first in the map study, each kind in its order", "[pipeline][map_study]") {
  const Scratch scratch;
  PhantomOptions phantom;
  phantom.train_images = 8, phantom.val_images = 4, phantom.test_images = 40;
  phantom.prevalence = 0.1;  // about half of the images are healthy
  write_phantom_cohort(scratch.path("cohort"), phantom);
  const Cohort cohort = read_cohort(scratch.path("cohort"));
  const std::vector<std::size_t> tests = cohort.split_indices("test");
  std::vector<std::size_t> marked, others;
  std::string boxes = "id,finding,x,y,w,h\n";
  for (const std::size_t test : tests) {
    const Study& study = cohort.studies[test];
    const bool healthy = study.mask_paths.empty();
    (healthy && others.empty() ? others : marked).push_back(test);
    // All healthy ones but the first have a box of another name than their labels know.
    if (healthy && others.back() != test) boxes += study.id + ",Opacity,4,6,10,12\n";
  }
  write_file_atomically(scratch.path("cohort") + "/boxes.csv", boxes);
  REQUIRE(marked.size() >= 5);
  REQUIRE(others.size() == 1);
  Run::Impl run;
  run.config = smallest(scratch.path("run"));
  run.config.data = scratch.path("cohort");
  run.config.evaluate.box_groups = "Opacity=Nodule";
  const auto studies = [&](std::size_t most) {
    std::vector<std::size_t> found;
    for (const std::size_t row : marked_first(run, run.data().test, most))
      found.push_back(run.data().images.study[row]);
    return found;
  };
  std::vector<std::size_t> all = marked;
  all.insert(all.end(), others.begin(), others.end());
  REQUIRE(all != tests);  // it does change the order
  CHECK(studies(100) == all);
  CHECK(studies(5) == std::vector<std::size_t>(marked.begin(), marked.begin() + 5));
  CHECK(studies(marked.size()) == marked);
}
