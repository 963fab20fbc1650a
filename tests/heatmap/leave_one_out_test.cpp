// What few healthy images say of an image: each of them is judged by the others alone, as unseen images are by all.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daug/heatmap/map_calibration.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("few healthy images do not make others unusual", "[map_calibration]") {
  // 19 images of 16 independent normal cells, again for each of 300 targets. Of the p-values k / 20 a tenth are at most
  // 0.1: those of images whose score none or one of the 19 reaches.
  //
  // Were the 19 standardised with their own share in mean and deviation, a quarter would be. A cell's score is then
  // t sqrt(18 / (17 + t^2)) with t of 17 degrees of freedom; a tenth of them reach 2.37 by any of 16 cells, of the
  // unseen, sqrt(20 / 18) t_18 in each, 1 - (1 - P(t_18 > 2.24))^16 = 0.26. Left out they are sqrt(19 / 17) t_17 and
  // reach 2.93, the unseen with 0.095.
  constexpr std::int64_t kImages = 19, kOthers = 30, kTargets = 300;
  const std::vector<std::string> targets(kTargets, "cell");
  const auto calibration =
      MapCalibration::fit(random_tensor({kImages, kTargets, 4, 4}, 1), targets, MapCalibrationOptions{4, 19});
  const at::Tensor others = random_tensor({kOthers, kTargets, 4, 4}, 2);
  const at::Tensor images = calibration.image_p_values(others);
  // The share is another for every calibration, with a deviation of about 0.066 (beta, 2 of 20), so that the mean over
  // 300 of them, of 30 images each, strays by 0.005.
  CHECK(images.le(0.1 + 1e-9).to(at::kDouble).mean().item<double>() == Approx(0.095).margin(0.025));
  CHECK(images.mean().item<double>() == Approx(0.525).margin(0.04));  // of 1/20, 2/20, ..., 1
  // A cell's rank needs no scale: 0.1 exactly, by exchangeability.
  CHECK(calibration.region_p_values(others).le(0.1 + 1e-9).to(at::kDouble).mean().item<double>() ==
        Approx(0.1).margin(0.01));
}

TEST_CASE("a healthy image's score is by the mean and deviation of the others", "[map_calibration]") {
  // Four cells of a pixel each; mean and deviation as LibTorch has them of four images, one left out at a time.
  constexpr std::int64_t kImages = 5;
  const at::Tensor maps = random_tensor({kImages, 2, 2, 2}, 3);
  const auto file = MapCalibration::fit(maps, {"a", "b"}, {2, 19}).to_file();
  std::vector<at::Tensor> scores;
  for (std::int64_t i = 0; i < kImages; ++i) {
    const at::Tensor left = at::cat({maps.narrow(0, 0, i), maps.narrow(0, i + 1, kImages - i - 1)}).flatten(2);
    scores.push_back(((maps[i].flatten(1) - left.mean(0)) / left.std(0, false)).amax(1));
  }
  const at::Tensor rising = std::get<0>(at::stack(scores, 1).sort(1));
  CHECK(largest_difference(to_tensor(file.at("image_scores")), rising) < 1e-10);
}

TEST_CASE("a healthy image unlike all others is evidence that there are such, and two images are too few",
          "[map_calibration]") {
  // By the others alone, which never change, the last is as unusual as can be: a healthy image in four is.
  at::Tensor maps = at::zeros({4, 1, 2, 2}, at::kDouble);
  maps[3].fill_(1);
  const auto calibration = MapCalibration::fit(maps, {"x"}, {1, 19});
  const at::Tensor p = calibration.image_p_values(at::full({1, 1, 2, 2}, 50.0, at::kDouble));
  CHECK(p.item<double>() == 2.0 / 5);

  CHECK_NOTHROW(MapCalibration::fit(maps.narrow(0, 1, 3), {"x"}, {1, 19}));
  for (const std::int64_t few : {0, 1, 2})
    check_refused(ErrorCode::kInvalidArgument, "fit: maps: expected shape [N, K, H, W] with N >= 3", [&] {
      MapCalibration::fit(maps.narrow(0, 0, few), {"x"}, {1, 19});
    });
}
