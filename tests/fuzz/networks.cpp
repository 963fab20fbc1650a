// Files of weights and of training, whose readers build networks.

#include "networks.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/io/weights.h"
#include "daug/pipeline/map_maker.h"
#include "daug/pipeline/run_config.h"
#include "daug/train/encoder_file.h"
#include "daug/train/level_sampler.h"
#include "daug/train/trainer.h"
#include "daug/translator/unet_checkpoint.h"
#include "files.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/settings/stage_options.h"
#include "support/clip.h"

namespace daug::fuzz {
namespace {

// Damage to the bytes of a safetensors file hardly ever leaves one that its reader accepts. What builds networks from
// names and shapes is therefore given files put together from a text: a line "@KEY=VALUE" for each metadata, a line
// "NAME TYPE SIZE,SIZE,..." for each array, whose values are zeros.

std::string described(const SafetensorsFile& file) {
  std::string text;
  for (const auto& [key, value] : file.metadata) text += "@" + key + "=" + value + "\n";
  for (const auto& [name, array] : file.tensors) {
    text += name + " " + element_name(array.type) + " ";
    for (const auto size : array.shape) text += std::to_string(size) + ",";
    text += "\n";
  }
  return text;
}

template <class Write>
std::string described_file(const Write& write) {
  return described(read_safetensors((write(folder() + "/seed"), folder() + "/seed")));
}

ElementType type_named(const std::string& name) {
  for (int type = 0; type <= static_cast<int>(ElementType::kBool); ++type)
    if (element_name(static_cast<ElementType>(type)) == name) return static_cast<ElementType>(type);
  return ElementType::kF32;
}

/// Arrays that a reader would refuse for their shape are left out, and those that would take long.
SafetensorsFile file_of(const std::string& description) {
  constexpr std::int64_t kMost = 1 << 23;
  SafetensorsFile file;
  std::int64_t total = 0;
  std::istringstream lines(description);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line[0] == '@') {
      file.metadata.insert(split(line.substr(1), "="));
      continue;
    }
    std::istringstream fields(line);
    std::string name, type, sizes;
    fields >> name >> type >> sizes;
    Array array;
    array.type = type_named(type);
    auto bytes = static_cast<std::int64_t>(element_size(array.type));
    bool fits = !name.empty(), empty = false;
    std::istringstream list(sizes);
    for (std::string text; fits && std::getline(list, text, ',');) {
      std::int64_t size = -1;
      std::from_chars(text.data(), text.data() + text.size(), size);
      array.shape.push_back(size);
      empty = empty || size == 0;
      fits = size >= 0 && !__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes);
    }
    if (!fits || (!empty && bytes > kMost - total)) continue;
    if (!empty) array.data.resize(static_cast<std::size_t>(bytes)), total += bytes;
    file.tensors.emplace(name, std::move(array));
  }
  return file;
}

std::string bytes_of(const SafetensorsFile& file) {
  nlohmann::json header = nlohmann::json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  std::string data;
  for (const auto& [name, array] : file.tensors) {
    const std::size_t begin = data.size();
    data.append(array.data.begin(), array.data.end());
    header[name] = {
        {"dtype", element_name(array.type)}, {"shape", array.shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const std::uint64_t length = text.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + text + data;
}

constexpr const char* kBlankLine = "\n\n";  // between a configuration and a description

// --- CLIP ---

Files clip_seeds() {
  const std::string saved = folder() + "/clip";
  save_clip(saved, test::make_clip(test::small_clip_parts()));
  return {read_text_file(saved + "/config.json") + "\n" + described(read_safetensors(saved + "/model.safetensors"))};
}

Files open_clip_seeds() {
  const std::string weights = folder() + "/open_clip.safetensors", config = folder() + "/open_clip.json";
  save_open_clip(weights, config, test::make_clip(test::small_clip_parts()));
  return {read_text_file(config) + "\n" + described(read_safetensors(weights))};
}

/// As it is, and for other sizes.
template <class Load>
void load_both_ways(const Bytes& bytes, const MemoryFile& config, const MemoryFile& weights, const Load& load) {
  const auto parts = split(bytes, kBlankLine);
  config.put(parts.first);
  weights.put(bytes_of(file_of(parts.second)));
  read_or_refuse([&] { load(ClipLoadOptions{}); }, {ErrorCode::kMismatch});
  ClipLoadOptions larger;
  larger.image_size = 12;
  larger.context_length = 7;
  larger.assume_defaults = true;
  // The size asked for may be no multiple of the patch size.
  read_or_refuse([&] { load(larger); }, {ErrorCode::kMismatch, ErrorCode::kInvalidArgument});
}

void clip(const Bytes& bytes) {
  static const Folder saved;
  static const MemoryFile config, weights;
  static const bool prepared =
      (config.link(saved.path("config.json")), weights.link(saved.path("model.safetensors")), true);
  expect(prepared, "no folder");
  load_both_ways(bytes, config, weights, [](const ClipLoadOptions& options) { load_clip(saved.path(), options); });
}

void open_clip(const Bytes& bytes) {
  static const MemoryFile config, weights;
  load_both_ways(bytes, config, weights,
                 [](const ClipLoadOptions& options) { load_open_clip(weights.path(), config.path(), options); });
}

// --- encoders ---

EncoderTrainerOptions small_encoders(ImageEncoderKind kind) {
  EncoderTrainerOptions options;
  options.image.kind = kind;
  options.image.image_size = 32;
  options.image.embed_dim = options.text.embed_dim = 4;
  options.image.conv.base_width = 8;
  options.image.conv.stages = 3;
  options.image.vit.patch_size = 16;
  options.image.vit.width = options.text.width = 8;
  options.image.vit.depth = options.text.depth = 1;
  options.image.vit.heads = options.text.heads = 2;
  options.image.vit.mlp_width = options.text.mlp_width = 12;
  options.image.resnet.blocks = options.image.densenet.layers = {1, 1, 2, 1};
  options.image.resnet.base_width = options.image.densenet.base_width = 4;
  options.image.densenet.growth = 4;
  options.image.densenet.bottleneck = 2;
  options.text.vocab_size = 9;
  options.text.context_length = 5;
  options.text.end_of_text_id = 7;
  options.learn_logit_scale = options.learn_class_bias = true;
  return options;
}

Files encoders_seeds() {
  Files seeds;
  for (const auto kind :
       {ImageEncoderKind::kConv, ImageEncoderKind::kViT, ImageEncoderKind::kResNet, ImageEncoderKind::kDenseNet}) {
    EncoderPair pair = make_encoders(small_encoders(kind), 2, 3);
    if (kind == ImageEncoderKind::kViT) pair.pixels = kClipPixels;
    seeds.push_back(described_file([&](const std::string& path) { save_encoders(path, pair, {{"arm", "a"}}); }));
  }
  return seeds;
}

void encoders(const Bytes& bytes) {
  read_or_refuse([&] { load_encoders(file_of(bytes), "encoders"); }, {ErrorCode::kMismatch});
}

Files torchvision_seeds() {
  Files seeds;
  for (const auto kind : {ImageEncoderKind::kResNet, ImageEncoderKind::kDenseNet})
    for (const bool bottleneck : {false, true}) {
      ImageEncoderOptions options = small_encoders(kind).image;
      options.resnet.bottleneck = bottleneck;
      options.resnet.pooling = options.densenet.pooling = ImagePooling::kMean;
      options.projection_bias = true;
      const ImageEncoder encoder(options);
      seeds.push_back(described_file([&](const std::string& path) { save_torchvision(path, encoder); }));
    }
  return seeds;
}

void torchvision(const Bytes& bytes) {
  const std::string path = put(bytes_of(file_of(bytes)));
  for (const auto head : {TorchvisionHead::kReplace, TorchvisionHead::kKeep}) {
    TorchvisionLoadOptions options;
    options.image_size = 32;
    options.embed_dim = 4;
    options.head = head;
    read_or_refuse([&] { load_torchvision(path, options); }, {ErrorCode::kMismatch});
  }
}

// --- UNets ---

Files unet_seeds() {
  DenoiserUNetOptions denoiser;
  denoiser.model_channels = 8;
  denoiser.norm_groups = 4;
  denoiser.num_res_blocks = 1;
  denoiser.channel_mult = {1, 2};
  denoiser.attention_downsample = {2};
  denoiser.num_findings = 3;
  DenoiserUNetOptions upstream = denoiser;
  upstream.num_findings = 0;
  upstream.num_classes = 5;
  upstream.resblock_updown = upstream.use_scale_shift_norm = true;
  Files seeds;
  for (const auto& options : {denoiser, upstream})
    seeds.push_back(described_file([&](const std::string& path) { save_weights(path, *DenoiserUNet(options)); }));
  for (const auto pool : {ClassifierPool::kAttention, ClassifierPool::kAdaptive, ClassifierPool::kSpatialV2}) {
    NoiseAwareClassifierOptions options;
    options.image_size = 16;
    options.model_channels = 8;
    options.norm_groups = 4;
    options.num_res_blocks = 1;
    options.channel_mult = {1, 2};
    options.num_head_channels = 8;
    options.out_channels = 3;
    options.pool = pool;
    seeds.push_back(
        described_file([&](const std::string& path) { save_weights(path, *NoiseAwareClassifier(options)); }));
  }
  return seeds;
}

void unet(const Bytes& bytes) {
  read_or_refuse([&] { inspect_unet(file_of(bytes)); }, {ErrorCode::kMismatch});
}

/// A run's settings and its translator.
Files map_maker_seeds() {
  RunConfig config;
  config.size = 16;
  config.diffusion.base = 8;
  config.maps.level = 20;
  config.maps.steps = 2;
  config.study.steps = "2";
  const std::string settings = written([&](const std::string& path) { write_config(path, config); });
  const DenoiserUNet network(denoiser_network(config, 2));
  return {settings + "\n" + described_file([&](const std::string& path) {
            save_weights(path, *network, {{"prediction", "v"}, {"schedule", "linear"}, {"findings", "Edema,Mass"}});
          })};
}

void map_maker(const Bytes& bytes) {
  static const Folder run;
  static const MemoryFile config, weights;
  static const bool prepared =
      (config.link(run.path("config.json")), weights.link(run.path("translator.safetensors")), true);
  expect(prepared, "no folder");
  const auto parts = split(bytes, kBlankLine);
  config.put(parts.first);
  weights.put(bytes_of(file_of(parts.second)));
  // Settings may be out of range and name a vocabulary file that is none; the guide's weights are not there.
  read_or_refuse([&] { MapMaker::load(run.path()); },
                 {ErrorCode::kMismatch, ErrorCode::kInvalidArgument, ErrorCode::kNotFound, ErrorCode::kIo});
}

// --- what is kept of maps, of training and of an evaluation: values matter, so the bytes are damaged ---

Files map_calibration_seeds() {
  const at::Tensor maps = at::arange(5 * 2 * 16, at::kDouble).mul(0.7).sin().view({5, 2, 4, 4});
  return {written([&](const std::string& path) {
    write_safetensors(path, MapCalibration::fit(maps, {"Edema", "Mass"}, {2, 19}).to_file());
  })};
}

void map_calibration(const Bytes& bytes) {
  std::optional<MapCalibration> calibration;
  read_or_refuse(
      [&] { calibration = MapCalibration::from_file(parse_safetensors(bytes.data(), bytes.size(), "calibration")); },
      {ErrorCode::kMismatch});
  if (!calibration) return;
  const at::Tensor maps = at::zeros({1, static_cast<std::int64_t>(calibration->targets().size()), 4, 4});
  read_or_refuse(  // it may be of another size by now
      [&] {
        for (const at::Tensor& p : {calibration->pixel_p_values(maps), calibration->image_p_values(maps)})
          expect(p.ge(0).logical_and(p.le(1)).all().item<bool>(), "a p-value beyond [0, 1]");
      },
      {ErrorCode::kInvalidArgument});
}

/// A weight, and noise levels that remember their losses.
struct Training {
  struct Weight : torch::nn::Module {
    Weight() { value = register_parameter("value", at::ones({2, 2})); }
    at::Tensor value;
  };

  void run(const std::string& checkpoint, bool stop_early) {
    TrainerOptions options;
    options.steps = 3;
    options.ema_decay = 0.5;
    options.validate_every = 1;
    options.checkpoint = checkpoint;
    options.fingerprint = "fuzz";
    Trainer trainer({weight}, options, levels);
    StopSource stop;
    const RunControl control{[&](const Progress&) {
                               if (stop_early) stop.request_stop();
                             },
                             stop.token()};
    trainer.run(
        [&](std::size_t worker, std::int64_t) {
          RandomStream random(1, 1, "levels");
          const auto drawn = levels->draw(random);
          expect(drawn.level >= 1 && drawn.level <= 2, "a level that does not exist");
          levels->record(worker, at::tensor(std::vector<std::int64_t>{1, 2}), at::ones({2}));
          return weight->value.square().sum();
        },
        control, [] { return 0.5; });
  }

  std::shared_ptr<Weight> weight = std::make_shared<Weight>();
  std::shared_ptr<LevelSampler> levels = std::make_shared<LevelSampler>(LevelSamplerOptions{1, 2, true, 0.1}, 1);
};

Files trainer_checkpoint_seeds() {
  return {written([](const std::string& path) {
    std::filesystem::remove(path);
    Training().run(path, true);
  })};
}

void trainer_checkpoint(const Bytes& bytes) {
  read_or_refuse([&] { Training().run(put(bytes), false); }, {ErrorCode::kMismatch, ErrorCode::kNumeric});
}

Files predictions_seeds() {
  Predictions predictions;
  predictions.rows = {4, 7, 9};
  predictions.patients = {1, 1, 2};
  predictions.positive = {1, 0, 0, 1, 0, 0};
  predictions.known = {1, 1, 1, 1, 0, 1};
  predictions.findings = 2;
  predictions.add("image", kProbabilities, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6});
  predictions.fingerprint = "fp";
  return {written([&](const std::string& path) { write_predictions(path, predictions); })};
}

void predictions(const Bytes& bytes) {
  read_or_refuse([&] {
    const Predictions read = read_predictions(put(bytes));
    expect(read.patients.size() == read.images(), "another number of patients");
    expect(read.positive.size() == read.images() * read.findings, "another number of labels");
    for (const auto& [name, values] : read.tables)
      expect(values.size() == read.positive.size(), "a table of another size");
  });
}

}  // namespace

std::vector<Target> with_networks(std::vector<Target> targets) {
  const std::vector<Target> more = {
      {"clip", clip_seeds, clip, kEncoderFile},
      {"open_clip", open_clip_seeds, open_clip, kEncoderFile},
      {"encoders", encoders_seeds, encoders, kEncoderFile},
      {"torchvision", torchvision_seeds, torchvision, kEncoderFile},
      {"unet", unet_seeds, unet},
      {"map_maker", map_maker_seeds, map_maker},
      {"map_calibration", map_calibration_seeds, map_calibration},
      {"trainer_checkpoint", trainer_checkpoint_seeds, trainer_checkpoint, kEncoderFile},
      {"predictions", predictions_seeds, predictions},
  };
  targets.insert(targets.end(), more.begin(), more.end());
  return targets;
}

}  // namespace daug::fuzz
