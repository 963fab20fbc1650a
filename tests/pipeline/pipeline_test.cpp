// The whole pipeline at its smallest, in a temporary folder.

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "daug/core/error.h"
#include "daug/data/dataset.h"
#include "daug/data/phantom.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/tokenizer.h"
#include "daug/encoder/torchvision_checkpoint.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/image/png.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/compare_runs.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/map_maker.h"
#include "daug/pipeline/run.h"
#include "daug/pipeline/run_search.h"
#include "daug/serve/search_server.h"
#include "daug/train/encoder_file.h"
#include "pipeline/smallest_run.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/connection.h"
#include "support/full_disk.h"
#include "support/html.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::FullDisk;
using Scratch = daug::test::ScratchRun;
using daug::test::smallest;

namespace {

/// The settings of a run of which all stages are done, in a copy of its folder; it is made once.
RunConfig finished_run(const Scratch& scratch) {
  static const Scratch original("finished");
  static const RunConfig config = [] {
    const RunConfig made = smallest(original / "run");
    Run run(made, {});
    for (Stage stage : all_stages()) REQUIRE(run.execute(stage));
    return made;
  }();
  RunConfig copy = config;
  copy.out = scratch / "run";
  fs::copy(config.out, copy.out, fs::copy_options::recursive);
  return copy;
}

ErrorCode error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("no error");
  return ErrorCode::kCancelled;
}

}  // namespace

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

namespace {

/// Every file of a folder with its time and size.
std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    files[entry.path()] = std::to_string(entry.last_write_time().time_since_epoch().count()) +
                          (entry.is_regular_file() ? " " + std::to_string(entry.file_size()) : "");
  return files;
}

std::vector<std::size_t> images_of(const GalleryAnswer& answer) {
  std::vector<std::size_t> images;
  for (const GalleryHit& hit : answer.hits) images.push_back(hit.image);
  return images;
}

}  // namespace

TEST_CASE("a finished run is searched by report, image and image file, and stays as it is", "[pipeline]") {
  const Scratch scratch("search");
  const RunConfig config = finished_run(scratch);
  const auto before = files_of(config.out);
  const RunSearch search(config.out);
  const GalleryFacts& facts = search.facts();
  CHECK(facts.images == 66);
  CHECK(facts.gallery == 34);
  CHECK(facts.splits == std::vector<std::string>{"train", "val"});
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  for (std::size_t i = 0; i < facts.images; ++i) CHECK(search.find(search.image(i).study) == i);
  CHECK_FALSE(search.find("nobody"));
  GalleryQuery everything;
  everything.text = "Heart.";
  everything.count = 1000;
  const auto gallery = images_of(search.search(everything));
  REQUIRE(gallery.size() == 34);

  SECTION("an image of the test split finds what the evaluation found") {
    const auto details = nlohmann::json::parse(read_text_file(config.out + "/stages/details.json"));
    std::size_t compared = 0;
    for (const auto& example : details.at("retrieval_examples")) {
      GalleryQuery query;
      query.image = example.at("query").get<std::size_t>();
      query.count = 5;
      CHECK(images_of(search.search(query)) == example.at("hits").get<std::vector<std::size_t>>());
      ++compared;
    }
    CHECK(compared == 6);
  }

  SECTION("reports find what the evaluation counted") {
    // P@5 as its definition says, over findings, from searches by the text of every test study.
    std::map<std::string, std::pair<double, int>> by_finding;
    std::map<std::string, int> relevant;
    for (const std::size_t image : gallery)
      for (const auto& finding : search.image(image).findings) ++relevant[finding];
    for (const std::size_t test : cohort.split_indices("test")) {
      GalleryQuery query;
      query.text = cohort.studies[test].report;
      query.count = 5;
      const GalleryAnswer answer = search.search(query);
      for (const auto& finding : search.image(*search.find(cohort.studies[test].id)).findings) {
        if (relevant[finding] == 0) continue;
        auto& [sum, queries] = by_finding[finding];
        for (const GalleryHit& hit : answer.hits) {
          const auto found = search.image(hit.image).findings;
          sum += static_cast<double>(std::count(found.begin(), found.end(), finding)) / 5;
        }
        ++queries;
      }
    }
    double mean = 0;
    for (const auto& entry : by_finding) mean += entry.second.first / entry.second.second;
    mean /= static_cast<double>(by_finding.size());
    const auto figures = read_metrics(config.out + "/metrics.json");
    const Figure* expected = find_figure(figures, "retrieval.report_to_image.p_at_5", "image+evidence");
    REQUIRE(expected);
    CHECK(mean == Approx(expected->value).epsilon(1e-9));
  }

  SECTION("an image file finds itself; filters hold") {
    const RunSearch plain(config.out, "image");
    const std::size_t train = cohort.split_indices("val")[3];
    GalleryQuery query;
    query.picture = read_file(cohort.studies[train].path);
    query.count = 3;
    const GalleryAnswer answer = plain.search(query);
    REQUIRE(answer.hits.size() == 3);
    CHECK(plain.image(answer.hits[0].image).study == cohort.studies[train].id);
    CHECK(answer.hits[0].cosine == Approx(1).margin(1e-5));
    CHECK_FALSE(answer.seen_png.empty());
    CHECK(search.search(query).hits.size() == 3);  // with maps made for it
    query.picture = {'n', 'o'};
    CHECK(error_of([&] { plain.search(query); }) == ErrorCode::kFormat);

    query.picture.clear();
    query.image = *search.find(cohort.studies[train].id);
    query.count = 1000;
    std::size_t others = 0;
    for (const std::size_t image : gallery) others += search.image(image).patient != search.image(*query.image).patient;
    CHECK(others < 34);
    CHECK(images_of(search.search(query)).size() == others);
    query.filter.other_patients = false;
    CHECK(images_of(search.search(query)).front() == *query.image);
    query.filter.split = "train";
    CHECK(images_of(search.search(query)).size() == 24);
    for (const auto& finding : facts.findings) {
      query.filter.finding = finding;
      for (const std::size_t image : images_of(search.search(query))) {
        const GalleryImage found = search.image(image);
        CHECK(std::count(found.findings.begin(), found.findings.end(), finding) == 1);
        CHECK(found.split == "train");
      }
    }
    query.filter = {};
    query.filter.finding = GalleryFacts::kNoFinding;
    for (const std::size_t image : images_of(search.search(query))) CHECK(search.image(image).findings.empty());
    query.filter = {};
    query.filter.patient = search.image(0).patient;
    for (const std::size_t image : images_of(search.search(query)))
      CHECK(search.image(image).patient == search.image(0).patient);
    query.text = "both";
    CHECK(error_of([&] { search.search(query); }) == ErrorCode::kInvalidArgument);
    query.text.clear();
    query.image = 66;
    CHECK(error_of([&] { search.search(query); }) == ErrorCode::kNotFound);
  }

  SECTION("what does not fit is refused by name") {
    CHECK_THROWS_WITH(RunSearch(config.out, "imagination"), daug::test::contains_text("'image+evidence'"));
    CHECK(error_of([&] { RunSearch(scratch / "nowhere"); }) == ErrorCode::kNotFound);
    RunConfig other = config;
    other.encoder.epochs += 1;
    write_config(config.out + "/config.json", other);
    CHECK_THROWS_WITH(RunSearch(config.out), daug::test::contains_text("stage 'index'"));
    other = config;
    other.phantom.seed += 1;
    write_config(config.out + "/config.json", other);
    CHECK_THROWS_WITH(RunSearch(config.out), daug::test::contains_text("phantoms"));
    write_config(config.out + "/config.json", config);
    fs::copy_file(config.out + "/index/image.daugindex", config.out + "/index/image_evidence.daugindex",
                  fs::copy_options::overwrite_existing);
    CHECK(error_of([&] { RunSearch(config.out); }) == ErrorCode::kMismatch);
    fs::remove(config.out + "/stages/index.json");
    CHECK_THROWS_WITH(RunSearch(config.out), daug::test::contains_text("stage 'index' to be finished"));
    return;
  }

  SECTION("the program serves it until Ctrl-C") {
    SearchServerOptions options;
    options.port = 0;
    auto other = std::make_unique<SearchServer>(search, options);
    const int port = other->port();
    const std::string number = std::to_string(port);
    const std::vector<const char*> arguments = {"search", config.out.c_str(), "--port", number.c_str()};
    const auto run = [&] { return search_program(static_cast<int>(arguments.size()), arguments.data()); };
    CHECK(run() == 1);  // the port is taken
    other.reset();
    int status = -1;
    std::thread program([&] { status = run(); });
    std::string reply;
    for (int i = 0; i < 600 && reply.empty(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const daug::test::Connection connection(port);
      if (connection.open()) reply = connection.talk("GET /images HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    CHECK(reply.rfind("HTTP/1.1 200", 0) == 0);
    CHECK(reply.find(search.image(0).study) != std::string::npos);
    std::raise(SIGINT);
    program.join();
    CHECK(status == 130);
    const char* none[] = {"search"};
    CHECK(search_program(1, none) == 2);
  }

  CHECK(files_of(config.out) == before);
}

TEST_CASE("a report shows what went wrong, finding by finding, in one small page", "[pipeline]") {
  const Scratch scratch("report");
  const RunConfig config = finished_run(scratch);
  const std::string html = read_text_file(config.out + "/report.html");
  CHECK(html.size() < 10U << 20U);
  CHECK(daug::test::structure_error(html) == "");
  const auto sections = daug::test::matches(html, "<section id=\"([^\"]*)\"");
  for (const char* name : {"failures", "by-finding"}) CHECK(std::count(sections.begin(), sections.end(), name) == 1);

  // Errors are errors, surest first; regions come worst first.
  const auto details = nlohmann::json::parse(read_text_file(config.out + "/stages/details.json"));
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  const auto tests = cohort.split_indices("test");
  std::size_t errors = 0;
  for (const auto& [finding, list] : details.at("errors").items()) {
    double last = 1;
    for (const auto& error : list) {
      const Study& study = cohort.studies[error.at("row").get<std::size_t>()];
      const bool positive = study.labels[cohort.finding_index(finding)] == LabelState::kPositive;
      const double distance = std::abs(error.at("probability").get<double>() - (positive ? 1 : 0));
      CHECK(study.split == "test");
      CHECK(error.at("positive") == positive);
      CHECK(distance > 0.5);
      CHECK(distance <= last);
      last = distance;
      ++errors;
    }
  }
  CHECK(errors > 0);
  for (const auto& [finding, list] : details.at("worst_localisation").items()) {
    double last = 0;
    for (const auto& image : list) {
      CHECK(cohort.studies[image.at("row").get<std::size_t>()].labels[cohort.finding_index(finding)] ==
            LabelState::kPositive);
      CHECK(image.at("pixel_ap").get<double>() >= last);
      last = image.at("pixel_ap");
    }
  }
  std::size_t figures = 0;
  for (const auto& entry : fs::directory_iterator(config.out + "/figures"))
    figures += read_text_file(entry.path()).rfind("<svg xmlns=", 0) == 0 ? 1 : 0;
  CHECK(figures > 8);

  if (!daug::test::browser_installed()) return;
  for (const bool phone : {false, true}) {
    const auto view = daug::test::open_in_browser(
        "file://" + config.out + "/report.html",
        {phone ? 390 : 1280, 2000, phone, daug::test::artefact(phone ? "report_phone_dark.png" : "report.png")});
    for (const auto& line : view.console) UNSCOPED_INFO(line);
    CHECK(view.console.empty());
    CHECK(daug::test::count(view.dom, "<section") == sections.size());
  }
}

TEST_CASE("runs stand side by side with their intervals and what they differ in", "[pipeline]") {
  const Scratch scratch("compare");
  const RunConfig config = finished_run(scratch);
  const std::string other = scratch / "other";
  fs::copy(config.out, other, fs::copy_options::recursive);
  RunConfig changed = config;
  changed.evaluate.resamples = 77;
  write_config(other + "/config.json", changed);
  std::vector<Figure> figures = read_metrics(other + "/metrics.json");
  const auto figure = std::find_if(figures.begin(), figures.end(), [](const Figure& f) {
    return f.name == "classification.auroc_macro" && f.arm == "image" && f.split == "test";
  });
  REQUIRE(figure != figures.end());
  figure->value = 0.875, figure->low = 0.75, figure->high = 0.9375, figure->n = 7;
  figures.push_back({"map.new", "evidence", "test", 0.125, {}, {}, 3, "new"});
  for (auto& f : figures)
    if (f.name == "data.images") f.definition = "otherwise";
  write_metrics(other + "/metrics.json", figures, "elsewhere");

  const HtmlReport page = compare_runs({config.out, other});
  const std::string html = page.html();
  CHECK(daug::test::structure_error(html) == "");
  const auto cells = [&](const std::string& first) {
    for (const Table& table : page.tables())
      for (const auto& row : table.rows)
        if (row[0] == first) return row;
    FAIL("no row " << first);
    return std::vector<std::string>();
  };
  CHECK(cells("evaluate.resamples") == std::vector<std::string>{"evaluate.resamples", "20", "77"});
  const auto auroc = cells("auroc_macro, image");
  CHECK(auroc[1].find(", n = 20") != std::string::npos);
  CHECK(auroc[2] == "0.875 (0.750 to 0.938), n = 7");
  CHECK(cells("new, evidence") == std::vector<std::string>{"new, evidence", "-", "0.125"});
  CHECK(html.find("definitions differ: data.images.") != std::string::npos);
  bool plotted = false;
  for (const auto& plot : page.interval_plots())
    for (const auto& row : plot.rows)
      plotted =
          plotted || (row.label == "image | other" && row.value == 0.875 && row.low == 0.75 && row.high == 0.9375);
  CHECK(plotted);
  // All figures of both are there.
  std::size_t rows = 0;
  for (std::size_t t = 2; t < page.tables().size(); ++t) rows += page.tables()[t].rows.size();
  CHECK(rows == figures.size());

  const std::string out = scratch / "side by side";
  const std::vector<const char*> arguments = {"compare_runs", config.out.c_str(), other.c_str(), "--out", out.c_str()};
  CHECK(compare_program(static_cast<int>(arguments.size()), arguments.data()) == 0);
  CHECK(read_text_file(out + "/comparison.html") == html);
  CHECK_FALSE(fs::is_empty(out + "/tables"));
  CHECK_FALSE(fs::is_empty(out + "/figures"));
  CHECK(compare_program(2, arguments.data()) == 1);
  CHECK(compare_program(1, arguments.data()) == 2);
  CHECK(error_of([&] { compare_runs({config.out, config.out + "/"}); }) == ErrorCode::kInvalidArgument);
  CHECK(error_of([&] { compare_runs({config.out, scratch / "nowhere"}); }) == ErrorCode::kNotFound);
}

TEST_CASE("stopping and resuming gives the weights of an uninterrupted training, bit for bit", "[pipeline]") {
  const Scratch scratch("resume");
  RunConfig config = smallest(scratch / "straight");
  Run(config, {}).execute(Stage::kTranslator);
  const auto expected = read_file(config.out + "/translator.safetensors");

  config.out = scratch / "interrupted";
  StopSource stop;
  RunControl control;
  control.stop = stop.token();
  control.progress = [&](const Progress& progress) {
    if (progress.stage == "train translator" && progress.done == 2) stop.request_stop();
  };
  CHECK(error_of([&] { Run(config, control).execute(Stage::kTranslator); }) == ErrorCode::kCancelled);
  CHECK_FALSE(fs::exists(config.out + "/translator.safetensors"));
  CHECK(fs::exists(config.out + "/stages/translator_checkpoint.safetensors"));
  // The time before the stop counts.
  const auto seconds = [&](const std::string& name) {
    return nlohmann::json::parse(read_text_file(config.out + "/stages/" + name)).at("seconds").get<double>();
  };
  const double before = seconds("translator.begun.json");
  CHECK(before > 0);
  CHECK(Run(config, {}).execute(Stage::kTranslator));
  CHECK(read_file(config.out + "/translator.safetensors") == expected);
  CHECK(seconds("translator.json") > before);
  CHECK_FALSE(fs::exists(config.out + "/stages/translator.begun.json"));
}

TEST_CASE("an evaluation stops when it is asked to, and a stopped run begins no stage", "[pipeline]") {
  const Scratch scratch("stop");
  RunConfig config = finished_run(scratch);
  const auto before = read_text_file(config.out + "/metrics.json");
  config.force = {"evaluate"};
  StopSource stop;
  RunControl control;
  control.stop = stop.token();
  control.progress = [&](const Progress& progress) {
    if (progress.stage == "occlusion maps") stop.request_stop();
  };
  Run run(config, control);
  CHECK(error_of([&] { run.execute(Stage::kEvaluate); }) == ErrorCode::kCancelled);
  CHECK(read_text_file(config.out + "/metrics.json") == before);
  CHECK(error_of([&] { run.execute(Stage::kTranslator); }) == ErrorCode::kCancelled);
}

TEST_CASE("a run uses the findings and policies it is told to", "[pipeline]") {
  const Scratch scratch("findings");
  RunConfig config = smallest(scratch / "run");
  config.labels.findings = "Nodule, Effusion";
  Run(config, {}).execute(Stage::kTranslator);
  CHECK(read_safetensors(config.out + "/translator.safetensors").metadata.at("findings") == "Nodule,Effusion");
  RunConfig other = config;
  other.labels.not_mentioned = "zeros";
  CHECK(Run(other, {}).execute(Stage::kTranslator));  // other labels, another model
  other.labels.uncertain = "perhaps";
  CHECK(error_of([&] { Run run(other, {}); }) == ErrorCode::kInvalidArgument);
  config.labels.findings = "Nodule,Noodle";
  CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kNotFound);
  CHECK(parse_names("") == std::vector<std::string>{});
  CHECK(parse_names(" a b ,c,") == std::vector<std::string>{"a b", "c"});
}

TEST_CASE("findings that a vocabulary groups share a map", "[pipeline]") {
  const Scratch scratch("groups");
  RunConfig config = smallest(scratch / "run");
  config.labels.vocabulary = scratch / "vocabulary.json";
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion", "Nodule", "Consolidation"],
      "groups": {"opacity": ["Consolidation", "Effusion"], "nodule": ["Nodule"]}})");
  {
    Run run(config, {});
    for (Stage stage : all_stages()) CHECK(run.execute(stage));
  }
  const SafetensorsFile maps = read_safetensors(config.out + "/heatmaps/000000.safetensors");
  CHECK(maps.at("evidence").shape.at(1) == 2);
  CHECK(maps.at("translated").shape.at(1) == 2);
  std::set<std::string> seen;
  for (const Figure& figure : read_metrics(config.out + "/metrics.json")) seen.insert(figure.name + "/" + figure.arm);
  for (const char* name : {"map.pixel_ap/difference", "map.pixel_ap/mean_mask", "classification.auroc_macro/image"})
    CHECK(seen.count(name) == 1);
  CHECK(read_text_file(config.out + "/report.html").find("opacity") != std::string::npos);

  // Other groups are other maps.
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion", "Nodule", "Consolidation"]})");
  CHECK(Run(config, {}).execute(Stage::kTranslator));
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion"], "groups": {"bone": ["Fracture"]}})");
  CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kNotFound);
  config.labels.findings = "Effusion";
  CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
}

TEST_CASE("boxes whose name is no finding are compared with the highest of some maps", "[pipeline]") {
  const Scratch scratch("boxes");
  RunConfig config = smallest(scratch / "run");
  PhantomOptions phantom;
  phantom.train_images = 36, phantom.val_images = 10, phantom.test_images = 20;
  config.data = scratch / "cohort";
  write_phantom_cohort(config.data, phantom);
  const Cohort cohort = read_cohort(config.data);
  std::string boxes = "id,finding,x,y,w,h\n";
  for (const char* split : {"train", "test"}) {
    const auto rows = cohort.split_indices(split);
    for (std::size_t i = 0; i < 4; ++i) boxes += cohort.studies[rows[i]].id + ",Opacity,4,6,10,12\n";
  }
  write_file_atomically(config.data + "/boxes.csv", boxes);
  config.evaluate.box_groups = "Opacity=Nodule|Consolidation, Nothing=Device";
  {
    Run run(config, {});
    for (Stage stage : all_stages()) run.execute(stage);
  }
  // The pointing game by hand, from the stored maps.
  const SafetensorsFile stored = read_safetensors(config.out + "/heatmaps/000000.safetensors");
  const auto rows = stored.at("rows").to_int64();
  const std::vector<float> maps = stored.at("evidence").to_float();
  const std::size_t area = 32 * 32, nodule = cohort.finding_index("Nodule"),
                    consolidation = cohort.finding_index("Consolidation");
  double hits = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    REQUIRE(static_cast<std::size_t>(rows[i]) == cohort.split_indices("test")[i]);
    std::size_t best = 0;
    float highest = -1e30F;
    for (std::size_t p = 0; p < area; ++p) {
      const float value = std::max(maps[(i * 6 + nodule) * area + p], maps[(i * 6 + consolidation) * area + p]);
      if (value > highest) highest = value, best = p;
    }
    const std::size_t x = best % 32, y = best / 32;
    hits += x >= 4 && x < 14 && y >= 6 && y < 18 ? 1 : 0;
  }
  const auto figures = read_metrics(config.out + "/metrics.json");
  const Figure* pointing = find_figure(figures, "map.pointing[Opacity]", "evidence");
  REQUIRE(pointing);
  CHECK(pointing->value == Approx(hits / 4));
  CHECK(pointing->n == 4);
  // The mean training box is the very box here.
  CHECK(find_figure(figures, "map.pixel_ap[Opacity]", "mean_mask")->value == Approx(1));
  CHECK_FALSE(find_figure(figures, "map.pointing[Nothing]", "evidence"));
  CHECK(read_text_file(config.out + "/report.html").find("boxes named Opacity") != std::string::npos);
  config.evaluate.box_groups = "Opacity=Fracture";
  CHECK(error_of([&] { Run(config, {}).execute(Stage::kEvaluate); }) == ErrorCode::kNotFound);
  config.evaluate.box_groups = "Opacity";
  CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
}

TEST_CASE("settings that do not fit together are refused before the first stage's work", "[pipeline]") {
  const Scratch scratch("unfit");
  RunConfig config = smallest(scratch / "run");
  SECTION("norm groups that do not divide the width") { config.diffusion.norm_groups = 5; }
  SECTION("an image that cannot be halved so often") { config.guide.levels = "1,1,1,1,1,1,1,1"; }
  SECTION("an encoder's width") { config.encoder.width = 12; }
  SECTION("parameters to freeze that no encoder has") { config.encoder.freeze = "images.*"; }
  SECTION("a kind beside a checkpoint that brings its own") {
    config.encoder.kind = "vit";
    config.encoder.image_checkpoint = "weights.safetensors";
    CHECK_THROWS_WITH(config.validate(), daug::test::contains_text("encoder.kind"));
    config.encoder.kind = "densenet121";  // 32 pixels end in one position
    config.encoder.image_checkpoint.clear();
    config.encoder.drop_path = 0.1;
  }
  SECTION("a learnt temperature that starts outside its range") {
    config.encoder.learn_temperature = true;
    config.encoder.logit_scale = -1;
    CHECK_THROWS_WITH(config.validate(), daug::test::contains_text("encoder.logit_scale"));
    config.encoder.learn_temperature = false;
    config.encoder.freeze = "logit_scale";  // which is none of the parameters
  }
  SECTION("a map that is not there") {
    config.encoder.mode = "channel";
    config.encoder.map_index = 6;
  }
  CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kInvalidArgument);
  CHECK(fs::is_empty(config.out + "/stages"));
}

TEST_CASE("every number out of its range and every unknown word is refused by name", "[pipeline]") {
  RunConfig config;
  for (std::size_t i = 0; i < settings(config).size(); ++i) {
    RunConfig changed;
    const Setting setting = settings(changed)[i];
    INFO(setting.name);
    const auto refused = [&] { CHECK_THROWS_WITH(changed.validate(), daug::test::contains_text(setting.name)); };
    if (const auto* integer = std::get_if<std::int64_t*>(&setting.value)) {
      **integer = static_cast<std::int64_t>(setting.low) - 1;
      refused();
      **integer = static_cast<std::int64_t>(setting.high) + 1;
      refused();
    } else if (const auto* number = std::get_if<double*>(&setting.value)) {
      for (const double value : {setting.low - 1, setting.high * 2 + 1, std::nan("")}) {
        **number = value;
        refused();
      }
    }
  }
  for (const char* name :
       {"diffusion.schedule",   "diffusion.prediction", "diffusion.variance", "diffusion.objective", "diffusion.levels",
        "guide.levels",         "diffusion.attention",  "guide.attention",    "maps.solver",         "maps.guidance",
        "maps.evidence_levels", "encoder.mode",         "encoder.maps",       "encoder.precision",   "encoder.kind",
        "encoder.pooling",      "encoder.loss",         "encoder.negatives",  "encoder.prompts",     "encoder.arms",
        "labels.uncertain",     "study.steps",          "phantom.labels",     "diffusion.embedding"}) {
    RunConfig changed;
    for (const auto& setting : settings(changed))
      if (setting.name == name) *std::get<std::string*>(setting.value) = "nonsense";
    INFO(name);
    CHECK(error_of([&] { changed.validate(); }) == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("settings that do not go together are refused", "[pipeline]") {
  const auto refused = [](const char* part, const std::function<void(RunConfig&)>& spoil) {
    RunConfig config;
    spoil(config);
    INFO(part);
    CHECK_THROWS_WITH(config.validate(), daug::test::contains_text(part));
  };
  refused("prediction", [](RunConfig& c) { c.diffusion.schedule = "zero_snr_cosine", c.diffusion.prediction = "eps"; });
  refused("min_snr", [](RunConfig& c) { c.diffusion.objective = "kl", c.diffusion.min_snr = 5; });
  refused("maps.lowest_level", [](RunConfig& c) { c.maps.lowest_level = 200, c.maps.highest_level = 100; });
  refused("maps.classifier_scale", [](RunConfig& c) { c.maps.add_classifier = true, c.maps.classifier_scale = 0; });
  for (const char* schedule : {"linear", "scaled_linear", "cosine", "zero_snr_linear"}) {
    RunConfig config;
    config.diffusion.schedule = schedule;
    CHECK_NOTHROW(config.validate());
  }
}

TEST_CASE("settings of the diffusion model reach its training", "[pipeline]") {
  const Scratch scratch("diffusion");
  const RunConfig plain = smallest(scratch / "run");
  const std::string path = plain.out + "/translator.safetensors";
  const auto trained = [&](const std::function<void(RunConfig::Diffusion&)>& change) {
    RunConfig config = plain;
    change(config.diffusion);
    Run(config, {}).execute(Stage::kTranslator);
    return read_safetensors(path);
  };
  const std::string last = "out.2.weight";  // of the outputs, four pixels each
  const SafetensorsFile base = trained([](auto&) {});
  const auto weights = [&](const SafetensorsFile& file) { return file.at(last).to_float(); };
  CHECK(base.at(last).shape[0] == 4);
  // What is computed again goes through other operators, and rounds otherwise.
  const auto losses = [&] {
    return read_safetensors(plain.out + "/stages/translator_history.safetensors").at("loss").to_float();
  };
  const auto base_losses = losses();
  CHECK(weights(trained([](auto& d) { d.checkpoint = true; })) != weights(base));
  const auto checkpoint_losses = losses();
  REQUIRE(checkpoint_losses.size() == base_losses.size());
  for (std::size_t i = 0; i < base_losses.size(); ++i)
    CHECK(checkpoint_losses[i] == Approx(base_losses[i]).epsilon(1e-3));
  CHECK(weights(trained([](auto& d) { d.dropout = 0.2; })) != weights(base));
  CHECK(weights(trained([](auto& d) { d.min_snr = 1; })) != weights(base));
  CHECK(weights(trained([](auto& d) { d.objective = "rescaled_kl"; })) != weights(base));

  CHECK(trained([](auto& d) { d.variance = "learned_range"; }).at(last).shape[0] == 8);
  // Maps are made with the half that estimates noise.
  const MapMaker maker = MapMaker::load(plain.out);
  const at::Tensor x = at::zeros({1, 1, 32, 32});
  const ImageMaps maps = maker.make(x, {0}, true);
  CHECK(maps.reconstruction.sizes() == x.sizes());
  CHECK(maps.evidence.isfinite().all().item<bool>());

  // Levels are drawn by their losses once each has ten of them.
  const auto few_levels = [](bool aware) {
    return [aware](RunConfig::Diffusion& d) { d.max_level = 2, d.steps = 12, d.loss_aware_levels = aware; };
  };
  CHECK(weights(trained(few_levels(true))) != weights(trained(few_levels(false))));
}

TEST_CASE("bad input is refused before anything is made", "[pipeline]") {
  const Scratch scratch("bad");
  RunConfig config = smallest(scratch / "run");

  SECTION("missing folder") {
    config.data = scratch / "nowhere";
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
  }
  SECTION("an unreadable image stops the run, unless it may be skipped") {
    PhantomOptions phantom;
    phantom.train_images = 36;
    phantom.val_images = 10;
    phantom.test_images = 20;
    config.data = scratch / "cohort";
    write_phantom_cohort(config.data, phantom);
    const std::string victim = fs::directory_iterator(config.data + "/images")->path().string();
    fs::resize_file(victim, fs::file_size(victim) / 2);
    CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kFormat);
    CHECK(fs::exists(config.out + "/unreadable_images.csv"));
    config.skip_bad = true;
    CHECK(Run(config, {}).execute(Stage::kTranslator));
    fs::remove(victim);
    CHECK(Run(config, {}).execute(Stage::kTranslator));
    CHECK(read_text_file(config.out + "/unreadable_images.csv").find(fs::path(victim).filename()) != std::string::npos);
    config.skip_bad = false;
    CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kNotFound);
  }
  SECTION("a disk that fills up while weights are written leaves neither them nor a record of the stage") {
    Run run(config, {});
    run.execute(Stage::kGuide);
    {
      const FullDisk full(20000);
      CHECK(error_of([&] { run.execute(Stage::kTranslator); }) == ErrorCode::kIo);
    }
    CHECK_FALSE(fs::exists(config.out + "/translator.safetensors"));
    CHECK_FALSE(fs::exists(config.out + "/stages/translator.json"));
    for (const auto& entry : fs::recursive_directory_iterator(config.out)) CHECK(entry.path().extension() != ".tmp");
    CHECK(run.execute(Stage::kTranslator));
  }
  SECTION("a folder that cannot be made") {
    config.out = "/proc/daug/run";
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kIo);
    write_file_atomically(scratch / "file", "not a folder");
    config.out = scratch / "file/run";
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kIo);
  }
  SECTION("an unknown stage to force") {
    config.force = {"translater"};
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
  }
  SECTION("a setting out of range") {
    config.size = 8;
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("the command line reads presets, settings and mistakes", "[pipeline]") {
  const auto read = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "program");
    return parse_command_line(static_cast<int>(arguments.size()), arguments.data(), "test");
  };
  CHECK(read({}).config.size == 32);
  const CommandLine small = read({"--preset", "small", "--size", "96", "--diffusion.steps", "5"});
  CHECK_FALSE(small.exit);
  CHECK(small.config.size == 96);
  CHECK(small.config.diffusion.steps == 5);
  CHECK(small.config.diffusion.levels == "1,2,2");
  CHECK(read({"--sice", "64"}).exit_code == 2);
  CHECK(read({"--size", "many"}).exit_code == 2);
  CHECK(read({"--size", "8"}).exit_code == 2);
  CHECK(read({"--preset", "huge"}).exit_code == 2);
  const CommandLine help = read({"--help"});
  CHECK(help.exit);
  CHECK(help.exit_code == 0);
}

TEST_CASE("every setting has a name of its own, a help text and a default in range", "[pipeline]") {
  for (const auto& name : preset_names()) {
    RunConfig config;
    apply_preset(config, name);
    CHECK_NOTHROW(config.validate());
    std::set<std::string> names;
    for (const auto& setting : settings(config)) {
      CHECK(names.insert(setting.name).second);
      CHECK_FALSE(setting.help.empty());
    }
    CHECK(names.size() > 50);
  }
  const Scratch scratch("config");
  RunConfig written;
  written.diffusion.steps = 77;
  written.labels.findings = "Nodule";
  written.skip_bad = true;
  written.maps.weight = 0.1;
  write_config(scratch / "config.json", written);
  RunConfig back = read_config(scratch / "config.json");
  for (std::size_t i = 0; i < settings(back).size(); ++i)
    CHECK(settings(back)[i].text() == settings(written)[i].text());
  for (const char* text : {"{}", "[1", R"({"version": 1, "preset": "tiny", "settings": {"sice": 3}})",
                           R"({"version": 1, "preset": "tiny", "settings": {"size": "large"}})"}) {
    write_file_atomically(scratch / "bad.json", text);
    CHECK(error_of([&] { read_config(scratch / "bad.json"); }) == ErrorCode::kFormat);
  }
  const auto words = command_line(written);
  CHECK(words == std::vector<std::string>{"--preset", "tiny", "--skip-bad", "--labels.findings", "Nodule",
                                          "--diffusion.steps", "77", "--maps.weight", "0.1"});
  RunConfig large;
  apply_preset(large, "small");
  large.size = 96;
  large.data = "a folder/with space";
  const auto again = command_line(large);
  std::vector<const char*> arguments = {"program"};
  for (const auto& word : again) arguments.push_back(word.c_str());
  RunConfig parsed = parse_command_line(static_cast<int>(arguments.size()), arguments.data(), "test").config;
  for (std::size_t i = 0; i < settings(parsed).size(); ++i)
    CHECK(settings(parsed)[i].text() == settings(large)[i].text());
  RunConfig a, b;
  b.diffusion.steps += 1;
  CHECK(settings_fingerprint(a, {"diffusion."}) != settings_fingerprint(b, {"diffusion."}));
  CHECK(settings_fingerprint(a, {"encoder."}) == settings_fingerprint(b, {"encoder."}));
}
