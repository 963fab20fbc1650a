// Ways of making maps, side by side on one trained model: what each costs and what it finds.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/maps.h"
#include "daug/io/file.h"
#include "daug/metrics/bootstrap.h"
#include "daug/train/student_trainer.h"
#include "daug/translator/noise.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/translation.h"
#include "pipeline/evaluation/flip_rate.h"
#include "pipeline/evaluation/localisation.h"
#include "pipeline/evaluation/measurements.h"
#include "pipeline/settings/stage_options.h"
#include "pipeline/stages/trained_encoders.h"

namespace daug {

namespace {

/// What a method makes of one block of images.
struct Made {
  at::Tensor maps;      ///< [B, maps, S, S]
  at::Tensor residual;  ///< [B], of the round trip; undefined until it is made
  at::Tensor images;    ///< [B, maps, S, S], the translated images; undefined where there are none
  /// Makes the residual, which no map needs; empty where there is no round trip.
  std::function<at::Tensor()> round_trip = {};
};

Made on_cpu(Made made) {
  for (at::Tensor* tensor : {&made.maps, &made.residual, &made.images})
    if (tensor->defined()) *tensor = tensor->to(at::kCPU);
  return made;
}

/// One row of the table.
struct Method {
  std::string name;
  NetworkCalls calls;  ///< for each image
  std::function<Made(const at::Tensor& x, const std::vector<std::uint64_t>& items)> make;
  double further = 0;  ///< denoiser calls beside those, on average over the images
};

class MapStudy {
 public:
  explicit MapStudy(Run::Impl& run)
      : run_(run), config_(run.config), data_(run.data()), schedule_(run.schedule()), maps_(data_.maps()) {
    rows_ = marked_first(run_, data_.test, static_cast<std::size_t>(config_.study.images));
    for (const std::size_t row : rows_) patients_.push_back(data_.patient[row]);
    slices_ = slices_of(run_, rows_);
    truth_ = map_truth(run_, rows_);
    require(truth_.any(), "daug::Run::study_maps", "data", "masks or boxes on the test images", "none");
    // What the published loop can start from; other methods could more.
    level_ = config_.study.level > 0 ? config_.study.level : config_.maps.level;
    require_range(level_, 2, schedule_.steps() - 1, "daug::Run::study_maps",
                  config_.study.level > 0 ? "study.level" : "maps.level");
    precision_ = network_precision(config_.maps.precision);
    predictor_ =
        make_noise_predictor(run_.load_denoiser(), schedule_, prediction(config_.diffusion.prediction), {}, precision_);
    targets_ = map_targets(data_.groups);
    present_ = map_conditions(data_.groups, data_.cohort.findings);
    evidence_ = evidence_options(config_);
    sigma_ = map_blur(config_);
    if (!run_.is_done(Stage::kEncoders)) return;
    judge_ = image_only_classifier(run_);
    judged_ = judge_(run_.images(rows_));
  }

  void all() {
    constexpr std::int64_t kShort = 25;  // steps of a walk whose inversion is looked into: longer ones cost too much
    const auto all_steps = parse_integers(config_.study.steps, "study.steps");
    const auto inversions = parse_integers(config_.study.evaluations, "study.evaluations");
    Made first;  // of the most steps by default
    for (const std::int64_t steps : all_steps)
      for (const std::int64_t n : steps > kShort ? std::vector{config_.maps.evaluations} : inversions) {
        const Made made = measure(difference("ddim", steps, n));
        if (!first.maps.defined()) first = made;
      }
    for (const char* solver : {"dpm", "bdia"})
      for (const std::int64_t steps : all_steps)
        if (make_solver(solver)->decode_evaluations(steps) >= 1) measure(difference(solver, steps, 1));
    measure(published());
    measure(score_difference());
    const Made evidence = measure(signed_evidence());
    student();
    of_others("difference", first);
    of_others("evidence", evidence);
    spread();
    add_row("round trip, no target", {}, 0, no_target());
    const MeanRegions mean = mean_regions(run_, truth_);
    add_row("mean training mask", {}, 0, {mean.maps, {}, {}}, mean.boxes);
    if (const at::Tensor distance = mean_healthy_distance(run_, rows_); distance.defined())
      add_row("distance to the mean healthy image", {}, 0, {distance, {}, {}});
    measure({"occlusion of the classifier", {}, [occluded = guide_occlusion(run_)](const at::Tensor& x, const auto&) {
               return Made{occluded(x), {}, {}};
             }});
    if (!judge_) return;
    // A classifier that was trained for clean images and knows more of them than the guide does.
    const auto logits = [judge = judge_](const at::Tensor& images) { return at::logit(judge(images), 1e-7); };
    add_row(fmt::format("occlusion of the image-only encoder{}", data_.cohort.has_reports ? "" : ", label-derived"), {},
            0, {occlusion_of(run_, logits)(run_.images(rows_)), {}, {}});
  }

  nlohmann::ordered_json result() const {
    nlohmann::ordered_json studies = nlohmann::ordered_json::array();
    for (const std::size_t row : rows_) studies.push_back(data_.study(row).id);
    nlohmann::ordered_json all = {
        {"images", rows_.size()}, {"studies", studies}, {"rows", rows_json_}, {"gate", gate_}, {"spread", spread_}};
    for (const Stage stage : stages()) all["fingerprints"][stage_name(stage)] = run_.fingerprint(stage);
    all["settings"] = command_line(config_);
    if (judge_) all["flip_rate"] = flip_rate_definition(data_);
    return all;
  }

  std::string markdown() const {
    std::vector<std::string> prints;
    for (const Stage stage : stages())
      prints.push_back(fmt::format("{} {}", stage_name(stage), run_.fingerprint(stage)));
    std::string text = fmt::format("Fingerprints of what these tables are from: {}.\n\n", fmt::join(prints, ", "));
    std::string flip_rate = "flip rate";
    if (judge_) {
      text += fmt::format("Flip rate: {}.\n\n", flip_rate_definition(data_));
      flip_rate += fmt::format(" of the image-only encoder{}", data_.cohort.has_reports ? "" : ", label-derived");
    }
    text += fmt::format(
        "| method | network calls an image | s an image | round trip | pixel AUROC | pixel AP | pointing | best Dice | "
        "left in the mask | change outside | distance outside | {} "
        "|\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        flip_rate);
    return text + table_ + "\n" + region_table_ + "\n" + gate_table_ + "\n" + spread_table_;
  }

 private:
  std::int64_t count() const { return static_cast<std::int64_t>(rows_.size()); }

  /// What the study is made from: the maps' stage for maps.*, the encoders where they judge.
  std::vector<Stage> stages() const {
    std::vector<Stage> all = {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps};
    if (judge_) all.push_back(Stage::kEncoders);
    return all;
  }

  /// Images on the device of the networks.
  at::Tensor pixels(const std::vector<std::size_t>& rows) const { return take(data_.pixels, rows).to(run_.device); }

  /// Runs a method over the study's images and adds its row; returns what it made.
  Made measure(const Method& method) {
    std::vector<Made> parts(rows_.size());
    const auto start = std::chrono::steady_clock::now();
    constexpr std::int64_t kBlock = 5;
    for_blocks(count(), kBlock, network_threads(config_), run_.control, method.name, "images",
               [&](std::int64_t begin, std::int64_t size) {
                 const std::vector<std::size_t> block(rows_.begin() + begin, rows_.begin() + begin + size);
                 const std::vector<std::uint64_t> items(block.begin(), block.end());
                 parts[static_cast<std::size_t>(begin)] = on_cpu(method.make(pixels(block), items));
               });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // Round trips are in neither the calls nor the time.
    if (parts.front().round_trip)
      for_blocks(count(), kBlock, network_threads(config_), run_.control, method.name + ", round trip", "images",
                 [&](std::int64_t begin, std::int64_t) {
                   Made& made = parts[static_cast<std::size_t>(begin)];
                   made.residual = made.round_trip().to(at::kCPU);
                 });
    const auto join = [&](at::Tensor Made::*field) {
      std::vector<at::Tensor> pieces;
      for (const auto& part : parts)
        if ((part.*field).defined()) pieces.push_back(part.*field);
      return pieces.empty() ? at::Tensor() : at::cat(pieces).contiguous();
    };
    const Made all = {join(&Made::maps), join(&Made::residual), join(&Made::images)};
    add_row(method.name, method.calls, seconds / static_cast<double>(rows_.size()), all, {}, method.further);
    return all;
  }

  /// `of_boxes` as in localise, `further` as in Method.
  void add_row(const std::string& name, const NetworkCalls& calls, double seconds, const Made& made,
               const std::vector<at::Tensor>& of_boxes = {}, double further = 0) {
    const double denoiser = static_cast<double>(calls.denoiser) + further;
    const LocalisedMaps found = localise(made.maps.to(at::kFloat), truth_, of_boxes);
    nlohmann::ordered_json row = {{"method", name},
                                  {"denoiser_calls", denoiser},
                                  {"classifier_gradients", calls.classifier_gradients},
                                  {"seconds_per_image", seconds}};
    const auto put = [&](const char* key, const RetrievalValues& table) { row[key] = interval(table, slices_[0]); };
    if (found.findings)
      found.findings->each([&](const char* key, const char*, const RetrievalValues& table) { put(key, table); });
    row["regions"] = nlohmann::ordered_json::array();
    if (found.findings) add_regions(row, "findings", *found.findings);
    for (const auto& [group, tables] : found.boxes) add_regions(row, "boxes named " + group, tables);
    if (made.residual.defined()) row["residual"] = made.residual.mean().item<double>();
    if (made.images.defined()) {
      const std::size_t area = data_.images.pixels_per_image();
      const auto audit = audit_counterfactuals(run_, rows_, truth_.regions, [&](std::size_t n, std::size_t map) {
        return made.images.const_data_ptr<float>() + (n * maps_ + map) * area;
      });
      put("in_mask_ratio", audit.in_mask_ratio);
      put("outside_change", audit.outside_change);
      put("outside_distance", audit.outside_distance);
      if (judge_)
        put("flip_rate", flips(data_, rows_, judged_, [&](std::int64_t map) {
              return judge_(made.images.select(1, map).unsqueeze(1).contiguous());
            }));
    }
    rows_json_.push_back(row);
    const auto shown = [&](const char* key) { return shown_interval(row, key); };
    const std::string residual = row.contains("residual") ? fmt::format("{:.2g}", row["residual"].get<double>()) : "–";
    const std::string cost = calls.denoiser == 0 ? "–"
                             : calls.classifier_gradients == 0
                                 ? fmt::format("{:.6g}", denoiser)
                                 : fmt::format("{:.6g} + {} g", denoiser, calls.classifier_gradients);
    table_ += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", name, cost,
                          seconds > 0 ? fmt::format("{:.3f}", seconds) : "–", residual, shown("pixel_auroc"),
                          shown("pixel_ap"), shown("pointing"), shown("best_dice"), shown("in_mask_ratio"),
                          shown("outside_change"), shown("outside_distance"), shown("flip_rate"));
    run_.log(
        fmt::format("{}: AP {}, pointing {}, {:.3f} s an image", name, shown("pixel_ap"), shown("pointing"), seconds));
  }

  /// A method's figures against one kind of regions, on all images and on every slice with some.
  void add_regions(nlohmann::ordered_json& row, const std::string& of, const LocalisationTables& tables) {
    for (const Slice& slice : slices_) {
      const std::int64_t n = std::count_if(slice.rows.begin(), slice.rows.end(), [&](std::size_t i) {
        const auto begin = tables.pointing.values.begin() + static_cast<std::ptrdiff_t>(i * tables.pointing.columns);
        return std::any_of(begin, begin + static_cast<std::ptrdiff_t>(tables.pointing.columns),
                           [](double value) { return !std::isnan(value); });
      });
      if (n == 0) continue;
      nlohmann::ordered_json figures = {{"of", of}, {"split", slice.name}, {"images", n}};
      tables.each(
          [&](const char* key, const char*, const RetrievalValues& table) { figures[key] = interval(table, slice); });
      const auto shown = [&](const char* key) { return shown_interval(figures, key); };
      region_table_ +=
          fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", row["method"].get<std::string>(), of, slice.name,
                      n, shown("pixel_auroc"), shown("pixel_ap"), shown("pointing"), shown("iou"));
      row["regions"].push_back(std::move(figures));
    }
  }

  static std::string shown_interval(const nlohmann::ordered_json& figures, const char* key) {
    if (!figures.contains(key) || figures[key].is_null()) return "–";
    const auto& found = figures[key];
    return fmt::format("{:.3f} [{:.3f}, {:.3f}]", found[0].get<double>(), found[1].get<double>(),
                       found[2].get<double>());
  }

  /// Value, low and high of the macro mean over maps, by patient bootstrap; null when undefined.
  nlohmann::json interval(const RetrievalValues& table, const Slice& slice) const {
    BootstrapOptions options;
    options.resamples = static_cast<int>(config_.evaluate.resamples);
    options.seed = static_cast<std::uint64_t>(config_.seed);
    const auto found = bootstrap_values(table, patients_, options, ArrayView<std::size_t>(slice.rows)).macro;
    if (!found) return nullptr;
    return nlohmann::json::array({found->value, found->low, found->high});
  }

  /// The control that must fail.
  void of_others(const std::string& name, const Made& made) {
    const OthersMaps others = maps_of_other_patients(patients_, take(data_.pixels, rows_), made.maps, made.images);
    if (others.maps.defined()) add_row(name + " of another patient's image", {}, 0, {others.maps, {}, others.images});
  }

  /// How much of the maps of some images is chance: what they are when seeds, levels and scales vary.
  void spread() {
    constexpr std::size_t kImages = 10;
    const std::vector<std::size_t> rows(rows_.begin(), rows_.begin() + std::min<std::ptrdiff_t>(kImages, count()));
    const std::vector<std::uint64_t> items(rows.begin(), rows.end());
    const at::Tensor x = pixels(rows);
    const auto add = [&](const char* kind, const MapVariation& over, const MakeVariedMaps& make) {
      const MapSpreads spreads = map_spreads(over, make);
      const auto share = [](const MapSpread& of) {
        return (of.deviation().mean() / of.mean().abs().mean()).item<double>();
      };
      const double all = share(spreads.all), seeds = share(spreads.seeds), levels = share(spreads.levels),
                   scales = share(spreads.scales);
      spread_[kind] = {{"all", all}, {"seeds", seeds}, {"levels", levels}, {"scales", scales}};
      spread_table_ += fmt::format("| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} |\n", kind, all, seeds, levels, scales);
    };
    const auto seed = static_cast<std::uint64_t>(config_.seed);
    add("signed evidence", {{seed, seed + 1, seed + 2}, evidence_.levels, {1}},
        [&](std::uint64_t noise, std::int64_t level, double) {
          EvidenceOptions options = evidence_;
          options.seed = noise, options.levels = {level};
          return smoothed(evidence_maps(*predictor_, schedule_, x, items, present_, options), sigma_);
        });
    const std::int64_t level = level_;
    const double weight = config_.maps.weight;
    add("difference, ddim", {{seed}, {level, level / 2}, {weight, weight / 2}},
        [&](std::uint64_t, std::int64_t to, double scale) {
          const auto way =
              translator("ddim", std::min(config_.maps.steps, level / 2), config_.maps.evaluations, to, scale);
          return smoothed(difference_map(x, way.translate(x, targets_, {}, {{}, run_.control.stop}).images), sigma_);
        });
  }

  DiffusionTranslator translator(const std::string& solver, std::int64_t steps, std::int64_t evaluations,
                                 std::int64_t level, double weight) const {
    TranslatorOptions options;
    options.level = level;
    options.steps = steps;
    options.solver = make_solver(solver, evaluations);
    options.memory_budget = memory_budget(config_);
    options.guidance.kind = GuidanceKind::kContrast;
    options.guidance.weight = weight;
    return {predictor_, schedule_, data_.cohort.findings, options};
  }

  /// `evaluations` of ddim's encode step; the other solvers make one.
  Method difference(const std::string& solver, std::int64_t steps, std::int64_t evaluations) const {
    auto shared = std::make_shared<const DiffusionTranslator>(
        translator(solver, steps, evaluations, level_, config_.maps.weight));
    std::string name = fmt::format("difference, {}, {} steps", solver, steps);
    if (solver == "ddim") name += fmt::format(", {} evaluations", evaluations);
    return {name, shared->calls_per_image(targets_.size()), [this, shared](const at::Tensor& x, const auto&) {
              const RunControl control{{}, run_.control.stop};
              const at::Tensor latent = shared->encode(x, {}, control);
              const at::Tensor images = shared->decode(latent, targets_, {}, control);
              const auto round_trip = [=] { return round_trip_residual(x, shared->reconstruct(latent, {}, control)); };
              return Made{smoothed(difference_map(x, images), sigma_), {}, images.squeeze(2), round_trip};
            }};
  }

  Method published() const {
    PublishedLoopOptions options;
    options.noise_level = level_;
    const auto steps = static_cast<std::int64_t>(maps_) * (options.noise_level - 1);
    // The published code takes the log-softmax whatever the classifier was trained for; of one logit there is none.
    const auto head = data_.findings() > 1 ? GuidanceHead::kSoftmax : GuidanceHead::kSigmoid;
    const auto guide = make_guidance_classifier(run_.load_guide(), schedule_, head, data_.cohort.findings, precision_);
    const auto clipping = make_clipping_predictor(predictor_, schedule_);
    return {"published loop (arXiv 2203.04306)",
            {2 * steps, steps},
            [=, this](const at::Tensor& x, const std::vector<std::uint64_t>& items) {
              std::vector<at::Tensor> images;
              const at::Tensor fresh =
                  item_noise(items, 1, x.size(2), x.size(3), evidence_.seed, "published loop").to(x.options());
              for (const at::Tensor& present : present_.unbind(0))
                images.push_back(published_translation(*clipping, schedule_, *guide, x, fresh,
                                                       -present.expand({x.size(0), -1}), options));
              const at::Tensor all = at::stack(images, 1);
              const auto round_trip = [=, this] { return published_residual(*clipping, schedule_, x, fresh, options); };
              return Made{smoothed(difference_map(x, all), sigma_), {}, all.squeeze(2), round_trip};
            }};
  }

  std::int64_t draws() const { return static_cast<std::int64_t>(evidence_.levels.size()) * evidence_.samples; }

  Method signed_evidence() const {
    return {
        "signed evidence",
        {2 * static_cast<std::int64_t>(maps_) * draws(), 0},
        [this](const at::Tensor& x, const auto& items) {
          return Made{smoothed(evidence_maps(*predictor_, schedule_, x, items, present_, evidence_), sigma_), {}, {}};
        }};
  }

  Method score_difference() const {
    return {
        "score difference",
        {(static_cast<std::int64_t>(maps_) + 1) * draws(), 0},
        [this](const at::Tensor& x, const auto& items) {
          return Made{
              smoothed(score_difference_maps(*predictor_, schedule_, x, items, present_, evidence_), sigma_), {}, {}};
        }};
  }

  Made no_target() const {
    const auto way =
        translator("ddim", std::min(config_.maps.steps, level_), config_.maps.evaluations, level_, config_.maps.weight);
    const auto for_every_map = [&](const at::Tensor& one) {
      return one.expand({-1, static_cast<std::int64_t>(maps_), -1, -1});
    };
    std::vector<at::Tensor> maps, images;
    for (const auto& x : pixels(rows_).split(50)) {
      const at::Tensor back = way.reconstruct(way.encode(x));
      maps.push_back(for_every_map(smoothed(difference_map(x, back.unsqueeze(1)), sigma_)));
      images.push_back(for_every_map(back));
    }
    return on_cpu({at::cat(maps).contiguous(), {}, at::cat(images).contiguous()});
  }

  /// A student of the signed-evidence maps, trained on maps of training images: alone, and with its gate, which hands
  /// images back to evidence maps.
  void student() {
    constexpr std::size_t kImages = 1000;
    const Method teacher = signed_evidence();
    // Maps that the run keeps are read, the others made.
    std::set<std::size_t> kept;
    if (run_.is_done(Stage::kHeatmaps)) kept.insert(data_.encoder_train.begin(), data_.encoder_train.end());
    std::vector<std::size_t> rows, missing;
    for (std::size_t i = 0; i < std::min(kImages, data_.train.size()); ++i)
      (kept.count(data_.train[i]) ? rows : missing).push_back(data_.train[i]);
    std::vector<at::Tensor> parts(missing.size());
    if (!rows.empty()) parts.insert(parts.begin(), run_.maps().select("evidence", rows));
    const std::size_t first = rows.empty() ? 0 : 1;
    rows.insert(rows.end(), missing.begin(), missing.end());
    for_blocks(static_cast<std::int64_t>(missing.size()), 10, network_threads(config_), run_.control, "student's maps",
               "images", [&](std::int64_t begin, std::int64_t size) {
                 const std::vector<std::size_t> block(missing.begin() + begin, missing.begin() + begin + size);
                 parts[first + static_cast<std::size_t>(begin)] =
                     on_cpu(teacher.make(pixels(block), {block.begin(), block.end()})).maps;
               });
    parts.erase(std::remove_if(parts.begin(), parts.end(), [](const auto& part) { return !part.defined(); }),
                parts.end());
    StudentTrainerOptions options;
    options.network = run_.denoiser_options().network;
    options.workers = worker_count(config_, options.batch_size);
    options.device = run_.device;
    options.seed = static_cast<std::uint64_t>(config_.seed);
    options.optimizer.steps = config_.study.student_steps;
    options.optimizer.learning_rate = 1.5e-3;
    options.optimizer.ema_decay = 0.99;
    const at::Tensor images = take(data_.pixels, rows);
    const auto trained = train_map_student(images, at::cat(parts), options, run_.stage_control("train student"));
    const std::vector<std::uint64_t> items(rows.begin(), rows.end());
    DenoisingGateOptions known;  // at levels that the denoiser was shown
    for (std::int64_t& level : known.levels) level = std::min(level, config_.diffusion.max_level);
    const MapStudent student(trained.network, trained.scaler,
                             DenoisingGate::fit(predictor_, schedule_, images.to(run_.device), items, known));
    measure({"student of signed evidence", {1, 0}, [&](const at::Tensor& x, const auto&) {
               return Made{student.answer(x), {}, {}};
             }});
    std::vector<std::string> names;
    for (const auto& group : data_.groups) names.push_back(group.name);
    student.save(run_.path("student.safetensors"), names, run_.fingerprint(Stage::kHeatmaps));
    const at::Tensor tests = take(data_.pixels, rows_);
    const std::vector<std::uint64_t> test_items(rows_.begin(), rows_.end());
    const auto share = [&](const at::Tensor& x) {
      return student.gate().admits(x.to(run_.device), test_items).to(at::kDouble).mean().item<double>();
    };
    gate_ = {{"test images", share(tests)},
             {"inverted", share(-tests)},
             {"upside down", share(tests.flip(2))},
             {"noise", share(item_noise(test_items, 1, tests.size(2), tests.size(3), 1, "gate control").clamp(-1, 1))}};
    for (const auto& [kind, admitted] : gate_.items())
      gate_table_ += fmt::format("| {} | {:.3f} |\n", kind, admitted.get<double>());
    const MapMethod full = [&](const at::Tensor& x, const std::vector<std::uint64_t>& ids) {
      return teacher.make(x, ids).maps;
    };
    const auto levels = static_cast<std::int64_t>(student.gate().options().levels.size());
    const double handed_back = 1 - gate_["test images"].get<double>();
    measure({"student of signed evidence, gated",
             {1 + levels, 0},
             [&](const at::Tensor& x, const auto& ids) {
               return Made{student.maps(x, ids, full).maps, {}, {}};
             },
             handed_back * static_cast<double>(teacher.calls.denoiser)});
  }

  Run::Impl& run_;
  const RunConfig& config_;
  const RunData& data_;
  NoiseSchedule schedule_;
  std::size_t maps_;
  std::int64_t level_ = 0;  ///< to which difference maps and the published loop encode
  std::vector<std::size_t> rows_;
  std::vector<std::int64_t> patients_;
  std::vector<Slice> slices_;
  MapTruth truth_;
  NetworkPrecision precision_ = NetworkPrecision::kFull;
  std::shared_ptr<const NoisePredictor> predictor_;
  std::vector<Target> targets_;
  at::Tensor present_;  ///< conditions of the maps
  EvidenceOptions evidence_;
  double sigma_ = 0;
  std::function<at::Tensor(const at::Tensor&)> judge_;  ///< image_only_classifier; empty where the run has no encoders
  at::Tensor judged_;                                   ///< [images, findings], what it says of the images
  nlohmann::ordered_json rows_json_ = nlohmann::ordered_json::array(), gate_, spread_;
  std::string table_;  ///< rows
  std::string region_table_ =
      "| method | regions | split | images | pixel AUROC | pixel AP | pointing | IoU of the upper half |\n"
      "|---|---|---|---|---|---|---|---|\n";
  std::string gate_table_ = "| images | share that the student's gate admits |\n|---|---|\n";
  std::string spread_table_ =
      "| maps, mean deviation over mean size | over all | over seeds | over levels | over scales "
      "|\n|---|---|---|---|---|\n";
};

}  // namespace

void Run::study_maps() {
  impl_->keeps_phantoms_ = true;
  for (const Stage stage : {Stage::kTranslator, Stage::kGuide}) impl_->require_files(stage);
  MapStudy study(*impl_);
  impl_->keep_settings();
  study.all();
  write_file_atomically(impl_->path("map_study.json"), study.result().dump(1) + "\n");
  write_file_atomically(impl_->path("map_study.md"), study.markdown());
}

}  // namespace daug
