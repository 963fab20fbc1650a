// Memory of freed tensors is used again, within the limit, and a translation needs no more of it after its first step.

#include "daug/backend/tensor_memory.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daug/translator/denoiser_unet.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// On while it lives.
struct Reuse {
  explicit Reuse(std::size_t most_bytes = std::size_t{1} << 30) { reuse_tensor_memory(most_bytes); }
  ~Reuse() { reuse_tensor_memory(0); }
};

}  // namespace

TEST_CASE("a freed tensor's memory serves the next of its size", "[backend][memory]") {
  const Reuse reuse;
  const void* first = nullptr;
  {
    const at::Tensor tensor = at::empty({1000, 1000});
    first = tensor.data_ptr();
    CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
  }
  const TensorMemory before = tensor_memory();
  CHECK(before.kept >= 4000000);
  const at::Tensor again = at::full({500, 1990}, 7.0F);  // half a percent smaller
  CHECK(again.data_ptr() == first);
  CHECK(tensor_memory().fresh == before.fresh);
  CHECK(tensor_memory().requests > before.requests);
  CHECK(again.sum().item<double>() == Approx(7.0 * 500 * 1990));
}

TEST_CASE("freed memory is kept up to the limit", "[backend][memory]") {
  const Reuse reuse(1 << 20);
  reuse_tensor_memory(0);
  CHECK(tensor_memory().kept == 0);
  reuse_tensor_memory(1 << 20);
  { const at::Tensor large = at::empty({2 << 20}, at::kByte); }
  CHECK(tensor_memory().kept == 0);
  {
    std::vector<at::Tensor> small;
    for (int i = 0; i < 8; ++i) small.push_back(at::empty({300 << 10}, at::kByte));
  }
  CHECK(tensor_memory().kept <= 1 << 20);
  CHECK(tensor_memory().kept >= 900 << 10);
  reuse_tensor_memory(0);
  CHECK(tensor_memory().kept == 0);
  { const at::Tensor tensor = at::empty({1000}); }
  CHECK(tensor_memory().kept == 0);
}

TEST_CASE("blocks of every size hold what tensors write", "[backend][memory]") {
  const Reuse reuse;
  for (int round = 0; round < 2; ++round)
    for (std::int64_t bytes = 1; bytes < 40000; bytes += bytes < 600 ? 1 : 997) {
      const at::Tensor one = at::full({bytes}, 1, at::kByte), two = at::full({bytes}, 2, at::kByte);
      REQUIRE(one.sum().item<std::int64_t>() == bytes);
      REQUIRE(two.sum().item<std::int64_t>() == 2 * bytes);
    }
}

TEST_CASE("an impossible size is refused as without reuse", "[backend][memory]") {
  const Reuse reuse;
  CHECK_THROWS(at::empty({std::int64_t{1} << 60}, at::kByte));
}

TEST_CASE("a translation takes no new memory once its steps repeat", "[backend][memory]") {
  const Reuse reuse;
  const NoiseSchedule schedule = NoiseSchedule::linear(1000);
  DenoiserUNetOptions network;
  network.image_size = 32, network.model_channels = 32, network.channel_mult = {1, 2}, network.num_res_blocks = 1;
  network.attention_downsample = {2}, network.num_heads = 2, network.num_findings = 2;
  const auto predictor = make_noise_predictor(DenoiserUNet(network), schedule, Prediction::kV);
  for (const GuidanceKind kind : {GuidanceKind::kContrast, GuidanceKind::kClassifierFree, GuidanceKind::kNone}) {
    TranslatorOptions options;
    options.level = 400, options.steps = 6, options.guidance.kind = kind;
    const DiffusionTranslator translator(predictor, schedule, {"a", "b"}, options);
    const at::Tensor x = random_tensor({3, 1, 32, 32}, 5).clamp(-1, 1).to(at::kFloat);
    c10::InferenceMode inference;
    const at::Tensor latent = translator.encode(x);  // the process's first calls fill what LibTorch keeps for itself
    reuse_tensor_memory(0);
    reuse_tensor_memory();
    std::vector<std::int64_t> fresh;
    RunControl control;
    control.progress = [&](const Progress&) { fresh.push_back(tensor_memory().fresh); };
    // The second step may take one block more: the state that the caller's own image was in the first.
    const auto check_fresh = [&] {
      REQUIRE(fresh.size() == 6);
      CHECK(fresh[0] > 0);
      CHECK(fresh[1] <= fresh[0] + 1);
      CHECK(fresh[5] == fresh[1]);
      fresh.clear();
    };
    const at::Tensor encoded = translator.encode(x, {}, control);
    check_fresh();
    const at::Tensor images = translator.decode(encoded, {toward("a"), away_from("b")}, {}, control);
    check_fresh();
    CHECK(same_bits(encoded, latent));
  }
}
