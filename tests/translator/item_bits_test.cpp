// An image's translation is its own: the same bits in any batch, in any order and on any number of threads, whatever
// guides and whatever walks.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/translator/bdia_solver.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/dpm_solver.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "translator/small_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// The solver of a batch of images with these ids.
using SolverOfItems = std::function<std::shared_ptr<const Solver>(const std::vector<std::uint64_t>& ids)>;

/// Whether `part` is what `all` has of these rows, to the last bit.
bool same_rows(const Translation& part, const Translation& all, const std::vector<std::int64_t>& rows) {
  const auto same = [place = at::tensor(rows)](const at::Tensor& a, const at::Tensor& b) {
    return same_bits(a, b.index_select(0, place));
  };
  return same(part.images, all.images) && same(part.reconstruction, all.reconstruction) &&
         same(part.residual, all.residual) && same(part.latent, all.latent);
}

/// How images are guided and walked.
struct Way {
  const char* name;
  SolverOfItems solver;
  GuidanceKind kind;
  double classifier_scale;
  bool in_region = false;
};

/// A region for each of B images, with places inside, outside and in between.
at::Tensor regions(std::int64_t batch, std::int64_t height, std::int64_t width) {
  return (0.5 + 0.5 * random_tensor({batch, 1, height, width}, 31)).clamp(0, 1).to(at::kFloat);
}

/// Checks that row by row up to three images [B, 1, S, S] are translated to the same bits whatever stands beside them,
/// in whatever order and on however many threads, by networks of a type.
void check_item_bits(const Way& way, const at::Tensor& x, std::int64_t steps, at::ScalarType networks = at::kFloat) {
  INFO(way.name << ", " << x.size(3) << " pixels, " << networks);
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = small_network(schedule, true, networks);
  const auto guide = small_guide(schedule, networks, x.size(3));
  const std::vector<Target> targets = {away_from("Edema"), {"Nodule", true, 0.5}};
  const std::vector<std::uint64_t> items = {40, 11, 93};
  const at::Tensor region = regions(x.size(0), x.size(2), x.size(3)).to(x.scalar_type());
  const auto translated = [&](const std::vector<std::int64_t>& rows, std::int64_t max_batch) {
    c10::InferenceMode inference;
    std::vector<std::uint64_t> ids;
    for (const std::int64_t row : rows) ids.push_back(items[static_cast<std::size_t>(row)]);
    TranslatorOptions options = path_options(250, steps);
    options.max_batch = max_batch;
    options.solver = way.solver(ids);
    options.guidance.kind = way.kind;
    options.guidance.classifier_scale = way.classifier_scale;
    const DiffusionTranslator translator(predictor, schedule, kSmallFindings, options, guide);
    const at::Tensor place = at::tensor(rows), images = x.index_select(0, place);
    if (!way.in_region) return translator.translate(images, targets);
    return translator.translate_inside(region.index_select(0, place), images, targets);
  };
  std::vector<std::int64_t> rows(static_cast<std::size_t>(x.size(0)));
  std::iota(rows.begin(), rows.end(), std::int64_t{0});
  const Translation all = translated(rows, 1);
  for (std::int64_t k = 0; k < 2; ++k)  // and there is something to be the same
    CHECK(largest_difference(all.images.select(1, k), all.reconstruction) > 1e-4);
  std::vector<std::int64_t> order = rows;
  std::rotate(order.begin(), order.end() - 1, order.end());
  CHECK(same_rows(translated(order, 1), all, order));
  for (const std::int64_t row : rows) CHECK(same_rows(translated({row}, 1), all, {row}));
  for (const int count : {1, 2, 3}) {
    const Threads threads(count);
    CHECK(same_rows(translated({0, 1}, 1), all, {0, 1}));
  }
  if (networks != at::kBFloat16) CHECK(largest_difference(translated(rows, 256).images, all.images) < 1e-3);
}

/// Finds no noise, and takes note of the intra-op threads it is called on.
class ThreadsOfCalls : public NoisePredictor {
 public:
  at::Tensor noise(const at::Tensor& x, std::int64_t, const at::Tensor&) const override {
    seen.insert(at::get_num_threads());
    return at::zeros_like(x);
  }
  mutable std::set<int> seen;
};

std::shared_ptr<const Solver> ddim(const std::vector<std::uint64_t>&) { return std::make_shared<const DdimSolver>(); }

}  // namespace

TEST_CASE("a translation is the same bits whatever the batch, the order and the threads, guided and walked in any way",
          "[translator][item_bits]") {
  const auto dpm = [](const auto&) { return std::make_shared<const DpmSolver>(); };
  const auto bdia = [](const auto&) { return std::make_shared<const BdiaSolver>(); };
  const auto converging = [](const auto&) { return std::make_shared<const DdimSolver>(DdimSolverOptions{20, 1e-3}); };
  const auto noisy = [](const std::vector<std::uint64_t>& ids) {
    return std::make_shared<const DdimSolver>(DdimSolverOptions{1, 0, 1, 7, ids});
  };
  const std::vector<Way> ways = {{"classifier, ddim", ddim, GuidanceKind::kClassifier, 50},
                                 {"contrast and classifier, ddim", converging, GuidanceKind::kContrast, 50},
                                 {"contrast, ddim with noise", noisy, GuidanceKind::kContrast, 0},
                                 {"contrast and classifier, dpm", dpm, GuidanceKind::kContrast, 50},
                                 {"classifier-free, dpm", dpm, GuidanceKind::kClassifierFree, 0},
                                 {"contrast and classifier, bdia", bdia, GuidanceKind::kContrast, 50},
                                 {"condition alone, bdia", bdia, GuidanceKind::kNone, 0},
                                 {"classifier in a region, ddim", ddim, GuidanceKind::kClassifier, 50, true},
                                 {"contrast and classifier in a region, dpm", dpm, GuidanceKind::kContrast, 50, true}};
  const at::Tensor x = (0.4 * random_tensor({3, 1, 16, 16}, 18)).clamp(-1, 1).to(at::kFloat);
  for (const Way& way : ways) check_item_bits(way, x, 4);
  for (const Way& way : {ways[1], ways[2], ways[5], ways[8]}) check_item_bits(way, x.to(at::kDouble), 2, at::kDouble);
  check_item_bits(ways[3], x, 1, at::kBFloat16);  // states stay in float32 beside networks of half types
}

TEST_CASE("a translation of 64 pixels is the same bits whatever the batch, the order and the threads",
          "[translator][item_bits]") {
  // So many values that LibTorch takes another operator for 1x1 filters on several threads than on one.
  const at::Tensor x = (0.4 * random_tensor({2, 1, 64, 64}, 19)).clamp(-1, 1).to(at::kFloat);
  check_item_bits({"contrast and classifier, ddim", ddim, GuidanceKind::kContrast, 50}, x, 1);
}

TEST_CASE("an image of any size is blended with a region and noised in its own bits", "[translator][item_bits]") {
  // 35 pixels are no whole number of a processor's vectors: in a batch an image's last ones lie elsewhere in them.
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<LinearPredictor>(0.3, std::vector<double>{0.5, -0.2, 0.11});
  const at::Tensor x = (0.4 * random_tensor({3, 1, 5, 7}, 18)).clamp(-1, 1).to(at::kFloat), region = regions(3, 5, 7);
  TranslatorOptions options = path_options(250, 4);
  options.max_batch = 1;
  const DiffusionTranslator translator(predictor, schedule, kSmallFindings, options);
  const std::vector<Target> targets = {away_from("Edema"), {"Nodule", true, 0.5}};
  const Translation all = translator.translate_inside(region, x, targets);
  CHECK(largest_difference(all.images.select(1, 0), x) > 1e-3);
  for (std::int64_t i = 0; i < 3; ++i) {
    const Translation alone = translator.translate_inside(region.narrow(0, i, 1), x.narrow(0, i, 1), targets);
    CHECK(same_rows(alone, all, {i}));
  }
  const at::Tensor order = at::tensor(std::vector<std::int64_t>{2, 0, 1});
  CHECK(same_rows(translator.translate_inside(region.index_select(0, order), x.index_select(0, order), targets), all,
                  {2, 0, 1}));

  EvidenceOptions evidence;
  evidence.max_batch = 1;
  const std::vector<std::uint64_t> items = {40, 11, 93};
  const auto maps_of = [&](const at::Tensor& images, const std::vector<std::uint64_t>& ids) {
    return evidence_and_score_difference_maps(*predictor, schedule, images, ids, at::eye(3), evidence).transpose(0, 1);
  };
  const at::Tensor maps = maps_of(x, items);
  CHECK(maps.abs().max().item<double>() > 1e-3);
  for (std::int64_t i = 0; i < 3; ++i)
    CHECK(same_bits(maps_of(x.narrow(0, i, 1), {items[static_cast<std::size_t>(i)]}), maps.narrow(0, i, 1)));
  CHECK(same_bits(maps_of(x.index_select(0, order), {93, 40, 11}), maps.index_select(0, order)));
}

TEST_CASE("a network is called on one thread for single rows, else on all of the caller's", "[translator][item_bits]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = at::zeros({2, 1, 4, 4});
  const std::vector<std::uint64_t> items = {3, 8};
  const Threads three(3);
  for (const std::int64_t max_batch : {1, 2}) {
    const std::set<int> expected = {max_batch == 1 ? 1 : 3};
    const auto predictor = std::make_shared<ThreadsOfCalls>();
    TranslatorOptions options = path_options(250, 2);
    options.max_batch = max_batch;
    DiffusionTranslator(predictor, schedule, kSmallFindings, options).translate(x, {away_from("Edema")});
    CHECK(predictor->seen == expected);
    predictor->seen.clear();
    EvidenceOptions evidence;
    evidence.max_batch = max_batch;
    evidence_maps(*predictor, schedule, x, items, at::eye(3), evidence);
    CHECK(predictor->seen == expected);
    CHECK(at::get_num_threads() == 3);
  }
}

TEST_CASE("a round-trip residual is the same bits in any batch and on any number of threads",
          "[translator][item_bits]") {
  // An image of as many pixels is large enough for a sum over all of it to be split among threads.
  const at::Tensor x = random_tensor({3, 1, 256, 192}, 1).to(at::kFloat);
  const at::Tensor back = random_tensor({3, 1, 256, 192}, 2).to(at::kFloat);
  const at::Tensor all = round_trip_residual(x, back);
  for (const int count : {1, 2, 3}) {
    const Threads threads(count);
    CHECK(same_bits(round_trip_residual(x, back), all));
    for (std::int64_t i = 0; i < 3; ++i)
      CHECK(same_bits(round_trip_residual(x.narrow(0, i, 1), back.narrow(0, i, 1)), all.narrow(0, i, 1)));
  }
}
