#include "daug/train/denoiser_trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/train/level_sampler.h"
#include "daug/train/sample_order.h"
#include "daug/translator/noise.h"
#include "daug/translator/noise_predictor.h"
#include "drawn_ahead.h"
#include "replayed_training.h"
#include "replicas.h"
#include "translator/squared_error.h"

namespace daug {

namespace {

void require_training_set(const at::Tensor& images, const at::Tensor& states, const char* function) {
  daug::require_images(images, 0, function, "images");
  require(images.size(0) >= 1, function, "images", "shape [N, C, H, W] with N >= 1", images.sizes());
  require(states.defined() && states.dim() == 2 && states.size(0) == images.size(0) && states.size(1) >= 1, function,
          "states", detail::concat("shape [", images.size(0), ", F]"),
          states.defined() ? states.sizes() : at::IntArrayRef{});
  require_states(states, function, "states");
}

/// A worker's share of one step: noisy images at random levels.
struct NoisyBatch {
  at::Tensor index;                ///< [b] rows of the training set
  at::Tensor clean, noise, noisy;  ///< on the device
  at::Tensor signal, deviation;    ///< [b, 1, 1, 1], of the levels; on the device
  at::Tensor levels;               ///< [b]
  at::Tensor timesteps;            ///< [b]; on the device
  at::Tensor weights;              ///< [b], that make up for how the levels were drawn; on the device
  std::uint64_t first_position;    ///< stream position of the first item

  /// All that is on the device but what is computed there.
  std::array<at::Tensor*, 6> sent() { return {&timesteps, &weights, &clean, &noise, &signal, &deviation}; }
};

std::uint64_t dropout_seed(std::uint64_t seed, const NoisyBatch& batch) {
  return RandomStream(seed, batch.first_position, "dropout")();
}

/// The rows of a training set as they come, or with at least `labelled_share` of them having a known state.
MixedSampleOrder training_order(const at::Tensor& states, double labelled_share, std::uint64_t seed) {
  const at::Tensor known = states.ne(0).any(1).contiguous();
  std::vector<std::int64_t> all, labelled, unlabelled;
  for (std::int64_t row = 0; row < states.size(0); ++row) {
    all.push_back(row);
    (known.data_ptr<bool>()[row] ? labelled : unlabelled).push_back(row);
  }
  if (labelled_share * static_cast<double>(all.size()) <= static_cast<double>(labelled.size()))
    return {all, {}, 1, seed};
  return {labelled, unlabelled, labelled_share, seed};
}

/// Draws batches so that an item's level and noise depend on (seed, position) only, and brings them to a device.
class NoisyBatches {
 public:
  /// `ahead`: for a device a batch is drawn during the step before, which has to have no say in its levels.
  template <class Options>
  NoisyBatches(const at::Tensor& images, const MixedSampleOrder& order, const NoiseSchedule& schedule,
               const LevelSampler& levels, const Options& options, bool ahead)
      : images_(images),
        schedule_(schedule),
        levels_(levels),
        batch_size_(options.batch_size),
        share_(options.batch_size / options.workers),
        device_(options.device),
        seed_(options.seed),
        orders_(static_cast<std::size_t>(options.workers), order),
        drawn_([this](std::size_t worker, std::int64_t step) { return drawn(worker, step); },
               ahead && options.device.is_cuda(), options.optimizer.steps) {}

  NoisyBatch draw(std::size_t worker, std::int64_t step) {
    NoisyBatch batch = drawn_.at(worker, step);
    for (at::Tensor* tensor : batch.sent()) *tensor = backend::upload(*tensor, device_);
    batch.noisy = batch.signal * batch.clean + batch.deviation * batch.noise;
    return batch;
  }

 private:
  /// All but `noisy`, on the CPU.
  NoisyBatch drawn(std::size_t worker, std::int64_t step) {
    NoisyBatch batch;
    batch.first_position = static_cast<std::uint64_t>(step * batch_size_ + static_cast<std::int64_t>(worker) * share_);
    batch.index = at::empty({share_}, at::kLong);
    batch.levels = at::empty({share_}, at::kLong);
    batch.timesteps = at::empty({share_}, at::kLong);
    batch.weights = at::empty({share_});
    batch.signal = at::empty({share_, 1, 1, 1});
    batch.deviation = at::empty({share_, 1, 1, 1});
    std::vector<std::uint64_t> positions;
    for (std::int64_t i = 0; i < share_; ++i) {
      const std::uint64_t position = batch.first_position + static_cast<std::uint64_t>(i);
      positions.push_back(position);
      batch.index.data_ptr<std::int64_t>()[i] = orders_[worker].at(position);
      RandomStream stream(seed_, position, "noise level");
      const auto [level, weight] = levels_.draw(stream);
      batch.levels.data_ptr<std::int64_t>()[i] = level;
      batch.timesteps.data_ptr<std::int64_t>()[i] = schedule_.timestep(level);
      batch.weights.data_ptr<float>()[i] = static_cast<float>(weight);
      batch.signal.data_ptr<float>()[i] = static_cast<float>(schedule_.signal(level));
      batch.deviation.data_ptr<float>()[i] = static_cast<float>(schedule_.noise(level));
    }
    batch.clean = images_.index_select(0, batch.index);
    batch.noise = item_noise(positions, images_.size(1), images_.size(2), images_.size(3), seed_, "training noise");
    for (at::Tensor* tensor : batch.sent()) *tensor = backend::ready_to_upload(*tensor, device_);
    return batch;
  }

  const at::Tensor& images_;
  const NoiseSchedule& schedule_;
  const LevelSampler& levels_;
  std::int64_t batch_size_, share_;
  c10::Device device_;
  std::uint64_t seed_;
  std::vector<MixedSampleOrder> orders_;  ///< one a worker, which caches its epoch
  DrawnAhead<NoisyBatch> drawn_;
};

/// Whether what a device is given at a step depends on nothing that is drawn or looked up at that step but tensors.
bool can_be_replayed(const DenoiserTrainerOptions& options) {
  return options.network.dropout == 0 && detail::is_squared_error(options.loss);
}

/// The guide's loss of a share or of a part of it: what is not known adds nothing, and `known` of the share's states
/// are.
at::Tensor classifier_loss(const at::Tensor& logits, const at::Tensor& state, const at::Tensor& positive_weight,
                           const at::Tensor& known) {
  return at::binary_cross_entropy_with_logits(logits, state.clamp_min(0), state.abs(), positive_weight,
                                              at::Reduction::Sum) /
         known;
}

}  // namespace

void DenoiserTrainerOptions::validate(const NoiseSchedule& schedule) const {
  constexpr const char* kName = "daug::DenoiserTrainerOptions";
  loss.validate();
  require_predictable(schedule, loss.prediction, kName);
  require_range(max_level, 1, schedule.steps(), kName, "max_level");
  require_shares(batch_size, workers, device, kName);
  require_range(finding_dropout, 0.0, 1.0, kName, "finding_dropout");
  require_range(condition_dropout, 0.0, 1.0, kName, "condition_dropout");
  require_range(labelled_share, 0.0, 1.0, kName, "labelled_share");
  require_replayable(graphs, can_be_replayed(*this), kName, "dropout, a learned variance or the variational bound");
  optimizer.validate();
}

DenoiserUNet train_denoiser(const at::Tensor& images, const at::Tensor& states, const NoiseSchedule& schedule,
                            const DenoiserTrainerOptions& options, const RunControl& control,
                            TrainingHistory* history) {
  return detail::train_replayed_denoiser(images, states, schedule, options, control, history,
                                         detail::cuda_graphs_of_trainings(options.graphs, "daug::train_denoiser"));
}

DenoiserUNet detail::train_replayed_denoiser(const at::Tensor& images, const at::Tensor& states,
                                             const NoiseSchedule& schedule, const DenoiserTrainerOptions& options,
                                             const RunControl& control, TrainingHistory* history,
                                             const MakeGraphs& make_graphs) {
  require_training_set(images, states, "daug::train_denoiser");
  options.validate(schedule);
  DenoiserUNetOptions network = options.network;
  network.num_findings = states.size(1);
  network.out_channels = (is_learned(options.loss.variance) ? 2 : 1) * images.size(1);
  const auto levels = std::make_shared<LevelSampler>(
      LevelSamplerOptions{1, options.max_level, options.loss_aware_levels}, static_cast<std::size_t>(options.workers));
  NoisyBatches batches(images, training_order(states, options.labelled_share, options.seed), schedule, *levels, options,
                       /*ahead=*/!options.loss_aware_levels);
  const at::Tensor known = states.to(at::kFloat);
  const std::int64_t share = options.batch_size / options.workers;
  std::vector<std::optional<ReplayedShares>> replayed(static_cast<std::size_t>(options.workers));
  const auto share_of = [&](DenoiserUNet& replica, std::size_t worker, std::int64_t step) {
    std::optional<ReplayedShares>& shares = replayed[worker];
    if (!shares && can_be_replayed(options)) shares.emplace(*replica, make_graphs);
    if (shares) shares->begin(step);  // before the batch takes memory
    const NoisyBatch batch = batches.draw(worker, step);
    at::Tensor condition = known.index_select(0, batch.index);
    auto rows = condition.accessor<float, 2>();
    for (std::int64_t i = 0; i < condition.size(0); ++i) {
      RandomStream stream(options.seed, batch.first_position + static_cast<std::uint64_t>(i), "condition dropout");
      const bool hide_all = stream.uniform() < options.condition_dropout;
      for (std::int64_t f = 0; f < condition.size(1); ++f)
        if (stream.uniform() < options.finding_dropout || hide_all) rows[i][f] = 0;
    }
    const at::Tensor shown = backend::upload(condition, options.device);
    std::vector<at::Tensor> noted;  // losses of the parts so far
    return [&, replica = replica, graphs = shares ? &*shares : nullptr, worker, batch, shown, noted](
               std::int64_t begin, std::int64_t count) mutable {
      if (count == share && graphs && graphs->captures(batch.noisy)) {
        const auto target = detail::error_target(schedule, options.loss, batch.clean, batch.noise, batch.levels);
        const auto pass = [replica, &options](const std::vector<at::Tensor>& given) mutable {
          const at::Tensor output =
              in_precision(options, [&] { return replica->forward(given[0], given[1], given[2]); });
          const at::Tensor terms = detail::weighted(detail::squared_error(output, given[3]), given[4]);
          return ReplayedShares::Passed{(terms * given[5]).mean(), terms};
        };
        const at::Tensor losses =
            graphs->told({batch.noisy, batch.timesteps, shown, target.value, target.weights, batch.weights}, pass);
        levels->record(worker, batch.levels, losses);
        return (losses * batch.weights).mean();
      }
      const auto part = [begin, count](const at::Tensor& all) { return all.narrow(0, begin, count); };
      replica->seed_dropout(dropout_seed(options.seed, batch), begin, share);
      const at::Tensor output = in_precision(
          options, [&] { return replica->forward(part(batch.noisy), part(batch.timesteps), part(shown)); });
      const at::Tensor losses = denoising_loss(schedule, options.loss, output, part(batch.clean), part(batch.noisy),
                                               part(batch.noise), part(batch.levels))
                                    .loss;
      noted.push_back(losses.detach());
      if (begin + count == share) levels->record(worker, batch.levels, at::cat(noted));
      return with_gradient((losses * part(batch.weights)).mean() * part_of(count, share));
    };
  };
  return train_replicas<DenoiserUNet>(network, share, options.workers, options.device, options.optimizer, options.seed,
                                      control, history, options.loss_aware_levels ? levels : nullptr, share_of);
}

void ClassifierTrainerOptions::validate(const NoiseSchedule& schedule) const {
  constexpr const char* kName = "daug::ClassifierTrainerOptions";
  require_range(max_level, 0, schedule.steps(), kName, "max_level");
  require_shares(batch_size, workers, device, kName);
  require_range(max_positive_weight, 1.0, 1e6, kName, "max_positive_weight");
  require_replayable(graphs, network.dropout == 0, kName, "dropout");
  optimizer.validate();
}

at::Tensor positive_weights(const at::Tensor& states, double most) {
  require(most >= 1, "daug::positive_weights", "most", "at least 1", most);
  const at::Tensor positives = states.gt(0).sum(0), negatives = states.lt(0).sum(0);
  return (negatives.to(at::kFloat) / positives.clamp_min(1)).clamp(1 / most, most);
}

NoiseAwareClassifier train_noise_aware_classifier(const at::Tensor& images, const at::Tensor& states,
                                                  const NoiseSchedule& schedule,
                                                  const ClassifierTrainerOptions& options, const RunControl& control,
                                                  TrainingHistory* history) {
  return detail::train_replayed_classifier(
      images, states, schedule, options, control, history,
      detail::cuda_graphs_of_trainings(options.graphs, "daug::train_noise_aware_classifier"));
}

NoiseAwareClassifier detail::train_replayed_classifier(const at::Tensor& images, const at::Tensor& states,
                                                       const NoiseSchedule& schedule,
                                                       const ClassifierTrainerOptions& options,
                                                       const RunControl& control, TrainingHistory* history,
                                                       const MakeGraphs& make_graphs) {
  constexpr const char* kFunction = "daug::train_noise_aware_classifier";
  require_training_set(images, states, kFunction);
  options.validate(schedule);
  const at::Tensor labelled = states.ne(0).any(1).nonzero().squeeze(1);
  require(labelled.numel() > 0, kFunction, "states", "at least one image with a known state", "none");
  const at::Tensor known_images = images.index_select(0, labelled);
  const at::Tensor known = states.index_select(0, labelled).to(at::kFloat);
  NoiseAwareClassifierOptions network = options.network;
  network.out_channels = states.size(1);
  const at::Tensor weight = positive_weights(known, options.max_positive_weight).to(options.device);
  const LevelSampler levels({0, options.max_level}, static_cast<std::size_t>(options.workers));
  NoisyBatches batches(known_images, training_order(known, 0, options.seed), schedule, levels, options,
                       /*ahead=*/true);
  const std::int64_t share = options.batch_size / options.workers;
  std::vector<std::optional<ReplayedShares>> replayed(static_cast<std::size_t>(options.workers));
  const auto share_of = [&](NoiseAwareClassifier& replica, std::size_t worker, std::int64_t step) {
    std::optional<ReplayedShares>& shares = replayed[worker];
    if (!shares && options.network.dropout == 0) shares.emplace(*replica, make_graphs);
    if (shares) shares->begin(step);  // before the batch takes memory
    const NoisyBatch batch = batches.draw(worker, step);
    const at::Tensor state = backend::upload(known.index_select(0, batch.index), options.device);
    const at::Tensor all_known = state.abs().sum().clamp_min(1);
    return [&, replica = replica, graphs = shares ? &*shares : nullptr, batch, state, all_known](
               std::int64_t begin, std::int64_t count) mutable {
      if (count == share && graphs && graphs->captures(batch.noisy)) {
        const auto pass = [replica, &options](const std::vector<at::Tensor>& given) mutable {
          const at::Tensor logits = in_precision(options, [&] { return replica->forward(given[0], given[1]); });
          const at::Tensor loss = classifier_loss(logits, given[2], given[3], given[4]);
          return ReplayedShares::Passed{loss, loss};
        };
        return graphs->told({batch.noisy, batch.timesteps, state, weight, all_known}, pass);
      }
      const auto part = [begin, count](const at::Tensor& all) { return all.narrow(0, begin, count); };
      replica->seed_dropout(dropout_seed(options.seed, batch), begin, share);
      const at::Tensor logits =
          in_precision(options, [&] { return replica->forward(part(batch.noisy), part(batch.timesteps)); });
      return with_gradient(classifier_loss(logits, part(state), weight, all_known));
    };
  };
  return train_replicas<NoiseAwareClassifier>(network, share, options.workers, options.device, options.optimizer,
                                              options.seed, control, history, nullptr, share_of);
}

}  // namespace daug
