#include "daug/encoder/clip_checkpoint.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "encoder/clip_files.h"

using namespace daug;
using namespace daug::test;
using nlohmann::json;

TEST_CASE("a CLIP model survives both formats bit for bit", "[encoder]") {
  for (const auto activation : {Activation::kQuickGelu, Activation::kGelu})
    for (const std::int64_t end : {std::int64_t{-1}, std::int64_t{29}}) {
      const ClipModel model = small_model(activation, end);
      const Folder files(model);
      for (const ClipModel& copy : {load_clip(files.folder()), load_open_clip(files.weights(), files.settings())}) {
        CHECK(same_outputs(model, copy));
        CHECK(copy.image->options().vit.activation == activation);
        CHECK(copy.text->options().activation == activation);
        CHECK(copy.text->options().end_of_text_id == end);
        CHECK(copy.padding_id == 29);
        CHECK(copy.start_of_text_id == 28);
      }
      const json config = read_json(files.folder() + "/config.json");
      CHECK(config["text_config"]["eos_token_id"] == (end < 0 ? 2 : 29));
      CHECK(config["vision_config"]["hidden_act"] == (activation == Activation::kGelu ? "gelu" : "quick_gelu"));
      CHECK(config["text_config"]["num_hidden_layers"] == 3);
    }
}

TEST_CASE("open_clip's mean over patches is read and written", "[encoder]") {
  const Scratch scratch;
  const std::string weights = scratch.path("weights.safetensors"), settings = scratch.path("settings.json");
  const ClipModel mean = small_model(Activation::kGelu, 29, VitPooling::kMean);
  save_open_clip(weights, settings, mean);
  CHECK(read_json(settings)["vision_cfg"]["pool_type"] == "avg");
  const ClipModel copy = load_open_clip(weights, settings);
  CHECK(copy.image->options().vit.pooling == VitPooling::kMean);
  CHECK(same_outputs(mean, copy));
  // The weights are those of a network that reads the class token; what is read of it is not.
  Folder::change_json(settings, [](json& c) { c["vision_cfg"]["pool_type"] = "tok"; });
  CHECK(same_outputs(load_open_clip(weights, settings), small_model(Activation::kGelu)));
  CHECK_FALSE(same_outputs(load_open_clip(weights, settings), mean));
  // transformers' CLIP has no such pooling, and open_clip none with SigLIP's head.
  CHECK(names(caught([&] { save_clip(scratch.path("folder"), mean); }), ErrorCode::kUnsupported, "pooling"));
  const ClipModel head = small_model(Activation::kGelu, 29, VitPooling::kAttention);
  CHECK(names(caught([&] { save_open_clip(weights, settings, head); }), ErrorCode::kUnsupported, "pooling"));
  CHECK(names(caught([&] { save_clip(scratch.path("folder"), head); }), ErrorCode::kUnsupported, "pooling"));
}

TEST_CASE("epsilon of the layer norms follows the checkpoint", "[encoder]") {
  Folder files;
  Folder::change_json(files.folder() + "/config.json", [](json& c) {
    c["vision_config"]["layer_norm_eps"] = 1e-2;
    c["text_config"]["layer_norm_eps"] = 1e-3;
  });
  const ClipModel model = load_clip(files.folder());
  CHECK(model.image->options().vit.norm_epsilon == 1e-2);
  CHECK(model.text->options().norm_epsilon == 1e-3);
  const torch::NoGradGuard no_grad;
  ClipModel usual = small_model(), other = model;
  CHECK((usual.image(pixels()) - other.image(pixels())).abs().max().item<double>() > 1e-4);
  CHECK((usual.text(texts()) - other.text(texts())).abs().max().item<double>() > 1e-4);
  CHECK(names(caught([&] { save_open_clip(files.weights(), files.settings(), model); }), ErrorCode::kUnsupported,
              "norm_epsilon"));
}

TEST_CASE("extra channels are written as channels of the patch embedding", "[encoder]") {
  ClipModel wide = small_model();
  wide.image->widen_input(4);
  wide.image(pixels(7)).square().sum().backward();
  {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : wide.image->parameters()) parameter.sub_(parameter.grad(), 1e-3);
  }
  const Folder files(wide);
  CHECK(read_json(files.folder() + "/config.json")["vision_config"]["num_channels"] == 7);
  const torch::NoGradGuard no_grad;
  for (ClipModel copy : {load_clip(files.folder()), load_open_clip(files.weights(), files.settings())}) {
    CHECK(copy.image->options().in_channels == 7);
    CHECK((copy.image(pixels(7)) - wide.image(pixels(7))).abs().max().item<double>() < 1e-5);
  }
}

TEST_CASE("a loaded CLIP model takes extra channels without changing a bit", "[encoder]") {
  const Folder files;
  ClipModel model = load_clip(files.folder()), wide = load_clip(files.folder());
  wide.image->widen_input(7);
  const torch::NoGradGuard no_grad;
  const at::Tensor maps = random_tensor({2, 7, 12, 12}, 8).to(at::kFloat);
  CHECK(at::equal(model.image(pixels()), wide.image(at::cat({pixels(), maps}, 1))));
}

TEST_CASE("a checkpoint is read at another image size and text length", "[encoder]") {
  const Folder files;
  ClipLoadOptions options;
  options.image_size = 20;
  options.context_length = 14;
  const auto image_table = [](const ClipModel& model) {
    return named_tensors(*model.image).at("vision_model.embeddings.position_embedding.weight").detach();
  };
  const auto text_table = [](const ClipModel& model) {
    return named_tensors(*model.text).at("text_model.embeddings.position_embedding.weight").detach();
  };
  const ClipModel before = small_model();
  const auto check = [&](PositionFilter of_images, PositionFilter of_texts) {
    for (const ClipModel& model :
         {load_clip(files.folder(), options), load_open_clip(files.weights(), files.settings(), options)}) {
      CHECK(model.image->options().image_size == 20);
      CHECK(model.text->options().context_length == 14);
      CHECK(at::equal(image_table(model), resampled_image_positions(image_table(before), {3, 3}, {5, 5}, of_images)));
      CHECK(at::equal(text_table(model), resampled_text_positions(text_table(before), 14, of_texts)));
    }
  };
  check(PositionFilter::kBicubicAntialias, PositionFilter::kBicubicAntialias);
  // By a filter each; no two make the same table.
  const std::pair<PositionFilter, PositionFilter> filters[] = {{PositionFilter::kLinear, PositionFilter::kBicubic},
                                                               {PositionFilter::kBicubic, PositionFilter::kLinear}};
  for (const auto& [of_images, of_texts] : filters) {
    REQUIRE_FALSE(at::equal(resampled_text_positions(text_table(before), 14, of_images),
                            resampled_text_positions(text_table(before), 14, of_texts)));
    options.image_positions = of_images;
    options.text_positions = of_texts;
    check(of_images, of_texts);
  }
  options.image_size = 18;
  CHECK(names(caught([&] { load_clip(files.folder(), options); }), ErrorCode::kInvalidArgument, "image_size"));
  options.image_size = -1;
  CHECK(names(caught([&] { load_clip(files.folder(), options); }), ErrorCode::kInvalidArgument, "image_size"));
}

TEST_CASE("every field that config.json leaves out is named", "[encoder]") {
  const Folder files;
  const auto without = [&](const char* section, const char* key) {
    return files.config_error([&](json& c) { (section ? c[section] : c).erase(key); });
  };
  for (const char* key : {"model_type", "projection_dim", "vision_config", "text_config"})
    CHECK(names(without(nullptr, key), ErrorCode::kFormat, key));
  for (const char* key : {"image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                          "intermediate_size", "hidden_act", "layer_norm_eps"})
    CHECK(names(without("vision_config", key), ErrorCode::kFormat, std::string("vision_config.") + key));
  for (const char* key :
       {"vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "hidden_act", "layer_norm_eps", "eos_token_id", "bos_token_id", "pad_token_id"})
    CHECK(names(without("text_config", key), ErrorCode::kFormat, std::string("text_config.") + key));

  // What the first releases did not know, and the weights tell.
  Folder::change_json(files.folder() + "/config.json", [](json& c) { c["vision_config"].erase("num_channels"); });
  CHECK(same_outputs(load_clip(files.folder()), small_model()));
  CHECK(load_clip(files.folder()).assumed.empty());
  const auto four_channels = [](SafetensorsFile& f) {
    f.tensors.at("vision_model.embeddings.patch_embedding.weight") = array_from(at::ones({16, 4, 4, 4}));
  };
  CHECK(names(files.weights_error(files.folder() + "/model.safetensors", four_channels), ErrorCode::kMismatch,
              "vision_config.num_channels: expected 4"));

  // What transformers leaves out because it is the default.
  Folder::change_json(files.folder() + "/config.json", [](json& c) {
    c.erase("model_type");
    c["vision_config"].erase("hidden_act");
    for (const char* key : {"layer_norm_eps", "bos_token_id", "pad_token_id"}) c["text_config"].erase(key);
  });
  ClipLoadOptions options;
  options.assume_defaults = true;
  const ClipModel model = load_clip(files.folder(), options);
  CHECK(same_outputs(model, small_model()));
  CHECK(model.assumed == std::vector<std::string>{"model_type = \"clip\"", "vision_config.num_channels = 3",
                                                  "vision_config.hidden_act = \"quick_gelu\"",
                                                  "text_config.layer_norm_eps = 1e-05",
                                                  "text_config.bos_token_id = 49406", "text_config.pad_token_id = 1"});
  CHECK(model.start_of_text_id == 49406);
  CHECK(model.padding_id == 1);
  // A default that is not the model's is told as one.
  Folder::change_json(files.folder() + "/config.json", [](json& c) { c["vision_config"].erase("hidden_size"); });
  const Error error = caught([&] { load_clip(files.folder(), options); });
  CHECK(names(error, ErrorCode::kMismatch, "vision_config.hidden_size: expected 16"));
  CHECK(mentions(error, "assumed: model_type", "vision_config.hidden_size = 768, vision_config.hidden_act"));
}

TEST_CASE("a folder is read by the configuration that it has", "[encoder]") {
  const ClipModel model = small_model(), other = small_model(Activation::kGelu);
  const Scratch scratch;
  CHECK(names(caught([&] { load_clip_folder(scratch.folder()); }), ErrorCode::kNotFound, "/config.json"));
  save_open_clip(scratch.path("open_clip_model.safetensors"), scratch.path("open_clip_config.json"), model);
  CHECK(same_outputs(load_clip_folder(scratch.folder()), model));
  CHECK(clip_weights_file(scratch.folder()) == scratch.path("open_clip_model.safetensors"));
  // The options arrive, and what is assumed comes back.
  Folder::change_json(scratch.path("open_clip_config.json"), [](json& c) { c["text_cfg"].erase("heads"); });
  CHECK(names(caught([&] { load_clip_folder(scratch.folder()); }), ErrorCode::kFormat, "text_cfg.heads"));
  ClipLoadOptions options;
  options.assume_defaults = true;
  CHECK(load_clip_folder(scratch.folder(), options).assumed == std::vector<std::string>{"text_cfg.heads = 8"});
  save_clip(scratch.folder(), other);
  CHECK(same_outputs(load_clip_folder(scratch.folder()), other));
  CHECK_FALSE(same_outputs(load_clip_folder(scratch.folder()), model));
  CHECK(clip_weights_file(scratch.folder()) == scratch.path("model.safetensors"));
}

TEST_CASE("a field of config.json that cannot be is named", "[encoder]") {
  const Folder files;
  const auto with = [&](const char* section, const char* key, const json& value) {
    return files.config_error([&](json& c) { (section ? c[section] : c)[key] = value; });
  };
  CHECK(names(with("vision_config", "hidden_act", "relu"), ErrorCode::kUnsupported, "vision_config.hidden_act"));
  CHECK(names(with("text_config", "layer_norm_eps", 0), ErrorCode::kFormat, "text_config.layer_norm_eps"));
  CHECK(names(with("text_config", "layer_norm_eps", "small"), ErrorCode::kFormat, "text_config.layer_norm_eps"));
  CHECK(names(with("vision_config", "patch_size", 5), ErrorCode::kUnsupported, "vision_config.image_size"));
  CHECK(names(with("vision_config", "image_size", {12, 16}), ErrorCode::kUnsupported, "vision_config.image_size"));
  CHECK(names(with("vision_config", "num_attention_heads", 3), ErrorCode::kFormat, "num_attention_heads"));
  CHECK(names(with("vision_config", "hidden_size", -4), ErrorCode::kFormat, "vision_config.hidden_size"));
  CHECK(names(with("vision_config", "hidden_size", 1e300), ErrorCode::kFormat, "vision_config.hidden_size"));
  CHECK(names(with("text_config", "vocab_size", 18446744073709551615ULL), ErrorCode::kFormat, "vocab_size"));
  CHECK(names(with("text_config", "eos_token_id", 30), ErrorCode::kFormat, "text_config.eos_token_id"));
  CHECK(names(with("text_config", "eos_token_id", {1, 2}), ErrorCode::kFormat, "text_config.eos_token_id"));
  CHECK(names(with(nullptr, "model_type", "siglip"), ErrorCode::kUnsupported, "model_type"));
  CHECK(names(with(nullptr, "text_config", 7), ErrorCode::kFormat, "text_config"));
  write_file_atomically(files.folder() + "/config.json", "{");
  CHECK(names(caught([&] { load_clip(files.folder()); }), ErrorCode::kFormat, "config.json"));
  CHECK(names(caught([&] { load_clip(files.folder() + "/none"); }), ErrorCode::kNotFound, "none/config.json"));
}

TEST_CASE("what older files of transformers say twice has to agree", "[encoder]") {
  const Folder files;
  const std::string path = files.folder() + "/config.json";
  // As published: some fields once more, or null.
  Folder::change_json(path, [](json& c) {
    c["text_config_dict"] = {{"num_attention_heads", 4}, {"hidden_size", 8}, {"projection_dim", 6}};
    c["vision_config_dict"] = nullptr;
  });
  CHECK(same_outputs(load_clip(files.folder()), small_model()));
  // Numbers that no weight's shape tells.
  const Error heads = files.config_error([](json& c) { c["text_config_dict"]["num_attention_heads"] = 2; });
  CHECK(names(heads, ErrorCode::kUnsupported, "text_config.num_attention_heads: expected 2 as in text_config_dict"));
  CHECK(names(files.config_error([](json& c) { c["vision_config_dict"]["hidden_act"] = "gelu"; }),
              ErrorCode::kUnsupported, "vision_config.hidden_act: expected \"gelu\" as in vision_config_dict"));
}

TEST_CASE("a field that contradicts the weights is named", "[encoder]") {
  const Folder files;
  const std::pair<const char*, std::vector<std::pair<const char*, int>>> sections[] = {{"vision_config",
                                                                                        {{"image_size", 16},
                                                                                         {"num_channels", 1},
                                                                                         {"hidden_size", 32},
                                                                                         {"num_hidden_layers", 3},
                                                                                         {"intermediate_size", 25}}},
                                                                                       {"text_config",
                                                                                        {{"vocab_size", 31},
                                                                                         {"max_position_embeddings", 8},
                                                                                         {"hidden_size", 16},
                                                                                         {"num_hidden_layers", 1},
                                                                                         {"intermediate_size", 4}}}};
  for (const auto& [section, fields] : sections)
    for (const auto& [key, value] : fields)
      CHECK(names(
          files.config_error([&, section = section, key = key, value = value](json& c) { c[section][key] = value; }),
          ErrorCode::kMismatch, std::string(section) + "." + key));
  CHECK(names(files.config_error([](json& c) { c["projection_dim"] = 7; }), ErrorCode::kMismatch, "projection_dim"));
  CHECK(names(files.open_clip_error([](json& c) { c["vision_cfg"]["mlp_ratio"] = 2; }), ErrorCode::kMismatch,
              "vision_cfg.mlp_ratio"));
  CHECK(names(files.open_clip_error([](json& c) { c["text_cfg"]["layers"] = 4; }), ErrorCode::kMismatch,
              "text_cfg.layers"));
  // Nothing is set aside for a network that the file cannot fill.
  const std::string tokens = "text_model.embeddings.token_embedding.weight";
  Folder::change_json(files.folder() + "/config.json", [](json& c) { c["text_config"]["vocab_size"] = 1 << 24; });
  CHECK(names(files.weights_error(files.folder() + "/model.safetensors", [&](auto& f) { f.tensors.erase(tokens); }),
              ErrorCode::kMismatch, "numbers of"));
}

TEST_CASE("missing, unexpected and mismatched keys are reported in the file's own names", "[encoder]") {
  const Folder files;
  const std::string path = files.folder() + "/model.safetensors";
  const std::string key = "vision_model.encoder.layers.1.layer_norm1.weight";
  const auto error = files.weights_error(path, [&](SafetensorsFile& f) {
    f.tensors.erase(key);
    f.tensors["stranger"] = Array::from(std::vector<float>{1}, {1});
    f.tensors["visual_projection.weight"].shape = {6, 4, 4};
  });
  CHECK(names(error, ErrorCode::kMismatch, "1 missing: " + key));
  CHECK(mentions(error, "1 unexpected: stranger"));
  CHECK(mentions(error, "1 mismatched: visual_projection.weight: expected [6, 16], got [6, 4, 4]"));

  const auto open_clip = files.weights_error(files.weights(), [&](SafetensorsFile& f) {
    f.tensors.erase("transformer.resblocks.2.attn.in_proj_bias");
    f.tensors["visual.transformer.resblocks.0.attn.in_proj_weight"].shape = {12, 64};
    f.tensors["logit_bias"] = Array::from(std::vector<float>{1}, {1});
    f.tensors["text_projection"].shape = {48};
  });
  CHECK(names(open_clip, ErrorCode::kMismatch, "1 missing: transformer.resblocks.2.attn.in_proj_bias"));
  CHECK(mentions(open_clip, "1 unexpected: logit_bias"));
  CHECK(mentions(open_clip, "visual.transformer.resblocks.0.attn.in_proj_weight: expected [48, 16], got [12, 64]"));
  CHECK(mentions(open_clip, "text_projection: expected [8, 6], got [48]"));
}

TEST_CASE("a position table that cannot be resampled is reported by its key", "[encoder]") {
  const Folder files;
  ClipLoadOptions larger;
  larger.image_size = 20;
  larger.context_length = 14;
  const std::string model = files.folder() + "/model.safetensors";
  struct Table {
    std::string path, key;
    std::int64_t rows;
    std::string expected;
  };
  const std::vector<Table> tables = {{model, "text_model.embeddings.position_embedding.weight", 9, "[14, 8]"},
                                     {model, "vision_model.embeddings.position_embedding.weight", 10, "[26, 16]"},
                                     {files.weights(), "positional_embedding", 9, "[14, 8]"},
                                     {files.weights(), "visual.positional_embedding", 10, "[26, 16]"}};
  const std::vector<std::vector<std::int64_t>> behind_rows = {{}, {0}, {8, 1}};
  for (const Table& table : tables)
    for (const auto& rest : behind_rows) {
      std::vector<std::int64_t> shape = {table.rows};
      shape.insert(shape.end(), rest.begin(), rest.end());
      const auto change = [&](SafetensorsFile& f) { f.tensors.at(table.key) = array_from(at::ones(shape)); };
      const Error error = files.weights_error(table.path, change, larger);
      CHECK(names(error, ErrorCode::kMismatch, table.path));
      CHECK(mentions(error, "1 mismatched: " + table.key + ": expected " + table.expected + ", got [" +
                                std::to_string(table.rows)));
    }
}

TEST_CASE("codes of a quantised checkpoint are not taken for weights", "[encoder]") {
  const Folder files;
  const auto refused = [&](const std::string& path, const std::string& key, const ClipLoadOptions& options = {}) {
    const auto change = [&](SafetensorsFile& f) {
      f.tensors.at(key) = array_from(tensor_from(f.at(key)).to(at::kChar));
    };
    CHECK(names(files.weights_error(path, change, options), ErrorCode::kMismatch,
                "1 mismatched: " + key + ": expected floating point, got I8"));
  };
  const std::string path = files.folder() + "/model.safetensors";
  for (const char* key : {"vision_model.encoder.layers.0.mlp.fc1.weight", "text_projection.weight", "logit_scale"})
    refused(path, key);
  // Whole, taken apart and transposed arrays.
  for (const char* key : {"visual.class_embedding", "transformer.resblocks.1.attn.in_proj_weight", "visual.proj"})
    refused(files.weights(), key);
  // Tables that would be resampled.
  ClipLoadOptions larger;
  larger.image_size = 20;
  larger.context_length = 14;
  for (const char* table : {"vision_model", "text_model"})
    refused(path, std::string(table) + ".embeddings.position_embedding.weight", larger);
}

TEST_CASE("position_ids of older checkpoints are no weights", "[encoder]") {
  const Folder files;
  const std::string path = files.folder() + "/model.safetensors";
  const auto numbers = [](std::int64_t count) { return array_from(at::arange(count, at::kLong).unsqueeze(0)); };
  const std::pair<std::string, std::int64_t> tables[] = {{"text_model.embeddings.position_ids", 9},
                                                         {"vision_model.embeddings.position_ids", 10}};
  for (const auto& table : tables) {
    const std::string& key = table.first;
    const auto refused = [&](const Array& ids, const std::string& expected) {
      CHECK(names(files.weights_error(path, [&](SafetensorsFile& f) { f.tensors[key] = ids; }), ErrorCode::kMismatch,
                  key + ": expected " + expected));
    };
    const std::string count = std::to_string(table.second);
    refused(array_from(at::arange(table.second, at::kFloat)), "whole numbers, got F32");
    refused(numbers(table.second - 1), count + " numbers");
    refused(numbers(table.second + 1), count + " numbers");
    refused(array_from(-at::arange(table.second, at::kLong)), "0, 1, 2, ..., got -1");
  }
  Folder::change_weights(path, [&](SafetensorsFile& f) {
    for (const auto& [key, count] : tables) f.tensors[key] = numbers(count);
  });
  CHECK(same_outputs(load_clip(files.folder()), small_model()));
}

TEST_CASE("half-precision checkpoints are widened", "[encoder]") {
  const Folder files;
  Folder::change_weights(files.folder() + "/model.safetensors", [](SafetensorsFile& f) {
    for (auto& [name, array] : f.tensors) array = array_from(tensor_from(array).to(at::kHalf));
  });
  const torch::NoGradGuard no_grad;
  ClipModel half = load_clip(files.folder()), full = small_model();
  CHECK(half.image->parameters()[0].scalar_type() == at::kFloat);
  CHECK((half.image(pixels()) - full.image(pixels())).abs().max().item<double>() < 2e-2);
  ClipLoadOptions options;
  options.image_size = 16;
  CHECK(load_clip(files.folder(), options).image->options().image_size == 16);
}

TEST_CASE("open_clip's fused and transposed arrays are taken apart by definition", "[encoder]") {
  const Folder files;
  const SafetensorsFile theirs = read_safetensors(files.weights());
  const ClipModel model = load_open_clip(files.weights(), files.settings());
  const NamedTensors image = named_tensors(*model.image), text = named_tensors(*model.text);
  const at::Tensor fused = tensor_from(theirs.at("visual.transformer.resblocks.1.attn.in_proj_weight"));
  const std::string attention = "vision_model.encoder.layers.1.self_attn.";
  CHECK(at::equal(image.at(attention + "q_proj.weight"), fused.slice(0, 0, 16)));
  CHECK(at::equal(image.at(attention + "k_proj.weight"), fused.slice(0, 16, 32)));
  CHECK(at::equal(image.at(attention + "v_proj.weight"), fused.slice(0, 32, 48)));
  CHECK(at::equal(image.at("visual_projection.weight"), tensor_from(theirs.at("visual.proj")).t()));
  CHECK(at::equal(text.at("text_projection.weight"), tensor_from(theirs.at("text_projection")).t()));
  CHECK(at::equal(text.at("text_model.encoder.layers.2.mlp.fc2.bias"),
                  tensor_from(theirs.at("transformer.resblocks.2.mlp.c_proj.bias"))));
}

TEST_CASE("open_clip's configuration decides, and what it cannot be is named", "[encoder]") {
  const Folder files;
  // In its download format, and with the activation left to open_clip's default.
  Folder::change_json(files.settings(), [](json& c) {
    c.erase("quick_gelu");
    c = json{{"model_cfg", c}, {"preprocess_cfg", {{"mean", {0, 0, 0}}}}};
  });
  CHECK(load_open_clip(files.weights(), files.settings()).text->options().activation == Activation::kGelu);
  const auto with = [&](const char* section, const char* key, const json& value) {
    return files.open_clip_error([&](json& c) { c["model_cfg"][section][key] = value; });
  };
  CHECK(names(with("vision_cfg", "timm_model_name", "vit"), ErrorCode::kUnsupported, "vision_cfg.timm_model_name"));
  CHECK(names(with("vision_cfg", "layers", {3, 4, 6, 3}), ErrorCode::kUnsupported, "vision_cfg.layers"));
  CHECK(names(with("vision_cfg", "pool_type", "none"), ErrorCode::kUnsupported, "vision_cfg.pool_type"));
  CHECK(names(with("vision_cfg", "pool_type", 3), ErrorCode::kUnsupported, "vision_cfg.pool_type"));
  CHECK(names(with("vision_cfg", "final_ln_after_pool", true), ErrorCode::kUnsupported, "final_ln_after_pool"));
  CHECK(names(with("vision_cfg", "no_ln_pre", true), ErrorCode::kUnsupported, "vision_cfg.no_ln_pre"));
  CHECK(names(with("vision_cfg", "head_width", 5), ErrorCode::kFormat, "vision_cfg.head_width"));
  CHECK(names(with("text_cfg", "hf_model_name", "bert"), ErrorCode::kUnsupported, "text_cfg.hf_model_name"));
  CHECK(names(with("text_cfg", "no_causal_mask", true), ErrorCode::kUnsupported, "text_cfg.no_causal_mask"));
  CHECK(names(with("text_cfg", "pool_type", "last"), ErrorCode::kUnsupported, "text_cfg.pool_type"));
  CHECK(names(with("text_cfg", "heads", 3), ErrorCode::kFormat, "text_cfg.heads"));
  for (const char* key : {"context_length", "vocab_size", "width", "heads", "layers"})
    CHECK(names(files.open_clip_error([&](json& c) { c["model_cfg"]["text_cfg"].erase(key); }), ErrorCode::kFormat,
                std::string("text_cfg.") + key));
  for (const char* key : {"image_size", "patch_size", "width", "layers"})
    CHECK(names(files.open_clip_error([&](json& c) { c["model_cfg"]["vision_cfg"].erase(key); }), ErrorCode::kFormat,
                std::string("vision_cfg.") + key));
  for (const char* key : {"embed_dim", "vision_cfg", "text_cfg"})
    CHECK(names(files.open_clip_error([&](json& c) { c["model_cfg"].erase(key); }), ErrorCode::kFormat,
                std::string("model_cfg.") + key));
  CHECK(names(files.open_clip_error([](json& c) { c["model_cfg"]["custom_text"] = true; }), ErrorCode::kUnsupported,
              "custom_text"));
}

TEST_CASE("what the formats cannot hold is refused before anything is written", "[encoder]") {
  Scratch scratch;
  ClipModel model = small_model(Activation::kGelu, 2);
  CHECK(names(caught([&] { save_clip(scratch.path("a"), model); }), ErrorCode::kUnsupported, "end_of_text_id"));
  model = small_model();
  ImageEncoderOptions conv;
  conv.embed_dim = 6;
  model.image = ImageEncoder(conv);
  CHECK(names(caught([&] { save_clip(scratch.path("a"), model); }), ErrorCode::kUnsupported, "kind"));
  CHECK(names(caught([&] { save_clip(scratch.path("a"), ClipModel{}); }), ErrorCode::kInvalidArgument, "model"));
  CHECK(scratch.count() == 0);
}
