// Measures everything a run made: maps against masks and true counterfactuals, classification and retrieval of every
// arm, always beside the baselines that see little or nothing.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "daug/data/baselines.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/file.h"
#include "daug/metrics/bootstrap.h"
#include "daug/metrics/classification.h"
#include "daug/metrics/localization.h"
#include "daug/metrics/retrieval.h"
#include "encoder_stages.h"
#include "evaluation.h"
#include "localisation.h"
#include "run_impl.h"

namespace daug {

namespace {

constexpr std::int64_t kRanks[] = {1, 3, 5, 10};
constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

/// A part of the test split: positions within it.
struct Slice {
  std::string name;
  std::vector<std::size_t> rows;
};

class Evaluator {
 public:
  explicit Evaluator(Run::Impl& run) : run_(run), data_(run.data()), tests_(data_.test.size()), f_(data_.findings()) {
    for (std::size_t row : data_.test) {
      patients_.push_back(data_.patient[row]);
      for (std::size_t f = 0; f < f_; ++f) {
        const float state = data_.states[static_cast<std::int64_t>(row)][static_cast<std::int64_t>(f)].item<float>();
        labels_.push_back(state > 0);
        known_.push_back(state != 0);
      }
    }
    slices_.push_back({"test", {}});
    for (std::size_t i = 0; i < tests_; ++i) slices_[0].rows.push_back(i);
    std::map<std::string, std::vector<std::size_t>> by_value;
    for (std::size_t i = 0; i < tests_; ++i) {
      const auto& meta = data_.study(data_.test[i]).meta;
      const auto found = meta.find(run.config.evaluate.slice_by);
      if (found != meta.end()) by_value[found->second].push_back(i);
    }
    if (by_value.size() > 1)
      for (const auto& [value, rows] : by_value)
        slices_.push_back({"test[" + run.config.evaluate.slice_by + "=" + value + "]", rows});
  }

  void all() {
    maps();
    guide();
    classification_baselines();
    arms();
    counts();
  }

  std::vector<Figure> figures;
  nlohmann::ordered_json details;  ///< curves and retrieval rows for the report

 private:
  /// Adds a figure with its patient-bootstrap interval; leaves it out where the data do not define it.
  template <class Statistic>
  void add(const std::string& name, const std::string& arm, const std::string& definition, std::int64_t n,
           const Statistic& statistic, const Slice& slice) {
    std::vector<std::int64_t> groups;
    for (std::size_t i : slice.rows) groups.push_back(patients_[i]);
    BootstrapOptions options;
    options.resamples = static_cast<int>(run_.config.evaluate.resamples);
    options.seed = static_cast<std::uint64_t>(run_.config.seed);
    std::vector<std::size_t> rows;
    const auto interval = bootstrap(
        groups,
        [&](const std::vector<std::size_t>& chosen) -> std::optional<double> {
          rows.clear();
          for (std::size_t i : chosen) rows.push_back(slice.rows[i]);
          return statistic(rows);
        },
        options);
    if (interval)
      figures.push_back({name, arm, slice.name, interval->value, interval->low, interval->high, n, definition});
  }

  void add_table(const std::string& name, const std::string& arm, const std::string& definition,
                 const RetrievalValues& table, const Slice& slice, bool weighted = false) {
    std::int64_t n = 0;
    for (std::size_t i : slice.rows)
      for (std::size_t c = 0; c < table.columns; ++c) n += !std::isnan(table.values[i * table.columns + c]);
    add(
        name, arm, definition, n,
        [&](const std::vector<std::size_t>& rows) {
          const auto summary = table.summarize(ArrayView<std::size_t>(rows));
          return weighted ? summary.weighted : summary.macro;
        },
        slice);
  }

  RetrievalValues empty_table() const { return {tests_, f_, std::vector<double>(tests_ * f_, kNothing)}; }

  // --- maps ---

  void maps() {
    const MapSet& set = run_.maps();
    regions_ = finding_regions(run_, data_.test);
    const bool any = regions_.any();
    const std::vector<std::pair<std::string, std::string>> kinds = {{"difference", "difference"},
                                                                    {"evidence", "evidence"},
                                                                    {"score_difference", "score_difference"},
                                                                    {"no_target", "no_target"}};
    for (const auto& [arm, kind] : kinds) {
      at::Tensor maps = set.select(kind, data_.test);
      if (maps.size(1) == 1) maps = maps.expand({maps.size(0), static_cast<std::int64_t>(f_), -1, -1});
      image_level(arm, maps);
      if (any) add_localisation(arm, maps.contiguous());
    }
    if (any) constant_maps();
    counterfactuals(set);
    if (set.residual.defined()) {
      const std::vector<double> residual = to_doubles(set.residual);
      add(
          "map.round_trip", "no_target", "mean |x - decode(encode(x))| without a target, data in [-1, 1]",
          static_cast<std::int64_t>(tests_),
          [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
            double sum = 0;
            for (std::size_t i : rows) sum += residual[i];
            return sum / static_cast<double>(rows.size());
          },
          slices_[0]);
    }
  }

  /// Does the mean of a map tell images with the finding from those without?
  void image_level(const std::string& arm, const at::Tensor& maps) {
    const std::vector<double> scores = to_doubles(maps.mean({2, 3}));
    for (const auto& slice : slices_)
      add_auroc("map.image_auroc", arm, "AUROC of the map's (signed) mean over the image, macro over findings", scores,
                slice);
  }

  void add_localisation(const std::string& arm, const at::Tensor& maps) {
    const auto [auroc, ap, pointing, dice] = localise(maps, regions_);
    const std::string over = ", mean over images positive for a finding, then over findings";
    for (const auto& slice : slices_) {
      add_table("map.pixel_auroc", arm, "AUROC of the pixels against the mask" + over, auroc, slice);
      add_table("map.pixel_ap", arm, "average precision of the pixels against the mask" + over, ap, slice);
      add_table("map.pointing", arm, "share of maps whose maximum lies in the mask" + over, pointing, slice);
      add_table("map.best_dice", arm, "Dice at each map's best threshold, an upper bound" + over, dice, slice);
    }
    details["localisation"][arm] = nlohmann::ordered_json::object();
    const auto by_ap = ap.summarize(), by_pointing = pointing.summarize();
    for (std::size_t f = 0; f < f_; ++f)
      if (by_ap.finding[f])
        details["localisation"][arm][data_.cohort.findings[f]] = {
            *by_ap.finding[f], by_pointing.finding[f].value_or(kNothing), by_ap.weight[f]};
  }

  /// Maps that are the same for every image, or know only how unusual it is.
  void constant_maps() {
    const auto count = static_cast<std::int64_t>(tests_), findings = static_cast<std::int64_t>(f_);
    if (const at::Tensor masks = mean_masks(run_); masks.defined())
      add_localisation("mean_mask", masks.unsqueeze(0).expand({count, -1, -1, -1}).contiguous());
    std::vector<std::size_t> healthy;
    for (std::size_t row : data_.labelled)
      if (!data_.states[static_cast<std::int64_t>(row)].gt(0).any().item<bool>()) healthy.push_back(row);
    if (healthy.empty()) return;
    const at::Tensor distance = (run_.images(data_.test) - run_.images(healthy).mean(0, true)).abs();
    add_localisation("mean_healthy_distance", distance.expand({-1, findings, -1, -1}).contiguous());
  }

  void counterfactuals(const MapSet& set) {
    if (!set.translated.defined()) return;
    const std::size_t area = data_.images.pixels_per_image();
    RetrievalValues ratio = empty_table(), outside = empty_table(), ratio_none = empty_table(),
                    outside_none = empty_table();
    const at::Tensor translated = set.translated.contiguous(), reconstruction = set.reconstruction.contiguous();
    std::map<std::size_t, std::size_t> position;
    for (std::size_t i = 0; i < set.test_rows.size(); ++i) position.emplace(set.test_rows[i], i);
    for (std::size_t i = 0; i < tests_; ++i) {
      const std::size_t row = data_.test[i], at = position.at(row);
      const ArrayView<float> input(data_.images.image(row), area);
      const ArrayView<float> unchanged(reconstruction.data_ptr<float>() + at * area, area);
      for (std::size_t f = 0; f < f_; ++f) {
        const std::size_t k = i * f_ + f;
        if (!regions_.masks[k]) continue;
        const ArrayView<float> ours(translated.data_ptr<float>() + (at * f_ + f) * area, area);
        const ArrayView<std::uint8_t> mask(*regions_.masks[k]);
        outside.values[k] = outside_mask_change(ours, input, mask).value_or(kNothing);
        outside_none.values[k] = outside_mask_change(unchanged, input, mask).value_or(kNothing);
        const auto truth = load_counterfactual(data_.cohort, data_.images.study[row], f, run_.preprocess());
        if (!truth) continue;
        ratio.values[k] = in_mask_distance_ratio(ours, input, *truth, mask).value_or(kNothing);
        ratio_none.values[k] = in_mask_distance_ratio(unchanged, input, *truth, mask).value_or(kNothing);
      }
    }
    const std::string over = ", mean over images positive for a finding, then over findings";
    const std::string ratio_text =
        "inside the mask, mean |translated - true counterfactual| over mean |input - true counterfactual|" + over;
    const std::string outside_text = "outside the mask, mean |translated - input|, data in [-1, 1]" + over;
    add_table("map.in_mask_ratio", "difference", ratio_text, ratio, slices_[0]);
    add_table("map.in_mask_ratio", "no_target", ratio_text, ratio_none, slices_[0]);
    add_table("map.outside_change", "difference", outside_text, outside, slices_[0]);
    add_table("map.outside_change", "no_target", outside_text, outside_none, slices_[0]);
  }

  /// How often a classifier that saw the disease no longer sees it after translation. The classifier is an encoder
  /// that had no part in making the translation.
  void flip_rate(const Arm& arm, const EncoderPair& pair, const at::Tensor& prompts, const HybridLossOptions& loss,
                 const at::Tensor& before) {
    const MapSet& set = run_.maps();
    if (!set.translated.defined()) return;
    const HeatmapChannelAugmenter augmenter(run_.encoder_options(arm).augment);
    std::map<std::size_t, std::size_t> position;
    for (std::size_t i = 0; i < set.test_rows.size(); ++i) position.emplace(set.test_rows[i], i);
    std::vector<std::size_t> lanes;
    for (std::size_t row : data_.test) lanes.push_back(position.at(row));
    RetrievalValues flipped = empty_table();
    for (std::size_t f = 0; f < f_; ++f) {
      const auto finding = static_cast<std::int64_t>(f);
      const at::Tensor translated = take(set.translated.select(1, finding).unsqueeze(1), lanes);
      const at::Tensor after = class_probabilities(embed_images(pair, augmenter, translated, {}), prompts, loss);
      for (std::size_t i = 0; i < tests_; ++i) {
        const auto at = static_cast<std::int64_t>(i);
        if (labels_[i * f_ + f] && before[at][finding].item<float>() > 0.5F)
          flipped.values[i * f_ + f] = after[at][finding].item<float>() < 0.5F ? 1 : 0;
      }
    }
    add_table(
        "map.flip_rate", "difference",
        "of the images positive for a finding that the image-only encoder calls positive (probability above 0.5), "
        "the share it calls negative after translation; macro over findings",
        flipped, slices_[0]);
  }

  /// What the classifier that can guide translations knows about clean images.
  void guide() {
    auto network = run_.load_guide();
    const std::int64_t timestep = run_.schedule().timestep(0);
    c10::InferenceMode inference;
    std::vector<at::Tensor> parts;
    for (const auto& part : run_.images(data_.test).split(256))
      parts.push_back(at::sigmoid(network->forward(part, at::full({part.size(0)}, timestep, at::kLong))));
    classification("noise_aware_classifier", to_doubles(at::cat(parts)));
  }

  // --- classification ---

  MultiLabelData multi_label(const std::vector<double>& scores) const {
    return {MatrixView<double>(scores, tests_, f_), MatrixView<std::uint8_t>(labels_, tests_, f_),
            MatrixView<std::uint8_t>(known_, tests_, f_)};
  }

  void add_auroc(const std::string& name, const std::string& arm, const std::string& definition,
                 const std::vector<double>& scores, const Slice& slice) {
    const MultiLabelData data = multi_label(scores);
    add(
        name, arm, definition, static_cast<std::int64_t>(slice.rows.size()),
        [&](const std::vector<std::size_t>& rows) {
          return auroc_by_finding(data, ArrayView<std::size_t>(rows)).macro;
        },
        slice);
  }

  void classification(const std::string& arm, const std::vector<double>& scores, bool probabilities = true) {
    const MultiLabelData data = multi_label(scores);
    for (const auto& slice : slices_) {
      const auto n = static_cast<std::int64_t>(slice.rows.size());
      add_auroc("classification.auroc_macro", arm, "AUROC by finding, plain mean over findings with both classes",
                scores, slice);
      add(
          "classification.auroc_weighted", arm, "AUROC by finding, mean weighted by positives", n,
          [&](const std::vector<std::size_t>& rows) {
            return auroc_by_finding(data, ArrayView<std::size_t>(rows)).weighted;
          },
          slice);
      add(
          "classification.auprc_macro", arm, "average precision by finding, plain mean over findings", n,
          [&](const std::vector<std::size_t>& rows) {
            return average_precision_by_finding(data, ArrayView<std::size_t>(rows)).macro;
          },
          slice);
    }
    if (probabilities) {
      std::vector<double> pooled;
      std::vector<std::uint8_t> truth;
      add(
          "classification.ece", arm,
          "calibration error, 15 bins of the probability of the positive class, all findings pooled",
          static_cast<std::int64_t>(tests_),
          [&](const std::vector<std::size_t>& rows) {
            pooled.clear();
            truth.clear();
            for (std::size_t i : rows)
              for (std::size_t f = 0; f < f_; ++f)
                if (known_[i * f_ + f]) {
                  pooled.push_back(scores[i * f_ + f]);
                  truth.push_back(labels_[i * f_ + f]);
                }
            return calibration_error(pooled, truth);
          },
          slices_[0]);
    }
    curves(arm, scores);
  }

  /// ROC and precision-recall curves pooled over findings, thinned for the report.
  void curves(const std::string& arm, const std::vector<double>& scores) {
    std::vector<double> pooled;
    std::vector<std::uint8_t> truth;
    for (std::size_t k = 0; k < tests_ * f_; ++k)
      if (known_[k]) {
        pooled.push_back(scores[k]);
        truth.push_back(labels_[k]);
      }
    const auto thin = [](const std::vector<double>& x, const std::vector<double>& y) {
      nlohmann::ordered_json points = nlohmann::ordered_json::array();
      const std::size_t step = std::max<std::size_t>(1, x.size() / 100);
      for (std::size_t i = 0; i < x.size(); i += step) points.push_back({x[i], y[i]});
      if (!x.empty()) points.push_back({x.back(), y.back()});
      return points;
    };
    if (const auto roc = roc_curve(pooled, truth)) details["roc"][arm] = thin(roc->fpr, roc->tpr);
    if (const auto pr = precision_recall_curve(pooled, truth)) details["pr"][arm] = thin(pr->recall, pr->precision);
    const auto by_finding = auroc_by_finding(multi_label(scores));
    for (std::size_t f = 0; f < f_; ++f)
      if (by_finding.finding[f]) details["auroc_by_finding"][arm][data_.cohort.findings[f]] = *by_finding.finding[f];
  }

  void classification_baselines() {
    std::vector<std::size_t> studies, test_studies;
    for (std::size_t row : data_.encoder_train) studies.push_back(data_.images.study[row]);
    for (std::size_t row : data_.test) test_studies.push_back(data_.images.study[row]);
    const BaselineTargets targets = baseline_targets(data_.cohort, studies, data_.policies);
    const auto flatten = [&](const FeatureMatrix& scores) {
      return std::vector<double>(scores.data(), scores.data() + scores.size());
    };
    classification("chance", std::vector<double>(tests_ * f_, 0.5), false);
    classification("pca_logistic", flatten(pca_logistic(image_matrix(data_.images, data_.encoder_train), targets,
                                                        image_matrix(data_.images, data_.test))));
    std::vector<std::string> columns;
    for (const auto& column : parse_names(run_.config.evaluate.metadata))
      if (column == "view" || data_.study(data_.test[0]).meta.count(column)) columns.push_back(column);
    if (columns.empty()) return;
    const MetadataEncoder encoder(data_.cohort, studies, columns);
    classification("metadata_logistic", flatten(fit_logistic(encoder.encode(data_.cohort, studies), targets)
                                                    .predict(encoder.encode(data_.cohort, test_studies))));
  }

  // --- encoders ---

  void arms() {
    const Tokenizer tokenizer = Tokenizer::load(run_.path("tokenizer"));
    const TextBatch prompts = to_text_batch(tokenizer, bce_prompts(data_.cohort.findings), run_.config.encoder.context);
    const auto gallery = gallery_rows(data_);
    std::vector<std::uint8_t> gallery_labels;
    std::vector<std::int64_t> gallery_patients;
    for (std::size_t row : gallery) {
      gallery_patients.push_back(data_.patient[row]);
      for (std::size_t f = 0; f < f_; ++f)
        gallery_labels.push_back(
            data_.states[static_cast<std::int64_t>(row)][static_cast<std::int64_t>(f)].item<float>() > 0);
    }
    for (const Arm& arm : run_.arms()) {
      const EncoderPair pair = load_encoders(run_, arm);
      const at::Tensor images = embed_rows(run_, arm, pair, data_.test);
      HybridLossOptions loss;
      loss.logit_scale = run_.config.encoder.logit_scale;
      const at::Tensor classes = embed_texts(pair, prompts);
      const at::Tensor probabilities = class_probabilities(images, classes, loss);
      classification(arm.name, to_doubles(probabilities));
      if (arm.name == "image") flip_rate(arm, pair, classes, loss, probabilities);
      const RetrievalIndex index = load_index(run_, arm);
      const auto hits = search_positions(index, images);
      retrieval("retrieval.", arm.name, "image to image", hits, gallery_labels, gallery_patients);
      if (arm.name == run_.paper_arms().back().name) examples(hits, gallery);
      if (!data_.cohort.has_reports) continue;
      const TextBatch reports = to_text_batch(tokenizer, study_texts(data_, data_.test), run_.config.encoder.context);
      retrieval("retrieval.report_to_image.", arm.name, "report to image",
                search_positions(index, embed_texts(pair, reports)), gallery_labels, gallery_patients);
    }
  }

  void retrieval(const std::string& prefix, const std::string& arm, const std::string& what,
                 const std::vector<std::vector<std::int64_t>>& rankings,
                 const std::vector<std::uint8_t>& gallery_labels, const std::vector<std::int64_t>& gallery_patients) {
    const RetrievalTask task{rankings, MatrixView<std::uint8_t>(labels_, tests_, f_),
                             MatrixView<std::uint8_t>(gallery_labels, gallery_labels.size() / f_, f_), patients_,
                             gallery_patients};
    const RetrievalEvaluation evaluation(task);
    const std::string relevant =
        what +
        "; relevant: positive for the query's finding; the query's own patient is never retrieved; a query with "
        "nothing relevant is left out; ";
    for (std::int64_t k : kRanks) {
      const auto cut = static_cast<std::size_t>(k);
      for (const auto& slice : slices_) {
        const auto put = [&](const std::string& name, RetrievalMetric metric, const std::string& definition,
                             bool weighted) {
          add_table(prefix + name + "_at_" + std::to_string(k), arm, relevant + definition,
                    evaluation.values(metric, cut), slice, weighted);
        };
        const std::string mean = ", mean over queries, then over findings";
        put("p", RetrievalMetric::kPrecision, "precision" + mean, false);
        put("map", RetrievalMetric::kApTruncated, "AP divided by min(k, relevant)" + mean, false);
        put("wmap", RetrievalMetric::kApTruncated, "AP divided by min(k, relevant), mean over (query, finding) pairs",
            true);
        put("map_reference", RetrievalMetric::kApReference, "AP divided by the relevant items retrieved" + mean, false);
        put("wmap_reference", RetrievalMetric::kApReference,
            "AP divided by the relevant items retrieved, mean over (query, finding) pairs", true);
        put("ndcg", RetrievalMetric::kNdcg, "nDCG" + mean, false);
        put("recall", RetrievalMetric::kRecall, "recall" + mean, false);
      }
    }
  }

  void examples(const std::vector<std::vector<std::int64_t>>& hits, const std::vector<std::size_t>& gallery) {
    constexpr std::size_t kHits = 5;
    details["retrieval_examples"] = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < std::min<std::size_t>(tests_, 6); ++i) {
      nlohmann::ordered_json row = {{"query", data_.test[i]}, {"hits", nlohmann::ordered_json::array()}};
      for (std::size_t k = 0; k < std::min(kHits, hits[i].size()); ++k)
        row["hits"].push_back(gallery[static_cast<std::size_t>(hits[i][k])]);
      details["retrieval_examples"].push_back(row);
    }
  }

  void counts() {
    const auto put = [&](const std::string& name, const std::string& split, std::size_t n,
                         const std::string& definition) {
      figures.push_back(
          {name, "data", split, static_cast<double>(n), {}, {}, static_cast<std::int64_t>(n), definition});
    };
    put("data.images", "train", data_.train.size(), "readable images");
    put("data.images", "val", data_.val.size(), "readable images");
    put("data.images", "test", data_.test.size(), "readable images");
    put("data.labelled", "train", data_.labelled.size(), "training images whose labels were used");
    put("data.encoder_images", "train", data_.encoder_train.size(),
        "labelled training images that trained the encoders");
    put("data.unreadable", "all", data_.failures.size(), "images left out because they could not be read");
    for (const auto& [stage, seconds] : run_.seconds_)
      figures.push_back({"time." + stage, "run", "all", seconds, {}, {}, 1, "wall-clock seconds of the stage"});
  }

  static std::vector<double> to_doubles(const at::Tensor& tensor) {
    const at::Tensor flat = tensor.to(at::kDouble).contiguous();
    return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
  }

  Run::Impl& run_;
  const RunData& data_;
  std::size_t tests_, f_;
  std::vector<Slice> slices_;
  std::vector<std::int64_t> patients_;        ///< [tests]
  std::vector<std::uint8_t> labels_, known_;  ///< [tests, findings]
  FindingRegions regions_;
};

}  // namespace

void Run::Impl::evaluate() {
  const std::string made_by = fingerprint(Stage::kEvaluate);
  for (Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps, Stage::kEncoders, Stage::kIndex})
    require_done(stage);
  Evaluator evaluator(*this);
  evaluator.all();
  evaluator.details["fingerprint"] = made_by;
  write_file_atomically(path("stages/details.json"), evaluator.details.dump(1) + "\n");
  write_metrics(path("metrics.json"), evaluator.figures, made_by);
}

}  // namespace daug
