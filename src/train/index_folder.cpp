#include "daug/train/index_folder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>

#include "daug/core/error.h"
#include "daug/core/parallel.h"
#include "daug/image/decode.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

constexpr const char* kFunction = "daug::index_folder";

/// Names of the images below a folder, sorted.
std::vector<std::string> image_names(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) fail(ErrorCode::kNotFound, kFunction, folder, "a folder", "none");
  std::vector<std::string> names;
  fs::recursive_directory_iterator entry(folder, error), end;
  for (; !error && entry != end; entry.increment(error)) {
    std::error_code unknown;  // such as a link to itself
    if (!entry->is_regular_file(unknown)) continue;
    std::string ending = entry->path().extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
    if (ending == ".png" || ending == ".jpg" || ending == ".jpeg" || ending == ".pgm")
      names.push_back(entry->path().lexically_relative(folder).generic_string());
  }
  if (error) throw Error(ErrorCode::kIo, detail::concat(kFunction, ": ", folder, ": ", error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

void IndexFolderOptions::validate() const {
  constexpr const char* kName = "daug::IndexFolderOptions";
  preprocess.validate();
  require_range(batch_size, 1, 1 << 20, kName, "batch_size");
  require_range(threads, 1, 256, kName, "threads");
}

IndexFolderResult index_folder(const std::string& folder, IndexWriter& index, const EmbedImages& embed,
                               const IndexFolderOptions& options, const RunControl& control) {
  options.validate();
  const std::vector<std::string> names = image_names(folder);
  IndexFolderResult result;
  std::vector<std::string> wanted;
  for (const auto& name : names)
    if (!index.index().contains(RetrievalIndex::id_of(name))) wanted.push_back(name);
  result.present = static_cast<std::int64_t>(names.size() - wanted.size());
  const std::int64_t size = options.preprocess.size;
  const auto total = static_cast<std::int64_t>(names.size()), batch_size = options.batch_size;
  for (std::int64_t begin = 0; begin < static_cast<std::int64_t>(wanted.size()); begin += batch_size) {
    control.stop.throw_if_stopped(kFunction);
    const auto count = static_cast<std::size_t>(std::min(batch_size, static_cast<std::int64_t>(wanted.size()) - begin));
    std::vector<std::vector<float>> pixels(count);
    std::vector<std::optional<LoadFailure>> failures(count);
    detail::for_each_task(count, static_cast<std::size_t>(options.threads), [&](std::size_t, std::size_t i) {
      const std::string& name = wanted[static_cast<std::size_t>(begin) + i];
      const std::string path = (fs::path(folder) / name).string();
      try {
        pixels[i] = preprocess(read_image(path), options.preprocess);
      } catch (const Error& error) {
        failures[i] = LoadFailure{name, path, error.what()};
      }
    });
    std::vector<std::string> read;
    std::vector<LoadFailure> bad;
    std::vector<at::Tensor> images;
    for (std::size_t i = 0; i < count; ++i) {
      if (failures[i]) {
        bad.push_back(*failures[i]);
        continue;
      }
      read.push_back(wanted[static_cast<std::size_t>(begin) + i]);
      images.push_back(at::from_blob(pixels[i].data(), {1, size, size}));
    }
    if (!bad.empty() && !options.skip_bad)
      throw LoadError(
          detail::concat(kFunction, ": ", bad.size(), " images cannot be read, the first: ", bad.front().message), bad);
    result.failures.insert(result.failures.end(), bad.begin(), bad.end());
    if (!read.empty()) {
      const at::Tensor vectors = embed(at::stack(images)).detach().to(at::kCPU, at::kFloat).contiguous();
      const std::int64_t rows = static_cast<std::int64_t>(read.size()), width = index.index().dimension();
      if (vectors.dim() != 2 || vectors.size(0) != rows || vectors.size(1) != width)
        fail(ErrorCode::kMismatch, kFunction, "embed", detail::concat("shape [", rows, ", ", width, "]"),
             vectors.sizes());
      index.add_named(read, Eigen::Map<const RowMatrix>(vectors.const_data_ptr<float>(), rows, width));
      result.added += rows;
    }
    control.report({"embed images", result.present + begin + static_cast<std::int64_t>(count), total, "images", ""});
  }
  return result;
}

}  // namespace daug
