#include "daug/heatmap/map_student.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/weights.h"
#include "daug/translator/finite_check.h"
#include "daug/translator/solver.h"
#include "io/json.h"
#include "translator/item_noise_like.h"

namespace daug {

namespace {

constexpr const char* kStudentFormat = "daug-map-student-1";

/// Throws kNumeric naming the first image and target of a student's maps [B, K, H, W] with a value that is not finite.
void require_finite_maps(const at::Tensor& maps, const char* function) {
  FiniteCheck finite(function);
  finite.see(maps.flatten(0, 1), "the student's answer", [targets = maps.size(1)](std::int64_t row) {
    return detail::concat("image ", row / targets, ", target ", row % targets);
  });
  finite.settle();
}

}  // namespace

void DenoisingGateOptions::validate(const NoiseSchedule& schedule) const {
  constexpr const char* kName = "daug::DenoisingGateOptions";
  require(!levels.empty(), kName, "levels", "at least one level", 0);
  for (const std::int64_t level : levels) require_range(level, 1, schedule.steps(), kName, "levels");
  require(quantile > 0 && quantile <= 1, kName, "quantile", "in (0, 1]", quantile);
  require_range(max_batch, 1, 1 << 20, kName, "max_batch");
  require(memory_budget >= 0, kName, "memory_budget", "0 or more bytes", memory_budget);
}

DenoisingGate::DenoisingGate(std::shared_ptr<const NoisePredictor> predictor, NoiseSchedule schedule,
                             DenoisingGateOptions options)
    : predictor_(std::move(predictor)), schedule_(std::move(schedule)), options_(std::move(options)) {
  require_schedule(predictor_->schedule(), schedule_, "daug::DenoisingGate", "predictor");
}

DenoisingGate DenoisingGate::fit(std::shared_ptr<const NoisePredictor> predictor, const NoiseSchedule& schedule,
                                 const at::Tensor& x, const std::vector<std::uint64_t>& items,
                                 const DenoisingGateOptions& options) {
  constexpr const char* kFunction = "daug::DenoisingGate::fit";
  require(predictor != nullptr, kFunction, "predictor", "a noise predictor", "null");
  options.validate(schedule);
  require_images(*predictor, x, kFunction);
  require(x.size(0) >= 1, kFunction, "x", "shape [N, C, H, W] with N >= 1", x.sizes());
  DenoisingGate gate(std::move(predictor), schedule, options);
  const at::Tensor residuals = gate.residual(x, items).to(at::kDouble);
  require_finite(residuals, kFunction, "the residuals of x");  // or the gate would admit nothing
  const double tail = (1 - options.quantile) / 2;
  gate.lowest_ = residuals.quantile(tail).item<double>();
  gate.highest_ = residuals.quantile(1 - tail).item<double>();
  return gate;
}

DenoisingGate DenoisingGate::of(std::shared_ptr<const NoisePredictor> predictor, const NoiseSchedule& schedule,
                                const DenoisingGateOptions& options, double lowest, double highest) {
  constexpr const char* kFunction = "daug::DenoisingGate::of";
  require(predictor != nullptr, kFunction, "predictor", "a noise predictor", "null");
  options.validate(schedule);
  require(lowest <= highest, kFunction, "lowest", detail::concat("at most highest, ", highest), lowest);
  DenoisingGate gate(std::move(predictor), schedule, options);
  gate.lowest_ = lowest;
  gate.highest_ = highest;
  return gate;
}

at::Tensor DenoisingGate::residual(const at::Tensor& x, const std::vector<std::uint64_t>& items) const {
  constexpr const char* kFunction = "daug::DenoisingGate::residual";
  require_images(*predictor_, x, kFunction);
  require(static_cast<std::int64_t>(items.size()) == x.size(0), kFunction, "items", x.size(0), items.size());
  const std::int64_t most =
      rows_within(options_.memory_budget, predictor_->bytes_per_item(x.size(2), x.size(3)), options_.max_batch);
  at::Tensor sum = at::zeros({x.size(0)}, x.options());
  for (std::int64_t begin = 0; begin < x.size(0); begin += most) {
    const std::int64_t count = std::min(most, x.size(0) - begin);
    const at::Tensor rows = x.narrow(0, begin, count);
    const std::vector<std::uint64_t> ids(items.begin() + begin, items.begin() + begin + count);
    for (const std::int64_t level : options_.levels) {
      const at::Tensor noise = detail::item_noise_like(x, ids, options_.seed, detail::concat("gate level ", level));
      const at::Tensor found = predictor_->noise(noised(schedule_, rows, noise, level), level, {});
      sum.narrow(0, begin, count).add_((found - noise).square().flatten(1).mean(1));
    }
  }
  return sum / static_cast<double>(options_.levels.size());
}

at::Tensor DenoisingGate::admits(const at::Tensor& x, const std::vector<std::uint64_t>& items) const {
  const at::Tensor residuals = residual(x, items);
  return residuals.ge(lowest_).logical_and(residuals.le(highest_));
}

MapStudent::MapStudent(DenoiserUNet network, MapScaler scaler, DenoisingGate gate)
    : network_(std::move(network)), scaler_(std::move(scaler)), gate_(std::move(gate)) {
  require(network_->options().out_channels == static_cast<std::int64_t>(scaler_.mean().size()), "daug::MapStudent",
          "scaler", detail::concat(network_->options().out_channels, " maps"), scaler_.mean().size());
  network_->eval();
}

at::Tensor MapStudent::answer(const at::Tensor& x) const {
  constexpr const char* kFunction = "daug::MapStudent::answer";
  require_images(x, network_->options().in_channels, kFunction, "x");
  const at::Tensor maps = unchecked_answer(x);
  require_finite_maps(maps, kFunction);
  return maps;
}

at::Tensor MapStudent::unchecked_answer(const at::Tensor& x) const {
  at::NoGradGuard no_grad;
  const DenoisingGateOptions& options = gate_.options();
  const std::int64_t most =
      rows_within(options.memory_budget, network_->inference_bytes(x.size(2), x.size(3)), options.max_batch);
  std::vector<at::Tensor> parts;
  for (const at::Tensor& rows : x.split(most)) {
    const c10::InferenceMode inference;
    const at::Tensor timesteps = at::zeros({rows.size(0)}, x.options().dtype(at::kLong));
    // TORCH_MODULE holders are not const-callable; forward changes no state.
    parts.push_back(const_cast<DenoiserUNet&>(network_)->forward(rows, timesteps));
  }
  return scaler_.undo(at::cat(parts));
}

StudentMaps MapStudent::maps(const at::Tensor& x, const std::vector<std::uint64_t>& items,
                             const MapMethod& full) const {
  constexpr const char* kFunction = "daug::MapStudent::maps";
  require_images(x, network_->options().in_channels, kFunction, "x");
  require(static_cast<std::int64_t>(items.size()) == x.size(0), kFunction, "items", x.size(0), items.size());
  StudentMaps result{unchecked_answer(x), gate_.admits(x, items)};
  const at::Tensor refused = result.admitted.logical_not();
  require_finite_maps(result.maps.masked_fill(refused.reshape({-1, 1, 1, 1}), 0.0), kFunction);
  const at::Tensor others = refused.nonzero().squeeze(1);
  if (others.numel() == 0) return result;
  const at::Tensor positions = others.to(at::kCPU).contiguous();
  std::vector<std::uint64_t> ids;
  for (std::int64_t i = 0; i < positions.numel(); ++i)
    ids.push_back(items[static_cast<std::size_t>(positions.const_data_ptr<std::int64_t>()[i])]);
  const at::Tensor made = full(x.index_select(0, others), ids);
  std::vector<std::int64_t> shape = result.maps.sizes().vec();
  shape[0] = others.size(0);
  require(made.defined() && made.sizes() == at::IntArrayRef(shape), kFunction, "full",
          detail::concat("maps of shape ", at::IntArrayRef(shape)), made.defined() ? made.sizes() : at::IntArrayRef{});
  result.maps.index_copy_(0, others, made.to(result.maps.options()));
  return result;
}

void MapStudent::save(const std::string& path, const std::vector<std::string>& targets,
                      const std::string& fingerprint) const {
  require(targets.size() == scaler_.mean().size(), "daug::MapStudent::save", "targets", scaler_.mean().size(),
          targets.size());
  const DenoisingGateOptions& gate = gate_.options();
  const nlohmann::json state = {{"mean", scaler_.mean()},      {"deviation", scaler_.deviation()},
                                {"limit", scaler_.limit()},    {"levels", gate.levels},
                                {"quantile", gate.quantile},   {"seed", gate.seed},
                                {"max_batch", gate.max_batch}, {"lowest", gate_.lowest()},
                                {"highest", gate_.highest()},  {"memory_budget", gate.memory_budget}};
  save_weights(path, *network_,
               {{"format", kStudentFormat},
                {"targets", nlohmann::json(targets).dump()},
                {"image_size", std::to_string(network_->options().image_size)},
                {"fingerprint", fingerprint},
                {"state", state.dump()}});
}

MapStudent MapStudent::load(const std::string& path, DenoiserUNetOptions network,
                            const std::vector<std::string>& targets, const std::string& fingerprint,
                            std::shared_ptr<const NoisePredictor> predictor, const NoiseSchedule& schedule) {
  constexpr const char* kFunction = "daug::MapStudent::load";
  require(predictor != nullptr, kFunction, "predictor", "a noise predictor", "null");
  require_schedule(predictor->schedule(), schedule, kFunction, "predictor");
  const SafetensorsFile file = read_safetensors(path);
  const auto entry = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string("none") : found->second;
  };
  const auto same = [&](ErrorCode code, const char* key, const std::string& expected) {
    if (const std::string found = entry(key); found != expected)
      fail(code, kFunction, path + ": " + key, expected, found);
  };
  same(ErrorCode::kFormat, "format", kStudentFormat);
  same(ErrorCode::kMismatch, "targets", nlohmann::json(targets).dump());
  same(ErrorCode::kMismatch, "image_size", std::to_string(network.image_size));
  same(ErrorCode::kMismatch, "fingerprint", fingerprint);
  std::optional<MapScaler> scaler;
  std::optional<DenoisingGate> gate;
  try {
    const auto state = detail::parse_json(entry("state"), kFunction, "state");
    using Numbers = std::vector<double>;
    scaler = MapScaler::of(state.at("mean").get<Numbers>(), state.at("deviation").get<Numbers>(),
                           state.at("limit").get<double>());
    require(scaler->mean().size() == targets.size(), kFunction, "mean", targets.size(), scaler->mean().size());
    DenoisingGateOptions options;
    options.levels = state.at("levels").get<std::vector<std::int64_t>>();
    options.quantile = state.at("quantile").get<double>();
    options.seed = state.at("seed").get<std::uint64_t>();
    options.max_batch = state.at("max_batch").get<std::int64_t>();
    options.memory_budget = state.value("memory_budget", std::int64_t{0});  // files of earlier versions have none
    gate = DenoisingGate::of(std::move(predictor), schedule, options, state.at("lowest").get<double>(),
                             state.at("highest").get<double>());
  } catch (const std::exception& error) {  // of what is no JSON, of a missing or odd value, or of a range
    fail(ErrorCode::kFormat, kFunction, path + ": state", "scaler and gate of a student", error.what());
  }
  network.out_channels = static_cast<std::int64_t>(targets.size());
  network.num_findings = network.num_classes = 0;
  DenoiserUNet made(network);
  load_weights(*made, file, path);
  return {made, *scaler, *gate};
}

}  // namespace daug
