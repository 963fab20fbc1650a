#pragma once
/// @file
/// What a search page asks of whoever can search.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/error.h"

namespace daug {

/// What is known of an image. Texts are as in the cohort, unescaped.
struct GalleryImage {
  std::string study,                  ///< id of the study
      patient,                        ///< id of the patient
      view,                           ///< e.g. "PA"; may be blank
      split;                          ///< "train", "val" or "test"
  std::vector<std::string> findings;  ///< the positive ones
};

/// Which items a search may return; an empty text lets every item through.
struct GalleryFilter {
  std::string finding;         ///< one of GalleryFacts::findings, or GalleryFacts::kNoFinding
  std::string view,            ///< as in the cohort
      split,                   ///< as in the cohort
      site,                    ///< one of GalleryFacts::sites
      from,                    ///< first day YYYY-MM-DD
      to;                      ///< last day YYYY-MM-DD, not before `from`
  std::string patient;         ///< this patient's images alone
  bool other_patients = true;  ///< leave the query's own patient out; without effect for texts and pictures
};

/// A question: exactly one of text, image and picture is given.
struct GalleryQuery {
  std::string text;                   ///< a report
  std::optional<std::size_t> image;   ///< an image of the cohort, by number
  std::vector<std::uint8_t> picture;  ///< bytes of an image file
  GalleryFilter filter;               ///< which items may be returned
  std::int64_t count = 12;            ///< hits wanted, at least 1
};

/// A found image.
struct GalleryHit {
  std::size_t image = 0;  ///< number of the image
  double cosine = 0;      ///< of the angle between query and image, in [-1, 1]
};

/// What was found for a query.
struct GalleryAnswer {
  std::vector<GalleryHit> hits;        ///< nearest first; fewer than asked for when fewer match
  std::vector<std::uint8_t> seen_png;  ///< a picture as the network saw it, else empty
};

/// What can be searched.
struct GalleryFacts {
  /// As GalleryFilter::finding: images without any positive finding.
  static constexpr const char* kNoFinding = "no finding";

  std::string title;                  ///< of the page
  std::string about;                  ///< a sentence on what is searched, and by what
  std::size_t images = 0;             ///< how many there are; their numbers run from 0 on
  std::size_t gallery = 0;            ///< how many of them are searched
  std::vector<std::string> findings,  ///< that may be asked for
      views,                          ///< that may be asked for
      splits,                         ///< that may be asked for
      sites;                          ///< that may be asked for; none where images have no site
  std::string first_day,              ///< of the images, YYYY-MM-DD; empty: none has a date, and none may be asked for
      last_day;                       ///< the same
};

/// What is wrong with a query's picture: the error of decoding it, told apart from the same error of a file of one's
/// own.
class PictureError : public Error {
 public:
  /// Takes code and message over.
  explicit PictureError(const Error& cause) : Error(cause.code(), cause.what()) {}
};

/// Searches a gallery. All members may be called from several threads.
class GallerySearch {
 public:
  /// Implementations may be destroyed as this.
  virtual ~GallerySearch() = default;

  /// The same for as long as the object lives.
  virtual const GalleryFacts& facts() const = 0;
  /// What is known of an image. Throws kNotFound for a number that no image has.
  virtual GalleryImage image(std::size_t number) const = 0;
  /// The number of a study's image; nothing for a study that is not there.
  virtual std::optional<std::size_t> find(const std::string& study) const = 0;
  /// An image as a small PNG file. Throws as `image` does.
  virtual std::vector<std::uint8_t> thumbnail(std::size_t number) const = 0;
  /// The nearest items that the filter lets through. Throws kInvalidArgument for a query that is none (days that are no
  /// dates or in the wrong order among them), PictureError for a picture that cannot be decoded, kNotFound as `image`
  /// does. Whatever else it throws is taken for a fault of the gallery's, not of the query.
  virtual GalleryAnswer search(const GalleryQuery& query) const = 0;
};

}  // namespace daug
