// The encoders before their first step: towers of a checkpoint, or made by the settings.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/tokenizer.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/io/safetensors.h"
#include "daug/train/encoder_file.h"
#include "pipeline/run_impl.h"
#include "pipeline/settings/stage_options.h"

namespace daug {

namespace {
PositionFilter position_filter(const std::string& setting) {
  if (setting == "bicubic") return PositionFilter::kBicubic;
  return setting == "linear" ? PositionFilter::kLinear : PositionFilter::kBicubicAntialias;
}
}  // namespace

const PretrainedTowers& Run::Impl::pretrained() {
  if (pretrained_) return *pretrained_;
  constexpr const char* kFunction = "daug::Run";
  const auto& e = config.encoder;
  PretrainedTowers towers;
  const auto from_torchvision = [&] {
    TorchvisionLoadOptions how;
    how.image_size = config.size;
    how.embed_dim = e.embedding;
    how.seed = static_cast<std::uint64_t>(config.seed);
    TorchvisionReport report;
    towers.image = load_torchvision(e.image_checkpoint, how, &report);
    // What no weight tells: built once more with it, when it is asked for.
    ImageEncoderOptions options = towers.image->options();
    options.drop_path = e.drop_path;
    options.resnet.pooling = image_pooling(e.pooling, options.resnet.pooling);
    options.densenet.pooling = image_pooling(e.pooling, options.densenet.pooling);
    if (e.drop_path > 0 || e.pooling != "default") {
      towers.image = ImageEncoder(options, how.seed);
      report = load_torchvision(e.image_checkpoint, towers.image, TorchvisionHead::kReplace);
    }
    const auto list = [](const std::vector<std::string>& names) {
      return names.empty() ? std::string("nothing") : fmt::format("{}", fmt::join(names, ", "));
    };
    log(fmt::format("{}: left out {}; kept as initialised {}", e.image_checkpoint, list(report.left_out),
                    list(report.untouched)));
    if (options.in_channels == 3) towers.pixels = kImageNetPixels;
    if (e.pixels == "radiograph") towers.pixels = kRadiographPixels;
  };
  const auto from_encoders = [&] {
    const EncoderPair pair = load_encoders(e.image_checkpoint);
    towers.image = pair.image;
    towers.pixels = pair.pixels;
    const auto& options = pair.image->options();
    const auto must_be = [&](const char* what, std::int64_t expected, std::int64_t actual) {
      if (actual != expected)
        fail(ErrorCode::kMismatch, kFunction, detail::concat("encoder.image_checkpoint: ", what), expected, actual);
    };
    must_be("map channels", 0, options.extra_channels);
    must_be("heatmap towers", 0, pair.heatmap.is_empty() ? 0 : 1);
    must_be("image size", config.size, options.image_size);
    if (e.pixels != "default")
      fail(ErrorCode::kMismatch, kFunction, "encoder.pixels", "default, as the checkpoint was trained", e.pixels);
    if (e.pooling != "default" || e.drop_path != options.drop_path)
      fail(ErrorCode::kMismatch, kFunction, "encoder.pooling and encoder.drop_path",
           detail::concat("default and ", options.drop_path, ", as the checkpoint was trained"),
           detail::concat(e.pooling, " and ", e.drop_path));
  };
  if (e.clip.empty()) {
    const auto metadata = read_safetensors_header(e.image_checkpoint).metadata;
    const auto format = metadata.find("format");
    if (format != metadata.end() && format->second.rfind("daug-encoders-", 0) == 0)
      from_encoders();
    else
      from_torchvision();
  } else {
    ClipLoadOptions how;
    how.image_size = config.size;
    how.drop_path = e.drop_path;
    how.assume_defaults = !e.clip_strict;
    how.image_positions = position_filter(e.image_positions);
    how.text_positions = position_filter(e.text_positions);
    ClipModel clip = load_clip_folder(e.clip, how);
    if (clip.text->options().context_length < e.context) {  // a longer table than needed is used as it is
      how.context_length = e.context;
      clip = load_clip_folder(e.clip, how);
    }
    if (!clip.assumed.empty())
      log(fmt::format("{}: what its configuration leaves out is taken as {}", e.clip, fmt::join(clip.assumed, ", ")));
    log(fmt::format("{}: its ln tau of {:.4f} is not taken; encoder.logit_scale says {}", e.clip,
                    clip.logit_scale.item<double>(), e.logit_scale));
    require_vocabulary(clip.text, Tokenizer::load(e.clip), kFunction);
    towers.image = clip.image;
    towers.text = clip.text;
    if (clip.image->options().in_channels == 3) towers.pixels = kClipPixels;
  }
  return pretrained_.emplace(std::move(towers));
}

EncoderPair Run::Impl::starting_encoders(const Arm& arm, const EncoderTrainerOptions& options) {
  const auto findings = static_cast<std::int64_t>(data().findings());
  if (!has_checkpoint()) return make_encoders(options, map_channels(arm), findings);
  const PretrainedTowers& towers = pretrained();
  TextEncoderOptions text = options.text;
  text.embed_dim = towers.image->options().embed_dim;
  EncoderPair pair = make_encoders(towers.image, towers.text.is_empty() ? TextEncoder(text, options.seed) : towers.text,
                                   options, map_channels(arm), findings);
  pair.pixels = towers.pixels;
  return pair;
}

}  // namespace daug
