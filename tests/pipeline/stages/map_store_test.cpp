// What a run keeps of its maps, that stopping loses none of it, and figures worked out from it by hand.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/data/dataset.h"
#include "daug/heatmap/heatmap_store.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/map_maker.h"
#include "daug/pipeline/run.h"
#include "pipeline/provenance.h"
#include "pipeline/run_impl.h"
#include "pipeline/smallest_run.h"
#include "pipeline/stored_maps.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using namespace daug::test;

namespace {

const std::vector<std::string> kStores = {"tests", "others"};

std::string store_path(const RunConfig& config, const std::string& store) {
  return config.out + "/heatmaps/" + store + ".daugmaps";
}

/// All that a run's stores hold.
std::vector<std::map<std::uint64_t, std::vector<float>>> contents(const RunConfig& config) {
  std::vector<std::map<std::uint64_t, std::vector<float>>> all;
  for (const auto& name : kStores) {
    const std::string path = store_path(config, name);
    const auto check = verify_heatmap_store(path);
    CHECK(check.damaged.empty());
    CHECK(check.torn_bytes == 0);
    const HeatmapStore store(path, read_heatmap_layout(path).fingerprint);
    all.emplace_back();
    for (const std::uint64_t key : store.keys()) all.back()[key] = store.read(key);
  }
  return all;
}

/// Values of a float32 array of a file, as a tensor.
at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name) {
  return at::tensor(file.at(name).to_float()).reshape(at::IntArrayRef(file.at(name).shape));
}

}  // namespace

TEST_CASE("a run keeps its maps by image content, in the bits of the calls that made them", "[pipeline][map_store]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.phantom.test = 15;  // the second block has images of two splits
  Run run(config, {});
  CHECK(run.execute(Stage::kTranslator));
  CHECK(run.execute(Stage::kHeatmaps));
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  const MapMaker maker = MapMaker::load(config.out);
  LoadOptions load;
  load.preprocess = maker.preprocess();
  const ImageSet images = load_images(cohort, load).images;
  std::vector<std::size_t> rows = cohort.split_indices("test");
  for (const std::size_t row : cohort.split_indices("val")) rows.push_back(row);
  REQUIRE(rows.size() == 25);
  rows.resize(20);
  const std::size_t area = images.pixels_per_image();
  for (const std::size_t begin : {0, 10}) {
    const std::vector<std::size_t> block(rows.begin() + static_cast<std::ptrdiff_t>(begin),
                                         rows.begin() + static_cast<std::ptrdiff_t>(begin) + 10);
    const SafetensorsFile stored = stored_maps(store_path(config, "tests"), cohort, block);
    std::vector<at::Tensor> inputs;
    for (const std::size_t row : block) {
      const at::Tensor x = at::empty({1, 1, 32, 32});
      std::copy_n(images.image(row), area, x.data_ptr<float>());
      inputs.push_back(x);
    }
    const ImageMaps made = std::async(std::launch::async, [&] {
                             at::set_num_threads(1);  // as the stage's workers
                             return maker.make(at::cat(inputs), {block.begin(), block.end()}, true);
                           }).get();
    const auto same = [&](const char* kind, const at::Tensor& maps) {
      INFO(kind << " of block " << begin);
      CHECK(at::equal(tensor_of(stored, kind), maps.contiguous()));
    };
    same("difference", made.difference);
    same("evidence", made.evidence);
    same("score_difference", made.score_difference);
    same("translated", made.translated);
    same("no_target", made.no_target);
    same("reconstruction", made.reconstruction);
  }
  // Validation and encoder-training images lie in the other store, without controls.
  const HeatmapLayout layout = read_heatmap_layout(store_path(config, "others"));
  CHECK(layout.fingerprint == run.fingerprint(Stage::kHeatmaps));
  CHECK(layout.names.size() == 12);
  CHECK(layout.names.front() == "difference/" + maker.groups()[0].name);
  CHECK(layout.storage == MapStorage::kFloat32);
  const HeatmapStore others(store_path(config, "others"), layout.fingerprint);
  CHECK(others.size() == 5 + 24);
  for (std::size_t i = 5; i < 10; ++i)
    CHECK(others.contains(heatmap_key(cohort.studies[cohort.split_indices("val")[i]].path)));
}

TEST_CASE("maps whose making was stopped or killed end as those that were not", "[pipeline][map_store]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  const std::string record = config.out + "/stages/heatmaps.json";
  {
    Run run(config, {});
    CHECK(run.execute(Stage::kTranslator));
    CHECK(run.execute(Stage::kHeatmaps));
  }
  const auto expected = contents(config);
  REQUIRE(expected[0].size() == 20);
  REQUIRE(expected[1].size() == 34);

  SECTION("stopped") {
    StopSource stop;
    std::vector<Progress> reports;
    RunControl control;
    control.stop = stop.token();
    control.progress = [&](const Progress& progress) {
      if (progress.stage != "make heatmaps") return;
      reports.push_back(progress);
      stop.request_stop();
    };
    RunConfig forced = config;
    forced.force = {"heatmaps"};
    try {
      Run(forced, control).execute(Stage::kHeatmaps);
      FAIL("not stopped");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kCancelled);
    }
    REQUIRE_FALSE(reports.empty());
    CHECK(reports[0].total == 54);
    CHECK(reports[0].unit == "images");
    CHECK_FALSE(fs::exists(record));
    CHECK(verify_heatmap_store(store_path(config, "tests")).images >= 10);  // the block it was told of
  }
  SECTION("killed while it wrote a block") {
    // What is left of a file that grows from its end: some records, and the beginning of one.
    for (const auto& name : kStores) {
      const std::string path = store_path(config, name);
      fs::resize_file(path, fs::file_size(path) * 2 / 3);
    }
    fs::remove(record);
  }
  SECTION("killed before the second store was there") {
    fs::remove(store_path(config, "others"));
    fs::remove(record);
  }
  {
    Run run(config, {});
    CHECK(run.execute(Stage::kHeatmaps));
    CHECK_FALSE(run.execute(Stage::kHeatmaps));
  }
  CHECK((contents(config) == expected));

  // Other settings make other maps, and nothing of the former ones is left.
  config.maps.weight = 3;
  Run run(config, {});
  CHECK(run.execute(Stage::kHeatmaps));
  CHECK(read_heatmap_layout(store_path(config, "tests")).fingerprint == run.fingerprint(Stage::kHeatmaps));
  const auto changed = contents(config);
  CHECK(changed[0].size() == 20);
  CHECK_FALSE((changed == expected));
}

TEST_CASE("maps that an earlier version kept in files of its own are made anew", "[pipeline][map_store]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const auto expected = contents(config);
  Run run(config, {});
  // The stage's record of such a version: nothing in its fingerprint told how maps were kept.
  Run::Impl inside;
  inside.config = config;
  Fingerprint then;
  then.add("stage", stage_name(Stage::kHeatmaps)).add("library", kLibrary).add("data", inside.data_fingerprint());
  then.add("settings", settings_fingerprint(config, {"maps."}));
  then.add(stage_name(Stage::kTranslator), run.fingerprint(Stage::kTranslator));
  write_file_atomically(config.out + "/stages/heatmaps.json",
                        R"({"fingerprint": ")" + then.hex() + R"(", "seconds": 1.5})");
  // Its maps: in parts under other names, or in a store of another version (which stands behind the magic).
  fs::remove(store_path(config, "tests"));
  scratch.put("run/heatmaps/000000.safetensors", "parts of ten images");
  auto bytes = read_file(store_path(config, "others"));
  REQUIRE(std::uint32_t{bytes[8]} == kHeatmapStoreVersion);
  ++bytes[8];
  write_file_atomically(store_path(config, "others"), bytes.data(), bytes.size());
  CHECK(caught([&] { read_heatmap_layout(store_path(config, "others")); }).code() == ErrorCode::kFormat);

  CHECK_FALSE(run.execute(Stage::kTranslator));
  CHECK(run.execute(Stage::kHeatmaps));
  CHECK((contents(config) == expected));
  CHECK_FALSE(run.execute(Stage::kHeatmaps));
}

TEST_CASE("pixel AUROC and IoU of boxes and findings are measured for every kind of maps, on slices too",
          "[pipeline][map_store]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  const Cohort cohort = read_cohort(config.data);
  std::string boxes = "id,finding,x,y,w,h\n", meta = "id,src_repo\n";
  constexpr std::size_t kBoxes = 6;
  for (const char* split : {"train", "test"}) {
    const auto rows = cohort.split_indices(split);
    for (std::size_t i = 0; i < kBoxes; ++i) boxes += cohort.studies[rows[i]].id + ",Opacity,4,6,10,12\n";
  }
  const auto tests = cohort.split_indices("test");
  for (std::size_t i = 0; i < tests.size(); ++i) meta += cohort.studies[tests[i]].id + (i % 2 ? ",odd\n" : ",even\n");
  write_file_atomically(config.data + "/boxes.csv", boxes);
  write_file_atomically(config.data + "/meta.csv", meta);
  config.evaluate.box_groups = "Opacity=Nodule|Consolidation";
  {
    Run run(config, {});
    for (Stage stage : all_stages())
      if (stage <= Stage::kEvaluate) CHECK(run.execute(stage));
  }
  const auto figures = read_metrics(config.out + "/metrics.json");
  const auto value = [&](const std::string& name, const std::string& arm, const std::string& split) {
    const Figure* figure = find_figure(figures, name, arm, split);
    INFO(name << " of " << arm << ", " << split);
    REQUIRE(figure);
    return *figure;
  };

  // AUROC by counting pairs of pixels, IoU of the upper half of the map's range, on the higher of the two maps.
  const SafetensorsFile stored = stored_maps(config.out, config.data);
  const auto box = [](std::size_t pixel) {
    const std::size_t x = pixel % 32, y = pixel / 32;
    return x >= 4 && x < 14 && y >= 6 && y < 18;
  };
  for (const char* kind : {"difference", "evidence", "score_difference"}) {
    const std::vector<float> all = stored.at(kind).to_float();
    constexpr std::size_t kArea = 32 * 32;
    std::vector<double> areas, overlaps;
    for (std::size_t i = 0; i < kBoxes; ++i) {
      std::vector<float> map(kArea);
      for (std::size_t p = 0; p < kArea; ++p)
        map[p] = std::max(all[(i * 6 + cohort.finding_index("Nodule")) * kArea + p],
                          all[(i * 6 + cohort.finding_index("Consolidation")) * kArea + p]);
      const auto [low, high] = std::minmax_element(map.begin(), map.end());
      const double half = (static_cast<double>(*low) + *high) / 2;
      double won = 0, pairs = 0, both = 0, either = 0;
      for (std::size_t p = 0; p < kArea; ++p) {
        both += box(p) && map[p] >= half;
        either += box(p) || map[p] >= half;
        for (std::size_t q = 0; q < kArea && box(p); ++q) {
          if (box(q)) continue;
          won += map[p] > map[q] ? 1 : map[p] == map[q] ? 0.5 : 0;
          ++pairs;
        }
      }
      areas.push_back(won / pairs);
      overlaps.push_back(both / either);
    }
    const auto mean = [](const std::vector<double>& values, std::size_t first, std::size_t step) {
      double sum = 0, count = 0;
      for (std::size_t i = first; i < values.size(); i += step) sum += values[i], ++count;
      return sum / count;
    };
    for (const auto& [split, first, step] : std::vector<std::tuple<std::string, std::size_t, std::size_t>>{
             {"test", 0, 1}, {"test[src_repo=even]", 0, 2}, {"test[src_repo=odd]", 1, 2}}) {
      CHECK(value("map.pixel_auroc[Opacity]", kind, split).value == Approx(mean(areas, first, step)));
      CHECK(value("map.iou[Opacity]", kind, split).value == Approx(mean(overlaps, first, step)));
      CHECK(value("map.iou[Opacity]", kind, split).n == static_cast<std::int64_t>(kBoxes / step));
    }
  }
  // Every kind of maps and every baseline has them, finding by finding as well.
  for (const char* arm : {"difference", "evidence", "score_difference", "no_target", "mean_mask", "occlusion"})
    for (const char* figure : {"map.pixel_auroc", "map.pixel_ap", "map.pointing", "map.iou"})
      for (const char* of : {"", "[Opacity]", "[Nodule]"}) value(std::string(figure) + of, arm, "test");
}
