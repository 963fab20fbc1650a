// What trainings read of numbers between two readings of their losses, for which a device would be waited for. A
// denoiser's are in replayed_training_test.cpp.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_trainer.h"
#include "daug/train/student_trainer.h"
#include "daug/translator/noise_schedule.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/device_calls.h"
#include "support/host_reads.h"
#include "support/tensor.h"
#include "train/toy_encoders.h"
#include "translator/tiny_networks.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Trains for so many steps.
using TrainSteps = std::function<void(std::int64_t steps)>;

/// Where and how; losses are read after the last step alone.
struct SeldomRead {
  c10::Device device = at::kCPU;
  TrainingPrecision precision = TrainingPrecision::kFloat32;
  std::int64_t read_every = 2 * kManySteps;
  Execution graphs = Execution::kReference;  ///< of guides and students

  template <class Options>
  void set(Options& options) const {
    options.device = device;
    options.precision = precision;
    options.optimizer.read_every = read_every;
    options.optimizer.ema_decay = 0.9;
    options.optimizer.clip_norm = 1;
  }

  /// Options of a training of a UNet, or of half of one.
  template <class Options>
  Options tiny() const {
    Options options;
    make_tiny(options.network);
    options.network.attention_downsample = {2};
    options.network.dropout = graphs == Execution::kFused ? 0 : 0.1;
    options.graphs = graphs;
    if constexpr (std::is_same_v<Options, ClassifierTrainerOptions>) options.network.num_head_channels = 8;
    options.batch_size = 6;
    options.workers = 1;
    set(options);
    return options;
  }

  TrainSteps of_guide() const {
    return [options = tiny<ClassifierTrainerOptions>(), images = images_of_noise(),
            states = random_tensor({40, 2}, 2).sign().to(at::kFloat)](std::int64_t steps) mutable {
      options.optimizer.steps = steps;
      (void)train_noise_aware_classifier(images, states, NoiseSchedule::linear(1000), options);
    };
  }

  TrainSteps of_student() const {
    return [options = tiny<StudentTrainerOptions>(), images = images_of_noise()](std::int64_t steps) mutable {
      options.optimizer.steps = steps;
      (void)train_map_student(images, at::cat({images, images.square()}, 1), options);
    };
  }

  /// A step an epoch.
  static ToyCohort one_batch() { return ToyCohort(8); }

  /// With the sigmoid form b is learnt as well.
  EncoderTrainerOptions encoders(ImageEncoderKind kind, Execution execution,
                                 ContrastiveForm form = ContrastiveForm::kSoftmax) const {
    auto options = small(ChannelMode::kAppend);
    options.image.kind = kind;
    options.image.resnet.blocks = {1, 1, 1, 1};
    options.image.resnet.base_width = 8;
    options.image.drop_path = 0.2;
    options.loss.execution = execution;
    options.loss.contrastive_form = form;
    options.learn_logit_scale = options.learn_class_bias = true;
    options.learn_logit_bias = form == ContrastiveForm::kSigmoid;
    set(options);
    return options;
  }

  TrainSteps of_encoders(ImageEncoderKind kind, Execution execution,
                         ContrastiveForm form = ContrastiveForm::kSoftmax) const {
    return [options = encoders(kind, execution, form), toy = one_batch()](std::int64_t steps) mutable {
      options.epochs = steps;
      TrainingHistory history;
      (void)train_encoders(toy.dataset, options, {}, &history);
      REQUIRE(history.loss.size() == static_cast<std::size_t>(steps));
    };
  }

 private:
  static at::Tensor images_of_noise() { return (0.3 * random_tensor({40, 1, 8, 8}, 1)).clamp(-1, 1).to(at::kFloat); }
};

/// What each step of a training adds to what the program reads, but for LibTorch's AdamW on the CPU.
std::int64_t reads_in_more_steps(const std::vector<std::string>& operators, const TrainSteps& train) {
  const auto counted = [&](std::int64_t steps) {
    const HostReads reads(operators, {"aten::_fused_adamw_"});
    train(steps);
    return reads.count();
  };
  const std::int64_t few = counted(kFewSteps);
  return counted(kManySteps) - few;
}

}  // namespace

TEST_CASE("steps of a guide's and of a student's training read no number before losses are read",
          "[denoiser_trainer][student_trainer]") {
  SeldomRead seldom;
  CHECK(reads_in_more_steps(waiting_operators(), seldom.of_guide()) == 0);
  CHECK(reads_in_more_steps(waiting_operators(), seldom.of_student()) == 0);
  // Where each loss is read, so are norms of gradients.
  seldom.read_every = 1;
  CHECK(reads_in_more_steps(waiting_operators(), seldom.of_guide()) >= 2 * (kManySteps - kFewSteps));
  CHECK(reads_in_more_steps(waiting_operators(), seldom.of_student()) >= 2 * (kManySteps - kFewSteps));
}

TEST_CASE("steps of encoders read texts and labels, which are on the CPU, and nothing else before losses are read",
          "[encoder_trainer]") {
  const SeldomRead seldom;
  const ToyCohort toy = SeldomRead::one_batch();
  const EncoderPair pair = make_encoders(seldom.encoders(ImageEncoderKind::kConv, Execution::kReference), 2, 2);
  const auto looked_at = [&](const TextBatch& texts) {
    TextEncoder tower = pair.text;
    const HostReads reads;
    (void)tower->forward(texts.ids, texts.end);
    return reads.count();
  };
  const std::int64_t given = looked_at(toy.dataset.text) + looked_at(toy.dataset.prompts) + 1;  // one for all labels
  for (const auto kind : {ImageEncoderKind::kConv, ImageEncoderKind::kResNet})
    for (const auto execution : {Execution::kReference, Execution::kFused})
      for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid}) {
        INFO("kind " << static_cast<int>(kind) << ", execution " << static_cast<int>(execution) << ", form "
                     << static_cast<int>(form));
        CHECK(reads_in_more_steps({"aten::_local_scalar_dense"}, seldom.of_encoders(kind, execution, form)) ==
              given * (kManySteps - kFewSteps));
      }
}

TEST_CASE("trainings of guides, students and encoders wait for nothing between readings of their losses",
          "[denoiser_trainer][student_trainer][encoder_trainer][gpu]") {
  if (no_device()) return;
  for (const auto& [precision, type] :
       {std::pair(TrainingPrecision::kFloat32, "float32"), std::pair(TrainingPrecision::kBfloat16, "bfloat16")}) {
    SeldomRead seldom;
    seldom.device = c10::Device(at::kCUDA, 0);
    seldom.precision = precision;
    check_no_waits(std::string("a guide's training steps, ") + type, seldom.of_guide());
    check_no_waits(std::string("a student's training steps, ") + type, seldom.of_student());
    for (const auto execution : {Execution::kReference, Execution::kFused}) {
      const std::string how = execution == Execution::kFused ? " in tiles" : "";
      check_no_waits(std::string("steps of convolutional encoders") + how + ", " + type,
                     seldom.of_encoders(ImageEncoderKind::kConv, execution));
      check_no_waits(std::string("steps of residual encoders") + how + ", " + type,
                     seldom.of_encoders(ImageEncoderKind::kResNet, execution));
      check_no_waits(std::string("steps of encoders with a learnt logit_bias") + how + ", " + type,
                     seldom.of_encoders(ImageEncoderKind::kConv, execution, ContrastiveForm::kSigmoid));
    }
  }
}

TEST_CASE("trainings of guides and students with replayed steps wait for nothing and read nothing back",
          "[denoiser_trainer][student_trainer][gpu]") {
  if (no_device()) return;
  SeldomRead seldom;
  seldom.device = c10::Device(at::kCUDA, 0);
  seldom.precision = TrainingPrecision::kBfloat16;
  seldom.graphs = Execution::kFused;
  check_no_waits("a guide's training steps from graphs", seldom.of_guide());
  check_no_waits("a student's training steps from graphs", seldom.of_student());
}
