// What judges the map study: the control that must fail, and the classifier that had no part in making maps.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "daug/data/phantom.h"
#include "daug/metrics/localization.h"
#include "pipeline/evaluation/flip_rate.h"
#include "pipeline/evaluation/localisation.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/scratch.h"

using namespace daug;

namespace {

/// Phantoms with a nodule, two of each patient that has two.
struct Nodules {
  std::vector<std::int64_t> patients;
  MapRegions regions{0, 1, {}};
  at::Tensor pixels, without, maps;  ///< [N, 1, 32, 32]: images, their true counterfactuals, and the very masks

  explicit Nodules(std::size_t count) {
    constexpr std::size_t kNodule = 2;
    PhantomOptions options;
    options.prevalence = 0.5;
    std::vector<at::Tensor> images, removed, marks;
    const auto plane = [](const auto& values) {
      at::Tensor tensor = at::empty({1, 32, 32});
      std::copy(values.begin(), values.end(), tensor.data_ptr<float>());
      return tensor;
    };
    for (std::uint64_t patient = 0; patients.size() < count; ++patient)
      for (std::uint64_t image = 0; image < 2; ++image) {
        const Phantom phantom = make_phantom(options, patient, image);
        const auto found = phantom.planted.find(kNodule);
        if (found == phantom.planted.end()) continue;
        const auto& mask = found->second.mask;
        if (std::count(mask.begin(), mask.end(), 1) == 0) continue;
        patients.push_back(static_cast<std::int64_t>(patient));
        regions.masks.emplace_back(mask);
        images.push_back(plane(phantom.image));
        removed.push_back(plane(found->second.counterfactual));
        marks.push_back(plane(mask));
      }
    regions.images = patients.size();
    pixels = at::stack(images), without = at::stack(removed), maps = at::stack(marks);
  }
};

/// What maps and translated images are worth, as means over all images.
struct Worth {
  double ap = 0, pointing = 0, left = 0, outside = 0;
};

Worth worth(const Nodules& nodules, const at::Tensor& maps, const at::Tensor& translated) {
  const LocalisationTables tables = localise(maps, nodules.regions);
  Worth mean;
  const auto count = static_cast<double>(nodules.patients.size());
  constexpr std::size_t kArea = 32 * 32;
  const auto image = [](const at::Tensor& all, std::size_t i) {
    return ArrayView<float>(all.const_data_ptr<float>() + i * kArea, kArea);
  };
  for (std::size_t i = 0; i < nodules.patients.size(); ++i) {
    mean.ap += tables.ap.values[i] / count;
    mean.pointing += tables.pointing.values[i] / count;
    const auto& mask = *nodules.regions.masks[i];
    mean.left += in_mask_distance_ratio(image(translated, i), image(nodules.pixels, i), image(nodules.without, i), mask)
                     .value() /
                 count;
    mean.outside += outside_mask_change(image(translated, i), image(nodules.pixels, i), mask).value() / count;
  }
  return mean;
}

}  // namespace

TEST_CASE("maps that are the masks pass the audit, and another patient's fail it by far", "[map_study]") {
  const Nodules nodules(60);
  const Worth own = worth(nodules, nodules.maps, nodules.without);
  CHECK(own.ap == Approx(1));
  CHECK(own.pointing == Approx(1));
  CHECK(own.left == 0);
  const OthersMaps others = maps_of_other_patients(nodules.patients, nodules.pixels, nodules.maps, nodules.without);
  REQUIRE(others.maps.defined());
  REQUIRE(others.images.sizes() == nodules.pixels.sizes());
  const Worth control = worth(nodules, others.maps, others.images);
  CHECK(own.ap - control.ap > 0.5);
  CHECK(own.pointing - control.pointing > 0.5);
  CHECK(control.left - own.left > 0.5);  // the nodule is still there
  CHECK(control.outside > own.outside);  // and a change where there was none
  CHECK_FALSE(maps_of_other_patients({4, 4, 4, 5}, nodules.pixels, nodules.maps, {}).maps.defined());
  CHECK_FALSE(maps_of_other_patients(nodules.patients, nodules.pixels, nodules.maps, {}).images.defined());
}

TEST_CASE("a flip is counted where a classifier saw the disease, of each finding's own map", "[map_study]") {
  RunData data;
  data.cohort.findings = {"Effusion", "Nodule", "Edema", "Fracture"};
  data.groups = {{"wet", {"Effusion", "Edema"}}, {"Nodule", {"Nodule"}}};  // Fracture has no map
  const auto table = [](const std::vector<float>& values) { return at::tensor(values).reshape({3, 4}); };
  data.states = table({1, 1, -1, 1,   // called positive for both
                       1, -1, 0, 1,   // its effusion is missed
                       0, 1, 1, 1});  // its effusion is not known
  const std::vector<std::size_t> rows = {2, 0, 1};
  // Probabilities of these rows, in this order: before, and away from the findings of either map.
  const at::Tensor before = table({0.9F, 0.6F, 0.7F, 0.9F, 0.9F, 0.8F, 0.9F, 0.9F, 0.4F, 0.9F, 0.9F, 0.9F});
  const at::Tensor wet = table({0.1F, 0.1F, 0.8F, 0.1F, 0.2F, 0.1F, 0.1F, 0.1F, 0.1F, 0.1F, 0.1F, 0.1F});
  const at::Tensor nodule = table({0.9F, 0.3F, 0.9F, 0.9F, 0.9F, 0.7F, 0.9F, 0.9F, 0.9F, 0.1F, 0.9F, 0.9F});
  const RetrievalValues found = flips(data, rows, before, [&](std::int64_t map) { return map == 0 ? wet : nodule; });
  constexpr double kNone = -1;
  const std::vector<double> expected = {kNone, 1,     0,     kNone,   // the last image: nodule flipped, edema not
                                        1,     0,     kNone, kNone,   // the first: effusion flipped, nodule not
                                        kNone, kNone, kNone, kNone};  // the second: nothing seen that is there
  REQUIRE(found.queries == 3);
  REQUIRE(found.columns == 4);
  for (std::size_t k = 0; k < expected.size(); ++k) {
    INFO("value " << k);
    CHECK((std::isnan(found.values[k]) ? kNone : found.values[k]) == expected[k]);
  }
}

TEST_CASE("the audit finds nothing left of a true counterfactual, and all of it in an untouched image",
          "[pipeline][map_study]") {
  const daug::test::Scratch scratch;
  Run::Impl run;
  run.config = daug::test::smallest(scratch.path("run"));
  run.config.data = daug::test::small_cohort(scratch.path("cohort"), 8, 4, 12);
  const std::vector<std::size_t> rows = run.data().test;
  const MapRegions regions = map_regions(run, rows);
  const std::size_t area = run.data().images.pixels_per_image();
  const auto input = [&](std::size_t n) { return run.data().images.image(rows[n]); };
  std::map<std::pair<std::size_t, std::size_t>, std::vector<float>> truths;
  for (std::size_t n = 0; n < rows.size(); ++n)
    for (std::size_t map = 0; map < regions.maps; ++map)
      if (auto truth = map_counterfactual(run, rows[n], map)) truths[{n, map}] = std::move(*truth);
  const auto removed = audit_counterfactuals(run, rows, regions, [&](std::size_t n, std::size_t map) {
    const auto found = truths.find({n, map});
    return found == truths.end() ? input(n) : found->second.data();
  });
  const auto untouched =
      audit_counterfactuals(run, rows, regions, [&](std::size_t n, std::size_t) { return input(n); });
  std::size_t measured = 0;
  for (std::size_t k = 0; k < regions.masks.size(); ++k) {
    const auto found = truths.find({k / regions.maps, k % regions.maps});
    if (!regions.masks[k] || found == truths.end()) {
      CHECK(std::isnan(removed.outside_distance.values[k]));
      continue;
    }
    double outside = 0, pixels = 0;
    for (std::size_t p = 0; p < area; ++p)
      if (!(*regions.masks[k])[p]) {
        outside += std::abs(static_cast<double>(input(k / regions.maps)[p]) - found->second[p]);
        ++pixels;
      }
    CHECK(removed.outside_distance.values[k] == 0);
    CHECK(removed.outside_change.values[k] == Approx(outside / pixels).margin(1e-12));
    CHECK(untouched.outside_distance.values[k] == Approx(outside / pixels).margin(1e-12));
    CHECK(untouched.outside_change.values[k] == 0);
    if (!std::isnan(removed.in_mask_ratio.values[k])) {
      CHECK(removed.in_mask_ratio.values[k] == 0);
      CHECK(untouched.in_mask_ratio.values[k] == 1);
      ++measured;
    }
  }
  CHECK(measured >= 5);
}
