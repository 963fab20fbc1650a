// Encoders of a run.

#include <ATen/ATen.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/position_table.h"
#include "daug/encoder/tokenizer.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/io/weights.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "daug/train/encoder_file.h"
#include "pipeline/run_impl.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/clip.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::finished_run;
using daug::test::Scratch;
using daug::test::small_clip;

TEST_CASE("a run's encoders start and train as its settings say", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);

  SECTION("encoders train as their settings say") {
    RunConfig changed = config;
    changed.encoder.epochs = 3;
    changed.encoder.patience = 1;
    changed.encoder.context = 12;  // tokens, which reports have more of
    changed.encoder.ema = 0.5;
    changed.encoder.freeze = "text.*.bias, image.*.norm1.weight";
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    CHECK(read_text_file(config.out + "/run.log").find("validations") != std::string::npos);
    int frozen = 0;
    for (const auto& [name, array] : read_safetensors(config.out + "/encoders/image_evidence.safetensors").tensors) {
      const bool text_bias = name.rfind("text.", 0) == 0 && name.ends_with(".bias");
      const bool norm = name.rfind("image.", 0) == 0 && name.ends_with(".norm1.weight");
      if (!text_bias && !norm) continue;
      INFO(name);
      ++frozen;
      for (const double value : array.to_double()) REQUIRE(value == (norm ? 1 : 0));
    }
    CHECK(frozen > 5);
    // The best weights and the last ones.
    const EncoderPair best = load_encoders(config.out + "/encoders/image_evidence.safetensors");
    const EncoderPair last = load_encoders(config.out + "/encoders/image_evidence.last.safetensors");
    CHECK_FALSE(last.logit_scale.defined());
    CHECK(best.image->options().extra_channels == last.image->options().extra_channels);
    CHECK(best.text->options().context_length == 12);
  }

  SECTION("the loss's options are settings, and what is learnt is kept and used") {
    RunConfig changed = config;
    changed.encoder.learn_temperature = true;
    changed.encoder.class_bias = true;
    changed.encoder.loss = "siglip";
    changed.encoder.pooling = "attention";
    changed.encoder.learning_rate = 0.01;
    Run run(changed, {});
    CHECK(run.execute(Stage::kEncoders));
    const EncoderPair pair = load_encoders(config.out + "/encoders/image_evidence.safetensors");
    CHECK(pair.image->options().conv.pooling == ImagePooling::kAttention);
    REQUIRE(pair.logit_scale.defined());
    CHECK(pair.logit_scale.item<double>() != changed.encoder.logit_scale);
    CHECK(pair.logit_bias.item<double>() != -10);
    CHECK(pair.class_bias.numel() == 6);
    CHECK(run.execute(Stage::kIndex));
    CHECK(run.execute(Stage::kEvaluate));
    const auto by_single = read_metrics(config.out + "/metrics.json");
    // Other wordings change how images are classified, not how they were trained.
    changed.encoder.prompts = "ensemble";
    Run ensemble(changed, {});
    for (Stage stage : {Stage::kEncoders, Stage::kIndex}) CHECK_FALSE(ensemble.execute(stage));
    CHECK(ensemble.execute(Stage::kEvaluate));
    const auto by_ensemble = read_metrics(config.out + "/metrics.json");
    const auto value = [](const std::vector<Figure>& figures, const char* name) {
      return find_figure(figures, name, "image+evidence")->value;
    };
    CHECK(value(by_single, "classification.ece") != value(by_ensemble, "classification.ece"));
    for (const char* name : {"classification.linear_probe_auroc_macro", "retrieval.p_at_5"})
      CHECK(value(by_single, name) == value(by_ensemble, name));
  }

  SECTION("encoders start from a torchvision file, from encoders of another run, and from a CLIP folder") {
    RunConfig changed = config;
    changed.encoder.epochs = 1;
    changed.encoder.ema = 0;
    // What is frozen is the checkpoint's to the bit, so the rest started from it.
    ImageEncoderOptions resnet;
    resnet.kind = ImageEncoderKind::kResNet;
    resnet.in_channels = 3;
    resnet.image_size = 32;
    resnet.resnet.blocks = {1, 1, 1, 1};
    resnet.resnet.base_width = 8;
    save_torchvision(scratch.path("resnet.safetensors"), ImageEncoder(resnet, 5));
    const SafetensorsFile checkpoint = read_safetensors(scratch.path("resnet.safetensors"));
    changed.encoder.image_checkpoint = scratch.path("resnet.safetensors");
    changed.encoder.freeze = "image.vision_model.layer*";
    {
      Run run(changed, {});
      for (Stage stage : {Stage::kEncoders, Stage::kIndex, Stage::kEvaluate}) CHECK(run.execute(stage));
    }
    daug::test::contains(
        read_text_file(config.out + "/run.log"),
        "resnet.safetensors: left out fc.weight, fc.bias; kept as initialised visual_projection.weight");
    const SafetensorsFile trained = read_safetensors(config.out + "/encoders/image_evidence.safetensors");
    int frozen = 0;
    for (const auto& [name, array] : checkpoint.tensors)
      if (name.rfind("layer", 0) == 0 && name.ends_with("weight")) {
        CHECK(trained.at("image.vision_model." + name).data == array.data);
        ++frozen;
      }
    CHECK(frozen > 10);
    CHECK(trained.at("image.vision_model.conv1.weight").data != checkpoint.at("conv1.weight").data);
    CHECK(trained.at("image.vision_model.conv1.extra_weight").shape.at(1) == 6);

    fs::copy_file(config.out + "/encoders/image.safetensors", scratch.path("own.safetensors"));
    changed.encoder.image_checkpoint = scratch.path("own.safetensors");
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    CHECK(read_safetensors(config.out + "/encoders/image_noise.safetensors")
              .at("image.vision_model.layer1.0.conv1.weight")
              .data == checkpoint.at("layer1.0.conv1.weight").data);
    changed.encoder.image_checkpoint = config.out + "/encoders/image_noise.safetensors";
    CHECK_THROWS_WITH(Run(changed, {}).execute(Stage::kEncoders), daug::test::contains_text("map channels"));
    changed.encoder.pixels = "radiograph";
    changed.encoder.image_checkpoint = scratch.path("own.safetensors");  // which says how it takes pixels
    CHECK_THROWS_WITH(Run(changed, {}).execute(Stage::kEncoders), daug::test::contains_text("encoder.pixels"));
    resnet.in_channels = 1;
    save_torchvision(scratch.path("gray.safetensors"), ImageEncoder(resnet, 5));
    changed.encoder.image_checkpoint = scratch.path("gray.safetensors");
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    const EncoderPair gray = load_encoders(config.out + "/encoders/image.safetensors");
    CHECK(gray.image->options().in_channels == 1);
    REQUIRE(gray.pixels);
    CHECK(gray.pixels->deviation == kRadiographPixels.deviation);
    changed.encoder.pixels = "default";
    EncoderPair two_towers = load_encoders(scratch.path("own.safetensors"));
    two_towers.heatmap = ImageEncoder(two_towers.image->options(), 7);
    save_encoders(scratch.path("two_towers.safetensors"), two_towers);
    changed.encoder.image_checkpoint = scratch.path("two_towers.safetensors");
    CHECK_THROWS_WITH(Run(changed, {}).execute(Stage::kEncoders), daug::test::contains_text("heatmap towers"));

    const BpeVocabulary vocabulary = BpeVocabulary::from_merges({});
    ClipModel clip = small_clip(vocabulary);
    TextEncoderOptions text = clip.text->options();
    save_clip(scratch.path("clip"), clip);
    vocabulary.save(scratch.path("clip"));
    changed.encoder.image_checkpoint.clear();
    changed.encoder.clip = scratch.path("clip");
    changed.encoder.freeze = "image.*.layers.*, text.*.token_embedding.*";
    {
      Run run(changed, {});
      for (Stage stage : {Stage::kEncoders, Stage::kIndex, Stage::kEvaluate}) CHECK(run.execute(stage));
    }
    daug::test::contains(read_text_file(config.out + "/run.log"), "clip: its ln tau of 2.5000 is not taken");
    const EncoderPair pair = load_encoders(config.out + "/encoders/image_evidence.safetensors");
    CHECK(pair.image->options().image_size == 32);
    CHECK(pair.text->options().context_length == changed.encoder.context);
    REQUIRE(pair.pixels);
    CHECK(pair.pixels->mean == kClipPixels.mean);
    const SafetensorsFile clip_file = read_safetensors(scratch.path("clip/model.safetensors"));
    const SafetensorsFile from_clip = read_safetensors(config.out + "/encoders/image_evidence.safetensors");
    const std::string tokens = "text_model.embeddings.token_embedding.weight";
    CHECK(from_clip.at("text." + tokens).data == clip_file.at(tokens).data);
    // Other weights in the same place are another run.
    clip.text = TextEncoder(text, 3);
    save_clip(scratch.path("clip"), clip);
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    // A field that transformers leaves out is assumed and told, or refused.
    auto clip_config = nlohmann::json::parse(read_text_file(scratch.path("clip/config.json")));
    clip_config["vision_config"].erase("hidden_act");
    write_file_atomically(scratch.path("clip/config.json"), clip_config.dump());
    changed.encoder.clip_strict = true;
    check_refused(ErrorCode::kFormat, "vision_config.hidden_act", [&] { Run(changed, {}).execute(Stage::kEncoders); });
    changed.encoder.clip_strict = false;
    CHECK(read_text_file(config.out + "/run.log").find("hidden_act") == std::string::npos);
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    CHECK(read_text_file(config.out + "/run.log").find("vision_config.hidden_act = \"quick_gelu\"") !=
          std::string::npos);
    changed.encoder.clip_strict = true;  // of what is trained it says nothing
    CHECK_FALSE(Run(changed, {}).execute(Stage::kEncoders));
    changed.encoder.clip_strict = false;
    // A folder of open_clip's.
    changed.encoder.clip = scratch.path("open_clip");
    fs::create_directories(changed.encoder.clip);
    const std::string weights = scratch.path("open_clip/open_clip_model.safetensors");
    save_open_clip(weights, scratch.path("open_clip/open_clip_config.json"), clip);
    vocabulary.save(changed.encoder.clip);
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    CHECK(read_safetensors(config.out + "/encoders/image_evidence.safetensors").at("text." + tokens).data ==
          read_safetensors(weights).at("token_embedding.weight").data);
    changed.encoder.clip = scratch.path("clip");
    text.vocab_size -= 1;
    text.end_of_text_id -= 1;
    clip.text = TextEncoder(text, 3);
    save_clip(scratch.path("clip"), clip);
    CHECK(caught([&] { Run(changed, {}).execute(Stage::kEncoders); }).code() == ErrorCode::kMismatch);
  }

  SECTION("every kind of image tower trains") {
    for (const char* kind : {"vit", "resnet18"}) {
      INFO(kind);
      RunConfig changed = config;
      changed.encoder.kind = kind;
      changed.encoder.pooling = "mean";
      changed.encoder.width = 8;
      changed.encoder.epochs = 1;
      CHECK(Run(changed, {}).execute(Stage::kEncoders));
      const auto options = load_encoders(config.out + "/encoders/image_evidence.safetensors").image->options();
      CHECK(options.kind == (std::string(kind) == "vit" ? ImageEncoderKind::kViT : ImageEncoderKind::kResNet));
    }
  }
}

TEST_CASE("position tables of a CLIP folder are resampled by the filters that the settings name", "[pipeline]") {
  const Scratch scratch;
  const BpeVocabulary vocabulary = BpeVocabulary::from_merges({});
  const ClipModel clip = small_clip(vocabulary);
  save_clip(scratch.path("clip"), clip);
  vocabulary.save(scratch.path("clip"));
  const auto image_table = [](const ImageEncoder& tower) {
    return named_tensors(*tower).at("vision_model.embeddings.position_embedding.weight").detach();
  };
  const auto text_table = [](const TextEncoder& tower) {
    return named_tensors(*tower).at("text_model.embeddings.position_embedding.weight").detach();
  };
  const std::vector<std::pair<std::string, PositionFilter>> filters = {
      {"bicubic_antialias", PositionFilter::kBicubicAntialias},
      {"bicubic", PositionFilter::kBicubic},
      {"linear", PositionFilter::kLinear}};
  for (const auto& [of_images, image_filter] : filters)
    for (const auto& [of_texts, text_filter] : filters) {
      INFO(of_images << ", " << of_texts);
      Run::Impl inside;
      inside.read_only = true;
      inside.config.encoder.clip = scratch.path("clip");
      inside.config.encoder.image_positions = of_images;
      inside.config.encoder.text_positions = of_texts;
      inside.config.validate();
      const PretrainedTowers& towers = inside.pretrained();  // 32 pixels, 48 tokens
      CHECK(at::equal(image_table(towers.image),
                      resampled_image_positions(image_table(clip.image), {2, 2}, {4, 4}, image_filter)));
      CHECK(at::equal(text_table(towers.text), resampled_text_positions(text_table(clip.text), 48, text_filter)));
    }
}
