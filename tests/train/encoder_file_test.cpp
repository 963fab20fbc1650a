#include "daug/train/encoder_file.h"

#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/weights.h"
#include "support/catch.h"
#include "support/scratch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// One of every kind of image tower, no option at its default where another is as good.
std::vector<EncoderTrainerOptions> kinds() {
  EncoderTrainerOptions options;
  options.image.image_size = 32;
  options.image.embed_dim = options.text.embed_dim = 6;
  options.image.in_channels = 3;
  options.image.extra = {true, 0.25};
  options.image.conv.base_width = 8;
  options.image.conv.stages = 3;
  options.image.conv.pooling = ImagePooling::kAttention;
  options.image.vit.patch_size = 8;
  options.image.vit.width = 12;
  options.image.vit.depth = 2;
  options.image.vit.heads = 3;
  options.image.vit.mlp_width = 20;
  options.image.vit.activation = Activation::kGelu;
  options.image.vit.norm_epsilon = 1e-3;
  options.image.vit.patch_bias = true;
  options.image.vit.pooling = VitPooling::kMean;
  options.image.resnet.blocks = {1, 2, 1, 1};
  options.image.resnet.base_width = 8;
  options.image.resnet.bottleneck = true;
  options.image.densenet.layers = {2, 1, 3, 1};
  options.image.densenet.base_width = 10;
  options.image.densenet.growth = 4;
  options.image.densenet.bottleneck = 3;
  options.image.densenet.pooling = ImagePooling::kFlatten;
  options.text.vocab_size = 9;
  options.text.context_length = 5;
  options.text.width = 8;
  options.text.depth = 1;
  options.text.heads = 2;
  options.text.mlp_width = 12;
  options.text.end_of_text_id = 7;
  std::vector<EncoderTrainerOptions> all;
  for (const auto kind :
       {ImageEncoderKind::kConv, ImageEncoderKind::kViT, ImageEncoderKind::kResNet, ImageEncoderKind::kDenseNet}) {
    all.push_back(options);
    all.back().image.kind = kind;
  }
  all[1].image.drop_path = 0.1;
  return all;
}

}  // namespace

TEST_CASE("encoders come back from their file without being told what they are", "[encoder_file]") {
  const Scratch scratch;
  const at::Tensor images = random_tensor({2, 1, 32, 32}, 1).to(at::kFloat);
  const at::Tensor maps = random_tensor({2, 2, 32, 32}, 2).to(at::kFloat);
  TextBatch text;
  text.ids = at::tensor(std::vector<std::int64_t>{1, 3, 7, 1, 7, 0}).view({2, 3});
  text.end = at::tensor(std::vector<std::int64_t>{2, 1});
  for (auto options : kinds())
    for (const bool add : {false, true}) {
      INFO("kind " << static_cast<int>(options.image.kind) << " add " << add);
      options.augment.mode = add ? ChannelMode::kAdd : ChannelMode::kAppend;
      options.learn_logit_scale = options.learn_class_bias = add;
      EncoderPair pair = make_encoders(options, 2, 3);
      if (!add) pair.pixels = kImageNetPixels;
      pair.as_module()->eval();
      const HeatmapChannelAugmenter augmenter(options.augment);
      const at::Tensor image = embed_images(pair, augmenter, images, maps);
      const std::string path = scratch.path("encoders.safetensors");
      save_encoders(path, pair, {{"arm", "mine"}});

      std::map<std::string, std::string> metadata;
      const EncoderPair back = load_encoders(path, &metadata);
      CHECK(metadata.at("arm") == "mine");
      CHECK(at::equal(embed_images(back, augmenter, images, maps), image));
      CHECK(at::equal(embed_texts(back, text), embed_texts(pair, text)));
      CHECK(back.logit_scale.defined() == add);
      CHECK_FALSE(back.image->is_training());
      const auto bytes = read_file(path);
      save_encoders(path, back, {{"arm", "mine"}});
      CHECK(read_file(path) == bytes);
    }
}

TEST_CASE("an encoder file that contradicts itself is refused by name", "[encoder_file]") {
  const Scratch scratch;
  const std::string path = scratch.path("encoders.safetensors");
  save_encoders(path, make_encoders(kinds()[1], 2));
  const SafetensorsFile good = read_safetensors(path);
  const auto refused = [&](ErrorCode code, const std::string& part,
                           const std::function<void(SafetensorsFile&)>& change) {
    SafetensorsFile bad = good;
    change(bad);
    write_safetensors(path, bad);
    INFO(part);
    try {
      load_encoders(path);
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      INFO(error.what());
      CHECK(error.code() == code);
      CHECK(std::string(error.what()).find(part) != std::string::npos);
    }
  };
  const auto architecture = [&](const std::function<void(nlohmann::json&)>& change) {
    return [change](SafetensorsFile& file) {
      auto json = nlohmann::json::parse(file.metadata.at("architecture"));
      change(json);
      file.metadata["architecture"] = json.dump();
    };
  };
  refused(ErrorCode::kFormat, "format", [](auto& file) { file.metadata.erase("format"); });
  refused(ErrorCode::kFormat, "architecture", [](auto& file) { file.metadata["architecture"] = "{"; });
  refused(ErrorCode::kFormat, "patch_size", architecture([](auto& json) { json["image"].erase("patch_size"); }));
  refused(ErrorCode::kFormat, "depth", architecture([](auto& json) { json["text"]["depth"] = 1.5; }));
  refused(ErrorCode::kFormat, "kind", architecture([](auto& json) { json["image"]["kind"] = "transformer"; }));
  refused(ErrorCode::kFormat, "heads", architecture([](auto& json) { json["text"]["heads"] = 3; }));
  refused(ErrorCode::kMismatch, "architecture", architecture([](auto& json) {
            json["image"]["width"] = 60000;
            json["image"]["depth"] = 200;
          }));
  refused(ErrorCode::kMismatch, "mismatched", architecture([](auto& json) { json["image"]["mlp_width"] = 21; }));
  refused(ErrorCode::kMismatch, "missing", [](auto& file) { file.tensors.erase("text.text_projection.weight"); });
}
