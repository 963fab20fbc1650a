// Ways of making maps, side by side on one trained model.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/maps.h"
#include "daug/io/file.h"
#include "daug/train/student_trainer.h"
#include "daug/translator/noise.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/translation.h"
#include "map_study_table.h"
#include "pipeline/evaluation/localisation.h"
#include "pipeline/settings/stage_options.h"
#include "translator/item_noise_like.h"

namespace daug {

namespace {

MadeMaps on_cpu(MadeMaps made) {
  for (at::Tensor* tensor : {&made.maps, &made.images})
    if (tensor->defined()) *tensor = tensor->to(at::kCPU);
  return made;
}

/// What blocks of images left at their first one's place, one behind the other; undefined where none left anything.
at::Tensor joined(std::vector<at::Tensor> parts) {
  parts.erase(std::remove_if(parts.begin(), parts.end(), [](const auto& part) { return !part.defined(); }),
              parts.end());
  return parts.empty() ? at::Tensor() : at::cat(parts).contiguous();
}

/// A way of making maps: one row of the table.
struct Method {
  std::string name;
  NetworkCalls calls;  ///< for each image
  std::function<MadeMaps(const at::Tensor& x, const std::vector<std::uint64_t>& items)> make;
  double further = 0;  ///< denoiser calls beside those, on average over the images
};

class MapStudy {
 public:
  explicit MapStudy(Run::Impl& run)
      : run_(run),
        config_(run.config),
        data_(run.data()),
        schedule_(run.schedule()),
        maps_(data_.maps()),
        level_(level_of(config_, schedule_)),
        table_(run),
        rows_(table_.rows()) {
    precision_ = network_precision(config_.maps.precision);
    predictor_ =
        make_noise_predictor(run_.load_denoiser(), schedule_, prediction(config_.diffusion.prediction), {}, precision_);
    targets_ = map_targets(data_.groups);
    present_ = map_conditions(data_.groups, data_.cohort.findings);
    evidence_ = evidence_options(config_);
    sigma_ = map_blur(config_);
  }

  void all() {
    constexpr std::int64_t kShort = 25;  // steps of a walk whose inversion is looked into: longer ones cost too much
    const auto all_steps = parse_integers(config_.study.steps, "study.steps");
    const auto inversions = parse_integers(config_.study.evaluations, "study.evaluations");
    MadeMaps first;  // of the most steps by default
    for (const std::int64_t steps : all_steps)
      for (const std::int64_t n : steps > kShort ? std::vector{config_.maps.evaluations} : inversions) {
        const MadeMaps made = measure(difference("ddim", steps, n));
        if (!first.maps.defined()) first = made;
      }
    for (const char* solver : {"dpm", "bdia"})
      for (const std::int64_t steps : all_steps)
        if (make_solver(solver)->decode_evaluations(steps) >= 1) measure(difference(solver, steps, 1));
    measure(published());
    measure(score_difference());
    const MadeMaps evidence = measure(signed_evidence());
    student();
    of_others("difference", first);
    of_others("evidence", evidence);
    spread();
    const MeanRegions mean = mean_regions(run_, table_.truth());
    table_.add("mean training mask", {}, 0, {mean.maps, {}, {}}, mean.boxes);
    if (const at::Tensor distance = mean_healthy_distance(run_, rows_); distance.defined())
      table_.add("distance to the mean healthy image", {}, 0, {distance, {}, {}});
    measure({"occlusion of the classifier", {}, [occluded = guide_occlusion(run_)](const at::Tensor& x, const auto&) {
               return MadeMaps{occluded(x), {}, {}};
             }});
    if (!table_.judge()) return;
    // A classifier that was trained for clean images and knows more of them than the guide does.
    const auto logits = [judge = table_.judge()](const at::Tensor& images) { return at::logit(judge(images), 1e-7); };
    table_.add(fmt::format("occlusion of the image-only encoder{}", data_.cohort.has_reports ? "" : ", label-derived"),
               {}, 0, {occlusion_of(run_, logits)(run_.images(rows_)), {}, {}});
  }

  const MapStudyTable& table() const { return table_; }

 private:
  /// To which difference maps and the published loop encode: what the latter can start from; other methods could more.
  static std::int64_t level_of(const RunConfig& config, const NoiseSchedule& schedule) {
    const std::int64_t level = config.study.level > 0 ? config.study.level : config.maps.level;
    require_range(level, 2, schedule.steps() - 1, "daug::Run::study_maps",
                  config.study.level > 0 ? "study.level" : "maps.level");
    return level;
  }

  static constexpr std::int64_t kBlock = 5;  ///< images that a thread has at once
  std::int64_t count() const { return static_cast<std::int64_t>(rows_.size()); }

  /// Images on the device of the networks.
  at::Tensor pixels(const std::vector<std::size_t>& rows) const { return take(data_.pixels, rows).to(run_.device); }

  /// Runs a method over the study's images and adds its row; returns what it made.
  MadeMaps measure(const Method& method) {
    std::vector<MadeMaps> parts(rows_.size());
    const auto start = std::chrono::steady_clock::now();
    for_blocks(count(), kBlock, network_threads(config_), run_.control, method.name, "images",
               [&](std::int64_t begin, std::int64_t size) {
                 const std::vector<std::size_t> block(rows_.begin() + begin, rows_.begin() + begin + size);
                 const std::vector<std::uint64_t> items(block.begin(), block.end());
                 parts[static_cast<std::size_t>(begin)] = on_cpu(method.make(pixels(block), items));
               });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const auto field = [&](at::Tensor MadeMaps::*of) {
      std::vector<at::Tensor> values;
      for (const auto& part : parts) values.push_back(part.*of);
      return joined(std::move(values));
    };
    MadeMaps all = {field(&MadeMaps::maps), field(&MadeMaps::images), {}};
    const auto add = [&] {
      table_.add(method.name, method.calls, seconds / static_cast<double>(rows_.size()), all, {}, method.further);
    };
    if (!parts.front().round_trip) {
      add();
      return all;
    }
    const at::Tensor x = take(data_.pixels, rows_), back = round_trips(method.name, parts);
    all.residual = round_trip_residual(x, back);
    add();
    // What a method finds without being told what to look for: a map that is no better shows nothing.
    const auto for_every_map = [&](const at::Tensor& one) {
      return one.expand({-1, static_cast<std::int64_t>(maps_), -1, -1}).contiguous();
    };
    const at::Tensor change = smoothed(difference_map(x, back.unsqueeze(1)), sigma_);
    table_.add(method.name + ": its round trip", {}, 0, {for_every_map(change), for_every_map(back), {}});
    return all;
  }

  /// [images, 1, S, S]; in neither the calls nor the time of the maps.
  at::Tensor round_trips(const std::string& method, const std::vector<MadeMaps>& parts) {
    std::vector<at::Tensor> made(parts.size());
    for_blocks(count(), kBlock, network_threads(config_), run_.control, method + ", round trip", "images",
               [&](std::int64_t begin, std::int64_t) {
                 const auto block = static_cast<std::size_t>(begin);
                 made[block] = parts[block].round_trip().to(at::kCPU, at::kFloat);
               });
    return joined(std::move(made));
  }

  /// The control that must fail.
  void of_others(const std::string& name, const MadeMaps& made) {
    const OthersMaps others =
        maps_of_other_patients(table_.patients(), take(data_.pixels, rows_), made.maps, made.images);
    if (others.maps.defined())
      table_.add(name + " of another patient's image", {}, 0, {others.maps, others.images, {}});
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
      table_.add_spread(kind, all, seeds, levels, scales);
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
              const auto round_trip = [=] { return shared->reconstruct(latent, {}, control); };
              return MadeMaps{smoothed(difference_map(x, images), sigma_), images.squeeze(2), {}, round_trip};
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
              const at::Tensor fresh = detail::item_noise_like(x, items, evidence_.seed, "published loop");
              for (const at::Tensor& present : present_.unbind(0))
                images.push_back(published_translation(*clipping, schedule_, *guide, x, fresh,
                                                       -present.expand({x.size(0), -1}), options));
              const at::Tensor all = at::stack(images, 1);
              const auto round_trip = [=, this] {
                return published_reconstruction(*clipping, schedule_, x, fresh, options);
              };
              return MadeMaps{smoothed(difference_map(x, all), sigma_), all.squeeze(2), {}, round_trip};
            }};
  }

  std::int64_t draws() const { return static_cast<std::int64_t>(evidence_.levels.size()) * evidence_.samples; }

  Method signed_evidence() const {
    return {"signed evidence",
            {2 * static_cast<std::int64_t>(maps_) * draws(), 0},
            [this](const at::Tensor& x, const auto& items) {
              return MadeMaps{
                  smoothed(evidence_maps(*predictor_, schedule_, x, items, present_, evidence_), sigma_), {}, {}};
            }};
  }

  Method score_difference() const {
    return {
        "score difference",
        {(static_cast<std::int64_t>(maps_) + 1) * draws(), 0},
        [this](const at::Tensor& x, const auto& items) {
          return MadeMaps{
              smoothed(score_difference_maps(*predictor_, schedule_, x, items, present_, evidence_), sigma_), {}, {}};
        }};
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
    StudentTrainerOptions options;
    options.network = run_.denoiser_options().network;
    options.workers = worker_count(config_, options.batch_size);
    options.device = run_.device;
    options.precision = training_precision(config_.diffusion.precision);
    options.seed = static_cast<std::uint64_t>(config_.seed);
    options.optimizer.steps = config_.study.student_steps;
    options.optimizer.learning_rate = 1.5e-3;
    options.optimizer.ema_decay = 0.99;
    const at::Tensor images = take(data_.pixels, rows);
    const auto trained =
        train_map_student(images, joined(std::move(parts)), options, run_.stage_control("train student"));
    const std::vector<std::uint64_t> items(rows.begin(), rows.end());
    DenoisingGateOptions known;  // at levels that the denoiser was shown
    for (std::int64_t& level : known.levels) level = std::min(level, config_.diffusion.max_level);
    known.memory_budget = memory_budget(config_);
    const MapStudent student(trained.network, trained.scaler,
                             DenoisingGate::fit(predictor_, schedule_, images.to(run_.device), items, known));
    measure({"student of signed evidence", {1, 0}, [&](const at::Tensor& x, const auto&) {
               return MadeMaps{student.answer(x), {}, {}};
             }});
    std::vector<std::string> names;
    for (const auto& group : data_.groups) names.push_back(group.name);
    student.save(run_.path("student.safetensors"), names, run_.fingerprint(Stage::kHeatmaps));
    const at::Tensor tests = take(data_.pixels, rows_);
    const std::vector<std::uint64_t> test_items(rows_.begin(), rows_.end());
    const auto share = [&](const at::Tensor& x) {
      return student.gate().admits(x.to(run_.device), test_items).to(at::kDouble).mean().item<double>();
    };
    const double admitted = share(tests);
    table_.add_gate("test images", admitted);
    table_.add_gate("inverted", share(-tests));
    table_.add_gate("upside down", share(tests.flip(2)));
    table_.add_gate("noise",
                    share(item_noise(test_items, 1, tests.size(2), tests.size(3), 1, "gate control").clamp(-1, 1)));
    const MapMethod full = [&](const at::Tensor& x, const std::vector<std::uint64_t>& ids) {
      return teacher.make(x, ids).maps;
    };
    const auto levels = static_cast<std::int64_t>(student.gate().options().levels.size());
    measure({"student of signed evidence, gated",
             {1 + levels, 0},
             [&](const at::Tensor& x, const auto& ids) {
               return MadeMaps{student.maps(x, ids, full).maps, {}, {}};
             },
             (1 - admitted) * static_cast<double>(teacher.calls.denoiser)});
  }

  Run::Impl& run_;
  const RunConfig& config_;
  const RunData& data_;
  NoiseSchedule schedule_;
  std::size_t maps_;
  std::int64_t level_;
  MapStudyTable table_;
  const std::vector<std::size_t>& rows_;
  NetworkPrecision precision_ = NetworkPrecision::kFull;
  std::shared_ptr<const NoisePredictor> predictor_;
  std::vector<Target> targets_;
  at::Tensor present_;  ///< conditions of the maps
  EvidenceOptions evidence_;
  double sigma_ = 0;
};

}  // namespace

void Run::study_maps() {
  impl_->keeps_phantoms_ = true;
  for (const Stage stage : {Stage::kTranslator, Stage::kGuide}) impl_->require_files(stage);
  MapStudy study(*impl_);
  impl_->keep_settings();
  impl_->repeatably([&] { study.all(); });
  write_file_atomically(impl_->path("map_study.json"), study.table().result().dump(1) + "\n");
  write_file_atomically(impl_->path("map_study.md"), study.table().markdown());
}

}  // namespace daug
