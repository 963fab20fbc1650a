// What is computed under determinism has the same bits twice, on the CPU and on a device, and LibTorch is afterwards as
// it was.

#include "daug/backend/determinism.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_trainer.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/network_precision.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/tensor.h"
#include "train/toy_encoders.h"
#include "train/toy_training.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr const char* kWorkspaces = "CUBLAS_WORKSPACE_CONFIG";

/// Deterministic algorithms, whether LibTorch only warns, deterministic cuDNN, cuDNN's trials.
std::vector<int> libtorch_state() {
  const at::Context& context = at::globalContext();
  return {context.deterministicAlgorithms(), context.deterministicAlgorithmsWarnOnly(), context.deterministicCuDNN(),
          context.benchmarkCuDNN()};
}

const std::vector<int> kDeterministic = {1, 0, 1, 0};

/// What `make` gives under determinism.
template <class Make>
auto made_deterministically(const Make& make) {
  decltype(make()) made{};
  deterministically([&] {
    CHECK(libtorch_state() == kDeterministic);
    made = make();
  });
  return made;
}

/// A translation of images of 8 * scale pixels a side along a classifier's gradient. Its networks are made anew.
at::Tensor classifier_walk(const at::Device& device, std::int64_t scale, double strength = 2,
                           NetworkPrecision precision = NetworkPrecision::kFull,
                           Execution graphs = Execution::kReference, Execution execution = Execution::kAuto) {
  const auto schedule = NoiseSchedule::linear(1000);
  DenoiserUNetOptions denoiser_options = tiny_options(3, execution);
  denoiser_options.image_size = denoiser_options.model_channels = 8 * scale;
  auto denoiser = tiny_unet(denoiser_options);
  denoiser->to(at::kFloat);
  denoiser->to(device);
  NoiseAwareClassifierOptions guide_options = tiny_classifier_options(ClassifierPool::kAttention, execution);
  guide_options.image_size = guide_options.model_channels = 8 * scale;
  NoiseAwareClassifier guide(guide_options);
  randomise(*guide, 4, 0.3);
  guide->to(device);
  TranslatorOptions options = path_options(100, 4, 2);
  options.guidance.kind = GuidanceKind::kClassifier;
  options.guidance.classifier_scale = strength;
  const DiffusionTranslator translator(
      make_noise_predictor(denoiser, schedule, Prediction::kV, {}, precision, graphs), schedule, {"a", "b", "c"},
      options, make_guidance_classifier(guide, schedule, GuidanceHead::kSigmoid, {}, precision, graphs));
  const at::Tensor x = (0.3 * random_tensor({2 * scale, 1, 8 * scale, 8 * scale}, 7)).clamp(-1, 1).to(at::kFloat);
  return translator.translate(x.to(device), {toward("a"), away_from("b")}).images.to(at::kCPU);
}

struct FewSteps {
  std::vector<at::Tensor> weights;
  std::vector<float> losses;
};

/// A training of six steps on images of 8 * scale pixels a side.
FewSteps few_steps(const at::Device& device, std::int64_t scale, std::uint64_t seed = 0) {
  DenoiserTrainerOptions options;
  options.network = tiny_options(1);
  options.network.image_size = options.network.model_channels = 8 * scale;
  options.max_level = 600;
  options.batch_size = 8;
  options.workers = 1;
  options.device = device;
  options.seed = seed;
  options.optimizer.steps = 6;
  options.optimizer.learning_rate = 3e-3;
  const at::Tensor images = (0.3 * random_tensor({24, 1, 8 * scale, 8 * scale}, 1)).clamp(-1, 1).to(at::kFloat);
  const at::Tensor states = random_tensor({24, 1}, 2).sign().to(at::kFloat);
  TrainingHistory history;
  auto network = train_denoiser(images, states, NoiseSchedule::linear(1000), options, {}, &history);
  REQUIRE(history.loss.size() == 6);
  return {weights_of(*network), history.loss};
}

EncoderPair trained_encoders(const at::Device& device) {
  const ToyCohort toy;
  EncoderTrainerOptions options = small(ChannelMode::kAppend, 2);
  options.device = device;
  return train_encoders(toy.dataset, options);
}

}  // namespace

TEST_CASE("LibTorch is deterministic while the work lasts, and then as it was", "[backend][determinism]") {
  at::Context& context = at::globalContext();
  const std::vector<int> before = libtorch_state();
  int calls = 0;
  deterministically([&] {
    CHECK(libtorch_state() == kDeterministic);
    deterministically([&] { ++calls; });
    CHECK(libtorch_state() == kDeterministic);
  });
  CHECK(calls == 1);
  CHECK(libtorch_state() == before);
  CHECK_THROWS_WITH(deterministically([] { throw std::runtime_error("of the work"); }), contains_text("of the work"));
  CHECK(libtorch_state() == before);
  // What a program had chosen for itself comes back.
  const std::vector<int> chosen = {1, 1, 0, 1};
  context.setDeterministicAlgorithms(true, /*warn_only=*/true);
  context.setBenchmarkCuDNN(true);
  deterministically([] { CHECK(libtorch_state() == kDeterministic); });
  CHECK(libtorch_state() == chosen);
  context.setDeterministicAlgorithms(before[0] != 0, before[1] != 0);
  context.setBenchmarkCuDNN(before[3] != 0);
}

TEST_CASE("what LibTorch cannot compute in one order is an error that names the option", "[backend][determinism]") {
  const std::vector<int> before = libtorch_state();
  const auto alerts = [] { at::globalContext().alertNotDeterministic("some_operator"); };
  CHECK_NOTHROW(alerts());
  const std::string text = error_text(ErrorCode::kUnsupported, [&] { deterministically(alerts, "--deterministic"); });
  CHECK(mentions(text, "daug::deterministically: --deterministic", "some_operator does not have a deterministic"));
  CHECK_FALSE(mentions(text, "torch.use_deterministic_algorithms"));
  CHECK(libtorch_state() == before);
  // Other errors are the work's.
  CHECK_THROWS_AS(deterministically([] { TORCH_CHECK(false, "another reason"); }), c10::Error);
  check_refused(ErrorCode::kNumeric, "of the work",
                [] { deterministically([] { throw Error(ErrorCode::kNumeric, "of the work"); }); });
}

TEST_CASE("work memory of cuBLAS is left as it is, and refused where sums would change", "[backend][determinism]") {
  const char* found = std::getenv(kWorkspaces);
  const std::optional<std::string> before = found ? std::optional<std::string>(found) : std::nullopt;
  const std::vector<int> state = libtorch_state();
  int calls = 0;
  for (const char* other : {":0:0", ":4096:2:16:8", ""}) {
    ::setenv(kWorkspaces, other, 1);
    check_refused(ErrorCode::kUnsupported, "work: expected the environment variable CUBLAS_WORKSPACE_CONFIG",
                  [&] { deterministically([&] { ++calls; }); });
  }
  CHECK(calls == 0);
  CHECK(libtorch_state() == state);
  ::setenv(kWorkspaces, ":16:8", 1);
  deterministically([&] { CHECK(std::string(std::getenv(kWorkspaces)) == ":16:8"); });
  ::unsetenv(kWorkspaces);
  deterministically([&] {
    const char* within = std::getenv(kWorkspaces);
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 11
    CHECK(std::string(within ? within : "") == ":4096:8");
#else
    CHECK(within == nullptr);  // work memory that is there already has the size that an absent one stands for
#endif
  });
  ::unsetenv(kWorkspaces);
  if (before) ::setenv(kWorkspaces, before->c_str(), 1);
}

TEST_CASE("on the CPU a guided walk and trainings have the same bits with determinism and without",
          "[backend][determinism]") {
  const at::Device cpu(at::kCPU);
  const at::Tensor walk = classifier_walk(cpu, 1);
  CHECK_FALSE(same_bits(walk, classifier_walk(cpu, 1, 1)));  // the classifier has its say
  const FewSteps training = few_steps(cpu, 1);
  CHECK_FALSE(same_weights(training.weights, few_steps(cpu, 1, 1).weights));
  const EncoderPair encoders = trained_encoders(cpu);
  for (int i = 0; i < 2; ++i) {
    CHECK(same_bits(made_deterministically([&] { return classifier_walk(cpu, 1); }), walk));
    const FewSteps again = made_deterministically([&] { return few_steps(cpu, 1); });
    CHECK(same_weights(again.weights, training.weights));
    CHECK(again.losses == training.losses);
    CHECK(same_weights(made_deterministically([&] { return trained_encoders(cpu); }), encoders));
  }
}

TEST_CASE("a guided walk on a device has the same bits twice under determinism", "[backend][gpu]") {
  if (no_device()) return;
  for (const auto execution : {Execution::kAuto, Execution::kFused})
    for (const auto precision : {NetworkPrecision::kFull, NetworkPrecision::kBFloat16})
      for (const auto graphs : {Execution::kReference, Execution::kFused}) {
        INFO("fused kernels " << (execution == Execution::kFused) << ", precision " << static_cast<int>(precision)
                              << ", graphs " << static_cast<int>(graphs));
        const auto walk = [&] {
          return made_deterministically(
              [&] { return classifier_walk(at::Device(at::kCUDA, 0), 4, 2, precision, graphs, execution); });
        };
        const at::Tensor once = walk();
        for (int i = 0; i < 3; ++i) CHECK(same_bits(walk(), once));
      }
}

TEST_CASE("trainings on a device have the same bits twice under determinism", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const auto training = [&] { return made_deterministically([&] { return few_steps(device, 4); }); };
  const auto encoders = [&] { return made_deterministically([&] { return trained_encoders(device); }); };
  const FewSteps once = training();
  const EncoderPair pair = encoders();
  for (int i = 0; i < 2; ++i) {
    const FewSteps again = training();
    CHECK(same_weights(again.weights, once.weights));
    CHECK(again.losses == once.losses);
    CHECK(same_weights(encoders(), pair));
  }
}

TEST_CASE("a gradient that a device adds in any order is refused under determinism", "[backend][gpu]") {
  if (no_device()) return;
  const at::Tensor x = random_tensor({1, 2, 5, 5}, 1).to(at::kFloat).to(at::Device(at::kCUDA, 0)).requires_grad_(true);
  const auto gradient = [&x] { at::upsample_bilinear2d(x, {9, 9}, /*align_corners=*/false).sum().backward(); };
  CHECK_NOTHROW(gradient());
  contains(error_text(ErrorCode::kUnsupported, [&] { deterministically(gradient); }), "upsample_bilinear2d_backward");
}
