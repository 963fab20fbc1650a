#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cstdint>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/guidance.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "translator/small_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("maps of several targets are those of each alone", "[translator][heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const std::vector<Target> targets = {toward("Edema"), away_from("Edema"), toward(kNoFinding), toward("Device")};
  struct Guided {
    GuidanceKind kind;
    double classifier_scale;
  };
  const std::vector<Guided> kinds = {{GuidanceKind::kNone, 0},
                                     {GuidanceKind::kClassifierFree, 0},
                                     {GuidanceKind::kContrast, 0},
                                     {GuidanceKind::kClassifier, 50},
                                     {GuidanceKind::kContrast, 50}};
  for (const auto type : {at::kFloat, at::kDouble}) {
    const at::Tensor x = (0.4 * random_tensor({2, 1, 16, 16}, 17)).clamp(-1, 1).to(type);
    const auto guide = small_guide(schedule, type);
    for (const bool updown : {false, true})
      for (const auto& [kind, scale] : kinds) {
        if (updown && type == at::kFloat) continue;  // float64 tells more
        INFO((type == at::kFloat ? "float32, kind " : "float64, kind ")
             << static_cast<int>(kind) << ", classifier scale " << scale << ", updown " << updown);
        auto options = path_options(250, 3, 2);
        options.guidance.kind = kind;
        options.guidance.classifier_scale = scale;
        const DiffusionTranslator translator(small_network(schedule, updown, type), schedule, kSmallFindings, options,
                                             guide);
        const at::Tensor all = difference_map(x, translator.translate(x, targets).images);
        CHECK(all.max().item<double>() > 0.001);
        for (std::int64_t k = 0; k < 4; ++k) {
          const Target& target = targets[static_cast<std::size_t>(k)];
          CHECK(largest_difference(difference_map(x, translator.translate(x, {target}).images).select(1, 0),
                                   all.select(1, k)) < (type == at::kFloat ? 1e-4 : 1e-9));
        }
      }
  }
}

TEST_CASE("maps are the same bits whatever the batch, the order and the threads", "[translator][heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const std::vector<Target> targets = {away_from("Edema"), away_from("Nodule")};
  const at::Tensor present = at::eye(3).narrow(0, 0, 2);
  const at::Tensor x = (0.4 * random_tensor({5, 1, 16, 16}, 18)).clamp(-1, 1).to(at::kFloat);
  const std::vector<std::uint64_t> items = {40, 11, 12, 93, 4};
  for (const bool updown : {false, true}) {
    const auto predictor = small_network(schedule, updown);
    const auto maps_of = [&](const at::Tensor& images, const std::vector<std::uint64_t>& ids, std::int64_t max_batch) {
      c10::InferenceMode inference;
      auto options = path_options(250, 4, 2);
      options.max_batch = max_batch;
      EvidenceOptions evidence;
      evidence.max_batch = max_batch;
      const DiffusionTranslator translator(predictor, schedule, kSmallFindings, options);
      return at::cat({difference_map(images, translator.translate(images, targets).images),
                      evidence_maps(*predictor, schedule, images, ids, present, evidence),
                      score_difference_maps(*predictor, schedule, images, ids, present, evidence)},
                     1);
    };
    // Row by row a network computes the same whatever stands beside a row.
    const at::Tensor all = maps_of(x, items, 1);
    for (const std::int64_t max_batch : {3, 256}) CHECK(largest_difference(maps_of(x, items, max_batch), all) < 1e-4);
    const std::vector<std::int64_t> order = {3, 0, 4, 2, 1};
    std::vector<std::uint64_t> shuffled;
    for (const std::int64_t i : order) shuffled.push_back(items[static_cast<std::size_t>(i)]);
    CHECK(
        same_bits(maps_of(x.index_select(0, at::tensor(order)), shuffled, 1), all.index_select(0, at::tensor(order))));
    for (std::int64_t i = 0; i < 5; ++i)
      CHECK(same_bits(maps_of(x.narrow(0, i, 1), {items[static_cast<std::size_t>(i)]}, 1), all.narrow(0, i, 1)));
    for (const int threads : {1, 2, 3}) {
      const Threads others(threads);
      CHECK(same_bits(maps_of(x.narrow(0, 0, 2), {items[0], items[1]}, 1), all.narrow(0, 0, 2)));
    }
  }
}

TEST_CASE("maps of 64 pixels without a reconstruction are the same bits whatever the batch, the order and the threads",
          "[translator][heatmap]") {
  // So many values that LibTorch takes another operator for 1x1 filters on several threads than on one.
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = small_network(schedule, true);
  const at::Tensor x = (0.4 * random_tensor({3, 1, 64, 64}, 20)).clamp(-1, 1).to(at::kFloat);
  const auto maps_of = [&](const std::vector<std::int64_t>& rows, std::int64_t max_batch) {
    c10::InferenceMode inference;
    std::vector<std::uint64_t> items;
    for (const std::int64_t row : rows) items.push_back(40 + static_cast<std::uint64_t>(row));
    EvidenceOptions options;
    options.levels = {100};
    options.max_batch = max_batch;
    return evidence_and_score_difference_maps(*predictor, schedule, x.index_select(0, at::tensor(rows)), items,
                                              at::eye(3), options)
        .transpose(0, 1);
  };
  const at::Tensor all = maps_of({0, 1, 2}, 1);
  CHECK(largest_difference(maps_of({0, 1, 2}, 256), all) < 1e-4);
  CHECK(same_bits(maps_of({2, 0, 1}, 1), all.index_select(0, at::tensor(std::vector<std::int64_t>{2, 0, 1}))));
  for (const int count : {1, 2, 3}) {
    const Threads threads(count);
    CHECK(same_bits(maps_of({1}, 1), all.narrow(0, 1, 1)));
  }
}
