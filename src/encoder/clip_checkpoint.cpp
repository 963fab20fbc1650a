#include "daug/encoder/clip_checkpoint.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <utility>
#include <vector>

#include "checkpoint_contents.h"
#include "clip_config.h"
#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/weights.h"
#include "io/fillable.h"

namespace daug {

namespace {

using detail::ClipConfig;
using detail::ClipFieldNames;

constexpr const char* kPatches = "vision_model.embeddings.patch_embedding.weight";
constexpr const char* kImagePositions = "vision_model.embeddings.position_embedding.weight";
constexpr const char* kTextPositions = "text_model.embeddings.position_embedding.weight";
constexpr std::uint64_t kMostConfigBytes = 1 << 20;

/// Throws for a setting that contradicts the weights (under transformers' names), before networks are built from it.
void require_consistent(const ClipConfig& config, const ClipFieldNames& names, const SafetensorsFile& file,
                        const std::string& path, const char* function) {
  const auto& [image, text, start, padding] = config;
  const auto side = image.image_size / image.vit.patch_size;
  const auto check_shape = [&](const char* field, std::int64_t value, const std::string& key, std::size_t dimension) {
    const auto array = file.tensors.find(key);
    if (array == file.tensors.end() || array->second.shape.size() <= dimension) return;  // the report will tell
    const std::int64_t found = array->second.shape[dimension];
    if (value != found)
      fail(ErrorCode::kMismatch, function, field,
           detail::concat(found, " as dimension ", dimension, " of ", key, " of ", path), value);
  };
  check_shape(names.image_width, image.vit.width, kPatches, 0);
  check_shape(names.in_channels, image.in_channels, kPatches, 1);
  check_shape(names.patch_size, image.vit.patch_size, kPatches, 2);
  if (file.contains(kImagePositions) && !file.at(kImagePositions).shape.empty() &&
      file.at(kImagePositions).shape[0] != side * side + 1)
    fail(ErrorCode::kMismatch, function, names.image_size,
         detail::concat("a grid of ", file.at(kImagePositions).shape[0] - 1, " patches as ", kImagePositions, " of ",
                        path),
         detail::concat(image.image_size, ", ", side, " x ", side, " patches"));
  check_shape(names.image_mlp_width, image.vit.mlp_width, "vision_model.encoder.layers.0.mlp.fc1.weight", 0);
  check_shape(names.embed_dim, image.embed_dim, "visual_projection.weight", 0);
  check_shape(names.text_width, text.width, "text_model.embeddings.token_embedding.weight", 1);
  check_shape(names.vocab_size, text.vocab_size, "text_model.embeddings.token_embedding.weight", 0);
  check_shape(names.context_length, text.context_length, kTextPositions, 0);
  check_shape(names.text_mlp_width, text.mlp_width, "text_model.encoder.layers.0.mlp.fc1.weight", 0);
  detail::require_fillable(detail::values_of(image) + detail::values_of(text), file, function,
                           path + ": configuration");
}

/// Throws for settings that no network can have, and for numbers of layers that are not the weights': `image_layers`
/// and `text_layers` are what theirs begin with. Nothing is made a layer before.
void require_possible(const ClipConfig& config, const std::string& config_path, const ClipFieldNames& names,
                      const SafetensorsFile& file, const std::string& image_layers, const std::string& text_layers,
                      const char* function) {
  try {
    config.image.validate();
    config.text.validate();
  } catch (const Error& error) {
    fail(ErrorCode::kFormat, function, config_path, "settings of networks that can be built", error.what());
  }
  const auto check_depth = [&](const char* field, std::int64_t value, const std::string& layers) {
    const std::int64_t found = detail::largest_number(file, layers) + 1;
    if (value != found)
      fail(ErrorCode::kMismatch, function, field, detail::concat(found, " as the weights' layers ", layers), value);
  };
  check_depth(names.image_depth, config.image.vit.depth, image_layers);
  check_depth(names.text_depth, config.text.depth, text_layers);
}

void resample(SafetensorsFile& file, const std::string& key, const std::function<at::Tensor(const at::Tensor&)>& how) {
  const auto found = file.tensors.find(key);
  if (found == file.tensors.end()) return;  // the report will tell
  const at::Tensor table = tensor_from(found->second);
  if (table.dim() != 2 || table.numel() == 0 || !table.is_floating_point()) return;  // and of these
  found->second = array_from(how(table.scalar_type() == at::kDouble ? table : table.to(at::kFloat)));
}

/// Takes the sizes asked for into `config`, and position tables of those sizes into `file`.
void resize(ClipConfig& config, SafetensorsFile& file, const ClipLoadOptions& options, const std::string& image_key,
            const std::string& text_key) {
  if (options.image_size > 0) {
    const auto patch = config.image.vit.patch_size, before = config.image.image_size / patch;
    config.image.image_size = options.image_size;
    config.image.validate();
    const auto after = options.image_size / patch;
    if (after != before)
      resample(file, image_key, [&](const at::Tensor& table) {
        return resampled_image_positions(table, {before, before}, {after, after}, options.image_positions);
      });
  }
  if (options.context_length > 0 && options.context_length != config.text.context_length) {
    config.text.context_length = options.context_length;
    resample(file, text_key, [&](const at::Tensor& table) {
      return resampled_text_positions(table, options.context_length, options.text_positions);
    });
  }
}

ClipModel unloaded_model(ClipConfig config, const ClipLoadOptions& options) {
  config.image.drop_path = options.drop_path;
  config.image.use_checkpoint = config.text.use_checkpoint = options.use_checkpoint;
  ClipModel model;
  model.image = ImageEncoder(config.image, LoadedLater{});
  model.text = TextEncoder(config.text, LoadedLater{});
  model.logit_scale = at::zeros({});
  model.start_of_text_id = config.start_of_text_id;
  model.padding_id = config.padding_id;
  return model;
}

/// What `load(assumed)` returns, with the defaults that it assumed; an error names them too, as one may be its cause.
template <class Load>
ClipModel telling_assumed(const ClipLoadOptions& options, const Load& load) {
  options.validate();
  std::vector<std::string> assumed;
  try {
    ClipModel model = load(options.assume_defaults ? &assumed : nullptr);
    model.assumed = std::move(assumed);
    return model;
  } catch (const Error& error) {
    if (assumed.empty()) throw;
    std::string fields;
    for (const auto& field : assumed) fields += (fields.empty() ? "" : ", ") + field;
    throw Error(error.code(), detail::concat(error.what(), "; assumed: ", fields));
  }
}

/// Whether a folder is one of open_clip alone.
bool is_open_clip(const std::string& folder) {
  const auto has = [&](const char* name) {
    std::error_code unknown;  // such as a name that is too long, which reading reports
    return std::filesystem::exists(folder + name, unknown);
  };
  return !has("/config.json") && has("/open_clip_config.json");
}

/// Weights under transformers' names, sharing memory with the model's.
NamedTensors clip_tensors(const ClipModel& model) {
  NamedTensors tensors = named_tensors(*model.image);
  for (const auto& [name, tensor] : named_tensors(*model.text)) tensors.emplace(name, tensor);
  tensors.emplace("logit_scale", model.logit_scale);
  return tensors;
}

/// The same for writing: extra channels are part of the patch embedding. Throws for what the formats cannot hold.
NamedTensors exported_tensors(const ClipModel& model, const char* function) {
  require(!model.image.is_empty() && !model.text.is_empty(), function, "model", "two towers", "an empty one");
  require(model.logit_scale.defined() && model.logit_scale.numel() == 1, function, "model.logit_scale", "one number",
          model.logit_scale.defined() ? model.logit_scale.numel() : 0);
  const auto& image = model.image->options();
  const auto unsupported = [&](const char* option, const std::string& expected, const auto& actual) {
    fail(ErrorCode::kUnsupported, function, option, expected, actual);
  };
  if (image.kind != ImageEncoderKind::kViT) unsupported("model.image: kind", "kViT", static_cast<int>(image.kind));
  if (image.projection_bias) unsupported("model.image: projection_bias", "false", true);
  if (image.vit.patch_bias) unsupported("model.image: patch_bias", "false", true);
  if (image.embed_dim != model.text->options().embed_dim)
    unsupported("model.text: embed_dim", std::to_string(image.embed_dim), model.text->options().embed_dim);
  NamedTensors tensors = clip_tensors(model);
  tensors["logit_scale"] = model.logit_scale.reshape({});
  const std::string prefix = "vision_model.embeddings.patch_embedding.";
  for (auto entry = tensors.begin(); entry != tensors.end();)
    entry = entry->first.rfind(prefix, 0) == 0 ? tensors.erase(entry) : std::next(entry);
  tensors[kPatches] = model.image->first_layer_weight();
  return tensors;
}

ClipConfig config_of(const ClipModel& model) {
  ClipConfig config{model.image->options(), model.text->options(), model.start_of_text_id, model.padding_id};
  config.image.in_channels += config.image.extra_channels;
  config.image.extra_channels = 0;
  return config;
}

std::string dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

/// Position numbers 0, 1, ... that older checkpoints hold among their weights, one a row of a position table.
void drop_position_ids(SafetensorsFile& file, const std::string& path) {
  const std::pair<const char*, const char*> tables[] = {{"text_model.embeddings.position_ids", kTextPositions},
                                                        {"vision_model.embeddings.position_ids", kImagePositions}};
  for (const auto& [key, table] : tables) {
    const auto found = file.tensors.find(key), rows = file.tensors.find(table);
    if (found == file.tensors.end()) continue;
    constexpr const char* kFunction = "daug::load_clip";
    const std::string where = detail::concat(path, ": ", key);
    if (is_floating_point(found->second.type))
      fail(ErrorCode::kMismatch, kFunction, where, "whole numbers", element_name(found->second.type));
    const auto ids = found->second.to_int64();
    if (rows != file.tensors.end() && !rows->second.shape.empty() &&
        rows->second.shape[0] != static_cast<std::int64_t>(ids.size()))
      fail(ErrorCode::kMismatch, kFunction, where,
           detail::concat(rows->second.shape[0], " numbers, the rows of ", table), ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (ids[i] != static_cast<std::int64_t>(i)) fail(ErrorCode::kMismatch, kFunction, where, "0, 1, 2, ...", ids[i]);
    file.tensors.erase(found);
  }
}

// ---- open_clip's names

/// One of its tensors and what it holds here: several are stacked by rows.
struct Place {
  std::string theirs;
  std::vector<std::string> ours;
  bool transposed = false;
};

void add_layers(std::vector<Place>& places, const std::string& theirs, const std::string& ours, std::int64_t depth) {
  for (std::int64_t layer = 0; layer < depth; ++layer) {
    const std::string from = detail::concat(theirs, "resblocks.", layer, "."),
                      to = detail::concat(ours, "encoder.layers.", layer, ".");
    for (const char* kind : {"weight", "bias"}) {
      const std::string suffix = std::string(".") + kind;
      places.push_back(
          {from + "attn.in_proj_" + kind,
           {to + "self_attn.q_proj" + suffix, to + "self_attn.k_proj" + suffix, to + "self_attn.v_proj" + suffix}});
      const std::pair<const char*, const char*> renamed[] = {{"attn.out_proj", "self_attn.out_proj"},
                                                             {"ln_1", "layer_norm1"},
                                                             {"ln_2", "layer_norm2"},
                                                             {"mlp.c_fc", "mlp.fc1"},
                                                             {"mlp.c_proj", "mlp.fc2"}};
      for (const auto& [name, here] : renamed) places.push_back({from + name + suffix, {to + here + suffix}});
    }
  }
}

std::vector<Place> open_clip_places(const ClipConfig& config) {
  std::vector<Place> places = {{"visual.class_embedding", {"vision_model.embeddings.class_embedding"}},
                               {"visual.conv1.weight", {kPatches}},
                               {"visual.positional_embedding", {kImagePositions}},
                               {"visual.proj", {"visual_projection.weight"}, true},
                               {"token_embedding.weight", {"text_model.embeddings.token_embedding.weight"}},
                               {"positional_embedding", {kTextPositions}},
                               {"text_projection", {"text_projection.weight"}, true},
                               {"logit_scale", {"logit_scale"}}};
  const std::pair<const char*, const char*> norms[] = {{"visual.ln_pre", "vision_model.pre_layrnorm"},
                                                       {"visual.ln_post", "vision_model.post_layernorm"},
                                                       {"ln_final", "text_model.final_layer_norm"}};
  for (const auto& [theirs, ours] : norms)
    for (const char* suffix : {".weight", ".bias"})
      places.push_back({std::string(theirs) + suffix, {std::string(ours) + suffix}});
  add_layers(places, "visual.transformer.", "vision_model.", config.image.vit.depth);
  add_layers(places, "transformer.", "text_model.", config.text.depth);
  return places;
}

/// Equal parts of an array, by rows.
std::vector<Array> row_parts(Array array, std::size_t count) {
  if (count == 1) return {std::move(array)};
  std::vector<Array> parts(count);
  const std::size_t bytes = array.data.size() / count;
  for (std::size_t i = 0; i < count; ++i) {
    parts[i].type = array.type;
    parts[i].shape = array.shape;
    parts[i].shape[0] /= static_cast<std::int64_t>(count);
    const auto* first = array.data.data() + i * bytes;
    parts[i].data.assign(first, first + bytes);
  }
  return parts;
}

/// The arrays under transformers' names, moved out of `file`; those that are absent or cannot be divided are left out.
SafetensorsFile renamed(SafetensorsFile& file, const std::vector<Place>& places) {
  SafetensorsFile result;
  for (const auto& place : places) {
    const auto found = file.tensors.find(place.theirs);
    if (found == file.tensors.end()) continue;
    const auto parts = static_cast<std::int64_t>(place.ours.size());
    const auto& shape = found->second.shape;
    if ((place.transposed && shape.size() != 2) || (parts > 1 && (shape.empty() || shape[0] % parts != 0))) continue;
    Array array = place.transposed ? array_from(tensor_from(found->second).t()) : std::move(found->second);
    auto arrays = row_parts(std::move(array), place.ours.size());
    for (std::size_t i = 0; i < arrays.size(); ++i) result.tensors.emplace(place.ours[i], std::move(arrays[i]));
  }
  return result;
}

/// Tensors under open_clip's names.
NamedTensors open_clip_tensors(const NamedTensors& tensors, const std::vector<Place>& places) {
  NamedTensors result;
  for (const auto& place : places) {
    std::vector<at::Tensor> parts;
    for (const auto& name : place.ours) parts.push_back(tensors.at(name).detach());
    const at::Tensor joined = parts.size() == 1 ? parts[0] : at::cat(parts);
    result.emplace(place.theirs, place.transposed ? joined.t() : joined);
  }
  return result;
}

SafetensorsFile shapes_of(const SafetensorsFile& file) {
  SafetensorsFile shapes;
  for (const auto& [name, array] : file.tensors) shapes.tensors.emplace(name, Array{array.type, array.shape, {}});
  return shapes;
}

}  // namespace

void ClipLoadOptions::validate() const {
  constexpr const char* kName = "daug::ClipLoadOptions";
  require_range(image_size, 0, 1 << 14, kName, "image_size");
  require_range(context_length, 0, 1 << 16, kName, "context_length");
}

ClipModel load_clip(const std::string& folder, const ClipLoadOptions& options) {
  constexpr const char* kFunction = "daug::load_clip";
  return telling_assumed(options, [&](std::vector<std::string>* assumed) {
    const std::string config_path = folder + "/config.json", path = folder + "/model.safetensors";
    ClipConfig config = detail::parse_clip_config(read_text_file(config_path, kMostConfigBytes), config_path, assumed);
    SafetensorsFile file = read_safetensors(path);
    drop_position_ids(file, path);
    require_possible(config, config_path, detail::kTransformersNames, file, "vision_model.encoder.layers.",
                     "text_model.encoder.layers.", kFunction);
    require_consistent(config, detail::kTransformersNames, file, path, kFunction);
    resize(config, file, options, kImagePositions, kTextPositions);
    ClipModel model = unloaded_model(config, options);
    load_weights(clip_tensors(model), file, path);
    return model;
  });
}

void save_clip(const std::string& folder, const ClipModel& model) {
  constexpr const char* kFunction = "daug::save_clip";
  const NamedTensors tensors = exported_tensors(model, kFunction);
  const ClipConfig config = config_of(model);
  if (config.image.vit.pooling != VitPooling::kClassToken)
    fail(ErrorCode::kUnsupported, kFunction, "model.image: pooling", "kClassToken",
         static_cast<int>(config.image.vit.pooling));
  if (config.text.end_of_text_id == 2)
    fail(ErrorCode::kUnsupported, kFunction, "model.text: end_of_text_id",
         "another id than 2, which makes transformers read texts at their largest id", 2);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, kFunction, "folder", "one that can be made", folder + ": " + error.message());
  save_weights(folder + "/model.safetensors", tensors, {{"format", "pt"}});
  write_file_atomically(folder + "/config.json",
                        detail::clip_config_text(config, model.logit_scale.item<double>(),
                                                 dtype_name(tensors.at(kPatches).scalar_type())));
}

ClipModel load_open_clip(const std::string& weights, const std::string& config_path, const ClipLoadOptions& options) {
  constexpr const char* kFunction = "daug::load_open_clip";
  return telling_assumed(options, [&](std::vector<std::string>* assumed) {
    ClipConfig config =
        detail::parse_open_clip_config(read_text_file(config_path, kMostConfigBytes), config_path, assumed);
    SafetensorsFile file = read_safetensors(weights);
    const auto patches = file.tensors.find("visual.conv1.weight");
    if (patches != file.tensors.end() && patches->second.shape.size() == 4)
      config.image.in_channels = std::max<std::int64_t>(1, patches->second.shape[1]);  // no field says it
    require_possible(config, config_path, detail::kOpenClipNames, file, "visual.transformer.resblocks.",
                     "transformer.resblocks.", kFunction);
    const auto places = open_clip_places(config);
    SafetensorsFile shapes = shapes_of(file), ours = renamed(file, places);
    require_consistent(config, detail::kOpenClipNames, ours, weights, kFunction);
    resize(config, ours, options, kImagePositions, kTextPositions);
    for (const auto& [theirs, here] :
         {std::pair{"visual.positional_embedding", kImagePositions}, std::pair{"positional_embedding", kTextPositions}})
      if (ours.contains(here)) shapes.tensors[theirs].shape = ours.at(here).shape;
    ClipModel model = unloaded_model(config, options);
    const NamedTensors tensors = clip_tensors(model);
    const WeightsReport report = compare_weights(open_clip_tensors(tensors, places), shapes);
    if (!report.ok())
      throw Error(ErrorCode::kMismatch,
                  detail::concat(kFunction, ": ", weights, ": weights of another architecture: ", report.text()));
    load_weights(tensors, ours, weights);
    return model;
  });
}

std::string clip_weights_file(const std::string& folder) {
  return folder + (is_open_clip(folder) ? "/open_clip_model.safetensors" : "/model.safetensors");
}

ClipModel load_clip_folder(const std::string& folder, const ClipLoadOptions& options) {
  if (!is_open_clip(folder)) return load_clip(folder, options);
  return load_open_clip(clip_weights_file(folder), folder + "/open_clip_config.json", options);
}

void save_open_clip(const std::string& weights, const std::string& config_path, const ClipModel& model) {
  constexpr const char* kFunction = "daug::save_open_clip";
  const NamedTensors tensors = exported_tensors(model, kFunction);
  const ClipConfig config = config_of(model);
  const std::string text = detail::open_clip_config_text(config);
  save_weights(weights, open_clip_tensors(tensors, open_clip_places(config)), {{"format", "pt"}});
  write_file_atomically(config_path, text);
}

}  // namespace daug
