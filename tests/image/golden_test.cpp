// Files and pictures made by other programs, discovered under the shared data folder.
#include "support/golden.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "daug/core/error.h"
#include "daug/image/decode.h"
#include "daug/image/preprocess.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "image/golden_resize.h"
#include "support/catch.h"

using namespace daug;
using namespace daug::test;

namespace {

/// One row of bad-images/manifest.csv: what a safe reader must do, and what Pillow sees.
struct Row {
  std::string file, expected, result, mode;
  std::map<std::string, double> pillow;  // w, h, min, max, mean, where given

  bool mentions(const std::string& word) const { return expected.find(word) != std::string::npos; }
  bool must_reject() const { return expected.rfind("reject", 0) == 0 && !mentions("decode"); }
  bool must_decode() const { return expected.rfind("decode", 0) == 0 && !mentions("reject"); }
};

std::vector<Row> read_manifest(const std::string& path) {
  const CsvTable table = read_csv(path);
  std::vector<Row> rows;
  for (const auto& cells : table.rows) {
    const auto cell = [&](const char* column) { return cells[table.column(column)]; };
    Row row{cell("file"), cell("expected"), cell("pillow_result"), cell("pillow_mode"), {}};
    for (const char* name : {"w", "h", "min", "max", "mean"})
      if (const std::string text = cell((std::string("pillow_") + name).c_str()); !text.empty())
        row.pillow[name] = std::stod(text);
    rows.push_back(row);
  }
  return rows;
}

std::optional<GrayImage> try_decode(const std::string& path, std::string& why, ErrorCode& code) {
  try {
    return read_image(path);
  } catch (const Error& error) {
    why = error.what();
    code = error.code();
    return std::nullopt;
  }
}

/// Compares with Pillow's raw array; returns a word on what was compared.
std::string compare(const Row& row, const GrayImage& image, const ImageInfo& info) {
  if (row.result != "ok" || row.pillow.size() < 5) return "decoded";
  const bool turned = info.orientation >= 5;
  CHECK(image.width == row.pillow.at(turned ? "h" : "w"));
  CHECK(image.height == row.pillow.at(turned ? "w" : "h"));
  const auto [lowest, highest] = std::minmax_element(image.pixels.begin(), image.pixels.end());
  const double mean = std::accumulate(image.pixels.begin(), image.pixels.end(), 0.0) / image.pixels.size();
  const double low = row.pillow.at("min"), high = row.pillow.at("max"), pillow_mean = row.pillow.at("mean");

  // Decoders of JPEG may round differently; everything else is exact (the manifest gives four digits of the mean).
  const bool jpeg = info.format == "JPEG";
  const double margin = jpeg ? 4 : 1e-3, mean_margin = jpeg ? 0.5 : 1e-3;
  const auto same = [&](double scale) {
    const double extremes = std::max(std::abs(*lowest * scale - low), std::abs(*highest * scale - high));
    const double of_mean = std::abs(mean * scale - pillow_mean);
    CHECK(extremes <= margin);
    CHECK(of_mean <= (scale > 255 ? 0.1 : mean_margin));
    return "minimum, maximum and mean agree, max error " + std::to_string(std::max(extremes, of_mean));
  };
  if (row.mode == "L" || row.mentions("gray equals source")) return same(255);
  if (row.mode == "1") return same(1);
  if (row.mode.rfind("I", 0) == 0) return same(65535);
  if (row.mode == "RGB" || row.mode == "RGBA" || row.mode == "LA") {  // luma lies between the channels
    CHECK(*lowest * 255 >= low - margin);
    CHECK(*highest * 255 <= high + margin);
    return "size and range agree";
  }
  return "size agrees";
}

/// A decoded picture must survive what comes next.
void check_preprocessing(const GrayImage& image) {
  for (const Fit fit : {Fit::kLetterbox, Fit::kCenterCrop, Fit::kStretch}) {
    PreprocessOptions options;
    options.fit = fit;
    const auto values = preprocess(image, options);
    CHECK(values.size() == 64 * 64);
    CHECK(std::all_of(values.begin(), values.end(), [](float v) { return v >= -1 && v <= 1; }));
  }
}

std::string check_row(const std::string& folder, const Row& row) {
  const std::string path = folder + "/" + row.file;
  if (!std::filesystem::exists(path)) return "skipped (file absent)";
  std::string why, why_again;
  ErrorCode code{}, code_again{};
  const auto image = try_decode(path, why, code), again = try_decode(path, why_again, code_again);
  CHECK(image.has_value() == again.has_value());
  CHECK(why == why_again);
  if (!image) {
    CHECK_THAT(why, contains_text(row.file));
    CHECK((code == ErrorCode::kFormat || code == ErrorCode::kUnsupported));
    if (why.find("a PNG, JPEG or PGM file") != std::string::npos && row.must_decode())
      return "skipped (format is not read)";
    CHECK_FALSE(row.must_decode());
    return "ok (rejected: " + why.substr(why.find(row.file) + row.file.size() + 2) + ")";
  }
  CHECK(image->pixels == again->pixels);
  CHECK_FALSE(row.must_reject());
  check_preprocessing(*image);
  return "ok (decoded, " + compare(row, *image, inspect_image(read_file(path), path)) + ")";
}

}  // namespace

TEST_CASE("files that readers trip over", "[image][golden]") {
  const auto shared = shared_data();
  const std::string folder = shared.value_or("") + "/data/bad-images";
  if (!shared || !std::filesystem::exists(folder + "/manifest.csv")) {
    std::cout << "golden bad-images: skipped (" << absent_data(shared, "bad-images") << ")\n";
    return;
  }
  const auto rows = read_manifest(folder + "/manifest.csv");
  REQUIRE_FALSE(rows.empty());
  for (const Row& row : rows) {
    INFO(row.file << ": " << row.expected);
    const int failed_before = failed_assertions();
    const std::string verdict = check_row(folder, row);
    std::cout << "golden bad-images/" << row.file << ": "
              << (failed_assertions() == failed_before ? verdict : "FAILED, " + verdict) << "\n";
  }
}

namespace {

/// Checks the pictures that CLIP's processor has resized and scaled to [0, 1], before it crops and normalises them,
/// against resize. Both of its backends work on 8 bits, along rows first, and round what lies between the passes too,
/// so that overshoots are cut there; what their arithmetic of integers may move is a grey level of the result, and
/// torchvision's may also be as far off as the set says that it is from Pillow's, which is what is done here.
double check_clip_resize(const GoldenSet& set) {
  const std::string kind = ".resize_only";
  const double level = set.settings.at("constants").at("rescale");
  const nlohmann::json none = nlohmann::json::object();
  const nlohmann::json apart =
      set.settings.value("measured", none).value("max_abs_torchvision_minus_pil_standard_authors_resizeonly", none);
  double largest = 0;
  int cases = 0;
  for (const auto& [name, array] : set.file.tensors) {
    if (name.size() <= kind.size() || name.compare(name.size() - kind.size(), kind.size(), kind) != 0) continue;
    const std::string picture = name.substr(0, name.find('.'));
    const Array& source = set.at(picture);  // [H, W] or [H, W, 3]
    double tolerance = 1.001 * level;
    if (name.find(".torchvision.") != std::string::npos && apart.contains(picture))
      tolerance += apart.at(picture).at(2).get<double>();
    const std::vector<float> samples = source.to_float();
    const std::size_t channels = source.shape.size() == 3 ? 3 : 1;
    const std::vector<double> expected = set.at(name).to_double();  // [3, height, width]
    ++cases;
    const int height = static_cast<int>(array.shape.at(1)), width = static_cast<int>(array.shape.at(2));
    const auto area = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
    for (std::size_t c = 0; c < 3; ++c) {
      GrayImage image = GrayImage::filled(static_cast<int>(source.shape.at(1)), static_cast<int>(source.shape.at(0)));
      for (std::size_t i = 0; i < image.pixels.size(); ++i)
        image.pixels[i] = static_cast<float>(level) * samples[i * channels + c % channels];
      GrayImage between = resize(image, width, image.height, ResizeFilter::kBicubic);
      for (float& pixel : between.pixels)
        pixel = static_cast<float>(level * std::round(std::clamp<double>(pixel, 0, 1) / level));
      const GrayImage resized = resize(between, width, height, ResizeFilter::kBicubic);
      double error = 0;
      for (std::size_t i = 0; i < area; ++i) {
        const double rounded = level * std::round(std::clamp<double>(resized.pixels[i], 0, 1) / level);
        error = std::max(error, std::abs(rounded - expected[c * area + i]));
      }
      INFO(name << " channel " << c);
      CHECK(error <= tolerance);
      largest = std::max(largest, error);
    }
  }
  if (cases == 0) throw Skip{"no picture before it is normalised"};
  check_outputs_read(set, {{"*.standard", "normalised after rounding"}, {"*.authors", "normalised after rounding"}},
                     {"*.*.*"});
  return largest;
}

}  // namespace

TEST_CASE("resizing agrees with Pillow, torch and CLIP's processor", "[image][golden]") {
  for_each_golden("resize_pil", [](const GoldenSet& set) {
    // Of the other filters what overshoots 8 and 16 bits is cut between the passes, which is not done here.
    return check_resize(set,
                        {{"box.F", {ResizeFilter::kBox, "F", 0}},
                         {"bilinear.F", {ResizeFilter::kBilinear, "F", 0}},
                         {"bicubic.F", {ResizeFilter::kBicubic, "F", 0}},
                         {"lanczos.F", {ResizeFilter::kLanczos, "F", 0}},
                         {"box.L", {ResizeFilter::kBox, "L", 255}},
                         {"bilinear.L", {ResizeFilter::kBilinear, "L", 255}},
                         {"box.RGB", {ResizeFilter::kBox, "RGB", 255}},
                         {"bilinear.RGB", {ResizeFilter::kBilinear, "RGB", 255}},
                         {"box.I16", {ResizeFilter::kBox, "I16", 65535}},
                         {"bilinear.I16", {ResizeFilter::kBilinear, "I16", 65535}}},
                        "F: atol ");
  });
  for_each_golden("resize_torch", [](const GoldenSet& set) {
    return check_resize(set,
                        {{"torch_bilinear_antialias", {ResizeFilter::kBilinear, "F", 0}},
                         {"torch_bicubic_antialias", {ResizeFilter::kBicubic, "F", 0}},
                         {"torch_bilinear_antialias_uint8", {ResizeFilter::kBilinear, "L", 255}}},
                        "float32: atol ");
  });
  for_each_golden("resize_clip", check_clip_resize);
}
