#include "daug/pipeline/run_search.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <set>

#include "daug/encoder/report_text.h"
#include "daug/image/decode.h"
#include "daug/image/png.h"
#include "daug/io/fingerprint.h"
#include "daug/pipeline/map_maker.h"
#include "daug/translator/noise.h"
#include "pipeline/settings/stage_options.h"
#include "pipeline/stages/encoder_texts.h"
#include "pipeline/stages/index_stage.h"
#include "pipeline/stages/trained_encoders.h"
#include "run_impl.h"

namespace daug {

namespace {

constexpr const char* kFunction = "daug::RunSearch";

std::vector<std::uint8_t> png_of(const float* pixels, int size) { return encode_png(gray_image(pixels, size)); }

/// Values that occur, ascending, blanks left out.
template <class ValueOf>
std::vector<std::string> distinct(const RunData& data, const std::vector<std::size_t>& rows, const ValueOf& value_of) {
  std::set<std::string> values;
  for (const std::size_t row : rows) values.insert(value_of(data.study(row)));
  values.erase("");
  return {values.begin(), values.end()};
}

/// Columns of meta.csv that the page filters by, where the cohort has them.
constexpr const char* kSite = "site";
constexpr const char* kDate = "date";

/// Between two days, of which one may be empty.
Filter between_days(const std::string& from, const std::string& to) {
  return Filter::dates(kDate, from.empty() ? "0000-01-01" : from, to.empty() ? "9999-12-31" : to);
}

}  // namespace

struct RunSearch::Impl {
  mutable Run::Impl run;  ///< filled by the constructor; read alone afterwards
  Arm arm;
  std::optional<RetrievalIndex> index;
  std::optional<Tokenizer> tokenizer;
  EncoderPair encoders;
  SearchOptions of_encoders;                     ///< say what embeds the queries
  std::vector<std::size_t> gallery;              ///< row of each id of the index
  std::map<std::string, std::size_t> row_of;     ///< by study
  std::map<std::size_t, std::size_t> stored_at;  ///< row -> place among the stored maps
  std::optional<MapScaler> scaler;
  std::optional<MapMaker> maker;
  GalleryFacts facts;
  mutable std::mutex embedding;

  void open(const std::string& folder, const std::string& name, const RunControl& control,
            const std::function<void(const std::string&)>& say) {
    run.config = read_config(folder + "/config.json");
    run.config.out = folder;
    run.control = control;
    run.say = say;
    run.read_only = true;
    at::set_num_threads(static_cast<int>(run.config.threads));
    arm = arm_named(name);
    run.require_done(Stage::kIndex);
    const RunData& data = run.data();
    index.emplace(load_index(run, arm));
    tokenizer.emplace(load_tokenizer(run));
    encoders = load_encoders(run, arm);
    of_encoders.fingerprint = index_fingerprint(run, arm);
    gallery = gallery_rows(data);
    if (index->size() != static_cast<std::int64_t>(gallery.size()))
      fail(ErrorCode::kMismatch, kFunction, run.path(index_file(arm)), detail::concat(gallery.size(), " items"),
           index->size());
    for (std::size_t row = 0; row < data.images.count(); ++row) row_of.emplace(data.study(row).id, row);
    if (uses_maps()) {
      const MapSet& set = run.maps();
      for (std::size_t i = 0; i < set.rows.size(); ++i) stored_at.emplace(set.rows[i], i);
      scaler.emplace(MapScaler::fit(set.select(arm.maps, data.encoder_train)));
      maker.emplace(MapMaker::load(folder));
    }
    facts.title = "Search in " + std::filesystem::path(folder).lexically_normal().filename().string();
    facts.about =
        fmt::format("{} of {} images, embedded by the arm '{}'{}", gallery.size(), data.images.count(), arm.name,
                    data.cohort.has_reports ? "" : "; its texts were made from labels, not written by a reader");
    facts.images = data.images.count();
    facts.gallery = gallery.size();
    facts.findings = data.cohort.findings;
    facts.views = distinct(data, gallery, [](const Study& study) { return study.view; });
    facts.splits = distinct(data, gallery, [](const Study& study) { return study.split; });
    facts.sites = distinct(data, gallery, [](const Study& study) { return study.meta_value(kSite); });
    const Filter any_day = between_days("", "");
    const auto days = distinct(data, gallery, [&](const Study& study) {
      return any_day.matches(0, study.meta) ? study.meta_value(kDate) : std::string();
    });
    if (!days.empty()) facts.first_day = days.front(), facts.last_day = days.back();
  }

  bool uses_maps() const { return arm.maps == "difference" || arm.maps == "evidence"; }

  Arm arm_named(const std::string& name) const {
    if (name.empty()) return run.paper_arms().back();
    std::string known;
    for (const Arm& one : run.arms()) {
      if (one.name == name) return one;
      known += (known.empty() ? "'" : ", '") + one.name + "'";
    }
    fail(ErrorCode::kInvalidArgument, kFunction, "arm", "one of " + known, "'" + name + "'");
  }

  const Study& study(std::size_t number) const {
    if (number >= facts.images)
      fail(ErrorCode::kNotFound, kFunction, "image", detail::concat("a number below ", facts.images), number);
    return run.data().study(number);
  }

  /// The channels beside an image x [1, 1, S, S]; undefined for arms without.
  at::Tensor channels(const at::Tensor& x, std::uint64_t item) const {
    if (arm.maps.empty()) return {};
    if (arm.maps == "noise")
      return item_noise({item}, run.map_channels(arm), run.config.size, run.config.size,
                        static_cast<std::uint64_t>(run.config.seed), "noise channels");
    const ImageMaps maps = maker->make(x, {item}, /*controls=*/false, run.control.stop, /*round_trip=*/false);
    return scaler->apply(arm.maps == "difference" ? maps.difference : maps.evidence).to(at::kFloat);
  }

  at::Tensor embed(const at::Tensor& x, const at::Tensor& maps) const {
    return embed_images(encoders, HeatmapChannelAugmenter(run.encoder_options(arm).augment), x, maps);
  }

  at::Tensor embed_row(std::size_t row) const {
    const at::Tensor x = run.images({row});
    const auto stored = stored_at.find(row);
    if (stored == stored_at.end()) return embed(x, channels(x, row));
    return embed(x, scaler->apply(run.maps().select(arm.maps, {row})).to(at::kFloat));
  }

  at::Tensor embed_picture(const std::vector<std::uint8_t>& bytes, GalleryAnswer& answer) const {
    DecodeLimits limits;
    limits.max_pixels = std::int64_t{1} << 25;  // of a picture somebody sends: 33 million
    const auto options = run.preprocess();
    std::vector<float> pixels;
    try {
      pixels = preprocess(decode_image(bytes, "the image file", limits), options);
    } catch (const Error& error) {
      throw PictureError(error);
    }
    answer.seen_png = png_of(pixels.data(), options.size);
    const at::Tensor x = at::from_blob(pixels.data(), {1, 1, options.size, options.size}).clone();
    return embed(x, channels(x, checksum64(bytes.data(), bytes.size())));
  }

  at::Tensor embed_report(const std::string& text) const {
    return embed_texts(encoders, to_text_batch(*tokenizer, {split_sections(text).text()}, run.config.encoder.context));
  }

  Filter filter_of(const GalleryQuery& query) const {
    const GalleryFilter& wanted = query.filter;
    Filter filter;
    // An image without a positive finding has an empty list of them.
    if (wanted.finding == GalleryFacts::kNoFinding)
      filter = filter && Filter::equals("findings", "");
    else if (!wanted.finding.empty())
      filter = filter && Filter::lists("findings", wanted.finding);
    if (!wanted.view.empty()) filter = filter && Filter::equals("view", wanted.view);
    if (!wanted.split.empty()) filter = filter && Filter::equals("split", wanted.split);
    if (!wanted.site.empty()) filter = filter && Filter::equals(kSite, wanted.site);
    if (!wanted.from.empty() || !wanted.to.empty()) filter = filter && between_days(wanted.from, wanted.to);
    if (!wanted.patient.empty()) filter = filter && Filter::equals("patient", wanted.patient);
    if (wanted.other_patients && query.image)
      filter = filter && Filter::exclude_patient(study(*query.image).patient_id);
    return filter;
  }
};

RunSearch::RunSearch(const std::string& run_folder, const std::string& arm, const RunControl& control,
                     const std::function<void(const std::string&)>& say)
    : impl_(std::make_unique<Impl>()) {
  impl_->open(run_folder, arm, control, say);
}

RunSearch::~RunSearch() = default;

const GalleryFacts& RunSearch::facts() const { return impl_->facts; }

GalleryImage RunSearch::image(std::size_t number) const {
  const Study& study = impl_->study(number);
  GalleryImage image{study.id, study.patient_id, study.view, study.split, {}};
  for (std::size_t f = 0; f < study.labels.size(); ++f)
    if (study.labels[f] == LabelState::kPositive) image.findings.push_back(impl_->facts.findings[f]);
  return image;
}

std::optional<std::size_t> RunSearch::find(const std::string& study) const {
  const auto found = impl_->row_of.find(study);
  return found == impl_->row_of.end() ? std::nullopt : std::optional<std::size_t>(found->second);
}

std::vector<std::uint8_t> RunSearch::thumbnail(std::size_t number) const {
  impl_->study(number);
  const ImageSet& images = impl_->run.data().images;
  return png_of(images.image(number), images.size);
}

GalleryAnswer RunSearch::search(const GalleryQuery& query) const {
  require((query.text.empty() ? 0 : 1) + (query.image ? 1 : 0) + (query.picture.empty() ? 0 : 1) == 1, kFunction,
          "query", "one of text, image and picture", "none or several");
  require(query.count >= 1, kFunction, "count", "at least 1", query.count);
  const Filter filter = impl_->filter_of(query);
  GalleryAnswer answer;
  RowMatrix vector;
  {
    const std::lock_guard lock(impl_->embedding);
    c10::InferenceMode inference;
    at::Tensor embedding = !query.text.empty() ? impl_->embed_report(query.text)
                           : query.image       ? impl_->embed_row(*query.image)
                                               : impl_->embed_picture(query.picture, answer);
    embedding = embedding.to(at::kFloat).contiguous();
    vector = Eigen::Map<const RowMatrix>(embedding.const_data_ptr<float>(), 1, embedding.numel());
  }
  const RetrievalIndex& index = *impl_->index;
  const auto found = index.search(vector, std::min(query.count, index.size()), filter, impl_->of_encoders);
  for (const Hit& hit : found[0]) answer.hits.push_back({impl_->gallery[static_cast<std::size_t>(hit.id)], hit.score});
  return answer;
}

}  // namespace daug
