// An image's translation is its own: the same bits in any batch, in any order and on any number of threads, whatever
// guides and whatever walks.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

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

}  // namespace

TEST_CASE("a translation is the same bits whatever the batch, the order and the threads, guided and walked in any way",
          "[translator][item_bits]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = small_network(schedule, true);
  const auto guide = small_guide(schedule, at::kFloat);
  const std::vector<Target> targets = {away_from("Edema"), {"Nodule", true, 0.5}};
  const at::Tensor x = (0.4 * random_tensor({3, 1, 16, 16}, 18)).clamp(-1, 1).to(at::kFloat);
  const std::vector<std::uint64_t> items = {40, 11, 93};
  const auto ddim = [](const auto&) { return std::make_shared<const DdimSolver>(); };
  const auto dpm = [](const auto&) { return std::make_shared<const DpmSolver>(); };
  const auto bdia = [](const auto&) { return std::make_shared<const BdiaSolver>(); };
  const auto converging = [](const auto&) { return std::make_shared<const DdimSolver>(DdimSolverOptions{20, 1e-3}); };
  const auto noisy = [](const std::vector<std::uint64_t>& ids) {
    return std::make_shared<const DdimSolver>(DdimSolverOptions{1, 0, 1, 7, ids});
  };
  struct Way {
    const char* name;
    SolverOfItems solver;
    GuidanceKind kind;
    double classifier_scale;
  };
  const std::vector<Way> ways = {{"classifier, ddim", ddim, GuidanceKind::kClassifier, 50},
                                 {"contrast and classifier, ddim", converging, GuidanceKind::kContrast, 50},
                                 {"contrast, ddim with noise", noisy, GuidanceKind::kContrast, 0},
                                 {"contrast and classifier, dpm", dpm, GuidanceKind::kContrast, 50},
                                 {"classifier-free, dpm", dpm, GuidanceKind::kClassifierFree, 0},
                                 {"contrast and classifier, bdia", bdia, GuidanceKind::kContrast, 50},
                                 {"condition alone, bdia", bdia, GuidanceKind::kNone, 0}};
  for (const Way& way : ways) {
    INFO(way.name);
    const auto translated = [&](const std::vector<std::int64_t>& rows, std::int64_t max_batch) {
      c10::InferenceMode inference;
      std::vector<std::uint64_t> ids;
      for (const std::int64_t row : rows) ids.push_back(items[static_cast<std::size_t>(row)]);
      TranslatorOptions options = path_options(250, 4);
      options.max_batch = max_batch;
      options.solver = way.solver(ids);
      options.guidance.kind = way.kind;
      options.guidance.classifier_scale = way.classifier_scale;
      const DiffusionTranslator translator(predictor, schedule, kSmallFindings, options, guide);
      return translator.translate(x.index_select(0, at::tensor(rows)), targets);
    };
    // Row by row a network computes the same whatever stands beside a row.
    const Translation all = translated({0, 1, 2}, 1);
    for (std::int64_t k = 0; k < 2; ++k)  // and there is something to be the same
      CHECK(largest_difference(all.images.select(1, k), all.reconstruction) > 1e-4);
    const std::vector<std::int64_t> order = {2, 0, 1};
    CHECK(same_rows(translated(order, 1), all, order));
    for (std::int64_t i = 0; i < 3; ++i) CHECK(same_rows(translated({i}, 1), all, {i}));
    for (const int count : {1, 2, 3}) {
      const Threads threads(count);
      CHECK(same_rows(translated({0, 1}, 1), all, {0, 1}));
    }
    CHECK(largest_difference(translated({0, 1, 2}, 256).images, all.images) < 1e-3);
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
