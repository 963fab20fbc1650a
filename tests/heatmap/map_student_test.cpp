#include "daug/heatmap/map_student.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daug/io/weights.h"
#include "daug/train/student_trainer.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

std::vector<std::uint64_t> ids(std::int64_t count, std::uint64_t first = 0) {
  std::vector<std::uint64_t> items;
  for (std::int64_t i = 0; i < count; ++i) items.push_back(first + static_cast<std::uint64_t>(i));
  return items;
}

/// Pixels drawn from N(0.2, 0.25^2), which is what GaussianPredictor knows; 1 in 1,500 is moved.
at::Tensor known_images(std::int64_t count, std::uint64_t seed) {
  return (0.2 + 0.25 * random_tensor({count, 1, 8, 8}, seed)).clamp(-1, 1);
}

DenoisingGate fitted_gate() {
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, 0.2, 0.25);
  return DenoisingGate::fit(predictor, schedule, known_images(200, 1), ids(200));
}

/// What the toy's full method answers: the image and its negative, twice as large.
at::Tensor toy_maps(const at::Tensor& x) { return at::cat({x, -2 * x}, 1); }

}  // namespace

TEST_CASE("the gate admits what it was fitted on and refuses other images", "[map_student]") {
  const auto gate = fitted_gate();
  const auto share = [&](const at::Tensor& x) {
    return gate.admits(x, ids(x.size(0), 5000)).to(at::kDouble).mean().item<double>();
  };
  CHECK(share(known_images(200, 1)) > 0.95);
  CHECK(share(known_images(300, 2)) > 0.95);
  CHECK(share((known_images(50, 3) - 1).clamp(-1, 1)) == 0);                      // another brightness
  CHECK(share((0.2 + 0.8 * random_tensor({50, 1, 8, 8}, 4)).clamp(-1, 1)) == 0);  // another contrast
  CHECK(share(at::full({50, 1, 8, 8}, 0.2, at::kDouble)) == 0);                   // nothing in it: denoised too well
  CHECK(gate.lowest() < gate.highest());
}

TEST_CASE("the gate's residual is the mean squared error of the noise, for each item alone", "[map_student]") {
  const auto gate = fitted_gate();
  const at::Tensor x = known_images(5, 9);
  const at::Tensor all = gate.residual(x, ids(5));
  for (std::int64_t i = 0; i < 5; ++i)
    CHECK(largest_difference(gate.residual(x.narrow(0, i, 1), ids(1, static_cast<std::uint64_t>(i))),
                             all.narrow(0, i, 1)) < 1e-12);
  // For Gaussian data the expected residual is known: E[(eps - E[eps | x_t])^2] = s^2 d^2 / (s^2 d^2 + n^2).
  const auto schedule = NoiseSchedule::linear(1000);
  double expected = 0;
  for (const std::int64_t level : {100, 250}) {
    const double spread = schedule.signal(level) * 0.25, noise = schedule.noise(level);
    expected += 0.5 * spread * spread / (spread * spread + noise * noise);
  }
  CHECK(gate.residual(known_images(400, 6), ids(400, 900)).mean().item<double>() == Approx(expected).epsilon(0.03));
}

TEST_CASE("a student learns its teacher's maps, and hands back what it does not know", "[map_student]") {
  StudentTrainerOptions options;
  make_tiny(options.network);
  options.batch_size = 8;
  options.optimizer.steps = 150;
  options.optimizer.learning_rate = 3e-3;
  const at::Tensor images = known_images(64, 1).to(at::kFloat);
  TrainingHistory history;
  const auto trained = train_map_student(images, toy_maps(images), options, {}, &history);
  REQUIRE(history.finished);
  CHECK(trained.network->options().out_channels == 2);
  const auto again = train_map_student(images, toy_maps(images), options);
  for (std::size_t i = 0; i < trained.network->parameters().size(); ++i)
    CHECK(same_bits(trained.network->parameters()[i], again.network->parameters()[i]));
  TrainingHistory half;
  options.precision = TrainingPrecision::kBfloat16;
  train_map_student(images, toy_maps(images), options, {}, &half);
  CHECK(half.loss[5] != history.loss[5]);
  for (std::size_t i = 0; i < 20; ++i) CHECK(half.loss[i] == Approx(history.loss[i]).epsilon(0.1));

  const auto schedule = NoiseSchedule::linear(1000);
  const auto gate =
      DenoisingGate::fit(std::make_shared<GaussianPredictor>(schedule, 0.2, 0.25), schedule, images, ids(64));
  const MapStudent student(trained.network, trained.scaler, gate);
  const at::Tensor fresh = known_images(8, 77).to(at::kFloat);
  const at::Tensor truth = toy_maps(fresh);
  const double error = (student.answer(fresh) - truth).square().mean().item<double>();
  CHECK(error < 0.25 * (truth - truth.mean({0, 2, 3}, true)).square().mean().item<double>());

  // Four it knows, then four it does not: those are the full method's, the others its own.
  const at::Tensor mixed = at::cat({images.narrow(0, 0, 4), (images.narrow(0, 0, 4) - 1).clamp(-1, 1)});
  std::int64_t asked = 0;
  const auto result = student.maps(mixed, ids(8), [&](const at::Tensor& x, const std::vector<std::uint64_t>& items) {
    CHECK(items == ids(4, 4));
    asked += x.size(0);
    return toy_maps(x);
  });
  CHECK(asked == 4);
  CHECK(result.admitted.sum().item<std::int64_t>() == 4);
  CHECK(same_bits(result.maps.narrow(0, 4, 4), toy_maps(mixed.narrow(0, 4, 4))));
  CHECK(largest_difference(result.maps.narrow(0, 0, 4), student.answer(mixed.narrow(0, 0, 4))) < 1e-5);
}

TEST_CASE("a student's answer that is no number is an error, where the full method does not take its place",
          "[map_student]") {
  DenoiserUNetOptions network;
  make_tiny(network);
  network.out_channels = 2;
  DenoiserUNet sound(network), broken(network);
  randomise(*sound, 5);
  randomise(*broken, 5);
  {
    at::NoGradGuard no_grad;
    broken->named_parameters()["out.2.bias"][1].fill_(std::nan(""));  // of the second target alone
  }
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, 0.2, 0.25);
  const at::Tensor images = known_images(40, 1).to(at::kFloat);
  const MapScaler scaler = MapScaler::fit(toy_maps(images));
  DenoisingGateOptions all;
  all.quantile = 1;
  const auto gate = DenoisingGate::fit(predictor, schedule, images, ids(40), all);
  const MapStudent student(broken, scaler, gate);
  std::int64_t asked = 0;
  const MapMethod full = [&](const at::Tensor& x, const auto&) {
    asked += x.size(0);
    return toy_maps(x);
  };
  const at::Tensor known = images.narrow(0, 0, 2), strange = (known - 1).clamp(-1, 1);
  REQUIRE(gate.admits(known, ids(2)).all().item<bool>());
  REQUIRE_FALSE(gate.admits(strange, ids(2, 4)).any().item<bool>());
  check_refused(ErrorCode::kNumeric, "MapStudent::answer: non-finite value at the student's answer, image 0, target 1",
                [&] { student.answer(known); });
  // The first image is the full method's.
  check_refused(ErrorCode::kNumeric, "MapStudent::maps: non-finite value at the student's answer, image 1, target 1",
                [&] {
                  student.maps(at::cat({strange.narrow(0, 0, 1), known}), {4, 0, 1}, full);
                });
  CHECK(asked == 0);
  const StudentMaps handed = student.maps(strange, ids(2, 4), full);
  CHECK(asked == 2);
  CHECK(same_bits(handed.maps, toy_maps(strange)));

  // A gate that finds no number admits nothing.
  const auto watched = std::make_shared<WatchedPredictor>(predictor);
  watched->poisoned_level = 250;
  const MapStudent blind(sound, scaler, DenoisingGate::of(watched, schedule, {}, 0, 10));
  CHECK_FALSE(blind.maps(known, ids(2), full).admitted.any().item<bool>());
  watched->poisoned_level.reset();
  CHECK(blind.maps(known, ids(2), full).admitted.all().item<bool>());

  // What the full method answers has a map of each image for each target.
  for (const auto& wrong : {MapMethod([](const at::Tensor&x, const auto&) { return toy_maps(x.narrow(0, 0, 1)); }),
                            MapMethod([](const at::Tensor&x, const auto&) { return x; }),
                            MapMethod([](const at::Tensor&, const auto&) { return at::Tensor(); })})
    check_refused(ErrorCode::kInvalidArgument, "MapStudent::maps: full: expected maps of shape [2, 2, 8, 8]",
                  [&] { student.maps(strange, ids(2, 4), wrong); });
  CHECK(student.maps(known.narrow(0, 0, 0), {}, full).maps.sizes() == at::IntArrayRef({0, 2, 8, 8}));
}

namespace {

/// Of this thread's convolutions: the largest batch, and how many were made outside of inference mode.
thread_local std::int64_t largest_convolved = 0, convolved_outside = 0;

std::unique_ptr<at::ObserverContext> see_convolution(const at::RecordFunction& call) {
  if (std::string(call.name()) != "aten::conv2d") return nullptr;
  largest_convolved = std::max(largest_convolved, call.inputs()[0].toTensor().size(0));
  if (!c10::InferenceMode::is_enabled()) ++convolved_outside;
  return nullptr;
}

}  // namespace

TEST_CASE("gate and student split batches to a memory budget, and the student computes in inference mode",
          "[map_student]") {
  DenoiserUNetOptions network;
  make_tiny(network);
  network.out_channels = 2;
  DenoiserUNet weights(network);
  randomise(*weights, 5);
  weights->to(at::kDouble);
  const std::int64_t each = weights->inference_bytes(8, 8);
  const auto schedule = NoiseSchedule::linear(1000);
  const auto watched = std::make_shared<WatchedPredictor>(std::make_shared<GaussianPredictor>(schedule, 0.2, 0.25));
  watched->bytes_per_pixel = each / (8 * 8);
  REQUIRE(watched->bytes_per_pixel > 3);
  const at::Tensor images = known_images(7, 1);
  at::Tensor whole;
  for (const auto& [budget, rows] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 7}, {1, 1}, {3 * each, 3}}) {
    INFO("budget " << budget);
    DenoisingGateOptions options;
    options.quantile = 1, options.memory_budget = budget;
    watched->largest_batch = 0;
    const MapStudent student(weights, MapScaler::fit(toy_maps(images)),
                             DenoisingGate::fit(watched, schedule, images, ids(7), options));
    CHECK(watched->largest_batch == rows);
    largest_convolved = convolved_outside = 0;
    at::RecordFunctionCallback observer(&see_convolution);
    observer.needsInputs(true);
    const at::CallbackHandle handle = at::addThreadLocalCallback(observer);
    const at::Tensor maps = student.answer(images);
    at::removeCallback(handle);
    CHECK(largest_convolved == rows);
    CHECK(convolved_outside == 0);
    CHECK_FALSE(maps.is_inference());
    if (!whole.defined()) whole = maps;
    CHECK(largest_difference(maps, whole) < 1e-9 * (1 + whole.abs().max().item<double>()));
  }
}

TEST_CASE("students and gates refuse what does not fit", "[map_student]") {
  const auto gate = fitted_gate();
  check_refused(ErrorCode::kInvalidArgument, "residual: items", [&] { gate.residual(known_images(2, 1), ids(3)); });
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, 0.2, 0.25);
  check_refused(ErrorCode::kInvalidArgument, "DenoisingGateOptions: levels",
                [&] { DenoisingGate::fit(predictor, schedule, known_images(2, 1), ids(2), {{}}); });
  check_refused(ErrorCode::kInvalidArgument, "DenoisingGateOptions: levels",
                [&] { DenoisingGate::fit(predictor, schedule, known_images(2, 1), ids(2), {{1001}}); });
  DenoisingGateOptions no_memory;
  no_memory.memory_budget = -1;
  check_refused(ErrorCode::kInvalidArgument, "DenoisingGateOptions: memory_budget",
                [&] { DenoisingGate::fit(predictor, schedule, known_images(2, 1), ids(2), no_memory); });
  const auto watched = std::make_shared<WatchedPredictor>(predictor);
  watched->poisoned_level = 250;
  CHECK(caught([&] { (void)DenoisingGate::fit(watched, schedule, known_images(2, 1), ids(2)); }).code() ==
        ErrorCode::kNumeric);
  check_refused(ErrorCode::kInvalidArgument, "fit: predictor",
                [&] { DenoisingGate::fit(nullptr, schedule, known_images(2, 1), ids(2)); });
  const at::Tensor images = known_images(4, 1).to(at::kFloat);
  StudentTrainerOptions options;
  options.network.image_size = 8;
  check_refused(ErrorCode::kInvalidArgument, "train_map_student: maps",
                [&] { train_map_student(images, toy_maps(images).narrow(0, 0, 3), options); });
  options.batch_size = 3;
  check_refused(ErrorCode::kInvalidArgument, "StudentTrainerOptions: batch_size",
                [&] { train_map_student(images, toy_maps(images), options); });
  MapScaler scaler = MapScaler::fit(toy_maps(images));
  DenoiserUNetOptions network;
  network.image_size = 8, network.model_channels = 8, network.channel_mult = {1}, network.norm_groups = 4;
  network.out_channels = 3;
  check_refused(ErrorCode::kInvalidArgument, "MapStudent: scaler",
                [&] { MapStudent(DenoiserUNet(network), scaler, gate); });

  // What is no image never reaches a network.
  network.out_channels = 2, options.batch_size = 4;
  const MapStudent student(DenoiserUNet(network), scaler, gate);
  watched->poisoned_level.reset();
  watched->rows = 0, watched->known_channels = 1;
  const auto counted = DenoisingGate::fit(watched, schedule, images, ids(4));
  const std::int64_t fitted = watched->rows;
  const auto full = [](const at::Tensor& x, const auto&) { return toy_maps(x); };
  const MapStudent watched_student(DenoiserUNet(network), scaler, counted);
  check_refused(ErrorCode::kInvalidArgument, "MapStudent::maps: items: expected 4, got 3",
                [&] { watched_student.maps(images, ids(3), full); });
  for (const auto& [wrong, part] : not_images(images)) {
    const auto refused = [&, part = part](const char* function, const std::function<void()>& action) {
      INFO(part);
      CHECK(mentions(error_text(ErrorCode::kInvalidArgument, action), function, part));
    };
    refused("MapStudent::answer: x", [&, wrong = wrong] { student.answer(wrong); });
    refused("MapStudent::maps: x", [&, wrong = wrong] { watched_student.maps(wrong, ids(4), full); });
    refused("DenoisingGate::residual: x", [&, wrong = wrong] { counted.residual(wrong, ids(4)); });
    refused("DenoisingGate::residual: x", [&, wrong = wrong] { counted.admits(wrong, ids(4)); });
    refused("DenoisingGate::fit: x", [&, wrong = wrong] { DenoisingGate::fit(watched, schedule, wrong, ids(4)); });
    if (!mentions(part, "shape [B"))  // images of any number of channels can be learned from
      refused("train_map_student: images", [&, wrong = wrong] { train_map_student(wrong, toy_maps(images), options); });
  }
  CHECK(watched->rows == fitted);
}

TEST_CASE("a student comes back from its file with the same bits, and not as anything else's", "[map_student]") {
  const Scratch scratch;
  const std::string path = scratch.path("student.safetensors");
  DenoiserUNetOptions network;
  make_tiny(network);
  network.out_channels = 2;
  const auto schedule = NoiseSchedule::linear(1000);
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, 0.2, 0.25);
  const at::Tensor images = known_images(40, 1).to(at::kFloat);
  DenoisingGateOptions options;
  options.levels = {70, 300, 500};
  options.quantile = 0.9;
  options.memory_budget = 1 << 20;
  options.seed = std::numeric_limits<std::uint64_t>::max();
  DenoiserUNet weights(network);
  randomise(*weights, 5);
  const MapStudent student(weights, MapScaler::fit(toy_maps(images), 4.5),
                           DenoisingGate::fit(predictor, schedule, images, ids(40), options));
  const std::vector<std::string> targets = {"Edema", "Nodule"};
  student.save(path, targets, "made by these");
  CHECK(scratch.count() == 1);  // no temporary is left

  // The caller's options say what the architecture is, not what is learnt; the targets are the outputs.
  DenoiserUNetOptions asked = network;
  asked.out_channels = 1, asked.num_findings = 3;
  const auto load = [&](const DenoiserUNetOptions& as, const std::vector<std::string>& of, const std::string& by) {
    return MapStudent::load(path, as, of, by, predictor, schedule);
  };
  const MapStudent back = load(asked, targets, "made by these");
  const at::Tensor x = at::cat({known_images(12, 7), (known_images(4, 8) - 1).clamp(-1, 1)}).to(at::kFloat);
  CHECK(same_bits(back.answer(x), student.answer(x)));
  CHECK(back.gate().lowest() == student.gate().lowest());
  CHECK(back.gate().highest() == student.gate().highest());
  CHECK(back.gate().options().levels == options.levels);
  CHECK(back.gate().options().memory_budget == options.memory_budget);
  CHECK(same_bits(back.gate().residual(x, ids(16)), student.gate().residual(x, ids(16))));
  const MapMethod full = [](const at::Tensor& of, const auto&) { return toy_maps(of); };
  const StudentMaps first = student.maps(x, ids(16), full), second = back.maps(x, ids(16), full);
  CHECK(same_bits(first.maps, second.maps));
  CHECK(same_bits(first.admitted, second.admitted));

  const auto other = [&](ErrorCode code, const std::string& part, const auto& change) {
    DenoiserUNetOptions as = network;
    std::vector<std::string> of = targets;
    std::string by = "made by these";
    change(as, of, by);
    check_refused(code, part, [&] { load(as, of, by); });
  };
  other(ErrorCode::kMismatch, "targets", [](auto&, auto& of, auto&) { of = {"Nodule", "Edema"}; });
  other(ErrorCode::kMismatch, "targets", [](auto&, auto& of, auto&) { of.emplace_back("Fracture"); });
  other(ErrorCode::kMismatch, "image_size", [](auto& as, auto&, auto&) { as.image_size = 16; });
  other(ErrorCode::kMismatch, "fingerprint", [](auto&, auto&, auto& by) { by = "made by others"; });
  other(ErrorCode::kMismatch, "input_blocks", [](auto& as, auto&, auto&) { as.channel_mult = {1, 1}; });
  check_refused(ErrorCode::kInvalidArgument, "save: targets", [&] { student.save(path, {"Edema"}, ""); });

  const SafetensorsFile whole = read_safetensors(path);
  const auto spoilt = [&](ErrorCode code, const std::string& part, const auto& spoil) {
    SafetensorsFile file = whole;
    spoil(file);
    write_safetensors(path, file);
    check_refused(code, part, [&] { load(network, targets, "made by these"); });
  };
  spoilt(ErrorCode::kFormat, "format", [](auto& file) { file.metadata.erase("format"); });
  spoilt(ErrorCode::kFormat, "state", [](auto& file) { file.metadata["state"] = "{}"; });
  spoilt(ErrorCode::kFormat, "state", [](auto& file) { file.metadata["state"].resize(40); });
  spoilt(ErrorCode::kFormat, "state", [](auto& file) {
    std::string& state = file.metadata["state"];
    state.replace(state.find("[70,300,500]"), 12, "[70,300,1001]");  // a level that the schedule lacks
  });
  spoilt(ErrorCode::kMismatch, "missing", [](auto& file) { file.tensors.erase(file.tensors.begin()); });
  spoilt(ErrorCode::kMismatch, "unexpected",
         [](auto& file) { file.tensors["more"] = Array::from(std::vector<float>{1}, {1}); });
}
