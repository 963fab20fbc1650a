// A run on another device than the CPU: what is refused without one, how little memory it does with, and that its
// results are the CPU's.

#include "support/device.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "daug/backend/cuda.h"
#include "daug/core/error.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/map_maker.h"
#include "daug/pipeline/run_search.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_file.h"
#include "daug/train/encoder_trainer.h"
#include "daug/translator/noise_predictor.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/memory_count.h"
#include "support/scratch.h"
#include "train/toy_encoders.h"
#include "translator/toys.h"

namespace fs = std::filesystem;
using namespace daug;
using namespace daug::test;

namespace {

/// max|a - b| / max|b|.
double deviation(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.is_cpu());
  REQUIRE(a.scalar_type() == at::kFloat);
  return largest_difference(a, b) / b.abs().max().item<double>();
}

/// Every kind of maps, by name.
std::vector<std::pair<const char*, at::Tensor>> kinds_of(const ImageMaps& maps) {
  return {{"difference", maps.difference}, {"evidence", maps.evidence},
          {"translated", maps.translated}, {"score difference", maps.score_difference},
          {"no target", maps.no_target},   {"reconstruction", maps.reconstruction},
          {"residual", maps.residual}};
}

/// Some images in [-1, 1].
at::Tensor some_images(std::int64_t count, std::int64_t size) {
  return (0.5 * random_tensor({count, 1, size, size}, 3)).clamp(-1, 1).to(at::kFloat);
}

std::vector<std::uint64_t> numbered(std::int64_t count) {
  std::vector<std::uint64_t> items;
  for (std::int64_t i = 0; i < count; ++i) items.push_back(static_cast<std::uint64_t>(i));
  return items;
}

/// What `work` gives, in float32, when memory is left for a part of what it takes on top of what there is.
at::Tensor in_part_of_its_memory(double part, const std::function<at::Tensor()>& work) {
  work();  // what LibTorch makes once
  std::int64_t most = 0;
  {
    const MemoryCount count;
    work();
    most = static_cast<std::int64_t>(part * static_cast<double>(count.peak()));
  }
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // no tensor of that memory may outlive the count
  {
    const MemoryCount limited(most);
    const at::Tensor made = work().contiguous();
    shape = made.sizes().vec();
    values.assign(made.const_data_ptr<float>(), made.const_data_ptr<float>() + made.numel());
  }
  return at::tensor(values).reshape(shape);
}

}  // namespace

TEST_CASE("a device that is not there is refused with the reason before anything is written", "[device]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  for (const char* name : {"gpu", "auto", "cuda:", ""}) {
    config.device = name;
    CHECK(mentions(error_text(ErrorCode::kInvalidArgument, [&] { Run(config, {}); }), "device", "cuda:N"));
  }
  config.device = "cuda:99";
  const std::string refusal = error_text(ErrorCode::kUnsupported, [&] { Run(config, {}); });
  CHECK(mentions(refusal, "'cuda:99'", cuda_state().problem));
  CHECK_FALSE(fs::exists(config.out));
  CHECK(caught([&] { MapMaker::load(config.out, "cuda:99"); }).code() == ErrorCode::kUnsupported);
}

TEST_CASE("one worker trains on a device, and one process", "[device]") {
  const NoiseSchedule schedule = NoiseSchedule::linear(1000);
  DenoiserTrainerOptions denoiser;
  denoiser.device = c10::Device("cuda:0");
  CHECK(mentions(error_text(ErrorCode::kInvalidArgument, [&] { denoiser.validate(schedule); }), "workers", "cuda:0"));
  denoiser.workers = 1;
  CHECK_NOTHROW(denoiser.validate(schedule));
  ClassifierTrainerOptions classifier;
  classifier.device = denoiser.device;
  CHECK(mentions(error_text(ErrorCode::kInvalidArgument, [&] { classifier.validate(schedule); }), "workers"));
  CHECK(trains_in_bfloat16(TrainingPrecision::kAuto, denoiser.device));
  CHECK_FALSE(trains_in_bfloat16(TrainingPrecision::kFloat32, denoiser.device));
}

TEST_CASE("maps and embeddings are made in less memory than their batches want", "[device][memory]") {
  RunConfig config;
  config.size = 16;
  config.diffusion.base = 16;
  config.maps.steps = 2;
  const std::vector<std::string> findings = {"A", "B", "C"};
  DenoiserUNetOptions options;
  options.image_size = 16, options.model_channels = 16, options.num_res_blocks = 1, options.channel_mult = {1, 2};
  options.norm_groups = 4, options.num_findings = 3;
  DenoiserUNet network(options);
  randomise(*network, 5);
  const at::Tensor x = some_images(16, 16);
  const auto maps = [&] {
    // A maker of its own: one that was short of memory stays with small batches.
    const MapMaker maker(config, {findings, one_group_per_finding(findings)}, network, nullptr);
    const ImageMaps made = maker.make(x, numbered(16), true);
    return at::cat({made.difference, made.evidence, made.translated, made.score_difference, made.no_target}, 1);
  };
  const at::Tensor whole = maps();
  CHECK(deviation(in_part_of_its_memory(0.6, maps), whole) < 1e-4);
  const auto does_not_fit = [](const std::string& part, const std::function<void()>& work) {
    const MemoryCount limited(256);
    check_refused(ErrorCode::kOutOfMemory, part, work);
  };
  const auto predictor = make_noise_predictor(network, NoiseSchedule::linear(1000), Prediction::kEps);
  does_not_fit("daug::NoisePredictor::noise: memory: expected enough for one image, got no memory is left",
               [&] { predictor->noise(x, 5, {}); });

  const ToyCohort toy(96);
  const auto trained = small(ChannelMode::kAppend);
  const EncoderPair pair = make_encoders(trained, 2);
  const HeatmapChannelAugmenter augmenter(trained.augment);
  const auto images = [&] { return embed_images(pair, augmenter, toy.dataset.images, toy.dataset.maps, 96); };
  const auto texts = [&] { return embed_texts(pair, toy.dataset.text, 96); };
  CHECK(deviation(in_part_of_its_memory(0.6, images), images()) < 1e-5);
  CHECK(deviation(in_part_of_its_memory(0.6, texts), texts()) < 1e-5);
  does_not_fit("daug::HeatmapChannelAugmenter::apply: memory: expected enough for this call, got no memory is left",
               images);
  const auto bare = small(ChannelMode::kNone);
  const EncoderPair without = make_encoders(bare, 2);
  const HeatmapChannelAugmenter nothing(bare.augment);
  does_not_fit("daug::embed_images: memory: expected enough for one image, got no memory is left",
               [&] { embed_images(without, nothing, toy.dataset.images, toy.dataset.maps, 96); });
  does_not_fit("daug::embed_texts: memory: expected enough for one text, got no memory is left", texts);
}

TEST_CASE("a run that was made on a device is used on the CPU", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  config.device = "cuda:7", config.deterministic = true;
  write_config(config.out + "/config.json", config);
  CHECK_NOTHROW(MapMaker::load(config.out));
  const RunSearch search(config.out);  // which checks fingerprints
  CHECK(search.facts().gallery == 34);
}

TEST_CASE("a run on the CPU repeats its bits without determinism, which is in no fingerprint", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.deterministic = true;
  bool reported = false, changed = false;
  RunControl control;
  control.progress = [&](const Progress&) {
    reported = true;
    changed = changed || at::globalContext().deterministicAlgorithms();
  };
  CHECK(Run(config, control).execute(Stage::kTranslator));
  CHECK(reported);
  CHECK_FALSE(changed);
  config.deterministic = false;
  CHECK_FALSE(Run(config, {}).execute(Stage::kTranslator));
}

TEST_CASE("two runs on a device have the same bits with --deterministic", "[gpu]") {
  if (no_device()) return;
  const Scratch scratch;
  const auto made = [&](const std::string& name) {
    RunConfig config = smallest(scratch.path(name));
    config.device = "cuda", config.deterministic = true;
    config.maps.guidance = "classifier";
    std::size_t reports = 0, deterministic = 0;  // of trainings; data are looked at beforehand
    RunControl control;
    control.progress = [&](const Progress& progress) {
      if (progress.stage.rfind("train", 0) != 0) return;
      ++reports;
      deterministic += at::globalContext().deterministicAlgorithms() ? 1 : 0;
    };
    Run run(config, control);
    for (const Stage stage : all_stages()) CHECK(run.execute(stage));
    CHECK(reports > 0);
    CHECK(deterministic == reports);
    CHECK_FALSE(at::globalContext().deterministicAlgorithms());
    return config.out;
  };
  const std::string once = made("once"), twice = made("twice");
  for (const char* name : {"translator.safetensors", "guide.safetensors", "encoders/image.safetensors",
                           "encoders/image_evidence.safetensors", "stages/translator_history.safetensors",
                           "stages/guide_history.safetensors", "encoders/image_evidence.safetensors.history"}) {
    INFO(name);
    const auto expected = read_safetensors(once + "/" + name).tensors;
    const auto found = read_safetensors(twice + "/" + name).tensors;
    REQUIRE(found.size() == expected.size());
    for (const auto& [key, array] : expected) {
      INFO(key);
      CHECK(found.at(key).data == array.data);
    }
  }
  const auto expected = read_metrics(once + "/metrics.json"), found = read_metrics(twice + "/metrics.json");
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO(expected[i].name << " " << expected[i].arm);
    if (found[i].value >= 0 && found[i].value <= 1 && found[i].name.rfind("time.", 0) != 0)
      CHECK(found[i].value == expected[i].value);
  }
}

// The tolerances are what float32 sums in another order leave (networks with the same weights), grown by a few steps of
// training (losses) and by what turns on a comparison of nearly equal scores (figures).
TEST_CASE("a run on a device makes what one on the CPU makes", "[gpu]") {
  if (no_device()) return;
  const Scratch scratch;
  RunConfig cpu = smallest(scratch.path("cpu")), device = smallest(scratch.path("device"));
  cpu.threads = 1;  // as on a device: a worker's loss is the mean over the labels that its own images have
  device.device = "cuda";
  for (const RunConfig& config : {cpu, device}) {
    Run run(config, {});
    for (const Stage stage : all_stages()) CHECK(run.execute(stage));
  }
  {
    // The CPU goes on where the device ended.
    RunConfig on = device;
    on.device = "cpu";
    Run run(on, {});
    for (const Stage stage : all_stages()) CHECK_FALSE(run.execute(stage));
  }

  {  // The same weights give the same maps and embeddings.
    const MapMaker here = MapMaker::load(cpu.out), there = MapMaker::load(cpu.out, "cuda");
    const at::Tensor x = some_images(12, 32);
    const auto expected = kinds_of(here.make(x, numbered(12), true)),
               made = kinds_of(there.make(x, numbered(12), true));
    for (std::size_t i = 0; i < made.size(); ++i) {
      INFO(made[i].first);
      CHECK(deviation(made[i].second, expected[i].second) < 1e-3);
    }
    const std::string file = cpu.out + "/encoders/image.safetensors";
    const EncoderPair pair = load_encoders(file), moved = load_encoders(file);
    moved.as_module()->to(device_called("cuda"));
    CHECK(moved.device().is_cuda());
    ChannelAugmenterOptions plain;
    plain.mode = ChannelMode::kNone;
    const HeatmapChannelAugmenter none(plain);
    CHECK(deviation(embed_images(moved, none, x, {}, 5), embed_images(pair, none, x, {}, 5)) < 1e-3);
    const TextBatch text{at::arange(24).reshape({4, 6}), at::full({4}, 5, at::kLong)};
    CHECK(deviation(embed_texts(moved, text, 3), embed_texts(pair, text, 3)) < 1e-3);
  }

  {  // Training takes the same way.
    for (const char* name : {"stages/translator_history.safetensors", "stages/guide_history.safetensors",
                             "encoders/image.safetensors.history", "encoders/image_evidence.safetensors.history"}) {
      INFO(name);
      const auto losses = [&](const RunConfig& run) {
        return read_safetensors(run.out + "/" + name).at("loss").to_float();
      };
      const auto expected = losses(cpu), found = losses(device);
      REQUIRE(found.size() == expected.size());
      for (std::size_t step = 0; step < found.size(); ++step) {
        INFO("step " << step);
        CHECK(std::abs(found[step] - expected[step]) <= 1e-2 * std::abs(expected[step]));
      }
    }
  }

  {  // The figures are the same ones, and close.
    const auto expected = read_metrics(cpu.out + "/metrics.json"), found = read_metrics(device.out + "/metrics.json");
    REQUIRE(found.size() == expected.size());
    double sum = 0;
    std::size_t compared = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].name + found[i].arm + found[i].split == expected[i].name + expected[i].arm + expected[i].split);
      const double value = expected[i].value;
      if (found[i].name.rfind("time.", 0) == 0 || !(value >= 0 && value <= 1)) continue;
      sum += std::abs(found[i].value - value);
      ++compared;
    }
    REQUIRE(compared > 100);
    CHECK(sum / static_cast<double>(compared) < 0.02);
  }
}
