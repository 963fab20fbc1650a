#include "daug/train/encoder_file.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <initializer_list>
#include <utility>

#include "daug/core/error.h"
#include "daug/io/weights.h"
#include "encoder/checkpoint_contents.h"
#include "io/fillable.h"
#include "io/json.h"

namespace daug {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kLoad = "daug::load_encoders";

/// The fields of options, written to JSON or read from it by the same list of names.
class Fields {
 public:
  Fields(Json& json, bool reading) : json_(json), reading_(reading) {}

  template <class T>
  Fields& field(const char* name, T& value) {
    if (!reading_) {
      json_[name] = value;
      return *this;
    }
    read(detail::member_of(json_, name, kLoad, "architecture"), name, value);
    return *this;
  }

  /// A value of an enumeration by its name; names in the order of the values, which start at 0.
  template <class Enum>
  Fields& choice(const char* name, Enum& value, std::initializer_list<const char*> names) {
    if (!reading_) {
      json_[name] = names.begin()[static_cast<std::size_t>(value)];
      return *this;
    }
    const auto found = detail::member_as<std::string>(json_, name, kLoad, "architecture");
    const auto at = std::find(names.begin(), names.end(), found);
    if (at == names.end()) fail(ErrorCode::kFormat, kLoad, name, "a known name", found);
    value = static_cast<Enum>(at - names.begin());
    return *this;
  }

  /// The fields of one part.
  template <class List>
  Fields& part(const char* name, const List& list) {
    if (reading_) (void)detail::member_of(json_, name, kLoad, "architecture");
    Fields inner(json_[name], reading_);
    list(inner);
    return *this;
  }

 private:
  template <class T>
  static void read(const Json& found, const char* name, T& value) {
    value = detail::value_of<T>(found, kLoad, name);
  }
  template <class T, std::size_t N>
  static void read(const Json& found, const char* name, std::array<T, N>& values) {
    if (!found.is_array() || found.size() != N)
      fail(ErrorCode::kFormat, kLoad, name, detail::concat("a list of ", N), found.dump());
    for (std::size_t i = 0; i < N; ++i) read(found[i], name, values[i]);
  }

  Json& json_;
  bool reading_;
};

constexpr std::initializer_list<const char*> kPoolings = {"flatten", "attention", "mean"};
constexpr std::initializer_list<const char*> kActivations = {"quick_gelu", "gelu"};

void fields_of(Fields& fields, ImageEncoderOptions& o) {
  fields.choice("kind", o.kind, {"conv", "vit", "resnet", "densenet"})
      .field("in_channels", o.in_channels)
      .field("extra_channels", o.extra_channels)
      .field("gates", o.extra.gates)
      .field("map_dropout", o.extra.dropout)
      .field("image_size", o.image_size)
      .field("embed_dim", o.embed_dim)
      .field("projection_bias", o.projection_bias)
      .field("drop_path", o.drop_path)
      .field("use_checkpoint", o.use_checkpoint);
  switch (o.kind) {
    case ImageEncoderKind::kConv:
      fields.field("base_width", o.conv.base_width)
          .field("stages", o.conv.stages)
          .field("blocks", o.conv.blocks)
          .field("norm_group_width", o.conv.norm_group_width)
          .choice("pooling", o.conv.pooling, kPoolings)
          .field("heads", o.conv.heads);
      break;
    case ImageEncoderKind::kViT:
      fields.field("patch_size", o.vit.patch_size)
          .field("width", o.vit.width)
          .field("depth", o.vit.depth)
          .field("heads", o.vit.heads)
          .field("mlp_width", o.vit.mlp_width)
          .choice("activation", o.vit.activation, kActivations)
          .field("norm_epsilon", o.vit.norm_epsilon)
          .field("patch_bias", o.vit.patch_bias)
          .choice("pooling", o.vit.pooling, {"class", "mean", "attention"});
      break;
    case ImageEncoderKind::kResNet:
      fields.field("blocks", o.resnet.blocks)
          .field("bottleneck", o.resnet.bottleneck)
          .field("base_width", o.resnet.base_width)
          .choice("pooling", o.resnet.pooling, kPoolings)
          .field("heads", o.resnet.heads);
      break;
    case ImageEncoderKind::kDenseNet:
      fields.field("layers", o.densenet.layers)
          .field("base_width", o.densenet.base_width)
          .field("growth", o.densenet.growth)
          .field("bottleneck", o.densenet.bottleneck)
          .choice("pooling", o.densenet.pooling, kPoolings)
          .field("heads", o.densenet.heads);
      break;
  }
}

void fields_of(Fields& fields, TextEncoderOptions& o) {
  fields.field("vocab_size", o.vocab_size)
      .field("context_length", o.context_length)
      .field("width", o.width)
      .field("depth", o.depth)
      .field("heads", o.heads)
      .field("mlp_width", o.mlp_width)
      .choice("activation", o.activation, kActivations)
      .field("embed_dim", o.embed_dim)
      .field("end_of_text_id", o.end_of_text_id)
      .field("norm_epsilon", o.norm_epsilon)
      .field("use_checkpoint", o.use_checkpoint);
}

/// What a pair is built from.
struct Architecture {
  ImageEncoderOptions image;
  TextEncoderOptions text;
  bool heatmap = false;
  std::optional<PixelScaling> pixels;
};

void fields_of(Fields& fields, Architecture& a) {
  bool scaled = a.pixels.has_value();
  fields.part("image", [&](Fields& inner) { fields_of(inner, a.image); })
      .part("text", [&](Fields& inner) { fields_of(inner, a.text); })
      .field("heatmap", a.heatmap)
      .field("scaled_pixels", scaled);
  if (!scaled) return;
  if (!a.pixels) a.pixels.emplace();
  fields.field("pixel_mean", a.pixels->mean).field("pixel_deviation", a.pixels->deviation);
}

Architecture read_architecture(const std::map<std::string, std::string>& metadata, const std::string& path) {
  const auto entry = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  if (entry("format") != kEncoderFormat)
    fail(ErrorCode::kFormat, kLoad, path + ": format", kEncoderFormat, "'" + entry("format") + "'");
  Architecture architecture;
  try {
    Json json = detail::parse_json<Json>(entry("architecture"), kLoad, "architecture");
    Fields fields(json, /*reading=*/true);
    fields_of(fields, architecture);
    architecture.image.validate();
    architecture.text.validate();
    if (architecture.pixels)
      for (const double deviation : architecture.pixels->deviation)
        require(deviation > 0, kLoad, "pixel_deviation", "more than 0", deviation);
  } catch (const std::exception& error) {  // a field's, a range's, or of what is no JSON
    fail(ErrorCode::kFormat, kLoad, path + ": architecture", "the options of two towers", error.what());
  }
  return architecture;
}

}  // namespace

std::string encoder_architecture(const EncoderPair& encoders) {
  Architecture architecture{encoders.image->options(), encoders.text->options(), !encoders.heatmap.is_empty(),
                            encoders.pixels};
  Json json;
  Fields fields(json, /*reading=*/false);
  fields_of(fields, architecture);
  return json.dump();
}

void save_encoders(const std::string& path, const EncoderPair& encoders, std::map<std::string, std::string> metadata) {
  metadata["format"] = kEncoderFormat;
  metadata["architecture"] = encoder_architecture(encoders);
  save_weights(path, *encoders.as_module(), metadata);
}

EncoderPair load_encoders(const std::string& path, std::map<std::string, std::string>* metadata) {
  const SafetensorsFile file = read_safetensors(path);
  if (metadata) *metadata = file.metadata;
  return load_encoders(file, path);
}

EncoderPair load_encoders(const SafetensorsFile& file, const std::string& path) {
  const Architecture architecture = read_architecture(file.metadata, path);
  const double of_tower = detail::values_of(architecture.image) + detail::projection_values(architecture.image);
  detail::require_fillable((architecture.heatmap ? 2 : 1) * of_tower + detail::values_of(architecture.text), file,
                           kLoad, path + ": architecture");
  EncoderPair pair;
  pair.image = ImageEncoder(architecture.image, LoadedLater{});
  if (architecture.heatmap) pair.heatmap = ImageEncoder(architecture.image, LoadedLater{});
  pair.text = TextEncoder(architecture.text, LoadedLater{});
  pair.pixels = architecture.pixels;
  for (const auto& [name, tensor] : {std::pair<const char*, at::Tensor*>{"logit_scale", &pair.logit_scale},
                                     {"class_bias", &pair.class_bias},
                                     {"logit_bias", &pair.logit_bias}}) {
    if (!file.contains(name)) continue;
    const auto& shape = file.at(name).shape;
    const bool numbers = tensor == &pair.class_bias ? shape.size() == 1 : shape.empty();
    if (!numbers)
      fail(ErrorCode::kMismatch, kLoad, path + ": " + name,
           tensor == &pair.class_bias ? "a number a finding" : "one number", at::IntArrayRef(shape));
    *tensor = at::zeros(shape, at::kFloat).requires_grad_(true);
  }
  const auto module = pair.as_module();
  load_weights(*module, file, path);
  module->eval();
  return pair;
}

}  // namespace daug
