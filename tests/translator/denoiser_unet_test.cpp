#include "daug/translator/denoiser_unet.h"

#include <ATen/ATen.h>
#include <ATen/SDPBackend.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "daug/io/weights.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/golden.h"
#include "support/memory_count.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"
#include "translator/unet_blocks.h"

using namespace daug;
using namespace daug::test;

namespace {

/// The same numbers [B, C, L] with the channels of a position side by side.
at::Tensor channels_side_by_side(const at::Tensor& x) { return x.transpose(1, 2).contiguous().transpose(1, 2); }

/// Which of its kernels LibTorch takes for such q, k and v.
at::SDPBackend attention_kernel(const std::array<at::Tensor, 3>& parts) {
  return static_cast<at::SDPBackend>(at::_fused_sdp_choice(parts[0], parts[1], parts[2]));
}

}  // namespace

TEST_CASE("networks answer a batch of no images", "[denoiser_unet]") {
  for (const auto type : {at::kFloat, at::kDouble}) {
    auto network = tiny_unet(tiny_options());
    network->to(type);
    at::NoGradGuard no_grad;
    const at::Tensor none = at::zeros({0, 1, 8, 8}, type), no_steps = longs({});
    CHECK(network->forward(none, no_steps, at::zeros({0, 3})).sizes() == none.sizes());
    for (const char* pool : {"adaptive", "attention", "spatial", "spatial_v2"}) {
      INFO(pool);
      NoiseAwareClassifier classifier(tiny_classifier_options(classifier_pool(pool)));
      classifier->to(type);
      CHECK(classifier->forward(none, no_steps).sizes() == at::IntArrayRef({0, 3}));
    }
  }
}

TEST_CASE("a condition adds its columns to the time embedding", "[denoiser_unet]") {
  auto network = tiny_unet(tiny_options());
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 1), t = longs({3, 700});
  const at::Tensor plain = network->forward(x, t);
  REQUIRE(plain.sizes() == x.sizes());
  CHECK(plain.abs().max().item<double>() > 0.01);
  CHECK(same_bits(network->forward(x, t, at::zeros({2, 3})), plain));

  at::NoGradGuard no_grad;
  auto parameters = parameters_of(*network);
  const at::Tensor table = parameters.at("condition_embed.weight");
  REQUIRE(table.sizes() == at::IntArrayRef({32, 6}));
  const at::Tensor bias = parameters.at("time_embed.2.bias"), original = bias.clone();
  for (std::int64_t finding = 0; finding < 3; ++finding)
    for (const double state : {1.0, -1.0}) {
      at::Tensor condition = at::zeros({2, 3});
      condition.select(1, finding).fill_(state);
      const at::Tensor conditioned = network->forward(x, t, condition);
      CHECK(largest_difference(conditioned, plain) > 1e-4);
      bias.copy_(original + table.select(1, state > 0 ? finding : 3 + finding));
      CHECK(largest_difference(network->forward(x, t), conditioned) < 1e-12);
      bias.copy_(original);
    }
}

TEST_CASE("rows of a batch do not see each other", "[denoiser_unet]") {
  auto network = tiny_unet(tiny_options());
  const at::Tensor x = random_tensor({3, 1, 8, 16}, 2), t = longs({0, 12, 999});
  const at::Tensor condition = rows({{1, 0, -1}, {0, 0, 0}, {-1, 1, 1}});
  const at::Tensor together = network->forward(x, t, condition);
  for (std::int64_t i = 0; i < 3; ++i)
    CHECK(largest_difference(network->forward(x.narrow(0, i, 1), t.narrow(0, i, 1), condition.narrow(0, i, 1)),
                             together.narrow(0, i, 1)) < 1e-12);
}

TEST_CASE("a class label adds its row to the time embedding", "[denoiser_unet]") {
  auto options = tiny_options(0);
  options.num_classes = 4;
  auto network = tiny_unet(options);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 3), t = longs({5, 5});
  const at::Tensor labelled = network->forward(x, t, longs({2, 2}));
  CHECK_THROWS_AS(network->forward(x, t), Error);
  CHECK_THROWS_AS(network->forward(x, t, longs({2})), Error);
  at::NoGradGuard no_grad;
  auto parameters = parameters_of(*network);
  const at::Tensor table = parameters.at("label_emb.weight");
  parameters.at("time_embed.2.bias").add_(table[2]);
  table[1].zero_();
  CHECK(largest_difference(network->forward(x, t, longs({1, 1})), labelled) < 1e-12);
}

TEST_CASE("a pass that is told its embeddings has the bits of one that makes them", "[denoiser_unet]") {
  const at::Tensor t = longs({3, 700, 90});
  const auto check = [&](const DenoiserUNetOptions& options, at::ScalarType type, const at::Tensor& condition) {
    auto network = tiny_unet(options);
    network->to(type);
    const at::Tensor x = random_tensor({3, 1, 8, 8}, 1).to(type);
    const double rounding = type == at::kDouble ? 1e-12 : 1e-3;
    at::Tensor plain, told;
    {
      at::NoGradGuard no_grad;
      plain = network->forward(x, t, condition);
      told = network->embedded(t, condition);
      REQUIRE(told.sizes() == at::IntArrayRef({3, network->embedded_channels()}));
      CHECK(told.scalar_type() == type);
      CHECK(same_bits(network->forward_embedded(x, told), plain));
      // A row is that of its own timestep and condition.
      CHECK(largest_difference(network->forward_embedded(x, told.flip(0)), plain) > 1e-5);
      CHECK(largest_difference(network->forward_embedded(x.narrow(0, 1, 1), told.narrow(0, 1, 1)),
                               plain.narrow(0, 1, 1)) < rounding);
    }
    // While gradients are recorded, too.
    CHECK(largest_difference(network->forward_embedded(x, told), plain) < rounding);
    CHECK(network->forward(x, t, condition).requires_grad());
  };
  for (const auto type : {at::kFloat, at::kDouble})
    for (const auto execution : {Execution::kAuto, Execution::kReference})
      for (const bool updown : {false, true}) {
        INFO(type << ", updown " << updown << ", reference " << (execution == Execution::kReference));
        DenoiserUNetOptions options = tiny_options();
        options.use_scale_shift_norm = options.resblock_updown = options.use_checkpoint = updown;
        options.execution = execution;
        check(options, type, rows({{1, 0, 0}, {0, -1, 1}, {-1, -1, -1}}));
        check(options, type, {});
        options.num_findings = 0, options.num_classes = 4;
        check(options, type, longs({2, 0, 3}));
      }

  auto network = tiny_unet(tiny_options());
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 1), made = network->embedded(longs({3, 700}));
  // The blocks' widths: 8 and 16 on the way down, 16 twice in the middle, 16 twice and 8 twice on the way up.
  CHECK(network->embedded_channels() == 104);
  check_refused(ErrorCode::kInvalidArgument, "forward_embedded: rows: expected shape [2, 104]",
                [&] { network->forward_embedded(x, made.narrow(0, 0, 1)); });
  check_refused(ErrorCode::kInvalidArgument, "forward_embedded: x",
                [&] { network->forward_embedded(x.narrow(2, 0, 7), made); });
  check_refused(ErrorCode::kInvalidArgument, "embedded: condition", [&] {
    network->embedded(longs({3, 700}), at::zeros({1, 3}));
  });
}

TEST_CASE("wrong shapes and options are refused by name", "[denoiser_unet]") {
  auto network = tiny_unet(tiny_options());
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 1), t = longs({3, 700});
  CHECK(mentions(caught([&] { network->forward(x[0], t); }), "x: expected shape [B, 1, H, W]"));
  CHECK(mentions(caught([&] { network->forward(x.expand({2, 3, 8, 8}), t); }), "[2, 3, 8, 8]"));
  CHECK(mentions(caught([&] { network->forward(x.narrow(2, 0, 7), t); }), "multiples of 2"));
  check_refused(ErrorCode::kInvalidArgument, "x: expected the parameters' type Double, got Float",
                [&] { network->forward(x.to(at::kFloat), t); });
  CHECK(mentions(caught([&] { network->forward(x, longs({3})); }), "timesteps"));
  CHECK(mentions(caught([&] { network->forward(x, t.reshape({2, 1})); }), "timesteps"));
  CHECK(mentions(caught([&] { network->forward(x, t, at::zeros({2, 4})); }), "condition: expected shape [2, 3]"));
  CHECK(mentions(caught([&] { network->forward(x, t, at::zeros({1, 3})); }), "condition"));

  const auto refused = [](const char* option, const std::function<void(DenoiserUNetOptions&)>& spoil) {
    auto options = tiny_options();
    spoil(options);
    INFO(option);
    check_refused(ErrorCode::kInvalidArgument, option, [&] { DenoiserUNet{options}; });
  };
  refused("image_size", [](auto& o) { o.image_size = 9; });
  refused("in_channels", [](auto& o) { o.in_channels = 0; });
  refused("model_channels", [](auto& o) { o.model_channels = 0; });
  refused("num_res_blocks", [](auto& o) { o.num_res_blocks = 0; });
  refused("channel_mult", [](auto& o) { o.channel_mult = {}; });
  refused("channel_mult", [](auto& o) { o.channel_mult = {1, -1}; });
  refused("channel_mult", [](auto& o) { o.channel_mult = {0.1, 1}; });
  refused("num_heads", [](auto& o) { o.num_heads = 3; });
  refused("num_heads_upsample", [](auto& o) { o.num_heads_upsample = 0; });
  refused("num_heads_upsample", [](auto& o) { o.num_heads_upsample = 3; });
  refused("num_head_channels", [](auto& o) { o.num_head_channels = 0; });
  refused("num_head_channels", [](auto& o) { o.num_head_channels = 12; });
  refused("num_head_channels", [](auto& o) { o.num_head_channels = 32; });
  refused("norm_groups", [](auto& o) { o.norm_groups = 3; });
  refused("patch", [](auto& o) { o.patch = 0; });
  refused("num_findings", [](auto& o) { o.num_findings = -1; });
  refused("num_classes", [](auto& o) { o.num_classes = 2; });
  refused("condition_init", [](auto& o) { o.condition_init = std::nan(""); });
  for (const double scale : {0.0, -1.0, 1001.0, std::nan("")})
    refused("timestep_scale", [scale](auto& o) { o.timestep_scale = scale; });
}

TEST_CASE("timestep_scale counts timesteps to 1000, as upstream's rescale_timesteps, in both networks",
          "[denoiser_unet]") {
  const at::Tensor x = random_tensor({3, 1, 8, 8}, 6);
  for (const std::int64_t steps : {250, 300, 4000}) {  // 1000 / T: a whole number, one no float holds, and below 1
    INFO(steps << " steps");
    const double scale = 1000.0 / static_cast<double>(steps);
    // Upstream: new_ts.float() * (1000.0 / original_num_steps).
    const auto rescaled = [&](std::int64_t t) { return static_cast<float>(t) * static_cast<float>(scale); };
    const std::vector<std::int64_t> t = {1, 17, steps - 1};
    const at::Tensor counted = at::tensor(t);
    const at::Tensor shown = at::tensor(std::vector<float>{rescaled(t[0]), rescaled(t[1]), rescaled(t[2])});
    auto options = tiny_options();
    auto plain = tiny_unet(options);
    options.timestep_scale = scale;
    auto scaled = tiny_unet(options);  // the same weights
    const at::Tensor answer = scaled->forward(x, counted);
    CHECK(same_bits(answer, plain->forward(x, shown)));
    CHECK(largest_difference(answer, plain->forward(x, counted)) > 1e-4);
    if (steps != 250) CHECK(largest_difference(answer[1], plain->forward(x, shown.round())[1]) > 1e-6);

    // The embedding by hand: cosines, then sines, of t' 10000^(-i / half).
    constexpr std::int64_t kHalf = 3;
    const at::Tensor embedding = daug::detail::timestep_embedding(shown, 2 * kHalf, at::kDouble);
    for (std::int64_t row = 0; row < 3; ++row)
      for (std::int64_t i = 0; i < kHalf; ++i) {
        const double angle = static_cast<double>(t[static_cast<std::size_t>(row)]) * scale *
                             std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(kHalf));
        CHECK(embedding[row][i].item<double>() == Approx(std::cos(angle)).margin(1e-3));
        CHECK(embedding[row][kHalf + i].item<double>() == Approx(std::sin(angle)).margin(1e-3));
      }

    // Whoever asks by level gets there too, with a table of that many steps and with a part of it.
    const auto schedule = NoiseSchedule::linear(steps);
    const auto predictor = make_noise_predictor(scaled, schedule, Prediction::kEps);
    const auto part = make_noise_predictor(scaled, schedule.respaced({17, 40}), Prediction::kEps);
    const at::Tensor at_17 = plain->forward(x, at::full({3}, rescaled(17), at::kFloat));
    CHECK(same_bits(predictor->noise(x, 18, {}), at_17));
    CHECK(same_bits(part->noise(x, 1, {}), at_17));

    auto guide_options = tiny_classifier_options(ClassifierPool::kAdaptive);
    NoiseAwareClassifier plain_guide(guide_options);
    guide_options.timestep_scale = scale;
    NoiseAwareClassifier scaled_guide(guide_options);
    for (auto* guide : {&plain_guide, &scaled_guide}) {
      randomise(**guide, 8);
      (*guide)->to(at::kDouble);
    }
    CHECK(same_bits(scaled_guide->forward(x, counted), plain_guide->forward(x, shown)));
    CHECK(largest_difference(scaled_guide->forward(x, counted), plain_guide->forward(x, counted)) > 1e-4);
  }
  // So does the rounded copy that answers in half precision.
  auto options = tiny_options();
  options.timestep_scale = 4;
  auto network = tiny_unet(options);
  network->to(at::kFloat);
  const auto schedule = NoiseSchedule::linear(250);
  const auto half = make_noise_predictor(network, schedule, Prediction::kEps, {}, NetworkPrecision::kBFloat16);
  options.timestep_scale = 1;
  auto bare = tiny_unet(options);
  bare->to(at::kFloat);
  const auto unscaled = make_noise_predictor(bare, schedule, Prediction::kEps, {}, NetworkPrecision::kBFloat16);
  const at::Tensor narrow = x.to(at::kFloat);
  CHECK_FALSE(same_bits(half->noise(narrow, 200, {}), unscaled->noise(narrow, 200, {})));
}

TEST_CASE("num_heads_upsample counts the heads of the way up, and of no other", "[denoiser_unet]") {
  // Heads leave no trace in shapes: networks of the same weights, in which attention acts on one way alone.
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 3), t = longs({5, 600});
  const auto answer = [&](std::int64_t heads, std::int64_t up, bool acts_on_way_up, std::int64_t head_channels = -1) {
    auto options = tiny_options(0);
    options.num_heads = heads, options.num_heads_upsample = up, options.num_head_channels = head_channels;
    auto network = tiny_unet(options);
    at::NoGradGuard no_grad;
    for (auto& [name, parameter] : parameters_of(*network))
      if (mentions(name, "proj_out") && (name.rfind("output_blocks.", 0) == 0) != acts_on_way_up) parameter.zero_();
    return network->forward(x, t);
  };
  CHECK(same_bits(answer(1, 4, true), answer(4, -1, true)));
  CHECK(same_bits(answer(4, 1, true), answer(1, -1, true)));
  CHECK(largest_difference(answer(1, 4, true), answer(1, -1, true)) > 1e-4);
  CHECK(same_bits(answer(1, 4, false), answer(1, -1, false)));
  CHECK(largest_difference(answer(4, 1, false), answer(1, 1, false)) > 1e-4);
  CHECK(same_bits(answer(1, 2, true, 4), answer(1, -1, true, 4)));  // a head's channels decide on both ways
}

TEST_CASE("q, k and v are views of their projection, or lie as fused attention reads them", "[denoiser_unet]") {
  constexpr std::int64_t kHeads = 3, kWidth = 8, kLength = 5, kAll = 3 * kHeads * kWidth;
  const at::Tensor qkv = random_tensor({2, kAll, kLength}, 1).to(at::kFloat), last = channels_side_by_side(qkv);
  for (const bool legacy : {true, false}) {
    INFO("legacy " << legacy);
    const auto plain = daug::detail::attention_inputs(qkv, kHeads, legacy, false);
    const auto copied = daug::detail::attention_inputs(qkv, kHeads, legacy, true);
    const auto viewed = daug::detail::attention_inputs(last, kHeads, legacy, true);
    for (std::size_t part = 0; part < 3; ++part) {
      INFO("part " << part);
      const auto third = static_cast<std::int64_t>(part);
      for (std::int64_t head = 0; head < kHeads; ++head) {
        // guided-diffusion: the q, k and v of a head side by side, or all heads of q, of k and of v.
        const std::int64_t channel = kWidth * (legacy ? 3 * head + third : kHeads * third + head);
        const at::Tensor expected = qkv.narrow(1, channel, kWidth).transpose(1, 2);
        for (const auto& parts : {plain, copied, viewed}) CHECK(same_bits(parts[part].select(1, head), expected));
      }
      // As float32 on the CPU has always read them, and as flash attention does.
      const std::int64_t next_head = kLength * kWidth * (legacy ? 3 : 1);
      CHECK(plain[part].strides() == at::IntArrayRef({kAll * kLength, next_head, 1, kLength}));
      for (const auto& parts : {copied, viewed}) {
        CHECK(parts[part].stride(3) == 1);
        for (std::int64_t dim = 0; dim < 3; ++dim) CHECK(parts[part].stride(dim) % kWidth == 0);
      }
      CHECK(plain[part].is_alias_of(qkv));
      CHECK(viewed[part].is_alias_of(last));
      CHECK_FALSE(copied[part].is_alias_of(qkv));
    }
    CHECK(attention_kernel(plain) == at::SDPBackend::math);
    CHECK(attention_kernel(copied) == at::SDPBackend::flash_attention);
    CHECK(attention_kernel(viewed) == at::SDPBackend::flash_attention);
  }
}

TEST_CASE("attention in half types on a device reads rows", "[denoiser_unet]") {
  using daug::detail::attends_to_rows;
  for (const auto type : {at::kHalf, at::kBFloat16}) {
    CHECK(attends_to_rows(at::kCUDA, type));
    CHECK_FALSE(attends_to_rows(at::kCPU, type));
  }
  for (const auto type : {at::kFloat, at::kDouble}) CHECK_FALSE(attends_to_rows(at::kCUDA, type));
}

TEST_CASE("images lie as convolutions are fastest", "[denoiser_unet]") {
  using daug::detail::image_layout;
  using daug::detail::ImageLayout;
  for (const auto execution : {Execution::kAuto, Execution::kFused}) {
    for (const bool autocast : {false, true}) {
      for (const auto type : {at::kHalf, at::kBFloat16})
        CHECK(image_layout(at::kCUDA, type, autocast, execution) == ImageLayout::kChannelsLast);
      for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
        CHECK(image_layout(at::kCPU, type, autocast, execution) == ImageLayout::kChannelsLast);
    }
    CHECK(image_layout(at::kCUDA, at::kFloat, true, execution) == ImageLayout::kChannelsLast);
    for (const auto type : {at::kFloat, at::kDouble})
      CHECK(image_layout(at::kCUDA, type, false, execution) == ImageLayout::kAsGiven);
  }
  for (const auto device : {at::kCPU, at::kCUDA})
    for (const auto type : {at::kFloat, at::kHalf})
      CHECK(image_layout(device, type, true, Execution::kReference) == ImageLayout::kContiguous);

  // A network asks for what its images are, wherever they lie.
  const auto strides_in = [](Execution execution, at::Device device) {
    auto options = tiny_options();
    options.execution = execution;
    torch::nn::Module owner;
    const daug::detail::UNetTrunk trunk(owner, options, 3, false);
    const at::Tensor x = at::empty({2, 3, 4, 5}, at::TensorOptions().dtype(at::kHalf).device(device));
    return trunk.laid_out(x).strides().vec();
  };
  const std::vector<std::int64_t> last = {60, 1, 15, 3}, plain = {60, 20, 5, 1};
  for (const at::Device device : {at::Device(at::kCPU), at::Device(at::kMeta)}) {
    CHECK(strides_in(Execution::kAuto, device) == last);
    CHECK(strides_in(Execution::kReference, device) == plain);
  }
}

TEST_CASE("attention in half types is fused on a device, and has its gradients", "[gpu]") {
  if (no_device()) return;
  constexpr std::int64_t kHeads = 2, kWidth = 64, kLength = 77;
  for (const auto type : {at::kHalf, at::kBFloat16})
    for (const bool legacy : {true, false}) {
      const at::Tensor here = random_tensor({2, 3 * kHeads * kWidth, kLength}, 1).to(type);
      const at::Tensor slope = random_tensor({2, kHeads * kWidth, kLength}, 2).to(type);
      const auto trained = [&](const at::Tensor& qkv) {
        const at::Tensor out = daug::detail::qkv_attention(qkv, kHeads, legacy);
        out.backward(slope.to(qkv.device(), qkv.scalar_type()));
        return out.detach().to(at::kCPU);
      };
      const at::Tensor exact = here.to(at::kDouble).requires_grad_(true), expected = trained(exact);
      const at::Tensor there = here.to(at::Device(at::kCUDA, 0));
      for (const at::Tensor& laid : {there, channels_side_by_side(there)}) {
        INFO(type << ", legacy " << legacy);
        const at::Tensor qkv = laid.detach().requires_grad_(true);
        const bool side_by_side = daug::detail::attends_to_rows(qkv.device().type(), type);
        CHECK(attention_kernel(daug::detail::attention_inputs(qkv, kHeads, legacy, side_by_side)) !=
              at::SDPBackend::math);
        CHECK(largest_difference(trained(qkv), expected) < 2e-2);
        CHECK(largest_difference(qkv.grad().to(at::kCPU), exact.grad()) < 2e-2);
        const at::NoGradGuard no_grad;  // as networks are asked for images
        CHECK(attention_kernel(daug::detail::attention_inputs(laid, kHeads, legacy, side_by_side)) !=
              at::SDPBackend::math);
        CHECK(largest_difference(daug::detail::qkv_attention(laid, kHeads, legacy).to(at::kCPU), expected) < 2e-2);
      }
    }
}

TEST_CASE("patches are pixel-unshuffled channels of a smaller image", "[denoiser_unet]") {
  auto small = tiny_options();
  small.in_channels = 4;
  small.out_channels = 8;
  auto large = tiny_options();
  large.image_size = 16;
  large.patch = 2;
  large.out_channels = 2;
  auto whole = tiny_unet(large), parts = tiny_unet(small, 77);
  SafetensorsFile weights;
  for (const auto& [name, tensor] : parameters_of(*whole)) weights.tensors.emplace(name, array_from(tensor));
  load_weights(*parts, weights, "the patched network");

  const at::Tensor x = random_tensor({2, 1, 16, 16}, 9), t = longs({40, 2});
  const at::Tensor condition = rows({{1, -1, 0}, {0, 0, 1}});
  at::Tensor unshuffled = at::empty({2, 4, 8, 8}, at::kDouble);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      unshuffled.select(1, 2 * i + j).copy_(x.select(1, 0).slice(1, i, 16, 2).slice(2, j, 16, 2));
  const at::Tensor expected = parts->forward(unshuffled, t, condition);
  const at::Tensor actual = whole->forward(x, t, condition);
  REQUIRE(actual.sizes() == at::IntArrayRef({2, 2, 16, 16}));
  for (int c = 0; c < 2; ++c)
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        CHECK(largest_difference(actual.select(1, c).slice(1, i, 16, 2).slice(2, j, 16, 2),
                                 expected.select(1, 4 * c + 2 * i + j)) < 1e-12);
  CHECK_THROWS_AS(whole->forward(x.narrow(2, 0, 14), t, condition), Error);  // 14 is not a multiple of 4
}

TEST_CASE("UNet gradients agree with finite differences", "[denoiser_unet]") {
  auto options = tiny_options(2);
  options.use_scale_shift_norm = true;
  auto network = tiny_unet(options);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 4), t = longs({9, 400}), weight = random_tensor({2, 1, 8, 8}, 6);
  const at::Tensor condition = rows({{1, 0}, {-1, 1}});
  x.requires_grad_(true);
  auto parameters = parameters_of(*network);
  check_gradients([&] { return (network->forward(x, t, condition) * weight).sum(); },
                  {x, parameters.at("condition_embed.weight"), parameters.at("time_embed.0.weight"),
                   parameters.at("middle_block.1.qkv.weight"), parameters.at("output_blocks.0.0.in_layers.2.weight")},
                  4);
}

TEST_CASE("recomputed activations change neither values nor gradients", "[denoiser_unet]") {
  const auto run = [](bool checkpoint, double dropout) {
    auto options = tiny_options();
    options.resblock_updown = true;
    options.use_checkpoint = checkpoint;
    options.dropout = dropout;
    auto network = tiny_unet(options);
    network->seed_dropout(17);
    const at::Tensor x = random_tensor({2, 1, 8, 8}, 2).requires_grad_(true);
    const at::Tensor out = network->forward(x, longs({3, 700}), rows({{1, 0, -1}, {0, 1, 0}}));
    (out * random_tensor({2, 1, 8, 8}, 3)).sum().backward();
    std::vector<at::Tensor> results = {out.detach(), x.grad()};
    for (const auto& parameter : network->parameters()) results.push_back(parameter.grad());
    return results;
  };
  for (const double dropout : {0.0, 0.4}) {
    const auto kept = run(false, dropout), recomputed = run(true, dropout);
    REQUIRE(kept.size() == recomputed.size());
    for (std::size_t i = 0; i < kept.size(); ++i) CHECK(largest_difference(kept[i], recomputed[i]) < 1e-12);
  }
  // Frozen weights: the gradient of the input alone, as classifier guidance needs it.
  auto options = tiny_options();
  options.use_checkpoint = true;
  auto network = tiny_unet(options);
  for (auto& parameter : network->parameters()) parameter.set_requires_grad(false);
  const at::Tensor x = random_tensor({1, 1, 8, 8}, 2).requires_grad_(true);
  check_gradients([&] { return network->forward(x, longs({3}), rows({{1, 0, -1}})).square().sum(); }, {x}, 4);
  at::NoGradGuard no_grad;
  CHECK_FALSE(network->forward(x, longs({3}), rows({{1, 0, -1}})).requires_grad());
}

TEST_CASE("fused and plain execution agree in float32, and with float64", "[denoiser_unet]") {
  const at::Tensor x = random_tensor({3, 1, 16, 16}, 2), t = longs({3, 700, 40});
  for (const bool scale_shift : {false, true}) {
    const auto run = [&](Execution execution, at::ScalarType type) {
      auto options = tiny_options(0);
      options.model_channels = 32;
      options.norm_groups = 8;
      options.use_scale_shift_norm = scale_shift;
      options.execution = execution;
      DenoiserUNet network(options);
      randomise(*network, 5);
      network->to(type);
      c10::InferenceMode inference;
      return network->forward(x.to(type), t).to(at::kDouble);
    };
    const at::Tensor exact = run(Execution::kReference, at::kDouble);
    const double size = exact.abs().max().item<double>();
    for (const Execution execution : {Execution::kAuto, Execution::kFused, Execution::kReference})
      CHECK(largest_difference(run(execution, at::kFloat), exact) < 1e-5 * size);
    CHECK_THROWS_AS(run(Execution::kFused, at::kDouble), Error);
  }
}

TEST_CASE("dropout draws from its own seed, and only while training", "[denoiser_unet]") {
  auto options = tiny_options();
  options.dropout = 0.5;
  auto network = tiny_unet(options);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 2), t = longs({3, 700}), condition = rows({{1, 0, 0}, {0, 1, 0}});
  const auto answers = [&](std::uint64_t seed) {
    network->seed_dropout(seed);
    return std::pair{network->forward(x, t, condition), network->forward(x, t, condition)};
  };
  const auto first = answers(1), again = answers(1), other = answers(2);
  CHECK(same_bits(first.first, again.first));
  CHECK(same_bits(first.second, again.second));
  CHECK(largest_difference(first.first, first.second) > 1e-3);
  CHECK(largest_difference(first.first, other.first) > 1e-3);
  at::manual_seed(99);
  CHECK(same_bits(answers(1).first, first.first));
  network->eval();
  auto plain = tiny_unet(tiny_options());
  CHECK(same_bits(network->forward(x, t, condition), plain->forward(x, t, condition)));
  options.dropout = 1;
  CHECK_THROWS_AS(DenoiserUNet(options), Error);
}

TEST_CASE("a batch that is passed in parts has the dropout masks of the whole", "[denoiser_unet]") {
  constexpr std::int64_t kItems = 5;
  const at::Tensor x = random_tensor({kItems, 1, 8, 8}, 2), t = longs({3, 700, 40, 3, 9});
  for (const bool checkpoint : {false, true}) {
    auto options = tiny_options(0);
    options.dropout = 0.5;
    options.use_checkpoint = checkpoint;
    auto network = tiny_unet(options);
    // A part's answers, and what it adds to the gradients.
    const auto part = [&](std::int64_t begin, std::int64_t count, std::int64_t of) {
      network->seed_dropout(17, of > 0 ? begin : 0, of);
      const at::Tensor out = network->forward(x.narrow(0, begin, count), t.narrow(0, begin, count));
      (out * random_tensor({kItems, 1, 8, 8}, 3).narrow(0, begin, count)).sum().backward();
      return out.detach();
    };
    const auto taken_gradients = [&] {
      std::vector<at::Tensor> gradients;
      for (auto& parameter : network->parameters()) {
        gradients.push_back(parameter.grad().clone());
        parameter.mutable_grad() = at::Tensor();
      }
      return gradients;
    };
    const at::Tensor whole = part(0, kItems, 0);
    const auto expected = taken_gradients();
    const at::Tensor parts = at::cat({part(0, 2, kItems), part(2, 2, kItems), part(4, 1, kItems)});
    const auto actual = taken_gradients();
    CHECK(largest_difference(parts, whole) < 1e-12 * (1 + whole.abs().max().item<double>()));
    REQUIRE(actual.size() == expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      INFO("parameter " << i);
      CHECK(largest_difference(actual[i], expected[i]) < 1e-10 * (1 + expected[i].abs().max().item<double>()));
    }
    CHECK(largest_difference(part(2, 2, 0), whole.narrow(0, 2, 2)) > 1e-3);  // drawn for themselves they are others
  }
  auto options = tiny_options(0);
  options.dropout = 0.5;
  auto network = tiny_unet(options);
  CHECK_THROWS_AS(network->seed_dropout(1, 1), Error);
  CHECK_THROWS_AS(network->seed_dropout(1, -1, 5), Error);
  CHECK_THROWS_AS(network->seed_dropout(1, 6, 5), Error);
  network->seed_dropout(1, 4, 5);
  CHECK_NOTHROW(network->forward(x.narrow(0, 0, 1), t.narrow(0, 0, 1)));
  CHECK_THROWS_AS(network->forward(x.narrow(0, 0, 2), t.narrow(0, 0, 2)), Error);
}

TEST_CASE("golden: UNet output and gradients", "[denoiser_unet][golden]") {
  for_each_golden("unet_", [](const GoldenSet& set) {
    const auto& tolerance = set.settings.at("tolerance");
    double worst = 0;
    for (const bool twice : {false, true}) {
      const auto type = twice ? at::kDouble : at::kFloat;
      const std::string suffix = twice ? "_f64" : "";
      auto network = golden_unet(set, type);
      const at::Tensor x = to_tensor(set.at("x")).to(type).requires_grad_(true);
      const at::Tensor condition = set.file.contains("y") ? tensor_from(set.at("y")) : at::Tensor();
      const at::Tensor out = network->forward(x, tensor_from(set.at("t")), condition);
      (out * to_tensor(set.at("r")).to(type)).sum().backward();
      const double largest_out = twice ? kFloat64Tolerance : tolerance.at("out").get<double>();
      const double largest_gradient = twice ? kFloat64Tolerance : tolerance.at("grad_x").get<double>();
      worst = std::max(worst, check_close(out, set.at("out" + suffix), largest_out, "out" + suffix));
      worst = std::max(worst, check_close(x.grad(), set.at("grad_x" + suffix), largest_gradient, "grad_x" + suffix));
      if (twice) {
        check_gradient_norms(*network, set);
        continue;
      }
      const double largest = tolerance.at("param_grads");
      const auto parameters = parameters_of(*network);
      const auto norms = set.at("param_grad_norm").to_double();
      const double highest = *std::max_element(norms.begin(), norms.end());
      const auto cancelled = set.settings.value("params_with_zero_gradient", std::vector<std::string>{});
      for (const auto& [name, array] : set.file.tensors) {
        if (name.rfind("grad.", 0) != 0) continue;
        REQUIRE(parameters.count(name.substr(5)) == 1);
        const at::Tensor gradient = parameters.at(name.substr(5)).grad();
        if (std::count(cancelled.begin(), cancelled.end(), name.substr(5)) > 0) {  // rounding in both
          INFO(name);
          CHECK(std::max(gradient.abs().max().item<double>(), to_tensor(set.at(name)).abs().max().item<double>()) <=
                largest * highest);
          continue;
        }
        worst = std::max(worst, check_close(gradient, set.at(name), largest, name));
      }
    }
    check_outputs_read(set);
    return worst;
  });
}

TEST_CASE("inference_bytes bounds what a forward pass holds, and not loosely", "[denoiser_unet]") {
  const std::vector<std::pair<std::int64_t, std::vector<double>>> networks = {
      {1, {1, 2}}, {2, {1, 1, 2, 3}}, {1, {2}}, {1, {3, 1}}, {2, {3, 1}}};
  for (const bool updown : {false, true})
    for (const auto& [patch, mult] : networks) {
      DenoiserUNetOptions options;
      options.image_size = 32, options.model_channels = 32, options.channel_mult = mult, options.patch = patch;
      options.num_res_blocks = 1 + static_cast<std::int64_t>(mult.size()) % 2, options.norm_groups = 8;
      options.attention_downsample = {2}, options.resblock_updown = updown;
      DenoiserUNet network(options);
      c10::InferenceMode inference;
      // Of two batches, so that what does not grow with the batch (weights laid out anew) does not count.
      const auto held = [&](std::int64_t batch) {
        const at::Tensor x = at::zeros({batch, 1, 32, 48}), t = at::zeros({batch}, at::kLong);
        network->forward(x, t);  // what LibTorch makes once
        MemoryCount count;
        network->forward(x, t);
        return static_cast<double>(count.peak());
      };
      const double each = (held(12) - held(4)) / 8, bound = static_cast<double>(network->inference_bytes(32, 48));
      INFO("levels " << mult.size() << " patch " << patch << " updown " << updown << ": " << each << " of " << bound);
      CHECK(each <= bound);
      CHECK(each >= 0.5 * bound);
    }
}
