// The control that must fail: maps and translations of other patients' images in place of an image's own.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/localization.h"
#include "daug/metrics/patients.h"
#include "support/catch.h"

using namespace daug;

namespace {

constexpr std::size_t kSide = 12, kArea = kSide * kSide;

using Image = std::vector<float>;

/// Images with one bright square each, and what a fair method makes of them.
struct Toys {
  std::vector<std::int64_t> patients;
  std::vector<Image> healthy, input, translated, maps;
  std::vector<std::vector<std::uint8_t>> masks;

  explicit Toys(std::uint64_t seed) {
    for (std::int64_t i = 0; i < 60; ++i) {
      RandomStream random(seed, static_cast<std::uint64_t>(i), "toy");
      patients.push_back(i / 2);  // neighbours are of one patient
      const std::size_t left = random.below(kSide - 2), top = random.below(kSide - 2);
      Image clean(kArea), sick, made, map(kArea);
      std::vector<std::uint8_t> mask(kArea, 0);
      for (auto& value : clean) value = static_cast<float>(random.uniform(-0.8, 0));
      sick = made = clean;
      for (std::size_t y = top; y < top + 3; ++y)
        for (std::size_t x = left; x < left + 3; ++x) {
          mask[y * kSide + x] = 1;
          sick[y * kSide + x] += 0.6F;
          made[y * kSide + x] += 0.1F;  // most of the square is taken away
        }
      for (std::size_t p = 0; p < kArea; ++p) {
        made[p] += static_cast<float>(random.uniform(-0.02, 0.02));
        map[p] = std::abs(made[p] - sick[p]);
      }
      healthy.push_back(clean);
      input.push_back(sick);
      translated.push_back(made);
      maps.push_back(map);
      masks.push_back(mask);
    }
  }
};

/// What an audit says of maps and translated images, as means over all images.
struct Audit {
  double ap = 0, pointing = 0, left = 0, outside = 0;
};

Audit audit(const Toys& toys, const std::vector<Image>& maps, const std::vector<Image>& translated) {
  Audit mean;
  const auto count = static_cast<double>(maps.size());
  for (std::size_t i = 0; i < maps.size(); ++i) {
    mean.ap += pixel_average_precision(maps[i], toys.masks[i]).value() / count;
    mean.pointing += pointing_game(maps[i], toys.masks[i]).value() / count;
    mean.left += in_mask_distance_ratio(translated[i], toys.input[i], toys.healthy[i], toys.masks[i]).value() / count;
    mean.outside += outside_mask_change(translated[i], toys.input[i], toys.masks[i]).value() / count;
  }
  return mean;
}

/// The audit with every image given the map of another patient's and that image's change.
Audit shuffled_audit(const Toys& toys, const std::vector<Image>& maps) {
  const auto other = rows_of_other_patients(toys.patients);
  std::vector<Image> wrong_maps, wrong_images = toys.input;
  for (std::size_t i = 0; i < maps.size(); ++i) {
    wrong_maps.push_back(maps[other[i]]);
    for (std::size_t p = 0; p < kArea; ++p)
      wrong_images[i][p] += toys.translated[other[i]][p] - toys.input[other[i]][p];
  }
  return audit(toys, wrong_maps, wrong_images);
}

}  // namespace

TEST_CASE("every row is given another patient's, and each is used once", "[metrics]") {
  for (std::uint64_t trial = 0; trial < 200; ++trial) {
    RandomStream random(4, trial, "patients");
    std::vector<std::int64_t> patients(2 + random.below(30));
    const auto names = 1 + static_cast<std::uint32_t>(patients.size()) / 2;
    for (auto& patient : patients) patient = static_cast<std::int64_t>(random.below(names)) - 3;
    std::size_t most = 0;
    for (const std::int64_t patient : patients)
      most = std::max(most, static_cast<std::size_t>(std::count(patients.begin(), patients.end(), patient)));
    auto other = rows_of_other_patients(patients);
    INFO("trial " << trial);
    REQUIRE(other.empty() == (2 * most > patients.size()));
    for (std::size_t i = 0; i < other.size(); ++i) REQUIRE(patients[other[i]] != patients[i]);
    std::sort(other.begin(), other.end());
    for (std::size_t i = 0; i < other.size(); ++i) REQUIRE(other[i] == i);
  }
  CHECK(rows_of_other_patients(std::vector<std::int64_t>{}).empty());
  CHECK(rows_of_other_patients(std::vector<std::int64_t>{5}).empty());
  CHECK(rows_of_other_patients(std::vector<std::int64_t>{5, 5, 5, 8}).empty());
  CHECK(rows_of_other_patients(std::vector<std::int64_t>{5, 8, 5, 8}) == std::vector<std::size_t>{1, 0, 3, 2});
}

TEST_CASE("maps and changes of another patient's image fail the audit that an image's own pass", "[metrics]") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    INFO("seed " << seed);
    const Toys toys(seed);
    const Audit own = audit(toys, toys.maps, toys.translated);
    const Audit wrong = shuffled_audit(toys, toys.maps);
    CHECK(own.ap > 0.99);
    CHECK(own.pointing > 0.99);
    CHECK(own.left < 0.3);
    CHECK(own.outside < 0.02);
    // Squares lie anywhere, so another image's are where this one's are by chance alone (9 of 144 pixels).
    CHECK(wrong.ap < 0.3);
    CHECK(wrong.pointing < 0.3);
    // Nothing was taken away inside, and something that was not there outside.
    CHECK(wrong.left > 0.85);
    CHECK(wrong.outside > own.outside + 0.01);
  }
}

TEST_CASE("a map that never looked at its image does not fail the control, which gives it away", "[metrics]") {
  const Toys toys(7);
  Image mean(kArea, 0.0F);
  for (const auto& mask : toys.masks)
    for (std::size_t p = 0; p < kArea; ++p) mean[p] += static_cast<float>(mask[p]);
  const std::vector<Image> same(toys.maps.size(), mean);
  const Audit own = audit(toys, same, toys.translated), wrong = shuffled_audit(toys, same);
  CHECK(wrong.ap == own.ap);
  CHECK(wrong.pointing == own.pointing);
}
