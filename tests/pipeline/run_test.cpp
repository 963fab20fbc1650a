#include "daug/pipeline/run.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/data/dataset.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/tokenizer.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/image/png.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/map_maker.h"
#include "daug/train/encoder_file.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"

namespace fs = std::filesystem;
using namespace daug;
using Scratch = daug::test::ScratchRun;
constexpr auto& error_of = daug::test::error_code_of;
using daug::test::finished_run;
using daug::test::smallest;

TEST_CASE("a run makes models, maps, indexes, figures and a report, and reuses them", "[pipeline]") {
  const Scratch scratch("run");
  const RunConfig config = finished_run(scratch);
  CHECK(fs::exists(config.out + "/tables"));
  for (const char* file : {"config.json", "metrics.json", "report.html", "run.log", "translator.safetensors",
                           "guide.safetensors", "tokenizer/vocab.json", "index/image.daugindex"})
    CHECK(fs::exists(config.out + "/" + file));

  SECTION("every figure has a definition and a sane interval, and the promised ones are there") {
    std::set<std::string> seen;
    for (const Figure& figure : read_metrics(config.out + "/metrics.json")) {
      INFO(figure.name << " " << figure.arm << " " << figure.split);
      CHECK_FALSE(figure.definition.empty());
      if (figure.low && figure.high) CHECK(*figure.low <= *figure.high);
      seen.insert(figure.name + "/" + figure.arm);
    }
    for (const char* arm : {"difference", "evidence", "score_difference", "mean_mask", "no_target"})
      for (const char* name : {"map.pixel_auroc", "map.pixel_ap", "map.pointing"})
        CHECK(seen.count(std::string(name) + "/" + arm) == 1);
    for (const char* name : {"map.in_mask_ratio/difference", "map.outside_change/difference",
                             "map.image_auroc/evidence", "map.image_auroc/mean_mask",
                             "classification.auroc_macro/pca_logistic", "classification.auroc[Effusion]/image+evidence",
                             "map.pixel_ap[Nodule]/difference", "map.pointing[Nodule]/mean_mask"})
      CHECK(seen.count(name) == 1);
    for (const char* arm : {"image", "image+difference", "image+evidence", "image+noise"})
      for (const char* name : {"classification.auroc_macro", "retrieval.p_at_5", "retrieval.map_at_1",
                               "retrieval.map_at_3", "classification.linear_probe_auroc_macro", "retrieval.map_at_5",
                               "retrieval.map_at_10", "retrieval.wmap_at_10", "retrieval.report_to_image.p_at_5"})
        CHECK(seen.count(std::string(name) + "/" + arm) == 1);
    for (Stage stage : all_stages()) CHECK(seen.count("time." + stage_name(stage) + "/run") == 1);
  }

  SECTION("a second run redoes nothing; a changed setting redoes what depends on it") {
    {
      Run run(config, {});
      for (Stage stage : all_stages()) CHECK_FALSE(run.execute(stage));
    }
    RunConfig changed = config;
    changed.evaluate.resamples = 21;
    {
      Run run(changed, {});
      for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage >= Stage::kEvaluate));
    }
    // Contrast-guided maps do not depend on the guide; what is measured does.
    changed.guide.steps += 1;
    Run run(changed, {});
    for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage == Stage::kGuide || stage >= Stage::kEvaluate));
  }

  SECTION("--force redoes any stage to the same bytes") {
    const std::map<Stage, std::string> made = {{Stage::kTranslator, "translator.safetensors"},
                                               {Stage::kGuide, "guide.safetensors"},
                                               {Stage::kHeatmaps, "heatmaps/000000.safetensors"},
                                               {Stage::kEncoders, "encoders/image.safetensors"},
                                               {Stage::kIndex, "index/image.daugindex"},
                                               {Stage::kEvaluate, "stages/details.json"},
                                               {Stage::kReport, "figures"}};
    for (const auto& [stage, name] : made) {
      INFO(stage_name(stage));
      const std::string path = config.out + "/" + name;
      const bool file = fs::is_regular_file(path);
      const auto before = file ? read_file(path) : std::vector<std::uint8_t>();
      const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(1000);
      fs::last_write_time(path, long_ago);
      RunConfig forced = config;
      forced.force = {stage_name(stage)};
      Run run(forced, {});
      CHECK(run.execute(stage));
      CHECK(fs::last_write_time(path) > long_ago + std::chrono::hours(1));
      if (file) CHECK(read_file(path) == before);
    }
    // What was measured anew is shown anew, so no figure of a time is lost.
    Run run(config, {});
    CHECK(run.execute(Stage::kReport) == false);
    RunConfig forced = config;
    forced.force = {"evaluate"};
    Run again(forced, {});
    CHECK(again.execute(Stage::kEvaluate));
    CHECK(again.execute(Stage::kReport));
    const auto figures = read_metrics(config.out + "/metrics.json");
    for (Stage stage : all_stages()) CHECK(find_figure(figures, "time." + stage_name(stage), "run", "all"));
  }

  SECTION("another mask is measured again") {
    const Cohort cohort = read_cohort(config.out + "/phantoms");
    const auto study = std::find_if(cohort.studies.begin(), cohort.studies.end(),
                                    [](const Study& one) { return !one.mask_paths.empty() && one.split == "test"; });
    REQUIRE(study != cohort.studies.end());
    const std::string mask = study->mask_paths.begin()->second;
    const auto png = encode_png(GrayImage::filled(32, 32, 1.0F));
    write_file_atomically(mask, png.data(), png.size());
    {
      Run run(config, {});
      for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage >= Stage::kEvaluate));
    }
    // One that cannot be read is found before anything is trained.
    write_file_atomically(mask, "no picture");
    RunConfig forced = config;
    forced.force = {"translator"};
    CHECK_THROWS_WITH(Run(forced, {}).execute(Stage::kTranslator), daug::test::contains_text(mask));
    forced.skip_bad = true;
    CHECK(Run(forced, {}).execute(Stage::kTranslator));
  }

  SECTION("another tokenizer is not the encoders'") {
    const std::string merges = config.out + "/tokenizer/merges.txt";
    write_file_atomically(merges, read_text_file(merges) + "\n");
    Run run(config, {});
    fs::remove(config.out + "/stages/index.json");
    CHECK_THROWS_WITH(run.execute(Stage::kIndex), daug::test::contains_text("tokenizer"));
  }

  SECTION("maps are calibrated on healthy validation images and tested on healthy test images") {
    RunConfig own = smallest(scratch / "calibrated");
    own.phantom.val = 30;  // some of them healthy
    {
      Run run(own, {});
      for (Stage stage : all_stages())
        if (stage <= Stage::kEvaluate) run.execute(stage);
    }
    const Cohort cohort = read_cohort(own.out + "/phantoms");
    const auto healthy = [&](const char* split) {
      std::set<std::size_t> rows;
      for (const std::size_t i : cohort.split_indices(split)) {
        const auto& labels = cohort.studies[i].labels;
        const auto has = [&](LabelState state) { return std::count(labels.begin(), labels.end(), state) > 0; };
        if (has(LabelState::kNegative) && !has(LabelState::kPositive)) rows.insert(i);
      }
      return rows;
    };
    const auto tests = healthy("test");
    REQUIRE(!tests.empty());
    REQUIRE(!healthy("val").empty());
    const auto figures = read_metrics(own.out + "/metrics.json");
    for (const char* kind : {"difference", "evidence"}) {
      INFO(kind);
      const auto file = read_safetensors(own.out + "/calibration_" + kind + ".safetensors");
      const auto calibration = MapCalibration::from_file(file);
      CHECK(calibration.images() == static_cast<std::int64_t>(healthy("val").size()));
      std::map<std::size_t, at::Tensor> p;
      for (const auto& entry : fs::directory_iterator(own.out + "/heatmaps")) {
        const auto part = read_safetensors(entry.path().string());
        const auto rows = part.at("rows").to_int64();
        const at::Tensor values = calibration.image_p_values(
            at::tensor(part.at(kind).to_float()).reshape(at::IntArrayRef(part.at(kind).shape)));
        for (std::size_t i = 0; i < rows.size(); ++i)
          p[static_cast<std::size_t>(rows[i])] = values[static_cast<std::int64_t>(i)];
      }
      double mean = 0;
      const auto maps = static_cast<std::int64_t>(calibration.targets().size());
      for (std::int64_t k = 0; k < maps; ++k) {
        std::vector<double> sorted;
        for (const std::size_t row : tests) sorted.push_back(p.at(row)[k].item<double>());
        std::sort(sorted.begin(), sorted.end());
        double largest = 0;
        for (std::size_t i = 0; i < sorted.size(); ++i)
          for (const std::size_t step : {i, i + 1})
            largest =
                std::max(largest, std::abs(sorted[i] - static_cast<double>(step) / static_cast<double>(sorted.size())));
        mean += largest / static_cast<double>(maps);
      }
      const Figure* figure = find_figure(figures, "map.null_ks", kind);
      REQUIRE(figure);
      CHECK(figure->value == Approx(mean).epsilon(1e-9));
      CHECK(figure->n == static_cast<std::int64_t>(tests.size()));
    }
    auto foreign = read_safetensors(own.out + "/calibration_evidence.safetensors");
    foreign.metadata["fingerprint"] = "another";
    write_safetensors(own.out + "/calibration_evidence.safetensors", foreign);
    RunConfig forced = own;
    forced.force = {"evaluate"};
    CHECK(error_of([&] { Run(forced, {}).execute(Stage::kEvaluate); }) == ErrorCode::kMismatch);
  }

  SECTION("a program of one's own makes the stored maps again") {
    const MapMaker maker = MapMaker::load(config.out);
    const SafetensorsFile stored = read_safetensors(config.out + "/heatmaps/000000.safetensors");
    std::vector<std::uint64_t> items;
    for (const std::int64_t row : stored.at("rows").to_int64()) items.push_back(static_cast<std::uint64_t>(row));
    // The input is what the stored round trip and its error came from; ask for it back through the cohort.
    const Cohort cohort = read_cohort(config.out + "/phantoms");
    LoadOptions load;
    load.preprocess = maker.preprocess();
    const ImageSet all = load_images(cohort, load).images;
    std::vector<at::Tensor> rows;
    for (const std::uint64_t item : items)
      rows.push_back(at::from_blob(const_cast<float*>(all.image(item)), {1, 1, 32, 32}).clone());
    const at::Tensor x = at::cat(rows);
    const ImageMaps maps = maker.make(x, items, true);
    const auto same = [&](const char* name, const at::Tensor& made) {
      const std::vector<float> expected = stored.at(name).to_float();
      const at::Tensor flat = made.contiguous();
      REQUIRE(static_cast<std::size_t>(flat.numel()) == expected.size());
      CHECK(at::allclose(flat.flatten(), at::tensor(expected), 1e-4, 1e-5));
    };
    same("difference", maps.difference);
    same("evidence", maps.evidence);
    same("no_target", maps.no_target);
    same("residual", maps.residual);
    CHECK_FALSE(maker.make(x.narrow(0, 0, 1), {items[0]}, false).reconstruction.defined());
    for (const at::Tensor& wrong : {127.5 * (x + 1), at::full_like(x, std::nan("")), at::cat({x, x}, 1), x[0]})
      CHECK_THROWS_WITH(maker.make(wrong, items, false),
                        daug::test::contains_text("daug::MapMaker::make: x: expected"));
    CHECK_THROWS_WITH(maker.make(x, {1}, false), daug::test::contains_text("daug::MapMaker::make: items"));
    CHECK(error_of([&] { MapMaker::load(scratch / "nowhere"); }) == ErrorCode::kNotFound);
  }

  SECTION("settings of the maps reach them") {
    const at::Tensor x = at::linspace(-1, 1, 32 * 32).reshape({1, 1, 32, 32});
    const auto made = [&](const std::function<void(RunConfig::Maps&)>& change) {
      RunConfig changed = config;
      change(changed.maps);
      write_config(config.out + "/config.json", changed);
      const MapMaker maker = MapMaker::load(config.out);
      return std::pair{maker.make(x, {0}, false).difference, maker.difference_evaluations()};
    };
    const auto [plain, evaluations] = made([](auto&) {});
    const auto [condition, fewer] = made([](auto& m) { m.guidance = "none"; });
    CHECK_FALSE(at::equal(plain, condition));
    // Where guidance never acts the condition is left, at one evaluation a step and map.
    const auto [outside, outside_evaluations] = made([](auto& m) { m.lowest_level = 251; });
    CHECK(at::equal(outside, condition));
    CHECK(outside_evaluations == fewer);
    CHECK(fewer < evaluations);
    CHECK(at::equal(made([](auto& m) { m.highest_level = 0; }).first, condition));
    CHECK_FALSE(at::equal(made([](auto& m) { m.add_classifier = true; }).first, plain));
    // A tolerance that every image meets ends the iteration at once.
    CHECK(at::equal(made([](auto& m) { m.evaluations = 9, m.tolerance = 1000; }).first, plain));
    CHECK_FALSE(at::equal(made([](auto& m) { m.evaluations = 9; }).first, plain));
    CHECK(at::allclose(made([](auto& m) { m.memory_budget = 1; }).first, plain, 1e-4, 1e-5));
  }

  SECTION("a guide of other findings guides no maps") {
    RunConfig guided = config;
    guided.maps.guidance = "classifier";
    write_config(config.out + "/config.json", guided);
    CHECK_NOTHROW(MapMaker::load(config.out));
    const std::string path = config.out + "/guide.safetensors";
    SafetensorsFile guide = read_safetensors(path);
    const std::string findings = guide.metadata.at("findings");
    const auto comma = findings.find(',');  // as many findings, but in another order
    guide.metadata["findings"] = findings.substr(comma + 1) + "," + findings.substr(0, comma);
    write_safetensors(path, guide);
    CHECK_THROWS_WITH(MapMaker::load(config.out), daug::test::contains_text("the translator's findings " + findings));
    CHECK(error_of([&] { MapMaker::load(config.out); }) == ErrorCode::kMismatch);
    guide.metadata.erase("findings");
    write_safetensors(path, guide);
    CHECK(error_of([&] { MapMaker::load(config.out); }) == ErrorCode::kFormat);
  }

  SECTION("encoders train as their settings say") {
    RunConfig changed = config;
    changed.encoder.epochs = 3;
    changed.encoder.patience = 1;
    changed.encoder.chunk = 5;
    changed.encoder.clip_norm = 1;
    changed.encoder.ema = 0.5;
    changed.encoder.layer_decay = 0.7;
    changed.encoder.freeze = "text.*.bias, image.*.norm1.weight";
    changed.encoder.precision = "auto";
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
  }

  SECTION("the loss's options are settings, and what is learnt is kept and used") {
    RunConfig changed = config;
    changed.encoder.learn_temperature = true;
    changed.encoder.class_bias = true;
    changed.encoder.positive_weights = 4;
    changed.encoder.loss = "siglip";
    changed.encoder.negatives = "masked";
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
    save_torchvision(scratch / "resnet.safetensors", ImageEncoder(resnet, 5));
    const SafetensorsFile checkpoint = read_safetensors(scratch / "resnet.safetensors");
    changed.encoder.image_checkpoint = scratch / "resnet.safetensors";
    changed.encoder.freeze = "image.vision_model.layer*";
    {
      Run run(changed, {});
      for (Stage stage : {Stage::kEncoders, Stage::kIndex, Stage::kEvaluate}) CHECK(run.execute(stage));
    }
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

    fs::copy_file(config.out + "/encoders/image.safetensors", scratch / "own.safetensors");
    changed.encoder.image_checkpoint = scratch / "own.safetensors";
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    CHECK(read_safetensors(config.out + "/encoders/image_noise.safetensors")
              .at("image.vision_model.layer1.0.conv1.weight")
              .data == checkpoint.at("layer1.0.conv1.weight").data);
    changed.encoder.image_checkpoint = config.out + "/encoders/image_noise.safetensors";
    CHECK_THROWS_WITH(Run(changed, {}).execute(Stage::kEncoders), daug::test::contains_text("map channels"));

    const BpeVocabulary vocabulary = BpeVocabulary::from_merges({});
    ClipModel clip;
    ImageEncoderOptions image;
    image.kind = ImageEncoderKind::kViT;
    image.in_channels = 3;
    image.image_size = 16;
    image.embed_dim = 12;
    image.vit.patch_size = 8;
    image.vit.width = 16;
    image.vit.depth = 1;
    image.vit.heads = 2;
    TextEncoderOptions text;
    text.vocab_size = static_cast<std::int64_t>(vocabulary.tokens.size());
    text.context_length = 20;
    text.width = 16;
    text.heads = 2;
    text.depth = 1;
    text.embed_dim = 12;
    text.end_of_text_id = text.vocab_size - 1;
    clip.image = ImageEncoder(image, 1);
    clip.text = TextEncoder(text, 2);
    clip.logit_scale = at::scalar_tensor(2.5, at::kFloat);
    clip.start_of_text_id = text.vocab_size - 2;
    save_clip(scratch / "clip", clip);
    vocabulary.save(scratch / "clip");
    changed.encoder.image_checkpoint.clear();
    changed.encoder.clip = scratch / "clip";
    changed.encoder.freeze = "image.*.layers.*, text.*.token_embedding.*";
    {
      Run run(changed, {});
      for (Stage stage : {Stage::kEncoders, Stage::kIndex, Stage::kEvaluate}) CHECK(run.execute(stage));
    }
    const EncoderPair pair = load_encoders(config.out + "/encoders/image_evidence.safetensors");
    CHECK(pair.image->options().image_size == 32);
    CHECK(pair.text->options().context_length == changed.encoder.context);
    REQUIRE(pair.pixels);
    CHECK(pair.pixels->mean == kClipPixels.mean);
    const SafetensorsFile clip_file = read_safetensors(scratch / "clip/model.safetensors");
    const SafetensorsFile from_clip = read_safetensors(config.out + "/encoders/image_evidence.safetensors");
    const std::string tokens = "text_model.embeddings.token_embedding.weight";
    CHECK(from_clip.at("text." + tokens).data == clip_file.at(tokens).data);
    // Other weights in the same place are another run.
    clip.text = TextEncoder(text, 3);
    save_clip(scratch / "clip", clip);
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    text.vocab_size -= 1;
    text.end_of_text_id -= 1;
    clip.text = TextEncoder(text, 3);
    save_clip(scratch / "clip", clip);
    CHECK(error_of([&] { Run(changed, {}).execute(Stage::kEncoders); }) == ErrorCode::kMismatch);
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

  SECTION("a stage refuses what other settings made") {
    RunConfig other = config;
    other.diffusion.steps = 7;
    Run run(other, {});
    CHECK(error_of([&] { run.execute(Stage::kHeatmaps); }) == ErrorCode::kMismatch);
  }

  SECTION("weights of another architecture are refused by name") {
    fs::copy_file(config.out + "/guide.safetensors", config.out + "/translator.safetensors",
                  fs::copy_options::overwrite_existing);
    RunConfig forced = config;
    forced.force = {"heatmaps"};
    fs::remove_all(config.out + "/heatmaps");
    Run run(forced, {});
    CHECK_THROWS_WITH(run.execute(Stage::kHeatmaps), daug::test::contains_text("another architecture"));
  }
}
