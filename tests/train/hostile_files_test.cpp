// Files whose names, shapes and numbers ask for more than they hold: refused by daug's own errors, before memory is set
// aside.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/io/file.h"
#include "daug/io/weights.h"
#include "daug/train/encoder_file.h"
#include "daug/train/level_sampler.h"
#include "daug/train/trainer.h"
#include "daug/translator/unet_checkpoint.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/clip.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;
using nlohmann::json;

namespace {

/// Rows without values: a size of any number that takes no memory.
Array hollow(std::vector<std::int64_t> shape) {
  Array array;
  array.shape = std::move(shape);
  REQUIRE(array.numel() == 0);
  return array;
}

EncoderTrainerOptions small_encoders(ImageEncoderKind kind) {
  EncoderTrainerOptions options;
  options.image.kind = kind;
  options.image.image_size = 32;
  options.image.embed_dim = options.text.embed_dim = 4;
  options.image.resnet.blocks = {1, 1, 1, 1};
  options.image.resnet.base_width = 64;
  options.image.resnet.pooling = ImagePooling::kMean;
  options.text.vocab_size = 9;
  options.text.context_length = 5;
  options.text.width = 8;
  options.text.depth = 1;
  options.text.heads = 2;
  options.text.mlp_width = 12;
  options.text.end_of_text_id = 7;
  options.learn_logit_scale = options.learn_class_bias = true;
  return options;
}

}  // namespace

TEST_CASE("an architecture larger than its file is refused, whatever makes it large", "[hostile]") {
  const Scratch scratch;
  const std::string path = scratch.path("encoders");
  save_encoders(path, make_encoders(small_encoders(ImageEncoderKind::kResNet), 2, 3));
  const SafetensorsFile good = read_safetensors(path);
  REQUIRE_NOTHROW(load_encoders(good, "file"));
  const auto with = [&](const std::function<void(json&)>& change) {
    SafetensorsFile file = good;
    auto architecture = json::parse(file.metadata.at("architecture"));
    change(architecture);
    file.metadata["architecture"] = architecture.dump();
    return [file] { load_encoders(file, "file"); };
  };
  const std::string large = "file: architecture";
  check_refused(ErrorCode::kMismatch, large, with([](json& a) { a["image"]["embed_dim"] = 65536; }));
  check_refused(ErrorCode::kMismatch, large, with([](json& a) { a["image"]["in_channels"] = 65536; }));
  check_refused(ErrorCode::kMismatch, large, with([](json& a) { a["image"]["extra_channels"] = 65536; }));
  check_refused(ErrorCode::kMismatch, large, with([](json& a) { a["image"]["base_width"] = 4096; }));
  check_refused(ErrorCode::kMismatch, large, with([](json& a) { a["text"]["vocab_size"] = 1 << 24; }));
  check_refused(ErrorCode::kMismatch, large, with([](json& a) { a["heatmap"] = true; }));  // a second image tower
  // Fields of another kind are named, not converted.
  check_refused(ErrorCode::kFormat, "embed_dim", with([](json& a) { a["image"]["embed_dim"] = true; }));
  check_refused(ErrorCode::kFormat, "blocks", with([](json& a) { a["image"]["blocks"] = {1, 1, 1, 1, 1}; }));
  check_refused(ErrorCode::kFormat, "blocks", with([](json& a) { a["image"]["blocks"][2] = 1.5; }));
  check_refused(ErrorCode::kFormat, "heatmap", with([](json& a) { a["heatmap"] = 0; }));
  check_refused(ErrorCode::kFormat, "vocab_size", with([](json& a) { a["text"] = 1; }));
  check_refused(ErrorCode::kFormat, "pixel_deviation", with([](json& a) {
                  a["scaled_pixels"] = true;
                  a["pixel_mean"] = {0, 0, 0};
                  a["pixel_deviation"] = {1, 0, 1};
                }));
}

TEST_CASE("learnt numbers of encoders have their shapes", "[hostile]") {
  const Scratch scratch;
  const std::string path = scratch.path("encoders");
  save_encoders(path, make_encoders(small_encoders(ImageEncoderKind::kResNet), 2, 3));
  for (const auto& [name, shape] :
       {std::pair<const char*, std::vector<std::int64_t>>{"logit_scale", {3}}, {"class_bias", {}}}) {
    SafetensorsFile file = read_safetensors(path);
    file.tensors[name] = array_from(at::zeros(shape));
    check_refused(ErrorCode::kMismatch, std::string("file: ") + name, [&] { load_encoders(file, "file"); });
  }
}

TEST_CASE("sizes of empty arrays make no network", "[hostile]") {
  const Scratch scratch;
  const std::string path = scratch.path("weights");
  ImageEncoderOptions options = small_encoders(ImageEncoderKind::kResNet).image;
  options.resnet.base_width = 4;
  options.projection_bias = true;
  save_torchvision(path, ImageEncoder(options));
  const SafetensorsFile resnet = read_safetensors(path);
  const auto torchvision = [&](const char* key, Array array) {
    SafetensorsFile file = resnet;
    file.tensors[key] = std::move(array);
    write_safetensors(path, file);
    return [&path] {
      TorchvisionLoadOptions how;
      how.image_size = 32;
      how.head = TorchvisionHead::kKeep;
      load_torchvision(path, how);
    };
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  check_refused(ErrorCode::kMismatch, "fc.weight", torchvision("fc.weight", hollow({kHuge, 0})));
  check_refused(ErrorCode::kMismatch, "conv1.weight", torchvision("conv1.weight", hollow({4, kHuge, 0, 0})));
  check_refused(ErrorCode::kMismatch, "conv1.weight", torchvision("conv1.weight", hollow({kHuge, 1, 7, 0})));
  // One byte a row, each of which would be a row of features.
  Array rows;
  rows.type = ElementType::kU8;
  rows.shape = {65536, 1};
  rows.data.resize(65536);
  check_refused(ErrorCode::kMismatch, "numbers of the file", torchvision("fc.weight", rows));
  // Options that no network has are the file's fault, not the caller's.
  rows.shape = {65537, 1};
  rows.data.resize(65537);
  check_refused(ErrorCode::kMismatch, "embed_dim", torchvision("fc.weight", rows));

  DenoiserUNetOptions small;
  small.model_channels = 8;
  small.norm_groups = 4;
  small.num_res_blocks = 1;
  small.channel_mult = {1, 2};
  SafetensorsFile unet;
  for (const auto& [name, tensor] : named_tensors(*DenoiserUNet(small))) unet.tensors[name] = array_from(tensor);
  REQUIRE(inspect_unet(unet).report.ok());
  const auto inspected = [&](const char* key, Array array) {
    SafetensorsFile file = unet;
    file.tensors[key] = std::move(array);
    return [file] { inspect_unet(file); };
  };
  check_refused(ErrorCode::kMismatch, "time_embed.0.weight", inspected("time_embed.0.weight", hollow({0, kHuge})));
  check_refused(ErrorCode::kMismatch, "out.2.weight", inspected("out.2.weight", hollow({kHuge, 0})));
  Array wide;
  wide.type = ElementType::kU8;
  wide.shape = {1, 4096};
  wide.data.resize(4096);
  check_refused(ErrorCode::kMismatch, "numbers of the file", inspected("time_embed.0.weight", wide));
  wide.shape = {1, 1 << 17};
  wide.data.resize(1 << 17);
  check_refused(ErrorCode::kMismatch, "model_channels", inspected("time_embed.0.weight", wide));
}

TEST_CASE("nothing is made a layer before the weights have it", "[hostile]") {
  const Scratch scratch;
  const std::string weights = scratch.path("weights"), config = scratch.path("config.json");
  save_open_clip(weights, config, make_clip(small_clip_parts()));
  REQUIRE_NOTHROW(load_open_clip(weights, config));
  const json good = json::parse(read_text_file(config));
  const auto load = [&] { load_open_clip(weights, config); };
  for (const char* section : {"vision_cfg", "text_cfg"}) {
    json changed = good;
    changed[section]["layers"] = 200;
    write_file_atomically(config, changed.dump());
    check_refused(ErrorCode::kMismatch, std::string(section) + ".layers", load);
    changed[section]["layers"] = 1 << 24;  // names of all their tensors would take gigabytes
    write_file_atomically(config, changed.dump());
    check_refused(ErrorCode::kFormat, "depth", load);
  }
  write_file_atomically(config, "{\"vision_cfg\": " + std::string(300'000, '[') + std::string(300'000, ']') + "}");
  check_refused(ErrorCode::kFormat, "levels", load);
}

TEST_CASE("a level sampler takes no index from a checkpoint that it would not give", "[hostile]") {
  LevelSampler sampler({1, 3, true, 0.1}, 1);
  at::Tensor saved = sampler.saved().clone();
  REQUIRE(saved.size(0) == 3);
  for (const double count :
       {-1.0, 0.5, 11.0, 1e300, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    INFO(count);
    at::Tensor bad = saved.clone();
    bad.select(0, 1).select(0, 10).fill_(count);
    check_refused(ErrorCode::kFormat, "counts", [&] { sampler.restore(bad); });
    CHECK(at::equal(sampler.saved(), saved));
  }
  at::Tensor full = saved.clone();
  full.select(1, 10).fill_(10);
  sampler.restore(full);
  sampler.record(0, at::tensor(std::vector<std::int64_t>{1, 2, 3}), at::ones({3}));
  sampler.step_done();
  CHECK(sampler.saved().select(1, 10).eq(10).all().item<bool>());
  CHECK(sampler.saved().select(1, 9).eq(1).all().item<bool>());
}

TEST_CASE("a checkpoint that lacks something names it and itself", "[hostile]") {
  struct Weight : torch::nn::Module {
    Weight() { value = register_parameter("value", at::ones({2, 2})); }
    at::Tensor value;
  };
  const Scratch scratch;
  TrainerOptions options;
  options.steps = 2;
  options.checkpoint = scratch.path("checkpoint");
  options.fingerprint = "one";
  const auto train = [&](bool stop_early) {
    const auto weight = std::make_shared<Weight>();
    Trainer trainer({weight}, options);
    StopSource stop;
    const RunControl control{[&](const Progress&) {
                               if (stop_early) stop.request_stop();
                             },
                             stop.token()};
    trainer.run([&](std::size_t, std::int64_t) { return weight->value.square().sum(); }, control);
  };
  train(true);
  const SafetensorsFile good = read_safetensors(options.checkpoint);
  const auto spoilt = [&](const std::function<void(SafetensorsFile&)>& spoil) {
    SafetensorsFile file = good;
    spoil(file);
    write_safetensors(options.checkpoint, file);
    return [&] { train(false); };
  };
  for (const char* name : {"history.loss", "group0.values", "group0.step"}) {
    const auto run = spoilt([&](auto& file) { REQUIRE(file.tensors.erase(name) == 1); });
    check_refused(ErrorCode::kMismatch, name, run);
    check_refused(ErrorCode::kMismatch, options.checkpoint, run);
  }
  check_refused(ErrorCode::kFormat, "history.loss", spoilt([](auto& file) { file.metadata["step"] = "2"; }));
  write_safetensors(options.checkpoint, good);
  REQUIRE_NOTHROW(train(false));
}

TEST_CASE("a calibration of more regions than pixels, or of no numbers, is refused", "[hostile]") {
  const at::Tensor maps = at::arange(4 * 1 * 16, at::kDouble).sin().view({4, 1, 4, 4});
  const SafetensorsFile good = MapCalibration::fit(maps, {"a"}, {2, 19}).to_file();
  REQUIRE_NOTHROW(MapCalibration::from_file(good));
  const auto spoilt = [&](const std::function<void(SafetensorsFile&)>& spoil) {
    SafetensorsFile file = good;
    spoil(file);
    return [file] { MapCalibration::from_file(file); };
  };
  check_refused(ErrorCode::kFormat, "regions", spoilt([](auto& file) { file.metadata["height"] = "1"; }));
  check_refused(ErrorCode::kFormat, "targets", spoilt([](auto& file) { file.metadata["targets"] = "[1]"; }));
  check_refused(ErrorCode::kFormat, "targets",
                spoilt([](auto& file) { file.metadata["targets"] = std::string(300'000, '['); }));
  check_refused(ErrorCode::kMismatch, "spread", spoilt([](auto& file) { file.tensors.erase("spread"); }));
  for (const char* name : {"centre", "spread"})
    check_refused(
        ErrorCode::kFormat, "finite", spoilt([&](auto& file) {
          file.tensors[name] = array_from(at::full({1, 4}, std::numeric_limits<double>::quiet_NaN(), at::kDouble));
        }));
  check_refused(ErrorCode::kFormat, "spreads", spoilt([](auto& file) {
                  file.tensors["spread"] = array_from(at::full({1, 4}, -1.0, at::kDouble));
                }));
}
