// A run folder's files of another hand.

#include <ATen/ATen.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daug/io/file.h"
#include "daug/io/weights.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/map_maker.h"
#include "daug/pipeline/run_config.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/settings/stage_options.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;
using nlohmann::json;

TEST_CASE("a setting of another kind is named, not converted", "[hostile]") {
  const Scratch scratch;
  const std::string path = scratch.path("config.json");
  write_config(path, {});
  const json good = json::parse(read_text_file(path));
  const auto with = [&](const char* name, const json& value) {
    json changed = good;
    changed["settings"][name] = value;
    write_file_atomically(path, changed.dump());
    return [&] { read_config(path); };
  };
  for (const json& value : {json(1.5), json(true), json("3"), json(nullptr), json::array({3})})
    check_refused(ErrorCode::kFormat, "config.json: threads", with("threads", value));
  check_refused(ErrorCode::kFormat, "config.json: seed", with("seed", 18446744073709551615ULL));
  check_refused(ErrorCode::kFormat, "config.json: skip_bad", with("skip_bad", 1));
  check_refused(ErrorCode::kFormat, "config.json: data", with("data", 1));
  check_refused(ErrorCode::kFormat, "config.json: budget", with("budget", "1"));
  REQUIRE_NOTHROW(with("budget", 1)());  // a whole number is a number
  for (const json& settings : {json(nullptr), json::array(), json(1)}) {
    json changed = good;
    changed["settings"] = settings;
    write_file_atomically(path, changed.dump());
    check_refused(ErrorCode::kFormat, "config.json: settings", [&] { read_config(path); });
  }
  write_file_atomically(path, std::string(1'000'000, '['));
  check_refused(ErrorCode::kFormat, "levels", [&] { read_config(path); });
}

TEST_CASE("a figure's missing or mistaken field is named", "[hostile]") {
  const Scratch scratch;
  const std::string path = scratch.path("metrics.json");
  const std::vector<Figure> figures = {{"a", "arm", "test", 1, 0.5, 2, 7, "counted"},
                                       {"b", "arm", "test", 1, {}, {}, 7, "c"}};
  write_metrics(path, figures, "fp");
  REQUIRE(read_metrics(path).size() == 2);
  const json good = json::parse(read_text_file(path));
  const auto with = [&](const std::function<void(json&)>& change) {
    json changed = good;
    change(changed);
    write_file_atomically(path, changed.dump());
    return [&] { read_metrics(path); };
  };
  for (const char* key : {"name", "arm", "split", "value", "low", "high", "n", "definition"}) {
    const std::string named = std::string("metrics.json: figures[1]: ") + key;
    check_refused(ErrorCode::kFormat, named, with([&](json& file) { file["figures"][1].erase(key); }));
    check_refused(ErrorCode::kFormat, named, with([&](json& file) { file["figures"][1][key] = true; }));
  }
  check_refused(ErrorCode::kFormat, "metrics.json: figures",
                with([](json& file) { file["figures"] = json::object(); }));
  check_refused(ErrorCode::kFormat, "version", with([](json& file) { file.erase("version"); }));

  // A file of another version is not damaged, for settings and figures alike.
  check_refused(ErrorCode::kUnsupported, "version", with([](json& file) { file["version"] = kMetricsVersion + 1; }));
  const std::string settings_path = scratch.path("config.json");
  write_config(settings_path, RunConfig{});
  json settings_file = json::parse(read_text_file(settings_path));
  settings_file["version"] = settings_file["version"].get<int>() + 1;
  write_file_atomically(settings_path, settings_file.dump());
  check_refused(ErrorCode::kUnsupported, "version", [&] { read_config(settings_path); });
}

TEST_CASE("tables of predictions are of the type and size they should be", "[hostile]") {
  const Scratch scratch;
  const std::string path = scratch.path("predictions");
  Predictions predictions;
  predictions.rows = {4, 7};
  predictions.patients = {1, 2};
  predictions.positive = predictions.known = {1, 0, 0, 1};
  predictions.findings = 2;
  predictions.fingerprint = "fp";
  write_predictions(path, predictions);
  const SafetensorsFile good = read_safetensors(path);
  for (const char* name : {"rows", "patients", "positive", "known"})
    for (const bool absent : {true, false}) {
      SafetensorsFile file = good;
      if (absent)
        file.tensors.erase(name);
      else
        file.tensors[name] = Array::from(std::vector<float>{1, 2}, {2});
      write_safetensors(path, file);
      check_refused(ErrorCode::kFormat, std::string(": ") + name, [&] { read_predictions(path); });
    }
}

TEST_CASE("settings of a translator far larger than its weights are refused before it is built", "[hostile]") {
  const Scratch scratch;
  RunConfig config;
  config.size = 16;
  config.diffusion.base = 8;
  config.study.steps = "2";
  config.maps.level = 20;
  config.maps.steps = 2;
  save_weights(scratch.path("translator.safetensors"), *DenoiserUNet(denoiser_network(config, 2)),
               {{"prediction", "v"}, {"schedule", "linear"}, {"findings", "Edema,Mass"}});
  write_config(scratch.path("config.json"), config);
  REQUIRE_NOTHROW(MapMaker::load(scratch.folder()));
  config.diffusion.base = 65536;
  config.diffusion.levels = "1,64";
  write_config(scratch.path("config.json"), config);
  check_refused(ErrorCode::kMismatch, "translator.safetensors", [&] { MapMaker::load(scratch.folder()); });
}
