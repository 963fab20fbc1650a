// The hybrid loss, forward and backward, by batch size.

#include <ATen/ATen.h>

#include "daug/loss/hybrid_contrastive_loss.h"
#include "support/torch_context.h"

namespace {

void hybrid_loss(benchmark::State& state) {
  constexpr std::int64_t kWidth = 512, kFindings = 14;
  const std::int64_t batch = state.range(0);
  const at::Tensor image = at::randn({batch, kWidth}).requires_grad_(true);
  const at::Tensor text = at::randn({batch, kWidth}).requires_grad_(true);
  const at::Tensor prompts = at::randn({kFindings, kWidth}).requires_grad_(true);
  const at::Tensor labels = at::rand({batch, kFindings}).lt(0.2).to(at::kFloat);
  const daug::HybridContrastiveLoss loss;
  for (auto _ : state) loss(image, text, prompts, labels).total.backward();
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(hybrid_loss)->Arg(32)->Arg(512)->Arg(2048)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
