#include "daug/train/student_trainer.h"

#include <ATen/ATen.h>

#include <optional>
#include <utility>
#include <vector>

#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/train/sample_order.h"
#include "drawn_ahead.h"
#include "replayed_training.h"
#include "replicas.h"

namespace daug {

namespace {

/// A worker's share of one step, on the CPU.
struct MappedImages {
  at::Tensor images, targets;
};

}  // namespace

void StudentTrainerOptions::validate() const {
  constexpr const char* kName = "daug::StudentTrainerOptions";
  require_shares(batch_size, workers, device, kName);
  require_replayable(graphs, network.dropout == 0, kName, "dropout");
  optimizer.validate();
}

TrainedStudent train_map_student(const at::Tensor& images, const at::Tensor& maps, const StudentTrainerOptions& options,
                                 const RunControl& control, TrainingHistory* history) {
  return detail::train_replayed_student(images, maps, options, control, history,
                                        detail::cuda_graphs_of_trainings(options.graphs, "daug::train_map_student"));
}

TrainedStudent detail::train_replayed_student(const at::Tensor& images, const at::Tensor& maps,
                                              const StudentTrainerOptions& options, const RunControl& control,
                                              TrainingHistory* history, const MakeGraphs& make_graphs) {
  constexpr const char* kFunction = "daug::train_map_student";
  options.validate();
  require_images(images, 0, kFunction, "images");
  require(images.size(0) >= 1, kFunction, "images", "shape [N, C, H, W] with N >= 1", images.sizes());
  const bool fit = maps.dim() == 4 && maps.size(0) == images.size(0) && maps.size(1) >= 1 &&
                   maps.size(2) == images.size(2) && maps.size(3) == images.size(3);
  require(fit, kFunction, "maps", detail::concat("[N, K, H, W] beside images of ", images.sizes()), maps.sizes());
  TrainedStudent result;
  result.scaler = MapScaler::fit(maps);
  const at::Tensor targets = result.scaler.apply(maps);
  DenoiserUNetOptions network = options.network;
  network.in_channels = images.size(1);
  network.out_channels = maps.size(1);
  network.num_findings = network.num_classes = 0;
  const std::int64_t share = options.batch_size / options.workers;
  std::vector<SampleOrder> orders(static_cast<std::size_t>(options.workers),
                                  SampleOrder(static_cast<std::size_t>(images.size(0)), options.seed));
  const auto first_of = [&](std::size_t worker, std::int64_t step) {
    return step * options.batch_size + static_cast<std::int64_t>(worker) * share;
  };
  DrawnAhead<MappedImages> drawn(
      [&](std::size_t worker, std::int64_t step) {
        std::vector<std::int64_t> rows;
        for (std::int64_t i = 0; i < share; ++i)
          rows.push_back(
              static_cast<std::int64_t>(orders[worker].at(static_cast<std::uint64_t>(first_of(worker, step) + i))));
        const at::Tensor index = at::tensor(rows);
        const auto of_share = [&](const at::Tensor& all) {
          return backend::ready_to_upload(all.index_select(0, index), options.device);
        };
        return MappedImages{of_share(images), of_share(targets)};
      },
      /*ahead=*/options.device.is_cuda(), options.optimizer.steps);
  std::vector<std::optional<ReplayedShares>> replayed(static_cast<std::size_t>(options.workers));
  const auto share_of = [&](DenoiserUNet& replica, std::size_t worker, std::int64_t step) {
    std::optional<ReplayedShares>& shares = replayed[worker];
    if (!shares && options.network.dropout == 0) shares.emplace(*replica, make_graphs);
    if (shares) shares->begin(step);  // before the batch takes memory
    return [&, replica = replica, graphs = shares ? &*shares : nullptr, first = first_of(worker, step),
            pairs = drawn.at(worker, step)](std::int64_t begin, std::int64_t count) mutable {
      const auto part = [&](const at::Tensor& all) {
        return backend::upload(all.narrow(0, begin, count), options.device);
      };
      auto error = [replica, &options](const std::vector<at::Tensor>& given) mutable {
        const at::Tensor& x = given[0];
        const at::Tensor level = at::zeros({x.size(0)}, x.options().dtype(at::kLong));
        return at::mse_loss(in_precision(options, [&] { return replica->forward(x, level); }), given[1]);
      };
      const std::vector<at::Tensor> inputs = {part(pairs.images), part(pairs.targets)};
      if (count == share && graphs && graphs->captures(inputs[0])) {
        return graphs->told(inputs, [error](const std::vector<at::Tensor>& given) mutable {
          const at::Tensor loss = error(given);
          return ReplayedShares::Passed{loss, loss};
        });
      }
      replica->seed_dropout(options.seed ^ static_cast<std::uint64_t>(first), begin, share);
      return with_gradient(error(inputs) * part_of(count, share));
    };
  };
  result.network = train_replicas<DenoiserUNet>(network, share, options.workers, options.device, options.optimizer,
                                                options.seed, control, history, nullptr, share_of);
  return result;
}

}  // namespace daug
