#pragma once
// A gallery of a few images in the plane, searched by angle.

#include <atomic>
#include <cmath>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/image/decode.h"
#include "daug/image/png.h"
#include "daug/index/retrieval_index.h"
#include "daug/serve/gallery_search.h"

namespace daug::test {

/// Image i lies at i degrees and is of patient i / 2; a text is searched at as many degrees as it has bytes, a picture
/// at none. Four images by turns are of each of two sites, each of another day from 2020-01-01 on.
class ToyGallery final : public GallerySearch {
 public:
  explicit ToyGallery(std::size_t count, const std::string& text = "") : text_(text), index_(2, Metric::kCosine) {
    facts_.title = "Toy gallery" + text;
    facts_.about = "a few points" + text;
    facts_.images = facts_.gallery = count;
    facts_.findings = {"Edema" + text, "Nodule" + text};
    facts_.views = {"AP" + text, "PA" + text};
    facts_.splits = {"train" + text};
    facts_.sites = {"North" + text, "South" + text};
    facts_.first_day = "2020-01-01";
    facts_.last_day = day(count == 0 ? 0 : count - 1);
    for (std::size_t i = 0; i < count; ++i) {
      const GalleryImage item = image(i);
      std::string findings;
      for (const auto& finding : item.findings) findings += (findings.empty() ? "" : "|") + finding;
      index_.add({static_cast<std::int64_t>(i)}, at_degrees(static_cast<double>(i)),
                 {{{"patient", item.patient},
                   {"view", item.view},
                   {"findings", findings},
                   {"site", facts_.sites[i / 4 % 2]},
                   {"date", day(i)}}});
    }
  }

  const GalleryFacts& facts() const override { return facts_; }

  GalleryImage image(std::size_t number) const override {
    if (number >= facts_.images) throw Error(ErrorCode::kNotFound, "no such image");
    GalleryImage image;
    image.study = "s" + std::to_string(number) + text_;
    image.patient = "p" + std::to_string(number / 2) + text_;
    image.view = facts_.views[number % 2];
    image.split = facts_.splits[0];
    if (number % 3 != 0) image.findings.push_back(facts_.findings[number % 3 - 1]);
    return image;
  }

  std::optional<std::size_t> find(const std::string& study) const override {
    for (std::size_t i = 0; i < facts_.images; ++i)
      if (image(i).study == study) return i;
    return std::nullopt;
  }

  std::vector<std::uint8_t> thumbnail(std::size_t number) const override {
    image(number);
    ++shown_;
    GrayImage picture = GrayImage::filled(32, 32, 0.3F);
    for (int i = 0; i < 32; ++i) picture.at(static_cast<int>(number % 32), i) = picture.at(i, i) = 1;
    return encode_png(picture);
  }

  GalleryAnswer search(const GalleryQuery& query) const override {
    {
      const std::lock_guard lock(mutex_);
      if (asked_.size() == 10000) asked_.clear();
      asked_.push_back(query);
    }
    if (fault_) fault_();
    GalleryAnswer answer;
    double degrees = query.image ? static_cast<double>(*query.image) : static_cast<double>(query.text.size());
    if (!query.picture.empty()) {
      try {
        answer.seen_png = encode_png(decode_image(query.picture, "the image file"));
      } catch (const Error& error) {
        throw PictureError(error);
      }
      degrees = 0;
    }
    Filter filter;
    const GalleryFilter& wanted = query.filter;
    if (wanted.finding == GalleryFacts::kNoFinding)
      filter = filter && Filter::equals("findings", "");
    else if (!wanted.finding.empty())
      filter = filter && Filter::lists("findings", wanted.finding);
    if (!wanted.view.empty()) filter = filter && Filter::equals("view", wanted.view);
    if (!wanted.site.empty()) filter = filter && Filter::equals("site", wanted.site);
    if (!wanted.from.empty() || !wanted.to.empty())
      filter = filter && Filter::dates("date", wanted.from.empty() ? "2000-01-01" : wanted.from,
                                       wanted.to.empty() ? "2099-12-31" : wanted.to);
    if (!wanted.patient.empty()) filter = filter && Filter::equals("patient", wanted.patient);
    if (query.image && wanted.other_patients) filter = filter && Filter::exclude_patient(image(*query.image).patient);
    const auto found = index_.search(at_degrees(degrees), std::min(query.count, index_.size()), filter);
    for (const Hit& hit : found[0]) answer.hits.push_back({static_cast<std::size_t>(hit.id), hit.score});
    return answer;
  }

  /// As a cohort that says neither where nor when.
  void forget_sites_and_days() {
    facts_.sites.clear();
    facts_.first_day.clear();
    facts_.last_day.clear();
  }

  /// Called at every search; throws what a gallery may meet.
  void fail_by(std::function<void()> fault) { fault_ = std::move(fault); }

  /// How many images were asked for.
  int shown() const { return shown_; }
  /// The queries so far, of which there are fewer than ten thousand.
  std::vector<GalleryQuery> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  static std::string day(std::size_t number) {
    const auto digits = [](std::size_t value) { return (value < 10 ? "0" : "") + std::to_string(value); };
    return "2020-" + digits(number / 28 % 12 + 1) + "-" + digits(number % 28 + 1);
  }

  static RowMatrix at_degrees(double degrees) {
    const double radians = degrees * std::acos(-1.0) / 180;
    RowMatrix row(1, 2);
    row << static_cast<float>(std::cos(radians)), static_cast<float>(std::sin(radians));
    return row;
  }

  std::string text_;  ///< ends every text
  GalleryFacts facts_;
  RetrievalIndex index_;
  std::function<void()> fault_;
  mutable std::mutex mutex_;
  mutable std::vector<GalleryQuery> asked_;
  mutable std::atomic<int> shown_{0};
};

}  // namespace daug::test
