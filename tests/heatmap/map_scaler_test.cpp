#include "daug/heatmap/map_scaler.h"

#include <ATen/ATen.h>

#include <limits>

#include "daug/core/error.h"
#include "support/catch.h"
#include "support/caught.h"

using daug::MapScaler;

TEST_CASE("maps are standardised by the fitted mean and deviation of each finding", "[heatmap]") {
  // Finding 0: values 1, 3 -> mean 2, deviation 1. Finding 1 is constant.
  at::Tensor maps = at::zeros({1, 2, 1, 2});
  maps[0][0][0][0] = 1;
  maps[0][0][0][1] = 3;
  maps[0][1].fill_(7);
  const MapScaler scaler = MapScaler::fit(maps, 5);
  CHECK(scaler.mean()[0] == Approx(2));
  CHECK(scaler.deviation()[0] == Approx(1));

  const at::Tensor scaled = scaler.apply(maps);
  CHECK(scaled[0][0][0][0].item<double>() == Approx(-1));
  CHECK(scaled[0][0][0][1].item<double>() == Approx(1));
  CHECK(scaled[0][1].abs().max().item<double>() == 0);

  SECTION("the fitted scale is kept, so a faint map stays faint and a strong one is clamped") {
    const at::Tensor other = at::full({1, 2, 1, 2}, 100.0);
    CHECK(scaler.apply(other)[0][0].max().item<double>() == 5);
    CHECK(scaler.apply(at::full({1, 2, 1, 2}, 2.1))[0][0][0][0].item<double>() == Approx(0.1));
  }
  SECTION("other shapes are refused") {
    CHECK_THROWS_AS(scaler.apply(at::zeros({1, 3, 1, 2})), daug::Error);
    CHECK_THROWS_AS(MapScaler::fit(at::zeros({0, 2, 1, 2})), daug::Error);
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      at::Tensor spoiled = maps.clone();
      spoiled[0][1][0][1] = bad;
      const daug::Error error = daug::test::caught([&] { (void)MapScaler::fit(spoiled); });
      CHECK(error.code() == daug::ErrorCode::kNumeric);
      CHECK(daug::test::mentions(error, "finding 1"));
    }
  }
}
