// CLIP models from and to the Python libraries that own their formats.

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <string>
#include <utility>

#include "encoder/clip_files.h"
#include "encoder/python.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Outputs by the names of the Python script.
NamedTensors outputs_of(ClipModel model, const at::Tensor& pixels, const at::Tensor& ids) {
  const torch::NoGradGuard no_grad;
  const at::Tensor image = model.image(pixels), text = model.text(ids);
  const auto unit = [](const at::Tensor& rows) { return rows / rows.norm(2, 1, /*keepdim=*/true); };
  return {{"image", image}, {"text", text}, {"logits", model.logit_scale.exp() * unit(image).matmul(unit(text).t())}};
}

/// Saves outputs and inputs of a model for the script to compare.
void save_expected(const std::string& path, const ClipModel& model) {
  const ImageEncoderOptions& image = model.image->options();
  const at::Tensor seen = pixels(image.in_channels + image.extra_channels, image.image_size),
                   read = texts(model.text->options().context_length);
  NamedTensors tensors = outputs_of(model, seen, read);
  tensors.emplace("pixels", seen);
  tensors.emplace("ids", read);
  save_weights(path, tensors);
}

/// Both libraries load a model's files and compute what it computes.
void check_libraries_load(const Folder& files, const ClipModel& model) {
  const Scratch scratch;
  const std::string expected = scratch.path("expected.safetensors");
  save_expected(expected, model);
  const std::pair<const char*, std::string> libraries[] = {{"transformers", files.folder()},
                                                           {"open_clip", files.weights() + " " + files.settings()}};
  for (const auto& [library, paths] : libraries)
    python_runs(library, "load_clip.py", library + (" " + paths) + " " + expected, scratch.path("log"));
}

}  // namespace

TEST_CASE("transformers and open_clip load what is written here", "[encoder]") {
  for (const auto activation : {Activation::kQuickGelu, Activation::kGelu})
    for (const std::int64_t end : {std::int64_t{-1}, std::int64_t{29}}) {
      const ClipModel model = small_model(activation, end);
      check_libraries_load(Folder(model), model);
    }
}

TEST_CASE("a model of another image size and text length is written with its own tables", "[encoder]") {
  const Folder files;
  ClipLoadOptions options;
  options.image_size = 20;
  options.context_length = 14;
  const ClipModel model = load_clip(files.folder(), options);
  const Folder written(model);
  CHECK(read_json(written.folder() + "/config.json")["vision_config"]["image_size"] == 20);
  for (const ClipModel& copy : {load_clip(written.folder()), load_open_clip(written.weights(), written.settings())}) {
    CHECK(copy.image->options().image_size == 20);
    CHECK(copy.text->options().context_length == 14);
    CHECK(same_outputs(model, copy));
  }
  check_libraries_load(written, model);
}

TEST_CASE("a model of half precision is written as one, and read with the same numbers", "[encoder]") {
  const auto towers_to = [](ClipModel& model, at::ScalarType type) {
    model.image->to(type);
    model.text->to(type);
    model.logit_scale = model.logit_scale.to(type);
  };
  for (const auto type : {at::kHalf, at::kBFloat16}) {
    ClipModel model = small_model();
    towers_to(model, type);
    const Folder files(model);
    for (const std::string& path : {files.folder() + "/model.safetensors", files.weights()})
      for (const auto& [name, array] : read_safetensors(path).tensors) {
        INFO(name);
        CHECK(tensor_from(array).scalar_type() == type);
      }
    towers_to(model, at::kFloat);
    CHECK(same_outputs(model, load_clip(files.folder())));
    CHECK(same_outputs(model, load_open_clip(files.weights(), files.settings())));
    if (type == at::kBFloat16) check_libraries_load(files, model);
  }
}

TEST_CASE("transformers loads extra channels that are written here", "[encoder]") {
  const Scratch scratch;
  ClipModel wide = small_model();
  wide.image->widen_input(2, {/*gates=*/true, /*dropout=*/0});
  {
    const torch::NoGradGuard no_grad;
    for (const auto& [name, tensor] : named_tensors(*wide.image))
      if (name.find("extra_") != std::string::npos)
        at::Tensor(tensor).add_(0.3 * random_tensor(tensor.sizes().vec(), 9));
  }
  const std::string expected = scratch.path("expected.safetensors");
  save_clip(scratch.path("model"), wide);
  save_expected(expected, wide);
  python_runs("transformers", "load_clip.py", "transformers " + scratch.path("model") + " " + expected,
              scratch.path("log"));
}

TEST_CASE("open_clip loads a mean over patches that is written here", "[encoder]") {
  const Scratch scratch;
  const std::string weights = scratch.path("weights.safetensors"), settings = scratch.path("settings.json"),
                    expected = scratch.path("expected.safetensors");
  const ClipModel model = small_model(Activation::kGelu, 29, VitPooling::kMean);
  save_open_clip(weights, settings, model);
  save_expected(expected, model);
  python_runs("open_clip", "load_clip.py", "open_clip " + weights + " " + settings + " " + expected,
              scratch.path("log"));
}

TEST_CASE("what transformers and open_clip write is loaded here", "[encoder]") {
  Scratch scratch;
  const std::string folder = scratch.path("model"), weights = scratch.path("weights.safetensors"),
                    settings = scratch.path("settings.json"), expected = scratch.path("expected.safetensors");
  const auto written = [&](const std::string& library, const std::string& paths) {
    return python_runs(library, "load_clip.py", library + " --write " + paths + " " + expected, scratch.path("log"));
  };
  const auto check = [&](const ClipModel& model) {
    const SafetensorsFile theirs = read_safetensors(expected);
    for (const auto& [name, ours] :
         outputs_of(model, tensor_from(theirs.at("pixels")), tensor_from(theirs.at("ids")))) {
      INFO(name);
      const at::Tensor wanted = tensor_from(theirs.at(name));
      REQUIRE(ours.sizes() == wanted.sizes());
      CHECK((ours - wanted).abs().max().item<double>() < 1e-5 * (1 + wanted.abs().max().item<double>()));
    }
  };
  ClipLoadOptions options;
  options.assume_defaults = true;
  if (written("transformers", folder)) check(load_clip(folder, options));
  for (const char* pooling : {"tok", "avg"})
    if (written("open_clip", weights + " " + settings + " " + pooling)) {
      const ClipModel model = load_open_clip(weights, settings, options);
      CHECK((model.image->options().vit.pooling == VitPooling::kMean) == (std::string(pooling) == "avg"));
      check(model);
    }
}
