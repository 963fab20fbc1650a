// What a round trip loses, of a translation and of the published loop.

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "daug/translator/published_loop.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("the residual of a round trip is each image's mean absolute difference", "[translator]") {
  const at::Tensor x = random_tensor({3, 2, 4, 5}, 1), back = random_tensor({3, 2, 4, 5}, 2);
  const at::Tensor residual = round_trip_residual(x, back);
  REQUIRE(residual.sizes() == at::IntArrayRef({3}));
  const auto a = to_doubles(x), b = to_doubles(back);
  for (std::size_t i = 0; i < 3; ++i) {
    double sum = 0;
    for (std::size_t p = 0; p < 40; ++p) sum += std::abs(a[40 * i + p] - b[40 * i + p]);
    CHECK(residual[static_cast<std::int64_t>(i)].item<double>() == Approx(sum / 40).epsilon(1e-12));
  }
  CHECK(round_trip_residual(x.to(at::kFloat), back.to(at::kFloat)).scalar_type() == at::kFloat);
  check_refused(ErrorCode::kInvalidArgument, "round_trip_residual: x", [&] { round_trip_residual(x[0], back[0]); });
  check_refused(ErrorCode::kInvalidArgument, "round_trip_residual: x", [&] { round_trip_residual({}, back); });
  for (const at::Tensor& other : {back.narrow(0, 0, 2), back.unsqueeze(1), at::Tensor()})
    check_refused(ErrorCode::kInvalidArgument, "round_trip_residual: round_trip",
                  [&] { round_trip_residual(x, other); });
}

TEST_CASE("the published loop's residual is that of its own levels without the classifier", "[published_loop]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto toy = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5});
  WatchedPredictor watched(toy);
  PublishedLoopOptions options;
  options.noise_level = 6;
  const at::Tensor x = (0.4 * random_tensor({3, 1, 2, 3}, 1)).clamp(-1, 1), fresh = random_tensor({3, 1, 2, 3}, 2);
  const auto moved = [&](double value, double eps, std::int64_t from, std::int64_t to) {
    const double clean = (value - std::sqrt(1 - schedule.abar(from)) * eps) / std::sqrt(schedule.abar(from));
    return std::sqrt(schedule.abar(to)) * clean + std::sqrt(1 - schedule.abar(to)) * eps;
  };
  const auto pixels = to_doubles(x), noise = to_doubles(fresh);
  for (const bool told : {false, true}) {
    INFO((told ? "told" : "not told") << " of the finding");
    const std::vector<double> states = told ? std::vector<double>{1} : std::vector<double>{};
    const at::Tensor condition = told ? at::ones({3, 1}) : at::Tensor();
    watched.levels.clear(), watched.rows = 0;
    const at::Tensor back = published_reconstruction(watched, schedule, x, fresh, options, condition);
    REQUIRE(back.sizes() == x.sizes());
    const auto reconstructed = to_doubles(back);
    const at::Tensor residual = round_trip_residual(x, back);
    CHECK(watched.levels == std::vector<std::int64_t>{2, 3, 4, 5, 6, 5, 4, 3, 2, 1});
    CHECK(watched.rows == 3 * 2 * (6 - 1));
    for (std::size_t i = 0; i < 3; ++i) {
      double sum = 0;
      for (std::size_t p = 6 * i; p < 6 * (i + 1); ++p) {
        double state = std::sqrt(schedule.abar(1)) * pixels[p] + std::sqrt(1 - schedule.abar(1)) * noise[p];
        for (std::int64_t level = 2; level <= 6; ++level)
          state = moved(state, toy->scalar(state, level, states), level, level + 1);
        for (std::int64_t level = 5; level >= 1; --level)
          state = moved(state, toy->scalar(state, level, states), level, level - 1);
        CHECK(reconstructed[p] == Approx(state).epsilon(1e-10));
        sum += std::abs(state - pixels[p]);
      }
      CHECK(residual[static_cast<std::int64_t>(i)].item<double>() == Approx(sum / 6).epsilon(1e-10));
      CHECK(sum / 6 > 1e-4);
    }
  }

  watched.rows = 0, watched.known_channels = 1;
  for (const auto& [images, part] : not_images(x))
    check_refused(ErrorCode::kInvalidArgument, part,
                  [&, images = images] { published_reconstruction(watched, schedule, images, fresh, options); });
  check_refused(ErrorCode::kInvalidArgument, "published_reconstruction: fresh",
                [&] { published_reconstruction(watched, schedule, x, fresh[0], options); });
  options.noise_level = 1;
  check_refused(ErrorCode::kInvalidArgument, "PublishedLoopOptions: noise_level",
                [&] { published_reconstruction(watched, schedule, x, fresh, options); });
  CHECK(watched.rows == 0);
  options.noise_level = 6;
  watched.poisoned_level = 4;
  const Error error = caught([&] { published_reconstruction(watched, schedule, x, fresh, options); });
  CHECK(error.code() == ErrorCode::kNumeric);
  CHECK(mentions(error, "daug::published_reconstruction", "step 3, level 5"));
}
