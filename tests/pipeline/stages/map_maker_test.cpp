#include "daug/pipeline/map_maker.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/threads.h"
#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/data/dataset.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/maps.h"
#include "daug/io/safetensors.h"
#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"
#include "pipeline/smallest_run.h"
#include "pipeline/stages/calibration_files.h"
#include "pipeline/stored_maps.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::finished_run;
using daug::test::Scratch;
using daug::test::stored_maps;

namespace {

/// A denoiser and its guide for 16 pixels and three findings, as a program of one's own has them.
struct NetworksAtHand {
  std::vector<std::string> findings = {"Edema", "Nodule", "Device"};
  Vocabulary vocabulary = {findings, one_group_per_finding(findings)};
  DenoiserUNet denoiser{nullptr};
  NoiseAwareClassifier guide{nullptr};

  NetworksAtHand() {
    DenoiserUNetOptions options;
    daug::test::make_tiny(options, 16);
    options.num_findings = 3;
    denoiser = DenoiserUNet(options);
    NoiseAwareClassifierOptions guide_options;
    daug::test::make_tiny(guide_options, 16);
    guide_options.num_head_channels = 8, guide_options.out_channels = 3;
    guide = NoiseAwareClassifier(guide_options);
  }
};

}  // namespace

TEST_CASE("a finished run's maps are made again, as its settings say", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);

  SECTION("a program of one's own makes the stored maps again") {
    const MapMaker maker = MapMaker::load(config.out);
    const SafetensorsFile stored = stored_maps(config.out, config.data);
    std::vector<std::uint64_t> items;
    for (const std::int64_t row : stored.at("rows").to_int64()) items.push_back(static_cast<std::uint64_t>(row));
    // The input is what the stored round trip came from; ask for it back through the cohort.
    const Cohort cohort = read_cohort(config.out + "/phantoms");
    LoadOptions load;
    load.preprocess = maker.preprocess();
    const ImageSet all = load_images(cohort, load).images;
    std::vector<at::Tensor> rows;
    for (const std::uint64_t item : items)
      rows.push_back(at::from_blob(const_cast<float*>(all.image(item)), {1, 1, 32, 32}).clone());
    const at::Tensor x = at::cat(rows);
    const ImageMaps maps = maker.make(x, items, true);
    const auto same = [&](const char* name, const at::Tensor& made) {
      const std::vector<float> expected = stored.at(name).to_float();
      const at::Tensor flat = made.contiguous();
      REQUIRE(static_cast<std::size_t>(flat.numel()) == expected.size());
      CHECK(at::allclose(flat.flatten(), at::tensor(expected), 1e-4, 1e-5));
    };
    same("difference", maps.difference);
    same("evidence", maps.evidence);
    same("no_target", maps.no_target);
    same("reconstruction", maps.reconstruction);
    // Controls cost more, a round trip belongs to the maps: but for those who make them in bulk and ask for none.
    REQUIRE(maps.residual.sizes() == at::IntArrayRef({x.size(0)}));
    CHECK(at::allclose(maps.residual, (maps.reconstruction - x).abs().mean({1, 2, 3}), 1e-5, 1e-7));
    CHECK(maps.residual.min().item<double>() > 0);
    const ImageMaps alone = maker.make(x, items, false), bare = maker.make(x, items, false, {}, false);
    CHECK(at::equal(alone.residual, maps.residual));
    CHECK(at::equal(alone.reconstruction, maps.reconstruction));
    CHECK(at::equal(bare.difference, maps.difference));
    CHECK_FALSE(alone.no_target.defined());
    CHECK_FALSE(alone.score_difference.defined());
    CHECK_FALSE(bare.reconstruction.defined());
    CHECK_FALSE(bare.residual.defined());
    for (const at::Tensor& wrong : {127.5 * (x + 1), at::full_like(x, std::nan("")), at::cat({x, x}, 1), x[0]})
      CHECK_THROWS_WITH(maker.make(wrong, items, false),
                        daug::test::contains_text("daug::MapMaker::make: x: expected"));
    CHECK_THROWS_WITH(maker.make(x, {1}, false), daug::test::contains_text("daug::MapMaker::make: items"));
    CHECK(caught([&] { MapMaker::load(scratch.path("nowhere")); }).code() == ErrorCode::kNotFound);
  }

  SECTION("maps are set against those of the run's healthy images") {
    const at::Tensor x = at::linspace(-1, 1, 2 * 32 * 32).reshape({2, 1, 32, 32});
    CHECK_FALSE(MapMaker::load(config.out).calibration("evidence").has_value());  // too few healthy images
    RunConfig calibrated = daug::test::smallest(scratch.path("calibrated"));
    calibrated.phantom.val = 60;
    Run run(calibrated, {});
    for (const Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps}) REQUIRE(run.execute(stage));
    const MapMaker maker = MapMaker::load(calibrated.out);
    const ImageMaps maps = maker.make(x, {4, 5}, false);
    std::vector<std::string> names;
    for (const auto& group : maker.groups()) names.push_back(group.name);
    const auto path = [&](const std::string& kind) { return calibrated.out + "/calibration_" + kind + ".safetensors"; };
    for (const auto& [kind, made] : {std::pair{"difference", maps.difference}, {"evidence", maps.evidence}}) {
      INFO(kind);
      const auto healthy = maker.calibration(kind);
      REQUIRE(healthy.has_value());
      CHECK(healthy->targets() == names);
      CHECK(healthy->images() >= MapCalibration::kLeastImages);
      const MapCalibration kept = MapCalibration::from_file(read_safetensors(path(kind)));
      CHECK(at::equal(healthy->image_p_values(made), kept.image_p_values(made)));
      CHECK(at::equal(healthy->calibrated(made), kept.pixel_p_values(made).log10().neg().to(at::kFloat)));
    }
    CHECK_FALSE(at::equal(maker.calibration("evidence")->pixel_p_values(maps.evidence),
                          maker.calibration("difference")->pixel_p_values(maps.evidence)));
    check_refused(ErrorCode::kInvalidArgument, "daug::MapMaker::calibration: kind",
                  [&] { maker.calibration("no_target"); });

    // Maps that are made otherwise are not those of the healthy images.
    RunConfig changed = calibrated;
    changed.maps.steps += 1;
    write_config(calibrated.out + "/config.json", changed);
    const MapMaker other = MapMaker::load(calibrated.out);
    check_refused(ErrorCode::kMismatch, "calibration_evidence.safetensors: expected one of maps",
                  [&] { other.calibration("evidence"); });
    write_config(calibrated.out + "/config.json", config);
    SafetensorsFile weights = read_safetensors(calibrated.out + "/translator.safetensors");
    weights.metadata["fingerprint"] = "another training";
    write_safetensors(calibrated.out + "/translator.safetensors", weights);
    check_refused(ErrorCode::kMismatch, "calibration_difference.safetensors: expected one of maps",
                  [&] { MapMaker::load(calibrated.out).calibration("difference"); });

    // What does not say of which maps it is, is none, as where healthy images were too few to fit one, unless it is
    // known to be of their stage.
    SafetensorsFile old = read_safetensors(path("evidence"));
    REQUIRE(old.metadata.erase("maps") == 1);
    write_safetensors(path("evidence"), old);
    CHECK_FALSE(maker.calibration("evidence").has_value());
    const auto of_stage = [&](const std::string& stage) {
      return read_calibration("test", calibrated.out, "evidence", "maps", stage);
    };
    CHECK(of_stage(old.metadata.at("fingerprint")).has_value());
    check_refused(ErrorCode::kMismatch, "calibration_evidence.safetensors: expected fingerprint another stage",
                  [&] { of_stage("another stage"); });
    std::filesystem::remove(path("difference"));
    CHECK_FALSE(maker.calibration("difference").has_value());
  }

  SECTION("settings of the maps reach them") {
    const at::Tensor x = at::linspace(-1, 1, 32 * 32).reshape({1, 1, 32, 32});
    const auto made = [&](const std::function<void(RunConfig::Maps&)>& change) {
      RunConfig changed = config;
      change(changed.maps);
      write_config(config.out + "/config.json", changed);
      const MapMaker maker = MapMaker::load(config.out);
      return std::pair{maker.make(x, {0}, false).difference, maker.difference_evaluations()};
    };
    const auto [plain, evaluations] = made([](auto&) {});
    const auto [condition, fewer] = made([](auto& m) { m.guidance = "none"; });
    CHECK_FALSE(at::equal(plain, condition));
    // Where guidance never acts the condition is left, at one evaluation a step and map.
    const auto [outside, outside_evaluations] = made([](auto& m) { m.lowest_level = 251; });
    CHECK(at::equal(outside, condition));
    CHECK(outside_evaluations == fewer);
    CHECK(fewer < evaluations);
    CHECK(at::equal(made([](auto& m) { m.highest_level = 0; }).first, condition));
    CHECK_FALSE(at::equal(made([](auto& m) { m.add_classifier = true; }).first, plain));
    // A tolerance that every image meets ends the iteration at once.
    CHECK(at::equal(made([](auto& m) { m.evaluations = 9, m.tolerance = 1000; }).first, plain));
    CHECK_FALSE(at::equal(made([](auto& m) { m.evaluations = 9; }).first, plain));
    CHECK(at::allclose(made([](auto& m) { m.memory_budget = 1; }).first, plain, 1e-4, 1e-5));
  }

  SECTION("a guide of other findings guides no maps") {
    RunConfig guided = config;
    guided.maps.guidance = "classifier";
    write_config(config.out + "/config.json", guided);
    CHECK_NOTHROW(MapMaker::load(config.out));
    const std::string path = config.out + "/guide.safetensors";
    SafetensorsFile guide = read_safetensors(path);
    const std::string findings = guide.metadata.at("findings");
    const auto comma = findings.find(',');  // as many findings, but in another order
    guide.metadata["findings"] = findings.substr(comma + 1) + "," + findings.substr(0, comma);
    write_safetensors(path, guide);
    CHECK_THROWS_WITH(MapMaker::load(config.out), daug::test::contains_text("the translator's findings " + findings));
    CHECK(caught([&] { MapMaker::load(config.out); }).code() == ErrorCode::kMismatch);
    guide.metadata["findings"] = findings;
    CHECK(guide.metadata.at("schedule") == config.diffusion.schedule);
    guide.metadata["schedule"] = "cosine";
    write_safetensors(path, guide);
    check_refused(ErrorCode::kMismatch, "the translator's noise schedule linear, got cosine",
                  [&] { MapMaker::load(config.out); });
    guide.metadata.erase("schedule");  // as it was written before
    write_safetensors(path, guide);
    CHECK_NOTHROW(MapMaker::load(config.out));
    guide.metadata.erase("findings");
    write_safetensors(path, guide);
    CHECK(caught([&] { MapMaker::load(config.out); }).code() == ErrorCode::kFormat);
  }
}

TEST_CASE("a guide at hand is asked for its findings by name", "[pipeline]") {
  RunConfig config;
  config.size = 16;
  config.diffusion.base = 16;
  config.maps.steps = 2;
  config.maps.guidance = "classifier";
  const NetworksAtHand networks;
  const auto& findings = networks.findings;
  const auto& vocabulary = networks.vocabulary;
  const DenoiserUNet& network = networks.denoiser;
  const NoiseAwareClassifier& guide = networks.guide;
  const auto make = [&](const std::vector<std::string>& names) {
    return MapMaker(config, vocabulary, network, &guide, names);
  };
  CHECK_NOTHROW(make(findings));
  for (const auto& others : {std::vector<std::string>{"Nodule", "Edema", "Device"}, {"Edema", "Nodule", "Fracture"}}) {
    const Error error = caught([&] { make(others); });
    CHECK(error.code() == ErrorCode::kMismatch);
    CHECK(daug::test::mentions(error, "the model's findings Edema, Nodule, Device", others[0] + ", " + others[1]));
  }
  CHECK(caught([&] { make({"Edema", "Nodule"}); }).code() == ErrorCode::kMismatch);
  check_refused(ErrorCode::kInvalidArgument, "daug::MapMaker: guide_findings", [&] { make({}); });
  config.maps.guidance = "contrast";
  CHECK_NOTHROW(MapMaker(config, vocabulary, network, nullptr));
}

TEST_CASE("maps of networks at hand are calibrated on maps of healthy images", "[pipeline]") {
  RunConfig config;
  config.size = 16;
  config.diffusion.base = 16;
  config.maps.steps = 2, config.maps.evaluations = 1;
  config.maps.evidence_levels = "100", config.maps.evidence_samples = 1;
  const NetworksAtHand networks;
  daug::test::randomise(*networks.denoiser.ptr(), 1, 0.1);
  const MapMaker maker(config, networks.vocabulary, networks.denoiser, nullptr);
  CHECK_FALSE(maker.calibration("evidence").has_value());
  constexpr std::int64_t kImages = 3, kValues = kImages * 16 * 16;
  const at::Tensor x = (0.4 * daug::test::random_tensor({kImages, 1, 16, 16}, 77)).clamp(-1, 1).to(at::kFloat);
  const at::Tensor healthy = maker.make(x, {1, 2, 3}, false).evidence;
  CHECK(healthy.abs().max().item<double>() > 0);
  // One cell and a quantile for each value: the null distribution is all of them.
  const auto calibration = MapCalibration::fit(healthy, networks.findings, {1, kValues});
  const at::Tensor fresh = maker.make(x.flip({0, 3}), {8, 9, 10}, false).evidence;
  const at::Tensor shown = calibration.calibrated(fresh);
  REQUIRE(shown.sizes() == fresh.sizes());
  for (std::int64_t k = 0; k < 3; ++k) {
    const at::Tensor null = healthy.select(1, k).to(at::kDouble);
    for (const std::int64_t y : {0, 7, 15}) {
      const double value = fresh[1][k][y][5].item<double>();
      const double as_large = null.ge(value).sum().item<double>();
      const double p = (1 + as_large) / (1 + static_cast<double>(kValues));
      CHECK(shown[1][k][y][5].item<double>() == Approx(-std::log10(p)).epsilon(1e-5).margin(1e-6));
    }
  }
}

TEST_CASE("networks of a half precision make float32 maps that are close to float32's", "[pipeline]") {
  RunConfig config;
  config.size = 16;
  config.maps.steps = 2, config.maps.evaluations = 1;
  config.maps.evidence_levels = "100", config.maps.evidence_samples = 1;
  config.maps.add_classifier = true;
  const NetworksAtHand networks;
  const auto& findings = networks.findings;
  const auto& vocabulary = networks.vocabulary;
  const DenoiserUNet& network = networks.denoiser;
  const NoiseAwareClassifier& guide = networks.guide;
  daug::test::randomise(*network.ptr(), 1, 0.1);
  daug::test::randomise(*guide.ptr(), 1 + network->parameters().size(), 0.1);
  const at::Tensor x = at::linspace(-1, 1, 16 * 16).reshape({1, 1, 16, 16});
  const auto made = [&](const std::string& precision) {
    config.maps.precision = precision;
    return MapMaker(config, vocabulary, network, &guide, findings).make(x, {0}, true);
  };
  const ImageMaps plain = made("float32"), half = made("bfloat16");
  CHECK(half.evidence.scalar_type() == at::kFloat);
  CHECK(half.evidence.isfinite().all().item<bool>());
  for (const auto kind : {&ImageMaps::difference, &ImageMaps::reconstruction}) {
    const at::Tensor &expected = plain.*kind, &found = half.*kind;
    CHECK(found.scalar_type() == at::kFloat);
    CHECK_FALSE(at::equal(found, expected));
    CHECK((found - expected).abs().mean().item<double>() < 0.2 * expected.abs().mean().item<double>());
  }
  CHECK(at::equal(made("float32").difference, plain.difference));  // the networks stayed what they were
}

TEST_CASE("the published normalisation scales difference maps and the round trip's, and nothing else", "[pipeline]") {
  RunConfig config;
  config.size = 16;
  config.maps.steps = 2, config.maps.evaluations = 1, config.maps.smoothing = 0;
  config.maps.evidence_levels = "100", config.maps.evidence_samples = 1;
  const NetworksAtHand networks;
  daug::test::randomise(*networks.denoiser.ptr(), 1, 0.1);
  const at::Tensor x = at::linspace(-1, 1, 2 * 16 * 16).reshape({2, 1, 16, 16});
  const auto made = [&](const std::string& normalisation) {
    config.maps.normalisation = normalisation;
    return MapMaker(config, networks.vocabulary, networks.denoiser, nullptr).make(x, {0, 1}, true);
  };
  const ImageMaps plain = made("none"), scaled = made("reference");
  CHECK(at::equal(plain.difference, difference_map(x, plain.translated.unsqueeze(2))));
  CHECK(at::equal(scaled.difference, reference_difference_map(x, plain.translated.unsqueeze(2))));
  CHECK(at::equal(scaled.no_target, reference_difference_map(x, plain.reconstruction.unsqueeze(1))));
  CHECK((scaled.difference.amax({2, 3}) == 1).all().item<bool>());
  CHECK(plain.difference.max().item<double>() != 1);
  CHECK(at::equal(scaled.evidence, plain.evidence));
  CHECK(at::equal(scaled.score_difference, plain.score_difference));
}

TEST_CASE("maps are smoothed as encoder_maps does it, in any batch and on any number of threads", "[pipeline]") {
  RunConfig config;
  config.size = 16;
  config.maps.steps = 2, config.maps.evaluations = 1;
  config.maps.evidence_levels = "100", config.maps.evidence_samples = 1;
  const NetworksAtHand networks;
  daug::test::randomise(*networks.denoiser.ptr(), 1, 0.1);
  const at::Tensor x = at::linspace(-1, 1, 2 * 16 * 16).reshape({2, 1, 16, 16});
  const auto made = [&](double smoothing) {
    config.maps.smoothing = smoothing;
    return MapMaker(config, networks.vocabulary, networks.denoiser, nullptr).make(x, {0, 1}, true);
  };
  const ImageMaps plain = made(0), blurred = made(3);
  const double sigma = 3 * 16.0 / 32;
  for (const auto kind :
       {&ImageMaps::difference, &ImageMaps::evidence, &ImageMaps::score_difference, &ImageMaps::no_target}) {
    const at::Tensor expected = smoothed((plain.*kind).to(at::kDouble), sigma);
    CHECK(at::allclose((blurred.*kind).to(at::kDouble), expected, 1e-5, 1e-5 * expected.abs().max().item<double>()));
    CHECK_FALSE(at::allclose(blurred.*kind, plain.*kind, 1e-3, 1e-5));
  }
  EncoderMapOptions options;
  options.sigma = sigma;
  const at::Tensor translated = blurred.translated.unsqueeze(2);
  const backend::CallersThreads kept;
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    CHECK(at::equal(encoder_maps(x, translated, options), blurred.difference));
    CHECK(at::equal(encoder_maps(x.narrow(0, 1, 1), translated.narrow(0, 1, 1), options),
                    blurred.difference.narrow(0, 1, 1)));
  }
}

TEST_CASE("maps that networks cannot make are refused before one is asked", "[pipeline]") {
  RunConfig config;
  config.size = 16;
  config.maps.steps = 2;
  config.maps.guidance = "classifier";
  const NetworksAtHand networks;
  for (const auto& parameter : networks.denoiser->parameters()) {
    at::NoGradGuard no_grad;
    parameter.fill_(std::nan(""));  // its first answer ends a walk
  }
  const MapMaker maker(config, networks.vocabulary, networks.denoiser, &networks.guide, networks.findings);
  check_refused(ErrorCode::kInvalidArgument, "x: expected images of 16 x 16 pixels", [&] {
    maker.make(at::zeros({1, 1, 32, 32}), {0}, false);
  });
  check_refused(ErrorCode::kInvalidArgument, "the classifier's type", [&] {
    maker.make(at::zeros({1, 1, 16, 16}, at::kDouble), {0}, false);
  });
  CHECK(caught([&] { maker.make(at::zeros({1, 1, 16, 16}), {0}, false); }).code() == ErrorCode::kNumeric);

  config.maps.guidance = "contrast";
  const std::vector<std::string> two = {"Edema", "Nodule"};
  check_refused(ErrorCode::kInvalidArgument, "condition: expected shape", [&] {
    MapMaker(config, {two, one_group_per_finding(two)}, networks.denoiser, nullptr);
  });
}
