// How much of a map is chance: spreads over seeds, levels and scales.

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/maps.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

double largest(const MapSpread& spread) { return spread.deviation().max().item<double>(); }

const std::vector<std::string> kFindings = {"Edema", "Nodule"};

/// Makes maps of both kinds: evidence depends on seed and level, the difference map on level and scale.
struct ToyMaps {
  NoiseSchedule schedule = NoiseSchedule::linear(1000);
  std::shared_ptr<const NoisePredictor> predictor =
      std::make_shared<LinearPredictor>(0.4, std::vector<double>{0.3, -0.2});
  at::Tensor x = random_tensor({2, 1, 4, 4}, 8).clamp(-1, 1);

  at::Tensor evidence(std::uint64_t seed, std::int64_t level, double) const {
    EvidenceOptions options;
    options.seed = seed;
    options.levels = {level};
    return evidence_maps(*predictor, schedule, x, {5, 6}, 2, options);
  }
  at::Tensor difference(std::uint64_t, std::int64_t level, double scale) const {
    TranslatorOptions options;
    options.level = level;
    options.steps = 3;
    options.guidance.weight = scale;
    const DiffusionTranslator translator(predictor, schedule, kFindings, options);
    return difference_map(x, translator.translate(x, {away_from("Edema"), away_from("Nodule")}).images);
  }
};

}  // namespace

TEST_CASE("maps are made once under every combination, and each factor's spread is its own", "[map_spread]") {
  std::vector<std::tuple<std::uint64_t, std::int64_t, double>> made;
  const auto spreads = map_spreads({{0, 2}, {1, 2}, {0, 3}}, [&](std::uint64_t seed, std::int64_t level, double scale) {
    made.emplace_back(seed, level, scale);
    return at::full({1, 2, 3, 3}, static_cast<double>(seed) + 10 * static_cast<double>(level) + 100 * scale);
  });
  CHECK(made.size() == 8);
  CHECK(std::set(made.begin(), made.end()).size() == 8);
  CHECK(made[1] == std::tuple(2U, 1, 0.0));
  // Two values a apart deviate by a / 2, and independent sums add their variances.
  CHECK(spreads.seeds.count() == 2);
  CHECK(largest(spreads.seeds) == Approx(1));
  CHECK(largest(spreads.levels) == Approx(5));
  CHECK(largest(spreads.scales) == Approx(150));
  CHECK(spreads.all.count() == 8);
  CHECK(largest(spreads.all) == Approx(std::sqrt(1 + 25 + 22500)));
  CHECK(spreads.all.mean().max().item<double>() == Approx(1 + 15 + 150));
}

TEST_CASE("with everything fixed maps have no spread at all, else that of what varies", "[map_spread]") {
  const ToyMaps toy;
  const MakeVariedMaps evidence = [&](auto seed, auto level, auto scale) { return toy.evidence(seed, level, scale); };
  const MakeVariedMaps difference = [&](auto seed, auto level, auto scale) {
    return toy.difference(seed, level, scale);
  };
  for (const auto& make : {evidence, difference}) {
    // One of each, and the same again and again: what is made twice is made alike.
    for (const MapVariation& fixed : {MapVariation{{7}, {100}, {2}}, MapVariation{{7, 7}, {100, 100}, {2, 2}}}) {
      const auto spreads = map_spreads(fixed, make);
      for (const auto* spread : {&spreads.all, &spreads.seeds, &spreads.levels, &spreads.scales})
        CHECK(largest(*spread) == 0);
    }
  }
  const MapVariation varied{{7, 8}, {100, 250}, {1, 2}};
  const auto of_evidence = map_spreads(varied, evidence);
  CHECK(largest(of_evidence.seeds) > 0);
  CHECK(largest(of_evidence.levels) > 0);
  CHECK(largest(of_evidence.scales) == 0);  // no guidance in it
  CHECK(largest(of_evidence.all) > 0);
  const auto of_difference = map_spreads(varied, difference);
  CHECK(largest(of_difference.seeds) == 0);  // no noise in it
  CHECK(largest(of_difference.levels) > 0);
  CHECK(largest(of_difference.scales) > 0);
  CHECK(largest(of_difference.all) > 0);
}

TEST_CASE("a variation with nothing to make and maps of different shapes are refused", "[map_spread]") {
  const auto one = [](std::uint64_t, std::int64_t, double) { return at::zeros({1, 1, 2, 2}); };
  const auto refused = [&](const MapVariation& variation, const char* name) {
    check_refused(ErrorCode::kInvalidArgument, name, [&] { map_spreads(variation, one); });
  };
  refused({{}, {1}, {1}}, "seeds");
  refused({{0}, {}, {1}}, "levels");
  refused({{0}, {1}, {}}, "scales");
  CHECK_THROWS_AS(map_spreads({{0}, {1, 2}, {1}},
                              [](std::uint64_t, std::int64_t level, double) {
                                return at::zeros({1, 1, 2, level});
                              }),
                  Error);
}
