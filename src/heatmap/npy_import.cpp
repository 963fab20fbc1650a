#include "daug/heatmap/npy_import.h"

#include <filesystem>
#include <set>

#include "daug/core/error.h"
#include "daug/io/npy.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

constexpr const char* kImport = "import_npy_maps";

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Images (SUB/ID) that have a map of one of the names.
std::set<std::string> images_with_maps(const std::string& folder, const std::vector<std::string>& names) {
  std::set<std::string> images;
  std::error_code error;
  if (!fs::is_directory(folder, error)) fail(ErrorCode::kNotFound, kImport, folder, "a folder", "none");
  fs::recursive_directory_iterator entry(folder, error), end;
  for (; !error && entry != end; entry.increment(error)) {
    const std::string file = entry->path().lexically_relative(folder).generic_string();
    for (const auto& name : names) {
      const std::string suffix = "_" + name + ".npy";
      if (ends_with(file, suffix)) images.insert(file.substr(0, file.size() - suffix.size()));
    }
  }
  if (error) fail(ErrorCode::kIo, kImport, folder, "a readable folder", error.message());
  return images;
}

std::string image_file(const std::string& stem) {
  std::string found;
  for (const char* extension : {".jpg", ".jpeg", ".png", ".pgm"}) {
    std::error_code ignored;
    if (!fs::exists(stem + extension, ignored)) continue;
    if (!found.empty()) fail(ErrorCode::kMismatch, kImport, stem, "one image", "several");
    found = stem + extension;
  }
  if (found.empty()) fail(ErrorCode::kNotFound, kImport, stem, "an image .jpg, .jpeg, .png or .pgm", "none");
  return found;
}

std::vector<float> read_maps(const HeatmapLayout& layout, const std::string& stem) {
  std::vector<float> maps;
  const auto count = static_cast<std::uint64_t>(layout.height * layout.width);
  for (const auto& name : layout.names) {
    const std::string path = stem + "_" + name + ".npy";
    const Array array = read_npy(path, (1 << 17) + 8 * count);  // header, and the widest elements
    if (array.shape != std::vector<std::int64_t>{layout.height, layout.width}) {
      std::string shape;
      for (const auto extent : array.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(extent);
      fail(ErrorCode::kMismatch, kImport, path, detail::concat("[", layout.height, ", ", layout.width, "]"),
           "[" + shape + "]");
    }
    const auto values = array.to_float();
    maps.insert(maps.end(), values.begin(), values.end());
  }
  return maps;
}

}  // namespace

std::vector<std::string> published_map_names() { return {"+nof", "-car", "-lsn", "-con", "-atl", "-plr", "-dev"}; }

NpyImport import_npy_maps(HeatmapStoreWriter& store, const std::string& map_folder, const std::string& image_folder,
                          const RunControl& control) {
  const auto images = images_with_maps(map_folder, store.layout().names);
  NpyImport result;
  std::int64_t done = 0;
  for (const auto& image : images) {
    control.stop.throw_if_stopped(kImport);
    std::uint64_t key = 0;
    std::vector<float> maps;
    std::string problem;
    try {
      key = heatmap_key(image_file(image_folder + "/" + image));
      if (!store.contains(key)) maps = read_maps(store.layout(), map_folder + "/" + image);
    } catch (const Error& error) {
      problem = error.what();
    }
    if (problem.empty() && maps.empty()) {
      ++result.there_already;
    } else if (problem.empty()) {
      try {
        store.append(key, maps);
        ++result.imported;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kNumeric) throw;
        problem = error.what();
      }
    }
    if (!problem.empty()) result.problems.push_back(image + ": " + problem);
    control.report({"import maps", ++done, static_cast<std::int64_t>(images.size()), "images", {}});
  }
  return result;
}

}  // namespace daug
