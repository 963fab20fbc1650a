// Trainings of a denoiser, its guide and a student whose steps are captured and replayed as graphs.

#include "train/replayed_training.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/student_trainer.h"
#include "daug/translator/noise_schedule.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/device_calls.h"
#include "support/memory_count.h"
#include "support/repeated_graphs.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "train/stop_after.h"
#include "train/told_of_memory.h"
#include "train/toy_training.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

template <class Options = DenoiserTrainerOptions>
Options replayable(std::int64_t steps) {
  Options options;
  make_tiny(options.network);
  options.network.attention_downsample = {2};
  options.network.use_scale_shift_norm = true;
  if constexpr (!std::is_same_v<Options, StudentTrainerOptions>) options.max_level = 600;
  if constexpr (std::is_same_v<Options, ClassifierTrainerOptions>) options.network.num_head_channels = 8;
  options.batch_size = 6;
  options.workers = 1;
  options.optimizer.steps = steps;
  options.optimizer.learning_rate = 3e-3;
  options.optimizer.ema_decay = 0.9;
  options.optimizer.clip_norm = 1;
  return options;
}

/// 40 images, and states of two findings.
struct DrawnSet {
  explicit DrawnSet(std::int64_t size = 8)
      : images((0.3 * random_tensor({40, 1, size, size}, 1)).clamp(-1, 1).to(at::kFloat)) {}
  at::Tensor images, states = random_tensor({40, 2}, 2).sign().to(at::kFloat);
};

/// What became of a training.
struct Trained {
  std::vector<at::Tensor> weights;
  TrainingHistory history;
};

/// Graphs of the backend that counts, or none.
daug::detail::MakeGraphs counted_graphs(GraphCounts* counts, bool required = true) {
  return [counts, required](std::vector<at::Tensor> read) {
    return counts ? std::make_unique<backend::GraphCache>(std::make_unique<RepeatingBackend>(*counts), std::move(read),
                                                          required)
                  : nullptr;
  };
}

/// A denoiser's training with such graphs.
Trained trained(const DrawnSet& set, const DenoiserTrainerOptions& options, GraphCounts* counts,
                const RunControl& control = {}, bool required = true) {
  Trained result;
  result.weights =
      weights_of(*daug::detail::train_replayed_denoiser(set.images, set.states, NoiseSchedule::linear(1000), options,
                                                        control, &result.history, counted_graphs(counts, required)));
  return result;
}

/// The same of a guide.
Trained trained(const DrawnSet& set, const ClassifierTrainerOptions& options, GraphCounts* counts) {
  Trained result;
  result.weights = weights_of(*daug::detail::train_replayed_classifier(
      set.images, set.states, NoiseSchedule::linear(1000), options, {}, &result.history, counted_graphs(counts)));
  return result;
}

at::Tensor maps_of(const DrawnSet& set) { return at::cat({set.images, set.images.square()}, 1); }

/// The same of a student.
Trained trained(const DrawnSet& set, const StudentTrainerOptions& options, GraphCounts* counts) {
  Trained result;
  result.weights = weights_of(*daug::detail::train_replayed_student(set.images, maps_of(set), options, {},
                                                                    &result.history, counted_graphs(counts))
                                   .network);
  return result;
}

/// As programs train: with the graphs that the options ask for.
Trained trained_as_asked(const DrawnSet& set, const DenoiserTrainerOptions& options) {
  Trained result;
  result.weights =
      weights_of(*train_denoiser(set.images, set.states, NoiseSchedule::linear(1000), options, {}, &result.history));
  return result;
}

Trained trained_as_asked(const DrawnSet& set, const ClassifierTrainerOptions& options) {
  Trained result;
  result.weights = weights_of(
      *train_noise_aware_classifier(set.images, set.states, NoiseSchedule::linear(1000), options, {}, &result.history));
  return result;
}

Trained trained_as_asked(const DrawnSet& set, const StudentTrainerOptions& options) {
  Trained result;
  result.weights = weights_of(*train_map_student(set.images, maps_of(set), options, {}, &result.history).network);
  return result;
}

void check_same_bits(const Trained& actual, const Trained& expected) {
  CHECK(same_weights(actual.weights, expected.weights));
  CHECK(actual.history.skipped_steps == expected.history.skipped_steps);
  const std::vector<float>&found = actual.history.loss, &wanted = expected.history.loss;
  REQUIRE(found.size() == wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    INFO("step " << i);
    CHECK((found[i] == wanted[i] || (std::isnan(found[i]) && std::isnan(wanted[i]))));
  }
}

/// All steps of 20 but the first are replayed, and have the bits of plain ones.
template <class Options>
void check_replayed(const DrawnSet& set, const Options& options) {
  const Trained expected = trained(set, options, nullptr);
  CHECK(expected.history.finished);
  CHECK(expected.history.skipped_steps == 0);
  CHECK(expected.history.loss.front() != expected.history.loss.back());
  GraphCounts counts;
  check_same_bits(trained(set, options, &counts), expected);
  CHECK(counts.attempts == 1);
  CHECK(counts.replays == 19);
  CHECK(counts.reads == 0);
  CHECK(counts.alive == 0);
}

/// The same of trainings that all of these have in common.
template <class Options>
void check_all_replayed(const DrawnSet& set) {
  const auto check = [&](const char* kind, const std::function<void(Options&)>& change) {
    INFO(kind);
    auto options = replayable<Options>(20);
    change(options);
    check_replayed(set, options);
  };
  check("as it comes", [](Options&) {});
  check("losses that are read seldom", [](Options& o) { o.optimizer.read_every = 6; });
  check("bfloat16", [](Options& o) { o.precision = TrainingPrecision::kBfloat16; });
  check("activations that are computed again", [](Options& o) {
    o.precision = TrainingPrecision::kBfloat16;
    o.network.use_checkpoint = true;
  });
  check("frozen parameters", [](Options& o) { o.optimizer.freeze = {"input_blocks.*"}; });
}

/// A training that gives its graph up at a replay that has no memory for what it makes, and makes another.
template <class Options>
void check_given_up(const DrawnSet& set) {
  const auto options = replayable<Options>(20);
  const Trained expected = trained(set, options, nullptr);
  GraphCounts counts;
  counts.short_at = 4;
  check_same_bits(trained(set, options, &counts), expected);
  CHECK(counts.attempts == 2);
  CHECK(counts.replays == 4 + 14);  // after the fourth, which fails, a step is once more the first of its kind
}

/// A training with this change has no graphs, and those that it insists on are refused.
template <class Options>
void check_plain_alone(const DrawnSet& set, const std::function<void(Options&)>& change) {
  auto options = replayable<Options>(3);
  change(options);
  const Trained expected = trained(set, options, nullptr);
  GraphCounts counts;
  check_same_bits(trained(set, options, &counts), expected);
  CHECK(counts.attempts == 0);
  options.graphs = Execution::kFused;
  check_refused(ErrorCode::kInvalidArgument, "graphs", [&] { trained_as_asked(set, options); });
}

/// A training on the CPU has no graphs, of itself or on request.
template <class Options>
void check_none_on_the_cpu(const DrawnSet& set) {
  auto options = replayable<Options>(3);
  const auto with = [&](Execution graphs) {
    options.graphs = graphs;
    return trained_as_asked(set, options).weights;
  };
  CHECK(same_weights(with(Execution::kAuto), with(Execution::kReference)));
  check_refused(ErrorCode::kUnsupported, "kFused", [&] { with(Execution::kFused); });
}

/// The same of replayed steps on a device. LibTorch's backward passes add there in any order, so that bits are not
/// asked for.
template <class Options>
void check_replayed_on_a_device() {
  const DrawnSet set;
  for (const auto& [precision, tolerance] :
       {std::pair(TrainingPrecision::kFloat32, 1e-4), std::pair(TrainingPrecision::kBfloat16, 2e-3)})
    for (const auto execution : {Execution::kAuto, Execution::kFused})
      for (const bool again : {false, true}) {
        INFO("precision " << static_cast<int>(precision) << ", fused kernels " << (execution == Execution::kFused)
                          << ", activations computed again: " << again);
        auto options = replayable<Options>(20);
        options.device = c10::Device(at::kCUDA, 0);
        options.precision = precision;
        options.network.execution = execution;
        options.network.use_checkpoint = again;
        if constexpr (std::is_same_v<Options, DenoiserTrainerOptions>) options.loss.min_snr = 5;
        options.optimizer.epsilon =
            1e-3;  // the size of a step hardly depends on rounding of gradients that are nearly 0
        const auto with = [&](Execution graphs, std::int64_t steps) {
          options.graphs = graphs;
          options.optimizer.steps = steps;
          return trained_as_asked(set, options);
        };
        const Trained expected = with(Execution::kReference, 20), replayed = with(Execution::kFused, 20);
        CHECK(replayed.history.skipped_steps == 0);
        REQUIRE(replayed.history.loss.size() == 20);
        for (std::size_t i = 0; i < 20; ++i)
          CHECK(replayed.history.loss[i] == Approx(expected.history.loss[i]).epsilon(10 * tolerance));
        const auto gap = [](const Trained& a, const Trained& b) {
          double largest = 0;
          for (std::size_t i = 0; i < a.weights.size(); ++i)
            largest = std::max(largest, largest_difference(a.weights[i], b.weights[i]));
          return largest;
        };
        CHECK(gap(replayed, expected) <= tolerance);
        CHECK(gap(with(Execution::kReference, 0), expected) > 2 * tolerance);  // training moved them
      }
}

/// A plain training on a device, where batches are drawn ahead, has the losses of the one on the CPU.
template <class Options>
void check_losses_of_the_cpu(const std::function<void(Options&)>& change = {}) {
  const DrawnSet set;
  auto options = replayable<Options>(20);
  options.optimizer.epsilon = 1e-3;  // as above
  options.graphs = Execution::kReference;
  if (change) change(options);
  const std::vector<float> expected = trained_as_asked(set, options).history.loss;
  options.device = c10::Device(at::kCUDA, 0);
  const std::vector<float> found = trained_as_asked(set, options).history.loss;
  REQUIRE(expected.size() == 20);
  REQUIRE(found.size() == 20);
  bool far = false;  // other batches would have other losses
  for (std::size_t i = 0; i < 20; ++i) {
    INFO("step " << i);
    CHECK(found[i] == Approx(expected[i]).epsilon(1e-3));
    far = far || (i > 0 && std::abs(expected[i] - expected[i - 1]) > 0.01F * std::abs(expected[i]));
  }
  CHECK(far);
}

/// Whether LibTorch has a node that adds to this parameter's gradient.
bool has_node(const at::Tensor& parameter) {
  return torch::autograd::impl::try_get_grad_accumulator(parameter) != nullptr;
}

/// Counts the parameters that have a node when a capture begins. On a device it would work on the stream of an earlier
/// call, and a capture that waits for that one fails.
class WatchedBackend final : public backend::GraphBackend {
 public:
  WatchedBackend(GraphCounts& counts, std::vector<at::Tensor> parameters, std::int64_t& nodes)
      : inner_(counts), parameters_(std::move(parameters)), nodes_(nodes) {}
  bool captures(const at::Tensor& x) const override { return inner_.captures(x); }
  std::unique_ptr<backend::CapturedGraph> capture(const c10::Device& device,
                                                  const std::function<void()>& work) override {
    nodes_ += std::count_if(parameters_.begin(), parameters_.end(), has_node);
    return inner_.capture(device, work);
  }

 private:
  RepeatingBackend inner_;
  std::vector<at::Tensor> parameters_;
  std::int64_t& nodes_;
};

/// LibTorch's memory on the CPU, of which one piece is refused: the first that is asked for after `refuse_next`.
class RefusingMemory final : public c10::Allocator {
 public:
  RefusingMemory() : inner_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 200); }
  ~RefusingMemory() override { c10::SetCPUAllocator(inner_, 200); }
  void refuse_next() { refuses_ = true; }
  c10::DataPtr allocate(std::size_t bytes) override {
    if (refuses_.exchange(false)) C10_THROW_ERROR(OutOfMemoryError, "no memory is left");
    return inner_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return inner_->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  c10::Allocator* inner_;
  std::atomic<bool> refuses_{false};
};

/// Trainings on a device, losses of which are read after the last step alone.
void check_training_waits(Execution graphs) {
  const DrawnSet set;
  const auto schedule = NoiseSchedule::linear(1000);
  const std::string how = graphs == Execution::kFused ? " from graphs" : "";
  for (const auto& [precision, type] :
       {std::pair(TrainingPrecision::kFloat32, "float32"), std::pair(TrainingPrecision::kBfloat16, "bfloat16")}) {
    auto options = replayable(0);
    options.device = c10::Device(at::kCUDA, 0);
    options.precision = precision;
    options.graphs = graphs;
    options.loss.min_snr = 5;
    options.optimizer.read_every = 2 * kManySteps;
    const std::string named = type + how;
    const auto check = [&](const char* steps_of) {
      check_no_waits(std::string(steps_of) + ", " + named, [&](std::int64_t steps) {
        options.optimizer.steps = steps;
        (void)train_denoiser(set.images, set.states, schedule, options);
      });
    };
    check("training steps");
    if (graphs == Execution::kFused) continue;
    options.loss.variance = VarianceKind::kLearnedRange;  // whose steps have no graphs
    check("training steps of a learned variance");
  }
}

}  // namespace

TEST_CASE("steps of a training are replayed with the bits of plain ones", "[denoiser_trainer][graph_cache]") {
  const DrawnSet set;
  check_all_replayed<DenoiserTrainerOptions>(set);
  auto options = replayable(20);
  options.loss.prediction = Prediction::kEps;
  options.loss.min_snr = 5;
  options.loss_aware_levels = true;
  options.max_level = 3;  // all of which have their losses soon
  check_replayed(set, options);
}

TEST_CASE("steps of a guide's and of a student's training are replayed with the bits of plain ones",
          "[denoiser_trainer][student_trainer][graph_cache]") {
  const DrawnSet set;
  SECTION("guide") { check_all_replayed<ClassifierTrainerOptions>(set); }
  SECTION("student") { check_all_replayed<StudentTrainerOptions>(set); }
}

TEST_CASE("a captured step meets nothing of the steps before it", "[denoiser_trainer][graph_cache]") {
  {
    const at::Tensor leaf = at::ones({1}).requires_grad_();
    CHECK_FALSE(has_node(leaf));
    const at::Tensor made = 2 * leaf;
    REQUIRE(has_node(leaf));
  }
  const DrawnSet set;
  auto options = replayable(4);
  options.precision = TrainingPrecision::kBfloat16;
  for (const bool again : {false, true}) {
    INFO("activations computed again: " << again);
    options.network.use_checkpoint = again;
    GraphCounts counts;
    std::int64_t nodes = 0;
    std::size_t watched = 0;
    daug::detail::train_replayed_denoiser(
        set.images, set.states, NoiseSchedule::linear(1000), options, {}, nullptr, [&](std::vector<at::Tensor> read) {
          std::vector<at::Tensor> parameters;
          for (const at::Tensor& tensor : read)
            if (tensor.requires_grad()) parameters.push_back(tensor);
          watched = parameters.size();
          return std::make_unique<backend::GraphCache>(
              std::make_unique<WatchedBackend>(counts, std::move(parameters), nodes), std::move(read), true);
        });
    CHECK(watched > 0);
    CHECK(counts.attempts == 1);
    CHECK(nodes == 0);
  }
}

TEST_CASE("a training with replayed steps stops and goes on with the bits of a plain one",
          "[denoiser_trainer][graph_cache]") {
  const DrawnSet set;
  const Scratch scratch;
  auto options = replayable(20);
  const Trained expected = trained(set, options, nullptr);
  options.optimizer.checkpoint = scratch.path("checkpoint");
  StopAfter request(7);
  GraphCounts before, after;
  CHECK_FALSE(trained(set, options, &before, request.control).history.finished);
  check_same_bits(trained(set, options, &after), expected);
  CHECK(before.replays == 6);
  CHECK(after.replays == 12);
}

TEST_CASE("replayed steps that are not finite change nothing, and those after them are right",
          "[denoiser_trainer][graph_cache]") {
  for (const std::int64_t read_every : {1, 4}) {
    INFO("read every " << read_every);
    auto options = replayable(20);
    options.optimizer.read_every = read_every;
    const auto spoiled = [&](GraphCounts* counts) {
      const DrawnSet set;
      const at::Tensor images = set.images.clone();
      RunControl control;  // called between two steps
      control.progress = [&](const Progress& progress) {
        if (progress.done == 7) set.images.fill_(std::numeric_limits<float>::quiet_NaN());
        if (progress.done == 9) set.images.copy_(images);
      };
      return trained(set, options, counts, control);
    };
    const Trained expected = spoiled(nullptr);
    REQUIRE(expected.history.loss.size() == 20);
    for (std::size_t i = 0; i < 20; ++i) CHECK(std::isnan(expected.history.loss[i]) == (i == 7 || i == 8));
    CHECK(expected.history.skipped_steps == 2);
    GraphCounts counts;
    check_same_bits(spoiled(&counts), expected);
    CHECK(counts.attempts == 1);
    CHECK(counts.replays == 19);
  }
}

TEST_CASE("a training gives graphs up where memory is short, with the bits of a plain one",
          "[denoiser_trainer][graph_cache]") {
  NothingHeard unheard;
  const c10::WarningUtils::WarningHandlerGuard guard(&unheard);
  const DrawnSet set;
  check_given_up<DenoiserTrainerOptions>(set);
  check_given_up<ClassifierTrainerOptions>(set);
  check_given_up<StudentTrainerOptions>(set);
  const auto options = replayable(20);
  const Trained expected = trained(set, options, nullptr);
  GraphCounts at_capture;
  at_capture.room = 0;
  check_same_bits(trained(set, options, &at_capture, {}, false), expected);
  CHECK(at_capture.attempts == 1);
  CHECK(at_capture.replays == 0);
  // Where graphs are required, what cannot be captured does not fit, as it would for any other want of memory.
  GraphCounts required;
  required.room = 0;
  Told told;
  const Trained in_parts = trained(set, options, &required, told.control);
  CHECK(in_parts.history.finished);
  CHECK(required.attempts == 1);
  REQUIRE(told.reports.size() == 1);
  CHECK(mentions(told.reports[0].second, "6 items at a time, 3 from here on"));
  for (std::size_t i = 0; i < 2; ++i) CHECK(in_parts.history.loss[i] == Approx(expected.history.loss[i]).epsilon(1e-4));
}

TEST_CASE("a training that cannot draw a batch beside its graph gives it up and goes on in parts",
          "[denoiser_trainer][graph_cache][memory]") {
  NothingHeard unheard;
  const c10::WarningUtils::WarningHandlerGuard guard(&unheard);
  const DrawnSet set;
  const auto refused = [&](GraphCounts* counts) {
    RefusingMemory memory;
    Told told;
    RunControl control;  // called between two steps
    control.progress = [&](const Progress& progress) {
      told.control.report(progress);
      if (counts) CHECK(counts->alive == (progress.done >= 2 && progress.done <= 7 ? 1 : 0));
      if (progress.done == 7) memory.refuse_next();
    };
    const Trained result = trained(set, replayable(20), counts, control);
    REQUIRE(told.reports.size() == 1);
    CHECK(mentions(told.reports[0].second, "6 items at a time, 3 from here on"));
    return result;
  };
  const Trained expected = refused(nullptr);
  CHECK(expected.history.finished);
  GraphCounts counts;
  check_same_bits(refused(&counts), expected);
  CHECK(counts.attempts == 1);
  CHECK(counts.replays == 6);
}

TEST_CASE("batches that are made in parts are made without graphs", "[denoiser_trainer][graph_cache][memory]") {
  NothingHeard unheard;
  const c10::WarningUtils::WarningHandlerGuard guard(&unheard);
  const DrawnSet set(16);
  auto options = replayable(4);
  options.batch_size = 31;         // parts of 16 and of 15
  trained(set, options, nullptr);  // what LibTorch makes once
  std::int64_t most = 0;
  {
    const MemoryCount count;
    trained(set, options, nullptr);
    most = static_cast<std::int64_t>(0.8 * static_cast<double>(count.peak()));
  }
  const auto in_parts = [&](GraphCounts* counts) {
    Told told;
    Trained result;
    std::vector<std::vector<double>> weights;  // tensors must not outlive what counts them
    {
      const MemoryCount count(most);
      const Trained inside = trained(set, options, counts, told.control);
      for (const at::Tensor& weight : inside.weights) weights.push_back(to_doubles(weight));
      result.history = inside.history;
    }
    for (const auto& values : weights) result.weights.push_back(at::tensor(values, at::kDouble));
    REQUIRE(told.reports.size() == 1);
    CHECK(mentions(told.reports[0].second, "31 items at a time, 16 from here on"));
    return result;
  };
  const Trained expected = in_parts(nullptr);
  CHECK(expected.history.finished);
  GraphCounts counts;
  check_same_bits(in_parts(&counts), expected);
  CHECK(counts.attempts == 0);
}

TEST_CASE("a training has graphs where its steps can be replayed alone", "[denoiser_trainer][graph_cache]") {
  const DrawnSet set;
  const std::vector<std::pair<const char*, std::function<void(DenoiserTrainerOptions&)>>> others = {
      {"dropout", [](auto& o) { o.network.dropout = 0.1; }},
      {"a learned variance", [](auto& o) { o.loss.variance = VarianceKind::kLearnedRange; }},
      {"the bound", [](auto& o) { o.loss.objective = DenoisingObjective::kKl; }}};
  for (const auto& [kind, change] : others) {
    INFO(kind);
    check_plain_alone(set, change);
  }
  check_plain_alone<ClassifierTrainerOptions>(set, [](auto& o) { o.network.dropout = 0.1; });
  check_plain_alone<StudentTrainerOptions>(set, [](auto& o) { o.network.dropout = 0.1; });
  check_none_on_the_cpu<DenoiserTrainerOptions>(set);
  check_none_on_the_cpu<ClassifierTrainerOptions>(set);
  check_none_on_the_cpu<StudentTrainerOptions>(set);
}

TEST_CASE("a training waits for nothing and reads nothing back between readings of its losses",
          "[denoiser_trainer][gpu]") {
  if (!no_device()) check_training_waits(Execution::kReference);
}

TEST_CASE("a training of replayed steps waits for nothing and reads nothing back", "[denoiser_trainer][gpu]") {
  if (!no_device()) check_training_waits(Execution::kFused);
}

TEST_CASE("trainings on a device, whose batches are drawn ahead, have the losses of those on the CPU",
          "[denoiser_trainer][student_trainer][gpu]") {
  if (no_device()) return;
  check_losses_of_the_cpu<DenoiserTrainerOptions>();
  check_losses_of_the_cpu<DenoiserTrainerOptions>([](auto& options) {
    options.loss_aware_levels = true;  // which have to know the step before
    options.max_level = 3;
  });
  check_losses_of_the_cpu<ClassifierTrainerOptions>();
  check_losses_of_the_cpu<StudentTrainerOptions>();
}

TEST_CASE("trainings of a learned variance and of the bound on a device have the losses of those on the CPU",
          "[denoiser_trainer][gpu]") {
  if (no_device()) return;
  for (const auto objective : {DenoisingObjective::kMse, DenoisingObjective::kRescaledKl}) {
    INFO("objective " << static_cast<int>(objective));
    check_losses_of_the_cpu<DenoiserTrainerOptions>([objective](auto& options) {
      options.loss.variance = VarianceKind::kLearnedRange;
      options.loss.objective = objective;
    });
  }
}

TEST_CASE("replayed steps of a training on a device are plain ones", "[denoiser_trainer][gpu]") {
  if (!no_device()) check_replayed_on_a_device<DenoiserTrainerOptions>();
}

TEST_CASE("replayed steps of a guide's and of a student's training on a device are plain ones",
          "[denoiser_trainer][student_trainer][gpu]") {
  if (no_device()) return;
  check_replayed_on_a_device<ClassifierTrainerOptions>();
  check_replayed_on_a_device<StudentTrainerOptions>();
}
