#include "daug/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "cohort_index.h"
#include "daug/core/parallel.h"
#include "daug/core/utf8.h"
#include "daug/image/decode.h"
#include "daug/io/csv.h"
#include "daug/metrics/localization.h"

namespace daug {
namespace {

constexpr std::size_t kShown = 5;

[[noreturn]] void throw_failures(std::vector<LoadFailure> failures, std::size_t total) {
  std::string text =
      fmt::format("load_images: expected {} readable images, got {} that cannot be read:", total, failures.size());
  for (std::size_t i = 0; i < std::min(failures.size(), kShown); ++i) {
    const LoadFailure& failure = failures[i];
    const std::string row = failure.line > 0 ? fmt::format(" (labels.csv line {})", failure.line) : "";
    text += fmt::format("\n  {}{}: {}", failure.study, row, failure.message);
  }
  if (failures.size() > kShown) text += fmt::format("\n  and {} more", failures.size() - kShown);
  throw LoadError(text, std::move(failures));
}

GrayImage read_mask(const std::string& path, std::array<int, 2> original) {
  GrayImage mask = read_image(path);
  if (mask.width != original[0] || mask.height != original[1])
    fail(ErrorCode::kMismatch, "finding_region", path,
         fmt::format("the image's size {} x {}", original[0], original[1]),
         fmt::format("{} x {}", mask.width, mask.height));
  return mask;
}

/// Throws what reading a study's masks and counterfactuals throws.
void read_truth(const Study& study, std::array<int, 2> original) {
  for (const auto& entry : study.mask_paths) read_mask(entry.second, original);
  for (const auto& entry : study.counterfactual_paths) read_image(entry.second);
  if (!study.counterfactual_path.empty()) read_image(study.counterfactual_path);
}

std::optional<std::vector<float>> load_optional(const std::string& path, const PreprocessOptions& options) {
  if (path.empty()) return std::nullopt;
  return preprocess(read_image(path), options);
}

}  // namespace

void LoadOptions::validate() const {
  preprocess.validate();
  require_range(threads, 1, 256, "LoadOptions", "threads");
}

LoadResult load_images(const Cohort& cohort, const std::vector<std::size_t>& studies, const LoadOptions& options,
                       const RunControl& control) {
  options.validate();
  for (std::size_t study : studies) (void)detail::study_at(cohort, study, "load_images", "studies");

  ImageSet all;
  all.size = options.preprocess.size;
  const std::size_t stride = all.pixels_per_image();
  all.pixels.resize(studies.size() * stride);
  all.original.resize(studies.size());
  std::vector<std::string> errors(studies.size());
  parallel_for(studies.size(), options.threads, "load images", control, [&](std::size_t n) {
    try {
      const GrayImage gray = read_image(cohort.studies[studies[n]].path);
      if (options.check_truth) read_truth(cohort.studies[studies[n]], {gray.width, gray.height});
      const auto pixels = preprocess(gray, options.preprocess);
      std::copy(pixels.begin(), pixels.end(), all.pixels.begin() + static_cast<std::ptrdiff_t>(n * stride));
      all.original[n] = {gray.width, gray.height};
    } catch (const Error& error) {
      errors[n] = error.what();
    }
  });

  // Close the gaps that unreadable images left.
  LoadResult result;
  std::size_t kept = 0;
  for (std::size_t n = 0; n < studies.size(); ++n) {
    const Study& study = cohort.studies[studies[n]];
    if (!errors[n].empty()) {
      result.failures.push_back({study.id, study.path, errors[n], study.line});
      continue;
    }
    const auto from = all.pixels.begin() + static_cast<std::ptrdiff_t>(n * stride);
    if (kept != n) std::copy_n(from, stride, all.pixels.begin() + static_cast<std::ptrdiff_t>(kept * stride));
    all.original[kept++] = all.original[n];
    all.study.push_back(studies[n]);
  }
  if (!result.failures.empty() && (!options.skip_bad || kept == 0))
    throw_failures(std::move(result.failures), studies.size());
  all.pixels.resize(kept * stride);
  all.original.resize(kept);
  result.images = std::move(all);
  return result;
}

LoadResult load_images(const Cohort& cohort, const LoadOptions& options, const RunControl& control) {
  std::vector<std::size_t> studies(cohort.studies.size());
  std::iota(studies.begin(), studies.end(), std::size_t{0});
  return load_images(cohort, studies, options, control);
}

void write_failures_csv(const std::string& path, const std::vector<LoadFailure>& failures) {
  CsvTable table;
  table.columns = {"id", "path", "line", "message"};
  for (const auto& failure : failures)
    table.rows.push_back({as_utf8(failure.study), as_utf8(failure.path),
                          failure.line > 0 ? std::to_string(failure.line) : "", as_utf8(failure.message)});
  write_csv(path, table);
}

std::optional<std::vector<std::uint8_t>> finding_region(const Cohort& cohort, std::size_t study, std::size_t finding,
                                                        std::array<int, 2> original, const PreprocessOptions& options) {
  constexpr const char* kFunction = "finding_region";
  const Study& source = detail::study_at(cohort, study, kFunction, "study");
  const std::string& name = detail::finding_at(cohort, finding, kFunction);
  if (const auto found = source.mask_paths.find(finding); found != source.mask_paths.end()) {
    return preprocess_mask(read_mask(found->second, original), options);
  }
  return box_region(source, name, original, options);
}

std::optional<std::vector<std::uint8_t>> box_region(const Study& study, const std::string& name,
                                                    std::array<int, 2> original, const PreprocessOptions& options) {
  std::vector<Box> boxes;
  for (const auto& drawn : study.boxes)
    if (drawn.finding == name) boxes.push_back(map_box(drawn.box, original[0], original[1], options));
  if (boxes.empty()) return std::nullopt;
  const auto size = static_cast<std::size_t>(options.size);
  return box_mask(boxes, size, size);
}

std::optional<std::vector<float>> load_counterfactual(const Cohort& cohort, std::size_t study, std::size_t finding,
                                                      const PreprocessOptions& options) {
  constexpr const char* kFunction = "load_counterfactual";
  const auto& paths = detail::study_at(cohort, study, kFunction, "study").counterfactual_paths;
  (void)detail::finding_at(cohort, finding, kFunction);
  const auto found = paths.find(finding);
  return load_optional(found == paths.end() ? std::string() : found->second, options);
}

std::optional<std::vector<float>> load_healthy(const Cohort& cohort, std::size_t study,
                                               const PreprocessOptions& options) {
  return load_optional(detail::study_at(cohort, study, "load_healthy", "study").counterfactual_path, options);
}

}  // namespace daug
