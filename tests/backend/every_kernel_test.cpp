// Every kernel of devices, in every type that it takes and on tensors as small as its paths allow: what
// benchmarks/gpu.sh runs under compute-sanitizer, where larger tests would take too long.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "backend/adamw.h"
#include "backend/fused_ops.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/map_scaler.h"
#include "daug/heatmap/maps.h"
#include "daug/image/tensor_resize.h"
#include "daug/index/device_search.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "daug/translator/translation.h"
#include "index/brute_force.h"
#include "kernels/device.h"
#include "loss/tile_math.h"
#include "support/catch.h"
#include "support/device.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"

using namespace daug;
using namespace daug::test;

namespace {

struct KernelType {
  at::ScalarType type;
  double tolerance;
};
constexpr KernelType kKernelTypes[] = {{at::kFloat, 1e-5}, {at::kHalf, 2e-2}, {at::kBFloat16, 2e-2}};

at::Tensor widened(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kCPU, at::kDouble) : tensor; }

/// max |a - b| / (1 + |b|).
double kernel_error(const at::Tensor& actual, const at::Tensor& expected) {
  REQUIRE(actual.sizes() == expected.sizes());
  const at::Tensor a = widened(actual), b = widened(expected);
  return ((a - b).abs() / (1 + b.abs())).max().item<double>();
}

void check_group_norms(const at::Device& device) {
  for (const KernelType& kind : kKernelTypes)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{{3, 24, 9, 7}, {1, 64, 16, 16}})
        for (const bool silu : {false, true}) {
          // Beside SiLU the parameters are float32, as under autocast.
          const auto values = [&](const std::vector<std::int64_t>& sizes, std::uint64_t seed) {
            return random_tensor(sizes, seed).to(silu && seed > 1 ? at::kFloat : kind.type).to(device);
          };
          const at::Tensor x = values(shape, 1).contiguous(format), weight = values({shape[1]}, 2),
                           bias = values({shape[1]}, 3);
          backend::GroupNormExtras extras, wide;
          extras.silu = wide.silu = silu;
          if (silu) {
            extras.offset = values({shape[0], shape[1], 1, 1}, 4);
            extras.scale = values({shape[0], shape[1], 1, 1}, 5), extras.shift = values({shape[0], shape[1], 1, 1}, 6);
            wide.offset = widened(extras.offset);
            wide.scale = widened(extras.scale), wide.shift = widened(extras.shift);
          }
          INFO(kind.type << " " << format << " " << x.sizes() << " silu " << silu);
          const at::Tensor expected = backend::group_norm_silu(widened(x), 8, widened(weight), widened(bias), 1e-5,
                                                               wide, Execution::kReference);
          CHECK(kernel_error(backend::group_norm_silu(x, 8, weight, bias, 1e-5, extras, Execution::kFused), expected) <=
                kind.tolerance);
        }
}

void check_group_norm_gradients(const at::Device& device) {
  for (const KernelType& kind : kKernelTypes)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{{3, 24, 9, 7}, {1, 64, 16, 16}})
        for (const bool silu : {false, true}) {
          const std::vector<std::int64_t> rows = {shape[0], shape[1], 1, 1};
          const auto gradients = [&](at::ScalarType type, const at::Device& where, Execution execution) {
            // Beside SiLU the parameters are float32, as under autocast.
            const auto values = [&](const std::vector<std::int64_t>& sizes, std::uint64_t seed) {
              const bool wide = silu && sizes != shape;
              return random_tensor(sizes, seed)
                  .to(kind.type)
                  .to(where, wide && type != at::kDouble ? at::kFloat : type);
            };
            std::vector<at::Tensor> leaves = {values(shape, 1).contiguous(format),
                                              values({shape[1]}, 2),
                                              values({shape[1]}, 3),
                                              values(rows, 4),
                                              values(rows, 5),
                                              values(rows, 6)};
            for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
            backend::GroupNormExtras extras;
            extras.silu = silu, extras.offset = leaves[3], extras.scale = leaves[4], extras.shift = leaves[5];
            const at::Tensor y = backend::group_norm_silu(leaves[0], 8, leaves[1], leaves[2], 1e-5, extras, execution);
            return torch::autograd::grad({y}, leaves, {values(shape, 7).contiguous(format)});
          };
          const auto expected = gradients(at::kDouble, at::kCPU, Execution::kReference);
          const auto found = gradients(kind.type, device, Execution::kFused);
          for (std::size_t i = 0; i < expected.size(); ++i) {
            INFO(kind.type << " " << format << " " << expected[0].sizes() << " silu " << silu << " gradient " << i);
            const double largest = expected[i].abs().max().item<double>();
            CHECK((widened(found[i]) - expected[i]).abs().max().item<double>() <=
                  kind.tolerance * std::max(1.0, largest));
          }
        }
}

void check_solver_updates(const at::Device& device) {
  for (const KernelType& kind : kKernelTypes)
    for (const std::int64_t side : {7, 16})  // elements one by one, and whole loads
      for (const bool guided : {false, true}) {
        const auto values = [&](std::uint64_t seed) {
          return random_tensor({3, 1, side, side}, seed).to(kind.type).to(device);
        };
        const at::Tensor x = values(1);
        GuidedNoise noise(values(2));
        backend::SolverStep step;
        step.keep = 1.1, step.add = -0.2, step.clip = guided, step.signal = 0.6, step.deviation = 0.8;
        if (guided) {
          noise.second = values(3), noise.gradient = values(4), noise.weight = 2, noise.gradient_weight = 0.3;
          noise.strength = random_tensor({3, 1, 1, 1}, 5).abs();
          step.previous = values(6), step.previous_weight = 0.5;
        }
        GuidedNoise wide_noise = noise;
        backend::SolverStep wide_step = step;
        for (at::Tensor* tensor : {&wide_noise.first, &wide_noise.second, &wide_noise.gradient, &wide_step.previous})
          *tensor = widened(*tensor);
        INFO(kind.type << " " << side << " guided " << guided);
        CHECK(kernel_error(backend::solver_update(x, noise, step, Execution::kFused),
                           backend::solver_update(widened(x), wide_noise, wide_step, Execution::kReference)) <=
              kind.tolerance);
      }
}

void check_residual_sums(const at::Device& device) {
  for (const KernelType& kind : kKernelTypes)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{{3, 24, 9, 7}, {1, 64, 16, 16}})
        for (const auto bias_type : {kind.type, at::kFloat}) {
          const auto values = [&](const std::vector<std::int64_t>& sizes, std::uint64_t seed, at::ScalarType type) {
            return random_tensor(sizes, seed).to(type).to(device);
          };
          const at::Tensor h = values(shape, 1, kind.type).contiguous(format), bias = values({shape[1]}, 3, bias_type);
          const at::Tensor skip = values(shape, 2, kind.type).contiguous(format);
          INFO(kind.type << " and " << bias_type << " " << format << " " << h.sizes());
          CHECK(kernel_error(backend::residual_add(h, skip, bias, false, Execution::kFused),
                             backend::residual_add(widened(h), widened(skip), widened(bias))) <= kind.tolerance);
        }
}

void check_changes_of_size(const at::Device& device) {
  for (const KernelType& kind : kKernelTypes)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{{3, 24, 9, 7}, {1, 64, 16, 16}})
        for (const auto parameters : {kind.type, at::kFloat}) {
          const auto images = [&](std::uint64_t seed) {
            return random_tensor(shape, seed).to(kind.type).to(device).contiguous(format);
          };
          const auto numbers = [&](std::uint64_t seed) {
            return random_tensor({shape[1]}, seed).to(parameters).to(device);
          };
          const at::Tensor x = images(1), skip = images(2), weight = numbers(3), bias = numbers(4);
          INFO(kind.type << " and " << parameters << " " << format << " " << x.sizes());
          for (const auto change : {backend::SizeChange::kHalved, backend::SizeChange::kDoubled}) {
            INFO("halved " << (change == backend::SizeChange::kHalved));
            const auto found = backend::group_norm_silu_resized(x, 8, weight, bias, 1e-5, change, Execution::kFused);
            const auto expected = backend::group_norm_silu_resized(widened(x), 8, widened(weight), widened(bias), 1e-5,
                                                                   change, Execution::kReference);
            CHECK(kernel_error(found.first, expected.first) <= kind.tolerance);
            CHECK(kernel_error(found.second, expected.second) <= kind.tolerance);
          }
          CHECK(kernel_error(backend::residual_add_doubled(x, skip, bias, false, Execution::kFused),
                             backend::residual_add_doubled(widened(x), widened(skip), widened(bias))) <=
                kind.tolerance);
        }
}

void check_adamw_steps(const at::Device& device) {
  const at::NoGradGuard no_grad;
  for (const std::int64_t elements : {1, 1027}) {
    const auto after = [&](at::ScalarType type, const at::Device& where, Execution execution) {
      const auto options = at::TensorOptions(type).device(where);
      const auto numbers = [&](std::uint64_t seed) { return float_tensor({elements}, seed).to(options); };
      backend::AdamwGroup group;
      group.weights = numbers(1), group.gradient = numbers(2), group.average = numbers(3);
      group.first_moment = numbers(4), group.second_moment = numbers(5).square();
      group.steps = at::zeros({}, options.dtype(at::kFloat));
      group.rate = 0.05, group.decay = 0.1;
      backend::AdamwSettings settings;
      settings.average_decay = 0.9;
      settings.factor = at::full({}, 0.7, options.dtype(at::kDouble));
      settings.applied = at::ones({}, options.dtype(at::kBool));
      backend::adamw({group}, settings, execution);
      return at::stack({group.weights, group.first_moment, group.second_moment, group.average});
    };
    INFO(elements << " elements");
    CHECK(kernel_error(after(at::kFloat, device, Execution::kFused),
                       after(at::kDouble, at::kCPU, Execution::kReference)) < 1e-5);
  }
}

void check_map_kernels(const at::Device& device) {
  // Blurs, resizings and rows that kernels are compiled for, and those of other sizes.
  for (const bool fixed : {true, false}) {
    const at::Tensor x = float_tensor({2, 1, 70, fixed ? 48 : 45}, 1);
    const at::Tensor images = x.unsqueeze(1) + 0.3 * float_tensor({2, 3, 1, 70, fixed ? 48 : 45}, 2);
    const MapScaler scaler = MapScaler::fit(difference_map(x, images), 1.5);
    for (const MapNormalization kind :
         {MapNormalization::kNone, MapNormalization::kMinMax, MapNormalization::kReference, MapNormalization::kScaler})
      for (const bool half : {false, true}) {
        EncoderMapOptions options;
        options.normalization = kind, options.half = half;
        options.sigma = fixed ? 1 : 1.5, options.height = fixed ? 35 : 33, options.width = fixed ? 24 : 60;
        if (kind == MapNormalization::kMinMax) options.upper_quantile = 0.99;
        options.execution = Execution::kFused;
        const at::Tensor made = encoder_maps(x.to(device), images.to(device), options, &scaler);
        options.execution = Execution::kReference, options.half = false;
        INFO("kind " << static_cast<int>(kind) << " half " << half << " fixed " << fixed);
        CHECK(kernel_error(made, encoder_maps(widened(x), widened(images), options, &scaler)) < (half ? 1e-3 : 2e-5));
      }
  }
  // Blurs for which a block has more memory than it has everywhere, in tiles of either height.
  for (const double sigma : {8.0, 16.0}) {
    const at::Tensor planes = float_tensor({1, 2, 70, 133}, 5);
    EncoderMapOptions wide;
    wide.sigma = sigma, wide.execution = Execution::kFused;
    const at::Tensor made = encoder_maps(planes.to(device), wide);
    wide.execution = Execution::kReference;
    INFO("sigma " << sigma);
    CHECK(kernel_error(made, encoder_maps(widened(planes), wide)) < 2e-5);
  }
  // Nothing is rounded before a pixel is ranked.
  EncoderMapOptions ranked;
  ranked.normalization = MapNormalization::kCalibrated, ranked.height = 33, ranked.width = 60;
  const auto calibration = MapCalibration::fit(float_tensor({4, 3, 70, 45}, 4), {"a", "b", "c"}, {3, 19});
  const at::Tensor smooth = float_tensor({2, 3, 70, 45}, 2);
  const at::Tensor expected = encoder_maps(widened(smooth), ranked, nullptr, &calibration);
  ranked.execution = Execution::kFused;
  const at::Tensor found = encoder_maps(smooth.to(device), ranked, nullptr, &calibration);
  CHECK(kernel_error(found, expected) < 2e-5);
  for (const KernelType& type : kKernelTypes)
    for (const bool antialias : {true, false}) {
      const at::Tensor planes = float_tensor({2, 2, 61, 50}, 3).to(type.type);
      INFO(type.type << " antialias " << antialias);
      CHECK(kernel_error(resized(planes.to(device), 16, 23, antialias, Execution::kFused),
                         resized(widened(planes), 16, 23, antialias, Execution::kReference)) <= type.tolerance);
    }
}

void check_augmentation(const at::Device& device) {
  ChannelAugmenterOptions options;
  options.max_rotation = 180, options.max_shift = 0.2, options.max_scale = 0.3, options.flip = true;
  for (const KernelType& type : kKernelTypes)
    for (const bool shaded : {true, false}) {
      options.max_brightness = options.max_contrast = shaded ? 0.2 : 0;
      const HeatmapChannelAugmenter augmenter(options);
      const at::Tensor image = (0.5 * float_tensor({3, 2, 37, 45}, 1)).clamp(-1, 1).to(type.type);
      const at::Tensor maps = float_tensor({3, 3, 37, 45}, 2).to(type.type);
      const auto augmented = [&](at::Tensor x, at::Tensor h, Execution execution) {
        augmenter.augment(x, h, {4, 5, 6}, 7, execution);
        return at::cat({x, h}, 1);
      };
      INFO(type.type << " shaded " << shaded);
      CHECK(kernel_error(augmented(image.to(device), maps.to(device), Execution::kFused),
                         augmented(widened(image), widened(maps), Execution::kReference)) <= type.tolerance);
    }
}

/// The loss and its gradients by images and reports, in float64 on the CPU.
std::vector<at::Tensor> loss_of(HybridLossInputs inputs, const HybridLossOptions& options,
                                const at::TensorOptions& where) {
  for (at::Tensor* leaf : {&inputs.image, &inputs.text})
    *leaf = leaf->to(where, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  const at::Tensor total = hybrid_contrastive_loss(inputs, options).total;
  total.backward();
  return {widened(total.detach()), widened(inputs.image.grad()), widened(inputs.text.grad())};
}

void check_loss_tiles(const at::Device& device) {
  const auto math = daug::detail::device_tile_math(9, 30);  // several tiles, and some that are not full
  HybridLossInputs inputs;
  inputs.image = random_tensor({37, 6}, 1), inputs.text = 0.5 * inputs.image + random_tensor({37, 6}, 2);
  for (at::Tensor* side : {&inputs.image, &inputs.text}) *side = side->to(at::kBFloat16).to(at::kDouble);
  inputs.labels = (random_tensor({37, 3}, 4) > 0.3).to(at::kLong);
  inputs.text_mask = random_tensor({37}, 5) > -1;
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft}) {
      HybridLossOptions options;
      options.clip_weight = 1, options.logit_scale = 1, options.logit_bias = -4;
      options.contrastive_form = form, options.label_pairs = pairs, options.execution = Execution::kReference;
      const auto expected = loss_of(inputs, options, at::TensorOptions(at::kDouble));
      options.execution = Execution::kFused;
      const daug::detail::TileMathGuard guard(*math);
      for (const KernelType& kind : kKernelTypes) {
        if (kind.type == at::kHalf) continue;  // is computed as float32
        const auto found = loss_of(inputs, options, at::TensorOptions(kind.type).device(device));
        INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " " << kind.type);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          INFO("value " << i);
          const double largest = expected[i].abs().max().item<double>();
          REQUIRE(largest > 0);
          CHECK((found[i] - expected[i]).abs().max().item<double>() <= kind.tolerance * largest);
        }
      }
    }
}

void check_searches(const at::Device& device) {
  RandomStream random(5, 0, "every kernel");
  RetrievalIndex index(24, Metric::kL2);  // which has offsets as well
  const RowMatrix vectors = random_rows(random, Kind::kGaussian, 300, 24);
  std::vector<Metadata> metadata;
  for (std::size_t i = 0; i < 300; ++i) metadata.push_back({{"patient", "p" + std::to_string(i % 7)}});
  index.add(shuffled_ids(random, 300), vectors, metadata);
  const RowMatrix queries = random_rows(random, Kind::kGaussian, 5, 24);
  for (const Storage storage : {Storage::kFloat32, Storage::kBFloat16, Storage::kInt8})
    for (const std::int64_t budget : {std::int64_t{1} << 30, std::int64_t{1}}) {
      DeviceSearchOptions options;
      options.storage = storage, options.memory_budget = budget, options.execution = Execution::kFused;
      INFO(storage_name(storage) << ", budget " << budget);
      const DeviceSearch search(index, device, options);
      for (const Filter& filter : {Filter(), Filter::exclude_patient("p3")})
        require_identical(search.search(queries, 9, filter), index.search(queries, 9, filter));
    }
}

/// On this device, whichever is current: beside LibTorch's operators in float64, and searches beside the index's own.
void check_every_kernel(const at::Device& device) {
  REQUIRE(kernels::device_kernels_compiled());
  const std::pair<const char*, void (*)(const at::Device&)> checks[] = {
      {"group norms", check_group_norms},         {"their gradients", check_group_norm_gradients},
      {"solver steps", check_solver_updates},     {"residual sums", check_residual_sums},
      {"changes of size", check_changes_of_size}, {"AdamW", check_adamw_steps},
      {"maps and resizing", check_map_kernels},   {"augmentation", check_augmentation},
      {"tiles of the loss", check_loss_tiles},    {"searches", check_searches}};
  for (const auto& [what, check] : checks) {
    check(device);
    std::cout << "every kernel: " << what << std::endl;  // how far gpu.sh's sanitizers came, were they cut off
  }
}

}  // namespace

TEST_CASE("every kernel of devices is right on tensors as small as its paths allow", "[every_kernel][gpu]") {
  if (!no_device()) check_every_kernel(at::Device(at::kCUDA, 0));
}

TEST_CASE("kernels, losses, searches and translations run where their tensors are, whichever device is current",
          "[backend][gpu]") {
  if (fewer_devices_than(2)) return;
  const auto& guard = *c10::impl::getDeviceGuardImpl(at::kCUDA);
  const at::Device first(at::kCUDA, 0), second(at::kCUDA, 1);
  guard.setDevice(first);
  check_every_kernel(second);
  CHECK(guard.getDevice() == first);

  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 7)).clamp(-1, 1).to(at::kFloat);
  const auto translated = [&](const at::Device& where, Execution graphs) {
    auto network = tiny_unet(tiny_options());
    network->to(at::kFloat);
    network->to(where);
    const auto predictor = make_noise_predictor(network, schedule, Prediction::kV, {}, NetworkPrecision::kFull, graphs);
    const DiffusionTranslator translator(predictor, schedule, {"a", "b", "c"}, path_options(100, 4));
    const at::Tensor images = translator.translate(x.to(where), {toward("a"), away_from("b")}).images;
    CHECK(images.device() == where);
    return images.cpu();
  };
  const at::Tensor expected = translated(at::kCPU, Execution::kReference);
  for (const auto graphs : {Execution::kReference, Execution::kFused}) {
    INFO("graphs " << static_cast<int>(graphs));
    CHECK(largest_difference(translated(second, graphs), expected) <= 1e-3 * expected.abs().max().item<double>());
    CHECK(guard.getDevice() == first);
  }
}
