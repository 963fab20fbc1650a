#include "daug/data/phantom.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <system_error>

#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "daug/core/random.h"
#include "daug/data/cohort.h"
#include "daug/image/png.h"
#include "daug/image/preprocess.h"
#include "daug/io/csv.h"
#include "phantom_report.h"
#include "phantom_scene.h"

namespace daug {
namespace {

namespace fs = std::filesystem;

/// Grain: a 32 x 32 lattice of normals and, for larger images, finer and weaker ones, so that enlarging a phantom keeps
/// its coarse pattern and adds detail.
std::vector<float> exposure_noise(int size, double sigma, RandomStream random) {
  std::vector<float> noise(static_cast<std::size_t>(size) * static_cast<std::size_t>(size));
  for (int side = 32;; side *= 2) {
    GrayImage lattice = GrayImage::filled(side, side);
    for (float& value : lattice.pixels) value = static_cast<float>(sigma * random.normal());
    const GrayImage grain = resize(lattice, size, size, ResizeFilter::kBicubic);
    std::transform(noise.begin(), noise.end(), grain.pixels.begin(), noise.begin(), std::plus<>());
    if (side >= size) return noise;
    sigma *= 0.7;
  }
}

std::vector<float> expose(const std::vector<float>& render, const std::vector<float>& noise) {
  std::vector<float> pixels(render.size());
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = std::clamp(render[i] + noise[i], -1.0F, 1.0F);
  return pixels;
}

std::vector<std::uint8_t> change_mask(const std::vector<float>& image, const std::vector<float>& without) {
  float largest = 0;
  for (std::size_t i = 0; i < image.size(); ++i) largest = std::max(largest, std::abs(image[i] - without[i]));
  const float threshold = std::max(0.06F, 0.25F * largest);
  std::vector<std::uint8_t> mask(image.size());
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = std::abs(image[i] - without[i]) > threshold;
  return mask;
}

/// A new file in a folder that is unfinished until its labels.csv is there, so no flush and rename for each.
void write_new_file(const fs::path& path, const std::vector<std::uint8_t>& bytes) {
  errno = 0;
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out)
    fail(ErrorCode::kIo, "write_phantom_cohort", path.string(), "a file that can be written",
         std::generic_category().message(errno));
}

void write_gray(const fs::path& path, int size, const std::vector<float>& pixels) {
  GrayImage gray = GrayImage::filled(size, size);
  std::transform(pixels.begin(), pixels.end(), gray.pixels.begin(), [](float x) { return 0.5F * (x + 1); });
  write_new_file(path, encode_png(gray));
}

/// Writes the files of one phantom and returns its row of labels.csv.
std::vector<std::string> write_phantom(const fs::path& folder, const PhantomOptions& options, const PhantomSlot& slot) {
  const Phantom phantom = make_phantom(options, slot.patient, slot.image);
  const std::string file = phantom.id + ".png";
  const auto& findings = phantom_findings();
  std::vector<std::string> row = {phantom.id,   "images/" + file, slot.split, phantom.patient_id,
                                  phantom.view, "synthetic",      "CC0"};
  write_gray(folder / row[1], phantom.size, phantom.image);
  const auto& labels = phantom.labels(options.labels);
  for (LabelState label : labels) row.emplace_back(label_text(label));
  row.emplace_back(label_text(no_finding_state(labels)));
  row.push_back(phantom.report);
  std::vector<std::string> counterfactuals;
  for (std::size_t f = 0; f < findings.size(); ++f) {
    const auto found = phantom.planted.find(f);
    row.emplace_back();
    counterfactuals.emplace_back();
    if (found == phantom.planted.end()) continue;
    row.back() = "masks/" + findings[f] + "/" + file;
    counterfactuals.back() = "counterfactual/" + findings[f] + "/" + file;
    GrayImage mask = GrayImage::filled(phantom.size, phantom.size);
    std::copy(found->second.mask.begin(), found->second.mask.end(), mask.pixels.begin());
    write_new_file(folder / row.back(), encode_png(mask));
    write_gray(folder / counterfactuals.back(), phantom.size, found->second.counterfactual);
  }
  row.insert(row.end(), counterfactuals.begin(), counterfactuals.end());
  row.push_back("counterfactual/" + file);
  write_gray(folder / row.back(), phantom.size, phantom.healthy);
  return row;
}

}  // namespace

PhantomLabels phantom_labels(const std::string& name) {
  if (name == "truth") return PhantomLabels::kTruth;
  if (name == "report") return PhantomLabels::kFromReport;
  fail(ErrorCode::kInvalidArgument, "phantom_labels", "name", "truth or report", "'" + name + "'");
}

void PhantomOptions::validate() const {
  require_range(size, 32, 512, "PhantomOptions", "size");
  for (const auto& [name, value] : {std::pair{"prevalence", prevalence}, std::pair{"repeat_patients", repeat_patients},
                                    std::pair{"mention_absent", mention_absent},
                                    std::pair{"silent_present", silent_present}, std::pair{"hedge", hedge}})
    require_range(value, 0.0, 1.0, "PhantomOptions", name);
  require_range(train_images + val_images + test_images, 1, 10'000'000, "PhantomOptions", "images in all");
}

const std::vector<std::string>& phantom_findings() {
  constexpr std::array kNames = {"Effusion", "Cardiomegaly", "Nodule", "Consolidation", "Pneumothorax", "Device"};
  static_assert(kNames.size() == phantom::kFindingCount);
  static const std::vector<std::string> kFindings(kNames.begin(), kNames.end());
  return kFindings;
}

Phantom make_phantom(const PhantomOptions& options, std::uint64_t patient, std::uint64_t image) {
  options.validate();
  const phantom::Scene scene = phantom::make_scene(options, patient, image);
  const std::uint64_t item = phantom::item_key(patient, image);
  // Soft edges are about 1/60 of the image, so this many samples a pixel side leave no visible aliasing.
  const auto renders = phantom::render(scene, options.size, std::clamp(256 / options.size, 1, 3));
  const auto noise = exposure_noise(options.size, scene.pose.noise, RandomStream(options.seed, item, "noise"));

  Phantom phantom;
  phantom.size = options.size;
  phantom.patient_id = fmt::format("p{:05}", patient);
  phantom.id = fmt::format("{}_{}", phantom.patient_id, image);
  phantom.view = scene.pose.ap ? "AP" : "PA";
  phantom.image = expose(renders[phantom::kWithAll], noise);
  phantom.healthy = expose(renders[phantom::kWithNone], noise);
  for (std::size_t f = 0; f < phantom_findings().size(); ++f) {
    phantom.truth.push_back(scene.present[f] ? LabelState::kPositive : LabelState::kNegative);
    if (!scene.present[f]) continue;
    PlantedFinding& planted = phantom.planted[f];
    planted.description = scene.lesions.descriptions[f];
    planted.counterfactual = expose(renders[f], noise);
    planted.mask = change_mask(phantom.image, planted.counterfactual);
  }
  auto report = phantom::write_report(options, phantom.truth, scene.lesions.descriptions,
                                      RandomStream(options.seed, item, "report"));
  phantom.reported = std::move(report.states);
  phantom.report = std::move(report.text);
  return phantom;
}

std::vector<PhantomSlot> phantom_layout(const PhantomOptions& options) {
  options.validate();
  std::vector<PhantomSlot> slots;
  std::uint64_t patient = 0;
  for (const auto& [split, count] :
       {std::pair{kSplits[0], options.train_images}, std::pair{kSplits[1], options.val_images},
        std::pair{kSplits[2], options.test_images}}) {
    const std::size_t end = slots.size() + count;
    for (; slots.size() < end; ++patient) {
      RandomStream random(options.seed, patient, "images of a patient");
      const std::uint64_t images = random.uniform() < options.repeat_patients ? 2 + random.below(2) : 1;
      for (std::uint64_t i = 0; i < images && slots.size() < end; ++i) slots.push_back({patient, i, split});
    }
  }
  return slots;
}

void write_phantom_cohort(const std::string& folder, const PhantomOptions& options, const RunControl& control,
                          int threads) {
  constexpr const char* kFunction = "write_phantom_cohort";
  require_range(threads, 1, 256, kFunction, "threads");
  const auto slots = phantom_layout(options);
  const auto& findings = phantom_findings();
  const fs::path root(folder);
  std::error_code failure;
  fs::remove(root / "labels.csv", failure);
  for (const char* kind : {"images", "masks", "counterfactual"}) {
    fs::create_directories(root / kind, failure);
    for (const auto& finding : findings)
      if (kind != std::string("images") && !failure) fs::create_directories(root / kind / finding, failure);
    if (failure)
      fail(ErrorCode::kIo, kFunction, (root / kind).string(), "a folder that can be made", failure.message());
  }

  CsvTable table;
  table.columns = {"id", "path", "split", "patient_id", "view", "source", "licence"};
  table.columns.insert(table.columns.end(), findings.begin(), findings.end());
  table.columns.insert(table.columns.end(), {"No_Finding", "report"});
  for (const char* prefix : {"mask_", "counterfactual_"})
    for (const auto& finding : findings) table.columns.push_back(prefix + finding);
  table.columns.push_back("counterfactual");
  table.rows.resize(slots.size());

  parallel_for(slots.size(), threads, "phantom cohort", control,
               [&](std::size_t i) { table.rows[i] = write_phantom(root, options, slots[i]); });
  write_csv((root / "labels.csv").string(), table);
}

}  // namespace daug
