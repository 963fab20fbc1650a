// Trainings on several ranks against those of one process, with ranks as threads and as processes.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/nn/module.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/train/encoder_trainer.h"
#include "daug/train/sample_order.h"
#include "daug/train/trainer.h"
#include "support/catch.h"
#include "support/ranks.h"
#include "support/tensor.h"
#include "train/toy_encoders.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// What a rank does, and what came of it.
struct Job {
  EncoderDataset dataset;
  EncoderTrainerOptions options;
  RunControl control;
  std::optional<EncoderPair> start;
  std::optional<EncoderDataset> validation;

  EncoderPair pair;
  TrainingHistory history;
  std::optional<Error> error;

  void run() {
    const EncoderDataset* held_out = validation ? &*validation : nullptr;
    try {
      pair = start ? train_encoders(*start, dataset, options, control, &history, held_out)
                   : train_encoders(dataset, options, control, &history, held_out);
    } catch (const Error& thrown) {
      error = thrown;
    }
  }
  bool says(ErrorCode code, const std::string& part) const {
    INFO("expected " << part << ", got " << (error ? error->what() : "no error"));
    const bool found = error && error->code() == code && std::string(error->what()).find(part) != std::string::npos;
    CHECK(found);
    return found;
  }
};

/// One job a rank, each in a thread; `change` makes that of a rank different.
std::vector<Job> on_ranks(int ranks, const Job& job, const std::function<void(int rank, Job&)>& change = {}) {
  std::vector<Job> jobs(static_cast<std::size_t>(ranks), job);
  run_as_threads(ranks, [&](c10d::ProcessGroup& group) {
    at::set_num_threads(1);
    const int rank = group.getRank();
    Job& mine = jobs[static_cast<std::size_t>(rank)];
    mine.options.group = &group;
    if (change) change(rank, mine);
    mine.run();
    mine.options.group = nullptr;
  });
  return jobs;
}

/// Batches that ranks cannot share evenly, and an epsilon next to which rounding of a gradient is nothing: Adam would
/// make full steps of it.
Job steady_job(std::int64_t epochs = 3) {
  Job job;
  job.dataset = ToyCohort().dataset;
  job.options = small(ChannelMode::kAppend, epochs);
  job.options.batch_size = 9;
  job.options.optimizer.epsilon = 0.01;
  return job;
}

double distance(const EncoderPair& a, const EncoderPair& b) {
  const auto left = weights_of(a), right = weights_of(b);
  REQUIRE(left.size() == right.size());
  double worst = 0;
  for (const auto& [name, value] : left) {
    const double difference = largest_difference(value, right.at(name));
    worst = std::max(worst, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
  }
  return worst;
}

/// Whether ranks end with the same bits, which are those of one process but for rounding.
void check_against_one_process(int ranks, const Job& job) {
  Job alone = job;
  alone.run();
  REQUIRE_FALSE(alone.error);
  const EncoderPair untrained = make_encoders(job.options, job.dataset.maps.size(1), job.dataset.labels.size(1));
  CHECK(distance(alone.pair, untrained) > 1e-4);
  const std::vector<Job> jobs = on_ranks(ranks, job);
  for (const Job& one : jobs) {
    if (one.error) FAIL(one.error->what());
    CHECK(same_weights(one.pair, jobs[0].pair));
    CHECK(distance(one.pair, alone.pair) < 1e-5);
    CHECK(one.history.finished);
    REQUIRE(one.history.loss.size() == alone.history.loss.size());
    for (std::size_t step = 0; step < one.history.loss.size(); ++step)
      CHECK(one.history.loss[step] == Approx(alone.history.loss[step]).epsilon(1e-4));
  }
}

/// A file name that nobody else has, without the file before and after.
struct CheckpointPath {
  explicit CheckpointPath(const std::string& name)
      : path((std::filesystem::temp_directory_path() / ("daug_" + name + std::to_string(::getpid()))).string()) {
    std::filesystem::remove(path);
  }
  ~CheckpointPath() { std::filesystem::remove(path); }
  bool exists() const { return std::filesystem::exists(path); }
  std::string path;
};

/// A job's control asks for a stop after so many steps.
void stop_after(std::int64_t steps, Job& job) {
  const auto source = std::make_shared<StopSource>();
  job.control = {[source, steps](const Progress& progress) {
                   if (progress.done == steps) source->request_stop();
                 },
                 source->token()};
}

/// One weight a step pulls towards 1.
struct Pulled : torch::nn::Module {
  Pulled() { weight = register_parameter("weight", at::zeros({3}, at::kDouble)); }
  at::Tensor loss() const { return (weight - 1).square().sum(); }
  at::Tensor weight;
};

}  // namespace

TEST_CASE("ranks train the encoders of one process", "[encoder_trainer][distributed]") {
  for (const int ranks : {1, 2, 3}) {
    INFO("ranks " << ranks);
    Job job = steady_job();
    job.options.augment.max_rotation = 10;  // drawn by an item's place in the training
    check_against_one_process(ranks, job);
  }
}

TEST_CASE("ranks clip, average, embed in chunks and draw as one process does", "[encoder_trainer][distributed]") {
  Job job = steady_job();
  job.options.chunk_size = 2;
  job.options.optimizer.clip_norm = 0.2;
  job.options.optimizer.ema_decay = 0.5;
  job.options.image.drop_path = 0.2;
  check_against_one_process(2, job);
}

TEST_CASE("ranks share studies, masks and what is learnt beside the towers", "[encoder_trainer][distributed]") {
  Job job = steady_job();
  job.options.loss.contrastive_form = ContrastiveForm::kSigmoid;
  job.options.loss.logit_bias = -3;
  job.options.loss.max_logit_scale = 2.301;
  job.options.learn_logit_scale = job.options.learn_class_bias = job.options.learn_logit_bias = true;
  job.dataset.study = at::arange(24, at::kLong).remainder(5);
  job.dataset.text_mask.slice(0, 0, 6).zero_();
  job.dataset.label_mask.slice(0, 9, 20).select(1, 0).zero_();
  job.dataset.positive_weights = at::tensor({3.0, 0.5}, at::kFloat);
  check_against_one_process(2, job);
  // Pairs that attract by their labels, over all ranks' items.
  Job soft = steady_job(1);
  soft.options.loss.label_pairs = LabelPairs::kSoft;
  soft.dataset.study = job.dataset.study;
  check_against_one_process(2, soft);
  // Either term alone.
  for (const double weight : {0.0, 1.0}) {
    INFO("weight of the contrastive term " << weight);
    Job one = steady_job(1);
    one.options.loss.clip_weight = weight;
    check_against_one_process(2, one);
  }
}

TEST_CASE("rank of a training by processes", "[.rank]") {
  Job alone = steady_job(1), shared = alone;
  alone.run();
  run_as_this_process([&](c10d::ProcessGroup& group) {
    shared.options.group = &group;
    shared.run();
  });
  if (shared.error) FAIL(shared.error->what());
  CHECK(distance(shared.pair, alone.pair) < 1e-5);
}

TEST_CASE("processes train the encoders of one process", "[encoder_trainer][distributed]") {
  CHECK(run_as_processes(2, "rank of a training by processes") == 2);
}

TEST_CASE("all ranks leave out the steps in which one has a value that is not finite",
          "[encoder_trainer][distributed]") {
  constexpr std::size_t kBad = 5;
  Job job = steady_job();
  job.options.batch_size = 8;
  job.dataset.images[kBad].fill_(kNan);
  // Where the image stands in every epoch of three steps: whose share it is in differs.
  SampleOrder order(24, job.options.seed);
  std::vector<bool> expected(9, false), ranks(2, false);
  for (std::uint64_t position = 0; position < 72; ++position)
    if (order.at(position) == kBad) expected[position / 8] = ranks[position % 8 / 4] = true;
  INFO("on rank 0: " << ranks[0] << ", on rank 1: " << ranks[1]);
  Job alone = job;
  alone.run();
  REQUIRE_FALSE(alone.error);
  std::vector<Job> jobs = on_ranks(2, job);
  jobs.push_back(alone);
  for (const Job& one : jobs) {
    if (one.error) FAIL(one.error->what());
    REQUIRE(one.history.loss.size() == 9);
    for (std::size_t step = 0; step < 9; ++step) CHECK(std::isnan(one.history.loss[step]) == expected[step]);
    CHECK(one.history.skipped_steps == 3);
    for (const auto& [name, value] : weights_of(one.pair)) CHECK(value.isfinite().all().item<bool>());
    CHECK(distance(one.pair, alone.pair) < 1e-5);
  }
  CHECK(same_weights(jobs[0].pair, jobs[1].pair));
  // A run of them ends the training everywhere, whoever has them.
  const std::vector<Job> failed = on_ranks(2, job, [](int rank, Job& mine) {
    mine.options.optimizer.max_skipped = 4;
    if (rank == 1) mine.dataset.images = at::full_like(mine.dataset.images, kNan);
  });
  for (const Job& one : failed) CHECK(one.says(ErrorCode::kNumeric, "4 steps in a row"));
}

TEST_CASE("all ranks leave out a gradient that is not finite on one, and fail together", "[trainer][distributed]") {
  TrainerOptions options;
  options.steps = 6;
  options.learning_rate = 0.1;
  std::vector<std::shared_ptr<Pulled>> networks = {std::make_shared<Pulled>(), std::make_shared<Pulled>()};
  networks[1]->weight.data().fill_(0.5);  // training starts from rank 0's
  std::vector<TrainingHistory> histories(2);
  run_as_threads(2, [&](c10d::ProcessGroup& group) {
    const auto rank = static_cast<std::size_t>(group.getRank());
    Trainer trainer({networks[rank]}, options, nullptr, &group);
    histories[rank] = trainer.run([&](std::size_t, std::int64_t step) {
      const at::Tensor loss = networks[rank]->loss() * (rank == 0 ? 1.0 : 3.0);
      return step == 2 && rank == 1 ? loss + (0 * networks[1]->weight).sqrt().sum() : loss;  // 0 * infinity
    });
  });
  // By hand: the mean of both losses, one process.
  const auto alone = std::make_shared<Pulled>();
  Trainer trainer({alone}, options);
  const TrainingHistory history =
      trainer.run([&](std::size_t, std::int64_t step) { return alone->loss() * (step == 2 ? std::nan("") : 2.0); });
  for (std::size_t rank = 0; rank < 2; ++rank) {
    CHECK(histories[rank].skipped_steps == 1);
    REQUIRE(histories[rank].loss.size() == 6);
    for (std::size_t step = 0; step < 6; ++step) {
      CHECK(std::isnan(histories[rank].loss[step]) == (step == 2));
      if (step != 2) CHECK(histories[rank].loss[step] == Approx(history.loss[step]));
    }
    CHECK(same_bits(networks[rank]->weight, networks[0]->weight));
    CHECK(largest_difference(networks[rank]->weight, alone->weight) < 1e-12);
  }
  // An error of one rank.
  std::vector<std::string> messages(2);
  run_as_threads(2, [&](c10d::ProcessGroup& group) {
    const auto rank = static_cast<std::size_t>(group.getRank());
    const auto network = std::make_shared<Pulled>();
    Trainer failing({network}, options, nullptr, &group);
    try {
      failing.run([&](std::size_t, std::int64_t step) {
        if (step == 3 && rank == 1) throw Error(ErrorCode::kIo, "no more data");
        return network->loss();
      });
    } catch (const Error& error) {
      messages[rank] = error.what();
    }
  });
  CHECK(messages[1] == "no more data");
  CHECK(messages[0].find("rank 1") != std::string::npos);
}

TEST_CASE("ranks that differ or have too little to do are refused on all", "[encoder_trainer][distributed]") {
  const auto refused = [](ErrorCode code, const char* on_first, const char* on_second,
                          const std::function<void(int, Job&)>& change) {
    INFO(on_first);
    const std::vector<Job> jobs = on_ranks(2, steady_job(1), change);
    CHECK(jobs[0].says(code, on_first));
    CHECK(jobs[1].says(code, on_second));
  };
  refused(ErrorCode::kInvalidArgument, "batch_size", "batch_size", [](int, Job& job) { job.options.batch_size = 1; });
  refused(ErrorCode::kMismatch, "options", "options",
          [](int rank, Job& job) { job.options.seed = static_cast<std::uint64_t>(rank); });
  refused(ErrorCode::kMismatch, "options", "options",
          [](int rank, Job& job) { job.options.loss.normalise = rank == 0; });
  refused(ErrorCode::kMismatch, "options", "options",
          [](int rank, Job& job) { job.options.loss.logit_scale += 0.1 * rank; });
  refused(ErrorCode::kMismatch, "options and network", "options and network",
          [](int rank, Job& job) { job.options.optimizer.learning_rate *= 1 + rank; });
  refused(ErrorCode::kMismatch, "options and network", "options and network", [](int rank, Job& job) {
    job.options.optimizer.execution = rank == 0 ? Execution::kReference : Execution::kFused;
  });
  refused(ErrorCode::kMismatch, "options and network", "options and network", [](int rank, Job& job) {
    if (rank == 1) job.validation = job.dataset;
  });
  refused(ErrorCode::kMismatch, "rank 1", "at most 9 tokens", [](int rank, Job& job) {
    if (rank == 1) job.dataset.prompts.ids = job.dataset.prompts.ids + 1;
  });
}

TEST_CASE("all ranks start from the encoders of the first", "[encoder_trainer][distributed]") {
  Job job = steady_job(1);
  Job alone = job;
  alone.start = make_encoders(job.options, 2);
  alone.run();
  const std::vector<Job> jobs = on_ranks(2, job, [&](int rank, Job& mine) {
    EncoderTrainerOptions options = job.options;
    options.seed += static_cast<std::uint64_t>(rank);
    mine.start = make_encoders(options, 2);
  });
  for (const Job& one : jobs) {
    if (one.error) FAIL(one.error->what());
    CHECK(same_weights(one.pair, jobs[0].pair));
    CHECK(distance(one.pair, alone.pair) < 1e-5);
  }
}

TEST_CASE("one rank's stop stops all, the first rank keeps the checkpoint, and all resume from it",
          "[encoder_trainer][distributed]") {
  Job job = steady_job();
  job.options.optimizer.ema_decay = 0.5;
  const std::vector<Job> straight = on_ranks(2, job);
  const CheckpointPath first("ranks_first"), second("ranks_second");
  job.options.optimizer.checkpoint = first.path;
  const auto stopping = [&](int rank, Job& mine) {
    if (rank == 1) stop_after(3, mine), mine.options.optimizer.checkpoint = second.path;
  };
  for (const Job& one : on_ranks(2, job, stopping)) {
    if (one.error) FAIL(one.error->what());
    CHECK_FALSE(one.history.finished);
    CHECK(one.history.loss.size() == 3);
  }
  CHECK(first.exists());
  CHECK_FALSE(second.exists());
  // Where a rank does not find it, none goes on.
  for (const Job& one : on_ranks(2, job, stopping)) CHECK(one.says(ErrorCode::kMismatch, "step 3"));
  Job alone = job;
  for (const Job& one : on_ranks(2, job)) {
    if (one.error) FAIL(one.error->what());
    CHECK(one.history.finished);
    CHECK(one.history.loss == straight[0].history.loss);
    CHECK(same_weights(one.pair, straight[0].pair));
  }
  // The number of ranks may change.
  alone.run();
  REQUIRE_FALSE(alone.error);
  CHECK(distance(alone.pair, straight[0].pair) < 1e-5);
}

TEST_CASE("ranks validate together", "[encoder_trainer][distributed]") {
  Job job = steady_job(6);
  job.options.optimizer.validate_every = 2;
  job.options.optimizer.patience = 3;
  job.validation = job.dataset;
  job.validation->labels = 1 - job.validation->labels;  // the longer it learns, the worse
  Job alone = job;
  alone.run();
  for (const Job& one : on_ranks(2, job)) {
    if (one.error) FAIL(one.error->what());
    CHECK(one.history.stopped_early == alone.history.stopped_early);
    CHECK(one.history.best_step == alone.history.best_step);
    REQUIRE(one.history.validation.size() == alone.history.validation.size());
    for (std::size_t i = 0; i < alone.history.validation.size(); ++i)
      CHECK(one.history.validation[i] == Approx(alone.history.validation[i]).margin(1e-3));
    CHECK(distance(one.pair, alone.pair) < 1e-5);
  }
}

TEST_CASE("running statistics are averaged over ranks", "[encoder_trainer][distributed]") {
  Job job = steady_job(1);
  job.options.batch_size = 24;  // one step, twelve items a rank
  job.options.image.kind = ImageEncoderKind::kResNet;
  job.options.image.resnet.blocks = {1, 1, 1, 1};
  job.options.image.resnet.base_width = 8;
  Job alone = job;
  alone.run();
  const std::vector<Job> jobs = on_ranks(2, job);
  for (const Job& one : jobs) {
    if (one.error) FAIL(one.error->what());
    CHECK(same_weights(one.pair, jobs[0].pair));
    // Of what comes before the first norm: the mean of both halves is that of the batch, those of variances are not.
    const auto mine = weights_of(one.pair), whole = weights_of(alone.pair);
    const std::string norm = "image.vision_model.bn1.";
    CHECK(whole.at(norm + "running_mean").abs().max().item<double>() > 1e-4);
    CHECK(largest_difference(mine.at(norm + "running_mean"), whole.at(norm + "running_mean")) < 1e-6);
    CHECK(largest_difference(mine.at(norm + "running_var"), whole.at(norm + "running_var")) > 0);
    CHECK(mine.at(norm + "num_batches_tracked").item<std::int64_t>() == 1);
  }
}

TEST_CASE("ranks leave frozen running statistics as they are", "[encoder_trainer][distributed]") {
  Job job = steady_job(1);
  job.options.image.kind = ImageEncoderKind::kResNet;
  job.options.image.resnet.blocks = {1, 1, 1, 1};
  job.options.image.resnet.base_width = 8;
  Job alone = job;
  alone.run();
  REQUIRE_FALSE(alone.error);
  job.options.optimizer.freeze = {"image.*"};
  // A mean over three ranks of the same value is not always that value.
  for (const Job& one : on_ranks(3, job, [&](int, Job& mine) {
         mine.start = make_encoders(alone.pair.image, alone.pair.text, job.options, 2);
       })) {
    if (one.error) FAIL(one.error->what());
    const auto start = weights_of(alone.pair), end = weights_of(one.pair);
    CHECK(start.at("image.vision_model.bn1.running_mean").abs().max().item<double>() > 1e-4);
    for (const auto& [name, value] : end) {
      INFO(name);
      if (name.rfind("image.", 0) == 0) CHECK(same_bits(value, start.at(name)));
    }
    CHECK_FALSE(same_weights(one.pair, alone.pair));
  }
}
