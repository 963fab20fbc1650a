#include "daug/translator/diffusion_translator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "backend/conv3x3.h"
#include "backend/threads.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/finite_check.h"
#include "daug/translator/translation.h"

namespace daug {

namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// [B, ...] -> [B * K, ...], each row repeated K times, like the lanes of the images.
at::Tensor repeat_lanes(const at::Tensor& rows, std::int64_t lanes) { return rows.repeat_interleave(lanes, 0); }

/// `estimate(x, condition)`, in the shape of x, on as many rows at a time as the options let its `network` have.
template <class Network, class Estimate>
at::Tensor in_batches(const at::Tensor& x, const at::Tensor& condition, const TranslatorOptions& options,
                      const Network& network, const Estimate& estimate) {
  if (x.size(0) == 0) return at::empty_like(x);
  const backend::BatchThreads threads(options.max_batch);
  const std::int64_t max_batch =
      rows_within(options.memory_budget, network.bytes_per_item(x.size(2), x.size(3)), options.max_batch);
  if (x.size(0) <= max_batch) return estimate(x, condition);
  std::vector<at::Tensor> parts;
  for (std::int64_t i = 0; i < x.size(0); i += max_batch) {
    const std::int64_t count = std::min(max_batch, x.size(0) - i);
    parts.push_back(estimate(x.narrow(0, i, count), condition.defined() ? condition.narrow(0, i, count) : condition));
  }
  return at::cat(parts);
}

/// The levels of a path at which a decoder asks: the lowest above 0, as many as it makes estimates, for one that
/// remembers a state skips the top. One that makes more asks at all of them, and again or elsewhere.
at::IntArrayRef asked_levels(const std::vector<std::int64_t>& path, const Solver& solver) {
  const auto steps = static_cast<std::int64_t>(path.size()) - 1;
  const std::int64_t count = std::min(solver.decode_evaluations(steps), steps);
  return at::IntArrayRef(path).slice(1, static_cast<std::size_t>(count));
}

/// Whether the denoiser is asked twice at a level at which such guidance acts.
bool asks_twice(GuidanceKind kind) { return kind == GuidanceKind::kContrast || kind == GuidanceKind::kClassifierFree; }

/// `noise`, which during its first call also holds so many images like the one that it sees. `noise` must outlive it.
NoiseEstimate with_room(const NoiseEstimate& noise, int images) {
  return [&noise, images](const at::Tensor& x, std::int64_t level) mutable {
    std::vector<at::Tensor> room;
    for (; images > 0; --images) room.push_back(at::empty_like(x));
    return noise(x, level);
  };
}

void require_latent(const at::Tensor& latent, const Solver& solver, const NoisePredictor& predictor,
                    const char* function) {
  const std::int64_t states = solver.states(), channels = predictor.channels();
  const bool fits = latent.defined() && latent.dim() == 4 && at::isFloatingType(latent.scalar_type()) &&
                    (channels > 0 ? latent.size(1) == states * channels : latent.size(1) % states == 0);
  require(fits, function, "latent",
          channels > 0 ? detail::concat("floating point [B, ", states * channels, ", H, W]")
                       : detail::concat("floating point [B, ", states, " C, H, W]"),
          latent.defined() ? detail::concat("shape ", latent.sizes(), " of ", latent.scalar_type()) : "undefined");
}

}  // namespace

at::Tensor round_trip_residual(const at::Tensor& x, const at::Tensor& round_trip) {
  constexpr const char* kFunction = "daug::round_trip_residual";
  require(x.defined() && x.dim() == 4, kFunction, "x", "shape [B, C, H, W]",
          x.defined() ? x.sizes() : at::IntArrayRef{});
  require(round_trip.defined() && round_trip.sizes() == x.sizes(), kFunction, "round_trip", x.sizes(),
          round_trip.defined() ? round_trip.sizes() : at::IntArrayRef{});
  // Rows first: a mean of everything, which that of a single image is, would be split up among threads.
  return (round_trip - x).abs().mean(3, false).mean({1, 2});
}

/// Conditions of the B * K lanes being decoded, those of the denoiser as it has prepared them (but `both` where the
/// walk has no guided level: only a solver that asks at others wants it then); undefined where there are none.
struct DiffusionTranslator::LaneStates {
  at::Tensor target;                 ///< [B * K, F], what the target sets alone: what a classifier is asked for
  at::Tensor one;                    ///< where the denoiser is asked once
  at::Tensor both;                   ///< where guidance asks it twice: the destinations, then what it leads away from
  LevelCondition one_at, both_at;    ///< the same at a level, made by `decode_lanes` for its walk
  at::Tensor strength;               ///< [B * K, 1, 1, 1], of each lane's target; undefined: all 1
  std::int64_t lanes = 1;            ///< K
  std::vector<std::string> targets;  ///< [K], what errors call them; empty: nothing guides
};

void TranslatorOptions::validate() const {
  constexpr const char* kName = "daug::TranslatorOptions";
  require_range(level, 1, 1 << 20, kName, "level");
  require_range(steps, 1, level, kName, "steps");
  require_range(evaluations, 1, 20, kName, "evaluations");
  require_range(max_batch, 1, 1 << 20, kName, "max_batch");
  require(memory_budget >= 0, kName, "memory_budget", "0 or more bytes", memory_budget);
  guidance.validate();
}

DiffusionTranslator::DiffusionTranslator(std::shared_ptr<const NoisePredictor> predictor, NoiseSchedule schedule,
                                         std::vector<std::string> findings, TranslatorOptions options,
                                         std::shared_ptr<const GuidanceClassifier> classifier)
    : predictor_(std::move(predictor)),
      schedule_(std::move(schedule)),
      findings_(std::move(findings)),
      options_(options),
      classifier_(std::move(classifier)),
      solver_(options_.solver ? options_.solver
                              : std::make_shared<const DdimSolver>(DdimSolverOptions{options_.evaluations})) {
  constexpr const char* kName = "daug::DiffusionTranslator";
  options_.validate();
  require(predictor_ != nullptr, kName, "predictor", "a noise predictor", "null");
  require_range(options_.level, 1, schedule_.steps(), kName, "options.level");
  const auto& guidance = options_.guidance;
  const bool wants_classifier = guidance.kind == GuidanceKind::kClassifier || guidance.classifier_scale > 0;
  require(!wants_classifier || classifier_, kName, "classifier", "a classifier for classifier guidance", "null");
  const auto count = static_cast<std::int64_t>(findings_.size());
  if (classifier_ && classifier_->num_findings() != count)
    fail(ErrorCode::kMismatch, kName, "classifier", detail::concat("one of the model's ", count, " findings"),
         detail::concat("one of ", classifier_->num_findings()));
  const auto named = classifier_ ? classifier_->findings() : std::vector<std::string>{};
  if (!named.empty() && named != findings_)
    fail(ErrorCode::kMismatch, kName, "classifier", "one of the model's findings " + joined(findings_), joined(named));
  const std::int64_t channels = predictor_->channels(), guided_channels = classifier_ ? classifier_->channels() : 0;
  if (channels > 0 && guided_channels > 0 && guided_channels != channels)
    fail(ErrorCode::kMismatch, kName, "classifier", detail::concat("one of images of ", channels, " channels"),
         detail::concat("one of ", guided_channels));
  require_schedule(predictor_->schedule(), schedule_, kName, "predictor");
  if (classifier_) require_schedule(classifier_->schedule(), schedule_, kName, "classifier");
  require(guidance.kind != GuidanceKind::kClassifier || guidance.classifier_scale > 0, kName,
          "guidance.classifier_scale", "more than 0 for classifier guidance", guidance.classifier_scale);
  require(solver_->decode_evaluations(options_.steps) >= 1, kName, "options.steps",
          detail::concat("steps in which solver ", solver_->name(), " asks the network"), options_.steps);
  require(schedule_.abar(options_.level) > 0, kName, "options.level",
          "a level with some signal left, or nothing of the image is encoded", options_.level);
  path_ = schedule_.level_path(options_.level, options_.steps);
}

at::Tensor DiffusionTranslator::predict(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const {
  return in_batches(x, condition, options_, *predictor_, [&](const at::Tensor& rows, const at::Tensor& states) {
    return predictor_->noise(rows, level, states);
  });
}

at::Tensor DiffusionTranslator::gradients(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const {
  return in_batches(x, condition, options_, *classifier_, [&](const at::Tensor& rows, const at::Tensor& states) {
    return classifier_->gradient(rows, level, states);
  });
}

void DiffusionTranslator::require_known(const at::Tensor& known, std::int64_t batch, const char* function) const {
  const auto features = static_cast<std::int64_t>(findings_.size());
  require(!known.defined() || known.sizes() == at::IntArrayRef({batch, features}), function, "known",
          detail::concat("shape [", batch, ", ", features, "]"), known.defined() ? known.sizes() : at::IntArrayRef{});
  if (known.defined()) require_states(known, function, "known");
}

StepDone DiffusionTranslator::after_step(const char* function, const char* stage,
                                         const std::vector<std::string>& targets, const RunControl& control,
                                         const StepDone& change, FiniteCheck& finite) const {
  control.stop.throw_if_stopped(function);
  std::string scales;
  FiniteCheck::RowName lane;
  if (!targets.empty()) {
    scales = detail::concat(", guidance weight ", options_.guidance.weight, ", classifier scale ",
                            options_.guidance.classifier_scale);
    lane = [&targets](std::int64_t row) {
      const auto count = static_cast<std::int64_t>(targets.size());
      return detail::concat("image ", row / count, ", target ", row % count, " (",
                            targets[static_cast<std::size_t>(row % count)], ")");
    };
  }
  return [=, this, &control, &change, &finite](std::int64_t step, std::int64_t level, at::Tensor& x) {
    finite.see(x, detail::concat("step ", step, ", level ", level, scales), lane);
    if (change) change(step, level, x);
    control.report({stage, step, options_.steps, "steps", ""});
    control.stop.throw_if_stopped(function);
  };
}

at::Tensor DiffusionTranslator::encode_counted(const at::Tensor& x, const at::Tensor& states, const RunControl& control,
                                               std::int64_t* evaluations, const StepDone& change) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::encode";
  const LevelCondition states_at = predictor_->embedded(states, x.size(0), path_);
  const NoiseEstimate noise = [&](const at::Tensor& state, std::int64_t level) {
    ++*evaluations;
    return predict(state, level, states_at(level));
  };
  const backend::SteadyFilters steady;
  FiniteCheck finite(kFunction);
  at::Tensor latent = solver_->encode(schedule_, path_, x, with_room(noise, solver_->images_held_later()),
                                      after_step(kFunction, "encode", {}, control, change, finite));
  finite.settle();
  return latent;
}

at::Tensor DiffusionTranslator::encode(const at::Tensor& x, const at::Tensor& known, const RunControl& control) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::encode";
  require_images(*predictor_, x, kFunction);
  require_known(known, x.size(0), kFunction);
  std::int64_t evaluations = 0;
  return encode_counted(x, predictor_->prepared(known), control, &evaluations, {});
}

bool DiffusionTranslator::guides_at(std::int64_t level) const {
  return level >= options_.guidance.lowest_level && level <= options_.guidance.highest_level;
}

GuidedNoise DiffusionTranslator::guided(const at::Tensor& x, std::int64_t level, const LaneStates& states) const {
  const auto& guidance = options_.guidance;
  if (!guides_at(level)) return predict(x, level, states.one_at(level));
  GuidedNoise parts;
  if (asks_twice(guidance.kind)) {
    const auto estimates = predict(at::cat({x, x}), level, states.both_at(level)).chunk(2);
    parts.first = estimates[0], parts.second = estimates[1];
    parts.weight = guidance.weight, parts.from_second = guidance.kind == GuidanceKind::kClassifierFree;
  } else {
    parts.first = predict(x, level, states.one_at(level));
  }
  if (guidance.classifier_scale > 0) {
    at::Tensor gradient = gradients(x, level, states.target);
    parts.gradient_weight = guidance.classifier_scale * schedule_.noise(level);
    // Beside a half network a guide's gradient is wider: what it comes to with its weight fits where itself need not.
    const auto type = parts.first.scalar_type();
    if (at::promote_types(gradient.scalar_type(), type) != type)
      gradient = std::exchange(parts.gradient_weight, 1) * gradient;
    parts.gradient = gradient.to(type);
  }
  parts.strength = states.strength;
  return parts;
}

at::Tensor DiffusionTranslator::decode_lanes(const at::Tensor& latent, const LaneStates& lanes,
                                             const RunControl& control, const StepDone& change) const {
  LaneStates states = lanes;
  std::vector<std::int64_t> once, twice;  // levels at which the denoiser is asked so often
  const bool two = !states.targets.empty() && asks_twice(options_.guidance.kind);
  const at::IntArrayRef asked = asked_levels(path_, *solver_);
  std::partition_copy(asked.begin(), asked.end(), std::back_inserter(twice), std::back_inserter(once),
                      [&](std::int64_t level) { return two && guides_at(level); });
  states.one_at = predictor_->embedded(states.one, latent.size(0), once);
  states.both_at = predictor_->embedded(states.both, 2 * latent.size(0), twice);
  const NoiseEstimate noise = [&](const at::Tensor& x, std::int64_t level) {
    return states.targets.empty() ? GuidedNoise(predict(x, level, states.one_at(level))) : guided(x, level, states);
  };
  constexpr const char* kFunction = "daug::DiffusionTranslator::decode";
  const backend::SteadyFilters steady;
  FiniteCheck finite(kFunction);
  at::Tensor images = solver_->decode(schedule_, path_, latent, with_room(noise, solver_->images_held_later()),
                                      after_step(kFunction, "decode", states.targets, control, change, finite));
  finite.settle();
  return images;
}

at::Tensor DiffusionTranslator::decode(const at::Tensor& latent, const std::vector<Target>& targets,
                                       const at::Tensor& known, const RunControl& control) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::decode";
  require_latent(latent, *solver_, *predictor_, kFunction);
  const at::Tensor top = latent.narrow(1, 0, latent.size(1) / solver_->states());  // what networks are shown first
  return decode_targets(latent, lane_states(top, targets, known, kFunction), control, {});
}

/// The states of K lanes an item, made in the type and on the device of the items [B, C, H, W].
DiffusionTranslator::LaneStates DiffusionTranslator::lane_states(const at::Tensor& items,
                                                                 const std::vector<Target>& targets,
                                                                 const at::Tensor& known, const char* function) const {
  require(!targets.empty(), function, "targets", "at least one target", 0);
  require_known(known, items.size(0), function);
  if (options_.guidance.classifier_scale > 0) require_guidable(*classifier_, items, function);
  const auto lanes = static_cast<std::int64_t>(targets.size());
  const auto features = static_cast<std::int64_t>(findings_.size());
  const auto rows_of = [&](bool opposite) {
    at::Tensor rows = at::zeros({lanes, features});
    for (std::int64_t k = 0; k < lanes; ++k) {
      const auto row = target_condition(targets[static_cast<std::size_t>(k)], findings_, opposite);
      rows[k].copy_(at::tensor(at::ArrayRef<float>(row)));
    }
    return rows.to(items.options()).repeat({items.size(0), 1});
  };
  LaneStates states;
  states.lanes = lanes;
  states.target = rows_of(false);
  // The known states alone, and the target or its opposite beside them.
  const at::Tensor null =
      known.defined() ? repeat_lanes(known.to(items.options()), lanes) : at::zeros_like(states.target);
  const auto filled = [&](const at::Tensor& rows) { return at::where(rows == 0, null, rows); };
  const at::Tensor destination = filled(states.target), source = filled(rows_of(true));
  for (const auto& target : targets)
    states.targets.push_back(
        detail::concat(target.toward ? "toward " : "away from ", target.finding, ", strength ", target.strength));
  if (std::any_of(targets.begin(), targets.end(), [](const Target& target) { return target.strength != 1; })) {
    std::vector<double> strengths;
    for (const auto& target : targets) strengths.push_back(target.strength);
    states.strength = at::tensor(strengths, items.options()).repeat({items.size(0)}).reshape({-1, 1, 1, 1});
  }
  // What `guided` asks for on the way.
  const auto kind = options_.guidance.kind;
  const at::IntArrayRef asked = asked_levels(path_, *solver_);
  const bool acts = std::any_of(asked.begin(), asked.end(), [this](std::int64_t level) { return guides_at(level); });
  states.one = predictor_->prepared(kind == GuidanceKind::kClassifier ? null : destination);
  if (asks_twice(kind)) {
    const at::Tensor both = at::cat({destination, kind == GuidanceKind::kContrast ? source : null});
    states.both = acts ? predictor_->prepared(both) : both;
  }
  return states;
}

at::Tensor DiffusionTranslator::decode_targets(const at::Tensor& latent, const LaneStates& states,
                                               const RunControl& control, const StepDone& change) const {
  const at::Tensor images = decode_lanes(repeat_lanes(latent, states.lanes), states, control, change);
  return images.unflatten(0, {latent.size(0), states.lanes});
}

at::Tensor DiffusionTranslator::reconstruct(const at::Tensor& latent, const at::Tensor& known,
                                            const RunControl& control) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::reconstruct";
  require_latent(latent, *solver_, *predictor_, kFunction);
  require_known(known, latent.size(0), kFunction);
  LaneStates states;
  states.one = predictor_->prepared(known);
  return decode_lanes(latent, states, control, {});
}

void DiffusionTranslator::require_translatable(const at::Tensor& x, const std::vector<Target>& targets,
                                               const at::Tensor& known) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::require_translatable";
  require_images(*predictor_, x, kFunction);
  lane_states(x, targets, known, kFunction);
  (void)predictor_->prepared(known);
}

Translation DiffusionTranslator::translate(const at::Tensor& x, const std::vector<Target>& targets,
                                           const at::Tensor& known, const RunControl& control) const {
  return translate_with(x, targets, known, control, {}, {});
}

Translation DiffusionTranslator::translate_inside(const at::Tensor& region, const at::Tensor& x,
                                                  const std::vector<Target>& targets, const at::Tensor& known,
                                                  const RunControl& control) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::translate_inside";
  require_images(*predictor_, x, kFunction);
  const bool fits = region.defined() && region.dim() == 4 && (region.size(0) == 1 || region.size(0) == x.size(0)) &&
                    region.size(1) == 1 && region.size(2) == x.size(2) && region.size(3) == x.size(3);
  require(fits, kFunction, "region", detail::concat("shape [B, 1, H, W] beside x of ", x.sizes()),
          region.defined() ? region.sizes() : at::IntArrayRef{});
  const at::Tensor share = region.to(x.options());
  // NaN compares false with everything, so it is refused too.
  require(share.ge(0).logical_and(share.le(1)).all().item<bool>(), kFunction, "region", "values in [0, 1]", "others");
  std::map<std::int64_t, at::Tensor> way = {{0, x}};
  const StepDone remember = [&](std::int64_t, std::int64_t level, at::Tensor& state) { way[level] = state; };
  const auto lanes = static_cast<std::int64_t>(targets.size());
  const at::Tensor inside = repeat_lanes(share.expand({x.size(0), -1, -1, -1}), lanes), outside = 1 - inside;
  // Exact where inside is 0 or 1. Each operator rounds once, wherever a value lies: at::lerp may fuse some of its own.
  const StepDone hold = [&](std::int64_t, std::int64_t level, at::Tensor& state) {
    state = outside * repeat_lanes(way.at(level), lanes) + inside * state;
  };
  return translate_with(x, targets, known, control, remember, hold);
}

Translation DiffusionTranslator::translate_with(const at::Tensor& x, const std::vector<Target>& targets,
                                                const at::Tensor& known, const RunControl& control,
                                                const StepDone& encoded, const StepDone& decoded) const {
  constexpr const char* kFunction = "daug::DiffusionTranslator::translate";
  require_images(*predictor_, x, kFunction);
  const LaneStates states = lane_states(x, targets, known, kFunction);
  LaneStates untargeted;
  untargeted.one = predictor_->prepared(known);
  Translation result;
  std::int64_t evaluations = 0;
  result.latent = encode_counted(x, untargeted.one, control, &evaluations, encoded);
  result.reconstruction = decode_lanes(result.latent, untargeted, control, {});
  result.residual = round_trip_residual(x, result.reconstruction);
  result.images = decode_targets(result.latent, states, control, decoded);
  result.calls = calls(evaluations, targets.size());
  return result;
}

NetworkCalls DiffusionTranslator::calls(std::int64_t encode_evaluations, std::size_t targets) const {
  const auto lanes = static_cast<std::int64_t>(targets);
  const auto& guidance = options_.guidance;
  const bool two = asks_twice(guidance.kind);
  NetworkCalls result;
  result.denoiser = encode_evaluations;
  result.reconstruction = solver_->decode_evaluations(options_.steps);
  const at::IntArrayRef asked = asked_levels(path_, *solver_);
  for (std::int64_t i = 0; i < result.reconstruction; ++i) {
    const bool acts = guides_at(asked[static_cast<std::size_t>(i) % asked.size()]);
    result.denoiser += lanes * (acts && two ? 2 : 1);
    if (acts && guidance.classifier_scale > 0) result.classifier_gradients += lanes;
  }
  return result;
}

NetworkCalls DiffusionTranslator::calls_per_image(std::size_t targets) const {
  return calls(solver_->encode_evaluations(options_.steps), targets);
}

}  // namespace daug
