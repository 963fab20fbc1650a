// The stage that makes the maps and calibrates them, and access to what it made.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/threads.h"
#include "calibration_files.h"
#include "daug/heatmap/heatmap_store.h"
#include "daug/heatmap/precompute.h"
#include "daug/pipeline/map_maker.h"
#include "daug/translator/translation.h"
#include "pipeline/run_impl.h"
#include "pipeline/settings/stage_options.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

/// Images whose maps are made in one batch: what stands beside an image decides its maps' last digits, so that they are
/// the same in every run.
constexpr std::size_t kMapBlock = 10;

/// What a run keeps of an image, in the order of its record.
struct MapKind {
  const char* name;
  at::Tensor ImageMaps::*maps;
  bool grouped;  ///< one map a group of findings, not one in all
  bool control;  ///< of test images alone
};

constexpr MapKind kMapKinds[] = {{"difference", &ImageMaps::difference, true, false},
                                 {"evidence", &ImageMaps::evidence, true, false},
                                 {"score_difference", &ImageMaps::score_difference, true, true},
                                 {"translated", &ImageMaps::translated, true, true},
                                 {"no_target", &ImageMaps::no_target, false, true},
                                 {"reconstruction", &ImageMaps::reconstruction, false, true}};

constexpr MapStorage kMapStorage = MapStorage::kFloat32;  // figures are computed from them

/// A store of a run and the images it is for, block by block.
struct StoredMaps {
  std::string path;
  bool controls = false;
  HeatmapLayout layout;
  std::vector<std::size_t> rows;
  std::vector<std::uint64_t> keys;  ///< [rows]; files of equal bytes share their maps
};

/// The store of the test images, which have controls, and that of the others. A block lies in that of its first image.
std::array<StoredMaps, 2> stored_maps(Run::Impl& run) {
  const RunData& d = run.data();
  std::vector<std::size_t> rows = d.test;
  rows.insert(rows.end(), d.val.begin(), d.val.end());
  rows.insert(rows.end(), d.encoder_train.begin(), d.encoder_train.end());
  const std::size_t tests = std::min((d.test.size() + kMapBlock - 1) / kMapBlock * kMapBlock, rows.size());
  const auto others = rows.begin() + static_cast<std::ptrdiff_t>(tests);
  std::array<StoredMaps, 2> stores;
  stores[0] = {run.path("heatmaps/tests.daugmaps"), true, {}, {rows.begin(), others}, {}};
  stores[1] = {run.path("heatmaps/others.daugmaps"), false, {}, {others, rows.end()}, {}};
  for (StoredMaps& store : stores) {
    HeatmapLayout& layout = store.layout;
    layout.fingerprint = run.fingerprint(Stage::kHeatmaps);
    layout.height = layout.width = run.config.size;
    layout.storage = kMapStorage;
    for (const MapKind& kind : kMapKinds) {
      if (kind.control && !store.controls) continue;
      if (!kind.grouped) layout.names.emplace_back(kind.name);
      for (std::size_t g = 0; kind.grouped && g < d.maps(); ++g)
        layout.names.push_back(fmt::format("{}/{}", kind.name, d.groups[g].name));
    }
    for (const std::size_t row : store.rows) store.keys.push_back(heatmap_key(d.study(row).path));
  }
  return stores;
}

/// Whether the store that is there can be gone on with: the same settings made it in the same format.
bool is_begun(const StoredMaps& stored) {
  try {
    return read_heatmap_layout(stored.path).fingerprint == stored.layout.fingerprint;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kFormat) return false;
    throw;
  }
}

std::string fingerprint_of_maps(Run::Impl& run) {
  return maps_fingerprint(run.config, run.data().groups, run.fingerprint(Stage::kTranslator),
                          guided_by_classifier(run.config) ? run.fingerprint(Stage::kGuide) : "");
}

}  // namespace

std::string map_format() {
  std::string format = fmt::format("daugmaps {}, storage {}, blocks of {}", kHeatmapStoreVersion,
                                   static_cast<int>(kMapStorage), kMapBlock);
  for (const MapKind& kind : kMapKinds) format += fmt::format(", {}{}", kind.name, kind.control ? " of tests" : "");
  return format;
}

void Run::Impl::make_heatmaps() {
  const RunData& d = data();
  const DenoiserUNet network = load_denoiser();
  const auto guide = guided_by_classifier(config) ? std::make_unique<NoiseAwareClassifier>(load_guide()) : nullptr;
  const MapMaker maker(config, {d.cohort.findings, d.groups}, network, guide.get(), d.cohort.findings);

  fs::create_directories(path("heatmaps"));
  const auto stores = stored_maps(*this);
  const auto total = static_cast<std::int64_t>(stores[0].rows.size() + stores[1].rows.size());
  std::int64_t before = 0;  // images of the stores that are filled
  for (const StoredMaps& stored : stores) {
    if (fs::exists(stored.path) && !is_begun(stored)) {
      log(fmt::format("heatmaps: {} is of other settings or another version of the library, and made anew",
                      stored.path));
      fs::remove(stored.path);
    }
    HeatmapStoreWriter writer(stored.path, stored.layout);
    const ComputeMaps compute = [&](const std::vector<std::size_t>& images, float* out) {
      backend::one_intra_op_thread();
      c10::InferenceMode inference;
      // All of the block, even where a run that was killed had stored some of it.
      const std::size_t begin = images[0] / kMapBlock * kMapBlock;
      const std::size_t size = std::min(kMapBlock, stored.rows.size() - begin), values = stored.layout.values();
      const std::vector<std::size_t> block(stored.rows.data() + begin, stored.rows.data() + begin + size);
      const ImageMaps made = maker.make(take(d.pixels, block), {block.begin(), block.end()}, stored.controls,
                                        control.stop, stored.controls);  // round trips of others are not kept
      std::vector<at::Tensor> parts;
      for (const MapKind& kind : kMapKinds)
        if (stored.controls || !kind.control) parts.push_back(made.*kind.maps);
      const at::Tensor maps = at::cat(parts, 1).contiguous();
      for (std::size_t i = 0; i < images.size(); ++i)
        std::copy_n(maps.const_data_ptr<float>() + (images[i] - begin) * values, values, out + i * values);
    };
    PrecomputeOptions options;
    options.batch = kMapBlock;
    options.threads = static_cast<int>(network_threads(config));
    RunControl counted;  // over both stores; whoever shows progress knows its rate
    counted.stop = control.stop;
    counted.progress = [&](const Progress& progress) {
      control.report({progress.stage, before + progress.done, total, progress.unit, ""});
    };
    const backend::CallersThreads kept;
    precompute_heatmaps(writer, stored.keys, compute, options, counted);
    before += static_cast<std::int64_t>(stored.rows.size());
  }
  log(fmt::format("heatmaps: {} denoiser evaluations an image for difference maps, {} for evidence maps",
                  maker.difference_evaluations(), maker.evidence_evaluations()));
  maps_.reset();
  calibrate_maps();
}

void Run::Impl::calibrate_maps() {
  const RunData& d = data();
  const auto too_few = [](const std::vector<std::size_t>& healthy) {
    return static_cast<std::int64_t>(healthy.size()) < MapCalibration::kLeastImages;
  };
  // The translator knows its training images, whose maps may be smaller: validation images stand for others better.
  // Where labels are held back, though, nothing of the diffusion's sees any but those of the labelled images.
  const bool held_back = config.labelled > 0;
  std::vector<std::size_t> rows = d.healthy(held_back ? d.encoder_train : d.val);
  const bool second_choice = too_few(rows);
  if (second_choice) rows = d.healthy(held_back ? d.val : d.encoder_train);
  std::vector<std::string> names;
  for (const auto& group : d.groups) names.push_back(group.name);
  const std::string of_maps = fingerprint_of_maps(*this);
  for (const std::string kind : kCalibratedKinds) {
    const std::string file_path = path(calibration_file(kind));
    fs::remove(file_path);
    if (too_few(rows)) continue;
    SafetensorsFile file = MapCalibration::fit(maps().select(kind, rows), names).to_file();
    file.metadata["fingerprint"] = fingerprint(Stage::kHeatmaps);
    file.metadata["maps"] = of_maps;
    write_safetensors(file_path, file);
  }
  std::string first = "validation", second = "labelled training";
  if (held_back) std::swap(first, second);
  if (too_few(rows))
    log(fmt::format("heatmaps: {} healthy images are too few to calibrate maps on", rows.size()));
  else if (second_choice)
    log(fmt::format(
        "heatmaps: too few of the {} images are healthy; calibrated on {} healthy {} images by their labels", first,
        rows.size(), second));
  else
    log(fmt::format("heatmaps: calibrated on {} healthy {} images", rows.size(), first));
}

std::optional<MapCalibration> Run::Impl::calibration(const std::string& kind) {
  return read_calibration("daug::Run", config.out, kind, fingerprint_of_maps(*this), fingerprint(Stage::kHeatmaps));
}

const MapSet& Run::Impl::maps() {
  if (maps_) return *maps_;
  MapSet set;
  std::map<std::string, std::vector<at::Tensor>> pieces;
  for (const StoredMaps& stored : stored_maps(*this)) {
    const HeatmapStore store(stored.path, stored.layout.fingerprint);
    const std::size_t values = stored.layout.values();
    if (store.layout().values() != values)
      fail(ErrorCode::kMismatch, "daug::Run", stored.path, detail::concat(values, " values an image"),
           store.layout().values());
    const at::Tensor all = at::empty({static_cast<std::int64_t>(stored.rows.size()),
                                      static_cast<std::int64_t>(stored.layout.names.size()), config.size, config.size});
    for (std::size_t i = 0; i < stored.rows.size(); ++i) {
      const std::vector<float> maps = store.read(stored.keys[i]);
      std::copy(maps.begin(), maps.end(), all.data_ptr<float>() + i * values);
    }
    std::int64_t first = 0;
    for (const MapKind& kind : kMapKinds) {
      if (kind.control && !stored.controls) continue;
      const std::int64_t count = kind.grouped ? static_cast<std::int64_t>(data().maps()) : 1;
      pieces[kind.name].push_back(all.narrow(1, first, count));
      first += count;
    }
    set.rows.insert(set.rows.end(), stored.rows.begin(), stored.rows.end());
    if (stored.controls) set.test_rows = stored.rows;
  }
  for (auto& [name, list] : pieces) {
    const at::Tensor joined = at::cat(list);
    if (name == "translated")
      set.translated = joined;
    else if (name == "reconstruction")
      set.reconstruction = joined;
    else
      set.maps[name] = joined;
  }
  set.residual = round_trip_residual(take(data().pixels, set.test_rows), set.reconstruction);
  maps_ = std::move(set);
  return *maps_;
}

}  // namespace daug
