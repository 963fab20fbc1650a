#include "clip_config.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "io/json.h"

namespace daug::detail {

const ClipFieldNames kTransformersNames = {"projection_dim",
                                           "vision_config.image_size",
                                           "vision_config.patch_size",
                                           "vision_config.num_channels",
                                           "vision_config.hidden_size",
                                           "vision_config.intermediate_size",
                                           "vision_config.num_hidden_layers",
                                           "text_config.vocab_size",
                                           "text_config.max_position_embeddings",
                                           "text_config.hidden_size",
                                           "text_config.intermediate_size",
                                           "text_config.num_hidden_layers"};

const ClipFieldNames kOpenClipNames = {"embed_dim",         "vision_cfg.image_size", "vision_cfg.patch_size",
                                       "input channels",    "vision_cfg.width",      "vision_cfg.mlp_ratio",
                                       "vision_cfg.layers", "text_cfg.vocab_size",   "text_cfg.context_length",
                                       "text_cfg.width",    "text_cfg.mlp_ratio",    "text_cfg.layers"};

namespace {

using nlohmann::json;

constexpr std::int64_t kMost = std::int64_t{1} << 24;
constexpr std::int64_t kLegacyEndOfText = 2;  // transformers then reads texts at their largest id

/// One object of a configuration and where it stands.
class Fields {
 public:
  Fields(json object, const char* function, std::string file, std::string place, std::vector<std::string>* assumed)
      : object_(std::move(object)),
        function_(function),
        file_(std::move(file)),
        place_(std::move(place)),
        assumed_(assumed) {
    if (!object_.is_object()) fail(ErrorCode::kFormat, function_, where(""), "a JSON object", object_.type_name());
  }

  static Fields parse(const std::string& text, const char* function, const std::string& file,
                      std::vector<std::string>* assumed) {
    return {parse_json(text, function, file), function, file, "", assumed};
  }

  bool has(const std::string& key) const { return object_.contains(key) && !object_[key].is_null(); }

  Fields section(const std::string& key) const {
    if (!has(key)) fail(ErrorCode::kFormat, function_, where(key), "a section", "none");
    Fields inner(object_[key], function_, file_, dotted(key), assumed_);
    if (const std::string older = key + "_dict"; has(older)) inner.older_ = object_[older];
    return inner;
  }

  /// The value of a field that upstream always writes; `upstream` is its library's default.
  json value(const std::string& key, const json& upstream) const {
    if (has(key)) return agreed(key);
    if (!assumed_)
      fail(ErrorCode::kFormat, function_, where(key),
           "a value (upstream's default is " + upstream.dump() + "; assume_defaults takes it)", "none");
    assumed_->push_back(dotted(key) + " = " + upstream.dump());
    return upstream;
  }
  /// The value of a field that is checked against the weights, and that files may lack which lack no other.
  json confirmed(const std::string& key, const json& upstream) const {
    return has(key) || assumed_ ? value(key, upstream) : upstream;
  }
  /// The value of a field that upstream's own files leave out when it is the default.
  json usual(const std::string& key, const json& upstream) const { return has(key) ? agreed(key) : upstream; }

  std::int64_t integer(const std::string& key, const json& found, std::int64_t low, std::int64_t high = kMost) const {
    const bool whole = found.is_number_integer() && !(found.is_number_unsigned() && found > json(kMost));
    if (!whole || found.get<std::int64_t>() < low || found.get<std::int64_t>() > high)
      fail(ErrorCode::kFormat, function_, where(key), concat("a whole number in [", low, ", ", high, "]"),
           found.dump());
    return found.get<std::int64_t>();
  }
  std::int64_t integer(const std::string& key, std::int64_t upstream, std::int64_t low = 1) const {
    return integer(key, value(key, upstream), low);
  }

  /// A side in pixels: a number, or two equal ones.
  std::int64_t side(const std::string& key, std::int64_t upstream) const {
    json found = value(key, upstream);
    if (found.is_array() && found.size() == 2) {
      if (found[0] != found[1]) refuse(key, "a square", found);
      found = json(found[0]);
    }
    return integer(key, found, 1);
  }

  double number(const std::string& key, const json& found, double low, double high) const {
    const double value = found.is_number() ? found.get<double>() : std::nan("");
    if (!(value > low && value <= high))
      fail(ErrorCode::kFormat, function_, where(key), concat("a number in (", low, ", ", high, "]"), found.dump());
    return value;
  }

  [[noreturn]] void refuse(const std::string& key, const std::string& expected, const json& actual) const {
    fail(ErrorCode::kUnsupported, function_, where(key), expected, actual.dump());
  }

  /// Refuses what is set beside the `known` fields: it may change the network.
  void refuse_others(const std::set<std::string>& known) const {
    for (const auto& [key, found] : object_.items()) {
      const bool nothing = found.is_null() || found == json(false) || (found.is_object() && found.empty());
      if (!nothing && !known.count(key)) refuse(key, "no such option, or its being off", found);
    }
  }

  std::string where(const std::string& key) const {
    const std::string field = dotted(key);
    return field.empty() ? file_ : file_ + ": " + field;
  }

 private:
  /// A field of this object; files of older versions of transformers say the same in `text_config_dict` and
  /// `vision_config_dict`, which upstream believes where the two differ.
  json agreed(const std::string& key) const {
    if (older_.is_object() && older_.contains(key) && !older_[key].is_null() && older_[key] != object_[key])
      refuse(key, older_[key].dump() + " as in " + place_ + "_dict", object_[key]);
    return object_[key];
  }
  std::string dotted(const std::string& key) const {
    return place_.empty() || key.empty() ? place_ + key : place_ + "." + key;
  }

  json object_;
  json older_;  ///< null without one
  const char* function_;
  std::string file_, place_;
  std::vector<std::string>* assumed_;
};

// ---- transformers

Activation hidden_act(const Fields& fields) {
  const json found = fields.value("hidden_act", "quick_gelu");
  if (found == "quick_gelu") return Activation::kQuickGelu;
  if (found != "gelu") fields.refuse("hidden_act", "\"quick_gelu\" or \"gelu\"", found);
  return Activation::kGelu;
}

const char* hidden_act(Activation activation) { return activation == Activation::kQuickGelu ? "quick_gelu" : "gelu"; }

double layer_norm_eps(const Fields& fields) {
  return fields.number("layer_norm_eps", fields.value("layer_norm_eps", 1e-5), 0, 1);
}

std::int64_t heads_of(const Fields& fields, const std::string& key, std::int64_t upstream, std::int64_t width) {
  const std::int64_t heads = fields.integer(key, upstream);
  if (width % heads != 0)
    fail(ErrorCode::kFormat, "daug::load_clip", fields.where(key), concat("a divisor of the width ", width), heads);
  return heads;
}

void require_whole_patches(const Fields& fields, const ImageEncoderOptions& image) {
  if (image.image_size % image.vit.patch_size != 0)
    fields.refuse("image_size", concat("a multiple of patch_size ", image.vit.patch_size), image.image_size);
}

}  // namespace

ClipConfig parse_clip_config(const std::string& text, const std::string& file, std::vector<std::string>* assumed) {
  const Fields all = Fields::parse(text, "daug::load_clip", file, assumed);
  const json type = all.value("model_type", "clip");
  if (type != "clip") all.refuse("model_type", "\"clip\"", type);
  const Fields vision = all.section("vision_config"), words = all.section("text_config");
  ClipConfig config;
  config.image.kind = ImageEncoderKind::kViT;
  config.image.embed_dim = config.text.embed_dim = all.integer("projection_dim", 512);

  auto& vit = config.image.vit;
  config.image.in_channels = vision.integer("num_channels", vision.confirmed("num_channels", 3), 1);
  config.image.image_size = vision.side("image_size", 224);
  vit.patch_size = vision.side("patch_size", 32);
  require_whole_patches(vision, config.image);
  vit.width = vision.integer("hidden_size", 768);
  vit.depth = vision.integer("num_hidden_layers", 12);
  vit.heads = heads_of(vision, "num_attention_heads", 12, vit.width);
  vit.mlp_width = vision.integer("intermediate_size", 3072);
  vit.activation = hidden_act(vision);
  vit.norm_epsilon = layer_norm_eps(vision);

  config.text.vocab_size = words.integer("vocab_size", 49408);
  config.text.context_length = words.integer("max_position_embeddings", 77);
  config.text.width = words.integer("hidden_size", 512);
  config.text.depth = words.integer("num_hidden_layers", 12);
  config.text.heads = heads_of(words, "num_attention_heads", 8, config.text.width);
  config.text.mlp_width = words.integer("intermediate_size", 2048);
  config.text.activation = hidden_act(words);
  config.text.norm_epsilon = layer_norm_eps(words);
  const std::int64_t end = words.integer("eos_token_id", 49407, 0);
  config.text.end_of_text_id = end == kLegacyEndOfText ? -1 : end;
  if (end >= config.text.vocab_size)
    fail(ErrorCode::kFormat, "daug::load_clip", words.where("eos_token_id"),
         concat("an id below vocab_size ", config.text.vocab_size), end);
  config.start_of_text_id = words.integer("bos_token_id", 49406, 0);
  config.padding_id = words.integer("pad_token_id", 1, 0);
  return config;
}

std::string clip_config_text(const ClipConfig& config, double logit_scale, const std::string& dtype) {
  const auto& [image, text, start, padding] = config;
  json vision = {{"model_type", "clip_vision_model"},
                 {"image_size", image.image_size},
                 {"patch_size", image.vit.patch_size},
                 {"num_channels", image.in_channels},
                 {"hidden_size", image.vit.width},
                 {"intermediate_size", image.vit.mlp_width},
                 {"num_hidden_layers", image.vit.depth},
                 {"num_attention_heads", image.vit.heads},
                 {"hidden_act", hidden_act(image.vit.activation)},
                 {"layer_norm_eps", image.vit.norm_epsilon},
                 {"attention_dropout", 0.0},
                 {"projection_dim", image.embed_dim}};
  json words = {{"model_type", "clip_text_model"},
                {"vocab_size", text.vocab_size},
                {"max_position_embeddings", text.context_length},
                {"hidden_size", text.width},
                {"intermediate_size", text.mlp_width},
                {"num_hidden_layers", text.depth},
                {"num_attention_heads", text.heads},
                {"hidden_act", hidden_act(text.activation)},
                {"layer_norm_eps", text.norm_epsilon},
                {"attention_dropout", 0.0},
                {"projection_dim", text.embed_dim},
                {"bos_token_id", start},
                {"eos_token_id", text.end_of_text_id < 0 ? kLegacyEndOfText : text.end_of_text_id},
                {"pad_token_id", padding}};
  const json all = {{"model_type", "clip"},
                    {"architectures", {"CLIPModel"}},
                    {"dtype", dtype},
                    {"projection_dim", image.embed_dim},
                    {"logit_scale_init_value", logit_scale},
                    {"vision_config", std::move(vision)},
                    {"text_config", std::move(words)}};
  return all.dump(2) + "\n";
}

// ---- open_clip

namespace {

constexpr double kUsualEpsilon = 1e-5;
constexpr std::int64_t kUsualHeadWidth = 64;
constexpr double kUsualMlpRatio = 4;

std::int64_t mlp_width(const Fields& fields, std::int64_t width) {
  const double ratio = fields.number("mlp_ratio", fields.usual("mlp_ratio", kUsualMlpRatio), 0, 64);
  return static_cast<std::int64_t>(static_cast<double>(width) * ratio);  // open_clip rounds down as well
}

/// A ratio that mlp_width reads back exactly.
double mlp_ratio(std::int64_t mlp_width, std::int64_t width) {
  double ratio = static_cast<double>(mlp_width) / static_cast<double>(width);
  while (static_cast<std::int64_t>(static_cast<double>(width) * ratio) < mlp_width) ratio = std::nextafter(ratio, 1e3);
  return ratio;
}

void require_value(const Fields& fields, const std::string& key, const json& only) {
  if (fields.usual(key, only) != only) fields.refuse(key, only.dump(), fields.usual(key, only));
}

}  // namespace

ClipConfig parse_open_clip_config(const std::string& text, const std::string& file, std::vector<std::string>* assumed) {
  constexpr const char* kFunction = "daug::load_open_clip";
  const Fields outer = Fields::parse(text, kFunction, file, assumed);
  const Fields all = outer.has("model_cfg") ? outer.section("model_cfg") : outer;
  const Fields vision = all.section("vision_cfg"), words = all.section("text_cfg");
  all.refuse_others({"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "output_dict"});
  const json quick = all.usual("quick_gelu", false);
  if (!quick.is_boolean()) fail(ErrorCode::kFormat, kFunction, all.where("quick_gelu"), "true or false", quick.dump());
  const Activation activation = quick.get<bool>() ? Activation::kQuickGelu : Activation::kGelu;
  ClipConfig config;
  config.image.kind = ImageEncoderKind::kViT;
  config.image.in_channels = 3;  // the weights may tell otherwise
  config.image.embed_dim = config.text.embed_dim = all.integer("embed_dim", 512);

  vision.refuse_others({"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "patch_dropout",
                        "pos_embed_type", "pool_type", "attn_pooler_queries", "attn_pooler_heads", "timm_pool",
                        "timm_proj", "timm_drop"});
  require_value(vision, "pos_embed_type", "learnable");
  auto& vit = config.image.vit;
  const json pooling = vision.usual("pool_type", "tok");
  if (pooling != "tok" && pooling != "avg") vision.refuse("pool_type", "\"tok\" or \"avg\"", pooling);
  vit.pooling = pooling == "avg" ? VitPooling::kMean : VitPooling::kClassToken;
  config.image.image_size = vision.side("image_size", 224);
  vit.patch_size = vision.side("patch_size", 16);
  require_whole_patches(vision, config.image);
  vit.width = vision.integer("width", 768);
  const json layers = vision.value("layers", 12);
  if (layers.is_array()) vision.refuse("layers", "a vision transformer's number of layers", layers);
  vit.depth = vision.integer("layers", layers, 1);
  const std::int64_t head_width = vision.integer("head_width", vision.usual("head_width", kUsualHeadWidth), 1);
  if (vit.width % head_width != 0)
    fail(ErrorCode::kFormat, kFunction, vision.where("head_width"), concat("a divisor of width ", vit.width),
         head_width);
  vit.heads = vit.width / head_width;
  vit.mlp_width = mlp_width(vision, vit.width);
  vit.activation = activation;

  words.refuse_others({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type", "eos_id",
                       "pad_id", "proj_type", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs",
                       "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"});
  require_value(words, "proj_type", "linear");
  config.text.context_length = words.integer("context_length", 77);
  config.text.vocab_size = words.integer("vocab_size", 49408);
  config.text.width = words.integer("width", 512);
  config.text.heads = words.integer("heads", 8);
  if (config.text.width % config.text.heads != 0)
    fail(ErrorCode::kFormat, kFunction, words.where("heads"), concat("a divisor of width ", config.text.width),
         config.text.heads);
  config.text.depth = words.integer("layers", 12);
  config.text.mlp_width = mlp_width(words, config.text.width);
  config.text.activation = activation;
  const json pool = words.usual("pool_type", "argmax");
  if (pool != "argmax" && pool != "eos") words.refuse("pool_type", "\"argmax\" or \"eos\"", pool);
  const json end = words.usual("eos_id", kLegacyEndOfText);
  config.text.end_of_text_id = pool == "eos" ? words.integer("eos_id", end, 0, config.text.vocab_size - 1) : -1;
  config.padding_id = words.integer("pad_id", words.usual("pad_id", 0), 0);
  config.start_of_text_id = std::max<std::int64_t>(0, config.text.vocab_size - 2);  // as its tokenizer numbers them
  return config;
}

std::string open_clip_config_text(const ClipConfig& config) {
  constexpr const char* kFunction = "daug::save_open_clip";
  const auto& [image, text, start, padding] = config;
  const auto& vit = image.vit;
  if (vit.activation != text.activation)
    fail(ErrorCode::kUnsupported, kFunction, "activation", "the same in both towers", "two");
  for (const double epsilon : {vit.norm_epsilon, text.norm_epsilon})
    if (epsilon != kUsualEpsilon) fail(ErrorCode::kUnsupported, kFunction, "norm_epsilon", kUsualEpsilon, epsilon);
  json vision = {{"image_size", image.image_size},
                 {"patch_size", vit.patch_size},
                 {"width", vit.width},
                 {"layers", vit.depth},
                 {"head_width", vit.width / vit.heads},
                 {"mlp_ratio", mlp_ratio(vit.mlp_width, vit.width)}};
  if (vit.pooling == VitPooling::kAttention)
    fail(ErrorCode::kUnsupported, kFunction, "model.image: pooling", "kClassToken or kMean", "kAttention");
  if (vit.pooling == VitPooling::kMean) vision["pool_type"] = "avg";
  json words = {{"context_length", text.context_length},
                {"vocab_size", text.vocab_size},
                {"width", text.width},
                {"heads", text.heads},
                {"layers", text.depth},
                {"mlp_ratio", mlp_ratio(text.mlp_width, text.width)},
                {"pad_id", padding}};
  if (text.end_of_text_id >= 0) words["pool_type"] = "eos", words["eos_id"] = text.end_of_text_id;
  const json all = {{"embed_dim", image.embed_dim},
                    {"quick_gelu", vit.activation == Activation::kQuickGelu},
                    {"vision_cfg", std::move(vision)},
                    {"text_cfg", std::move(words)}};
  return all.dump(2) + "\n";
}

}  // namespace daug::detail
