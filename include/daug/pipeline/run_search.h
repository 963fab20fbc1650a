#pragma once
/// @file
/// Searches the gallery of a finished run by reports and images.

#include <functional>
#include <memory>
#include <string>

#include "daug/core/progress.h"
#include "daug/serve/gallery_search.h"

namespace daug {

/// The index of one arm of a run with the encoders that made it. Searched are the run's gallery (the images that
/// trained the encoders and the validation images); asked may be with any image of the cohort, with reports, and with
/// image files, of which the run's models then make the maps. Writes nothing.
///
/// Texts are embedded as the run embeds reports. All members may be called from several threads; one query is embedded
/// at a time.
class RunSearch final : public GallerySearch {
 public:
  /// Opens a run folder whose stages up to `index` are done. `arm` is one of metrics.json's encoders; empty: the run's
  /// own, of image and maps (--encoder.maps) and the hybrid loss. Reads and checks the cohort's images; computes on the
  /// CPU, whatever device the run was made on. `say` receives a line of text at a time and may be empty.
  ///
  /// Throws kNotFound for a folder without a run, kInvalidArgument naming the arms for an arm that is none, kMismatch
  /// when the index stage is not done or data, settings, encoders or index are not those it was done with, kFormat for
  /// damaged files, kCancelled on a stop request.
  explicit RunSearch(const std::string& run_folder, const std::string& arm = {}, const RunControl& control = {},
                     const std::function<void(const std::string&)>& say = {});
  /// Closes the run.
  ~RunSearch() override;

  const GalleryFacts& facts() const override;
  GalleryImage image(std::size_t number) const override;
  std::optional<std::size_t> find(const std::string& study) const override;
  std::vector<std::uint8_t> thumbnail(std::size_t number) const override;
  GalleryAnswer search(const GalleryQuery& query) const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The program: reads the command line, opens the run, serves the page until Ctrl-C. Returns the exit status of
/// run_program: 130 when stopped, 1 when the run cannot be searched or the port is taken, 2 for wrong arguments.
int search_program(int argc, const char* const* argv);

}  // namespace daug
