#pragma once
/// @file
/// Pixels of a cohort, decoded and preprocessed into one array.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/data/cohort.h"
#include "daug/image/preprocess.h"

namespace daug {

/// How to load pixels.
struct LoadOptions {
  PreprocessOptions preprocess;  ///< size, fit, filter
  bool skip_bad = false;         ///< go on without images that cannot be read
  /// Read every mask and counterfactual of an image too: one that cannot be read, or is not of the image's size, counts
  /// as the image's own failure.
  bool check_truth = false;
  int threads = 2;  ///< decoding threads, in [1, 256]; the result does not depend on it

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Preprocessed images, in the order in which they were asked for.
struct ImageSet {
  int size = 0;                              ///< side in pixels
  std::vector<float> pixels;                 ///< [N, size, size], in [-1, 1]
  std::vector<std::size_t> study;            ///< [N] index into Cohort::studies
  std::vector<std::array<int, 2>> original;  ///< [N] width and height of the file

  /// N, the number of images.
  std::size_t count() const noexcept { return study.size(); }
  /// size * size.
  std::size_t pixels_per_image() const noexcept {
    return static_cast<std::size_t>(size) * static_cast<std::size_t>(size);
  }
  /// The size * size pixels of image n.
  const float* image(std::size_t n) const { return pixels.data() + n * pixels_per_image(); }
};

/// A file that could not be read.
struct LoadFailure {
  std::string study;     ///< id
  std::string path;      ///< image file
  std::string message;   ///< what the error said
  std::size_t line = 0;  ///< of labels.csv, see Study
};

/// What load_images found.
struct LoadResult {
  ImageSet images;                    ///< those that could be read
  std::vector<LoadFailure> failures;  ///< empty unless skip_bad; in the order asked for
};

/// Thrown by load_images; carries all failures, so that a caller can write them down.
class LoadError : public Error {
 public:
  /// Of code kFormat, whatever the failures' own errors are.
  LoadError(const std::string& message, std::vector<LoadFailure> failures)
      : Error(ErrorCode::kFormat, message), failures_(std::move(failures)) {}
  /// All of them, in the order in which the images were asked for.
  const std::vector<LoadFailure>& failures() const noexcept { return failures_; }

 private:
  std::vector<LoadFailure> failures_;
};

/// Reads and preprocesses the images of `studies` (indices into the cohort).
///
/// Every file is tried before anything is thrown. Unless skip_bad, unreadable ones end in one LoadError that shows the
/// first five, with their lines of labels.csv, and their number. With skip_bad the result lacks them, and only images
/// none of which can be read throw. Also throws kCancelled on a stop, kInvalidArgument for bad options or indices.
LoadResult load_images(const Cohort& cohort, const std::vector<std::size_t>& studies, const LoadOptions& options,
                       const RunControl& control = {});
/// The same for all studies.
LoadResult load_images(const Cohort& cohort, const LoadOptions& options, const RunControl& control = {});

/// Writes failures as CSV (id, path, line, message), atomically; a line that is 0 is blank, and bytes of a path that
/// are not UTF-8 become U+FFFD. Throws kIo.
void write_failures_csv(const std::string& path, const std::vector<LoadFailure>& failures);

/// Where a finding is, [size * size] with 1 inside, in the geometry of preprocess.
///
/// From the study's mask where there is one, else from its boxes of that finding (a pixel counts when its centre is in
/// a box); nothing when it has neither. `original` is the size of the image file, whose pixels boxes are measured in.
/// Throws kInvalidArgument for a study or finding that the cohort does not have, what reading the mask throws,
/// kMismatch when the mask has another size than the image.
std::optional<std::vector<std::uint8_t>> finding_region(const Cohort& cohort, std::size_t study, std::size_t finding,
                                                        std::array<int, 2> original, const PreprocessOptions& options);

/// The union of a study's boxes of one name, which need be no label; sizes as finding_region. Nothing without such a
/// box.
std::optional<std::vector<std::uint8_t>> box_region(const Study& study, const std::string& name,
                                                    std::array<int, 2> original, const PreprocessOptions& options);

/// The image without a finding, [size * size] in [-1, 1]; nothing when the cohort has none. Throws kInvalidArgument for
/// a study or finding that the cohort does not have, and what reading throws.
std::optional<std::vector<float>> load_counterfactual(const Cohort& cohort, std::size_t study, std::size_t finding,
                                                      const PreprocessOptions& options);
/// The image without any finding, as load_counterfactual.
std::optional<std::vector<float>> load_healthy(const Cohort& cohort, std::size_t study,
                                               const PreprocessOptions& options);

}  // namespace daug
