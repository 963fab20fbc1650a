// Makes heatmaps of any radiographs with the models of a finished run, through the library's own calls.
//
//   map_images RUN_FOLDER OUT_FOLDER IMAGE...
//
// Writes one picture a map and image, the map over the radiograph, and prints where each map is strongest and how
// unusual it would be among the run's healthy images. One colour scale serves all pictures of a kind, so that a faint
// map looks faint. Exit status: 0, 1 for images that could not be read (the others are made), 2 for wrong arguments.
// Not a medical device.
#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>

#include "daug/core/error.h"
#include "daug/image/colormap.h"
#include "daug/image/decode.h"
#include "daug/image/png.h"
#include "daug/io/fingerprint.h"
#include "daug/pipeline/map_maker.h"

namespace fs = std::filesystem;

namespace {

/// The radiograph as the network sees it, with a map [S, S] over it.
daug::RgbImage picture(const at::Tensor& x, const at::Tensor& map, double high) {
  const auto size = static_cast<int>(map.size(0));
  daug::GrayImage gray = daug::GrayImage::filled(size, size);
  const at::Tensor pixels = ((x + 1) / 2).contiguous(), values = map.contiguous();
  std::copy_n(pixels.const_data_ptr<float>(), pixels.numel(), gray.pixels.begin());
  const std::vector<float> heat(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel());
  return daug::overlay_map(gray, heat, 0, static_cast<float>(high), daug::Colormap::kInferno, 0.8);
}

struct Mapped {
  std::string name;
  at::Tensor x;  // [1, 1, S, S]
  daug::ImageMaps maps;
};

/// Maps of one file. The noise of its evidence is keyed by its content.
Mapped map_file(const daug::MapMaker& maker, const std::string& path) {
  std::vector<float> pixels = daug::preprocess(daug::read_image(path), maker.preprocess());
  const std::int64_t size = maker.preprocess().size;
  const at::Tensor x = at::from_blob(pixels.data(), {1, 1, size, size}).clone();
  const std::uint64_t item = std::stoull(daug::fingerprint_file(path).substr(0, 16), nullptr, 16);
  return {fs::path(path).stem().string(), x, maker.make(x, {item}, /*controls=*/true)};
}

/// What maps are like among the run's healthy images; nothing where they were too few.
struct Healthy {
  std::optional<daug::MapCalibration> difference, evidence;
};

/// The share of healthy images with a map of group g as unusual as that in `maps` [1, G, S, S].
std::string among(const std::optional<daug::MapCalibration>& healthy, const at::Tensor& maps, std::int64_t g) {
  return healthy ? " (p " + std::to_string(healthy->image_p_values(maps)[0][g].item<double>()) + ")" : "";
}

void write(const Mapped& image, const daug::MapMaker& maker, const Healthy& healthy, const std::string& out,
           double difference_high, double evidence_high) {
  std::cout << image.name << ": round-trip error " << image.maps.residual.item<double>() << "\n";
  for (std::int64_t g = 0; g < static_cast<std::int64_t>(maker.groups().size()); ++g) {
    const std::string& group = maker.groups()[static_cast<std::size_t>(g)].name;
    const at::Tensor difference = image.maps.difference[0][g], evidence = image.maps.evidence[0][g];
    const std::int64_t peak = difference.argmax().item<std::int64_t>(), size = difference.size(0);
    std::cout << "  " << group << ": mean evidence " << evidence.mean().item<double>()
              << among(healthy.evidence, image.maps.evidence, g) << ", largest difference "
              << difference.max().item<double>() << " at x " << peak % size << ", y " << peak / size
              << among(healthy.difference, image.maps.difference, g) << "\n";
    std::string file = image.name + "_" + group;
    std::replace(file.begin(), file.end(), '/', '_');  // as in "Nodule/Mass"
    const std::string stem = (fs::path(out) / file).string();
    daug::write_png(stem + "_difference.png", picture(image.x[0][0], difference, difference_high));
    daug::write_png(stem + "_evidence.png", picture(image.x[0][0], evidence, evidence_high));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argv[1][0] == '-') {
    std::cerr << "usage: map_images RUN_FOLDER OUT_FOLDER IMAGE...\n";
    return 2;
  }
  int status = 0;
  try {
    const auto maker = daug::MapMaker::load(argv[1]);
    const Healthy healthy = {maker.calibration("difference"), maker.calibration("evidence")};
    fs::create_directories(argv[2]);
    std::vector<Mapped> images;
    double difference_high = 1e-9, evidence_high = 1e-9;
    for (int i = 3; i < argc; ++i) {
      try {
        images.push_back(map_file(maker, argv[i]));
      } catch (const daug::Error& error) {
        std::cerr << "left out: " << error.what() << "\n";
        status = 1;
        continue;
      }
      difference_high = std::max(difference_high, images.back().maps.difference.max().item<double>());
      evidence_high = std::max(evidence_high, images.back().maps.evidence.max().item<double>());
    }
    for (const auto& image : images) write(image, maker, healthy, argv[2], difference_high, evidence_high);
  } catch (const c10::Error& error) {
    std::cerr << "error: " << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return status;
}
