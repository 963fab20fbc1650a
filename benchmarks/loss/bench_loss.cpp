// The hybrid loss, forward and backward: whole matrices of scores, as LibTorch's operators make them, against tiles, in
// one run. "peak_MB" is what the resident memory of a call before those that are timed grew by, gradients included;
// "bound_MB" is 4 B D floats + 16 MB; "of_sgemm" counts the B x B x D products that each form makes. DAUG_BENCH_LARGE=1
// adds B = 65536 in tiles (one whole matrix would be 17 GB). With DAUG_PEER_FILES embeddings, loss and gradient of the
// contrastive term are written for peers/bench_loss_peers.py.

#include <ATen/ATen.h>
#include <malloc.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "daug/io/weights.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "support/peer_files.h"
#include "support/rates.h"
#include "support/torch_context.h"

namespace {

constexpr std::int64_t kWidth = 512, kFindings = 14;

/// A line of /proc/self/status in bytes.
double memory(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == name + ":") {
      double kilobytes = 0;
      status >> kilobytes;
      return kilobytes * 1024;
    }
  return 0;
}

/// By how many bytes the resident memory grows at most while `work` runs. Memory that was freed before goes back to the
/// system first: what `work` takes of it would not count else.
template <class Work>
double growth(const Work& work) {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM begins anew
  const double before = memory("VmRSS");
  work();
  return memory("VmHWM") - before;
}

/// What open_clip does: both products on their own, two cross-entropies.
at::Tensor two_products(const at::Tensor& image, const at::Tensor& text) {
  const at::Tensor v = image / image.norm(2, 1, true), t = text / text.norm(2, 1, true);
  const at::Tensor labels = at::arange(v.size(0), at::kLong);
  const double tau = std::exp(4.602);
  return (at::cross_entropy_loss(tau * v.matmul(t.t()), labels) +
          at::cross_entropy_loss(tau * t.matmul(v.t()), labels)) /
         2;
}

/// The same by hand: one product, logsumexp of its rows and columns.
at::Tensor one_product(const at::Tensor& image, const at::Tensor& text) {
  const at::Tensor v = image / image.norm(2, 1, true), t = text / text.norm(2, 1, true);
  const double tau = std::exp(4.602);
  const at::Tensor scores = (tau * t).matmul(v.t());
  return (scores.logsumexp(1).mean() + scores.logsumexp(0).mean()) / 2 - tau * (v * t).sum(1).mean();
}

/// loss_B.io.safetensors: image, text, loss and the gradient to image.
template <class Loss>
void write_for_peers(const Loss& loss, const at::Tensor& image, const at::Tensor& text) {
  const std::string path = daug::bench::peer_file("loss_" + std::to_string(image.size(0)) + ".io.safetensors");
  if (path.empty() || image.size(0) > 16384) return;
  daug::bench::once(path, [&] {
    const at::Tensor value = loss(image, text);
    value.backward();
    daug::save_weights(path, daug::NamedTensors{{"image", image.detach()},
                                                {"text", text.detach()},
                                                {"loss", value.detach()},
                                                {"image_grad", image.grad()}});
    return 0.0;
  });
}

/// products: how many times the loss and its gradients multiply B x D by D x B or B x B by B x D. `for_peers`: peers
/// compute the same.
template <class Loss>
void run(benchmark::State& state, const Loss& loss, double products, bool for_peers = false) {
  const std::int64_t batch = state.range(0);
  const at::Tensor image = at::randn({batch, kWidth}).requires_grad_(true);
  const at::Tensor text = (at::randn({batch, kWidth}) + 0.3 * image.detach()).requires_grad_(true);
  if (for_peers) write_for_peers(loss, image, text);
  const auto forget = [&] { image.mutable_grad() = at::Tensor(), text.mutable_grad() = at::Tensor(); };
  forget();
  const double gradients = 2.0 * static_cast<double>(image.nbytes());
  const double peak = growth([&] { loss(image, text).backward(); });
  if (peak < gradients) return state.SkipWithError("less memory was counted than the gradients take");
  for (auto _ : state) {
    state.PauseTiming();
    forget();
    state.ResumeTiming();
    loss(image, text).backward();
  }
  state.SetItemsProcessed(state.iterations() * batch);
  state.counters["peak_MB"] = peak / 1e6;
  state.counters["bound_MB"] = (2 * gradients + (16 << 20)) / 1e6;
  daug::bench::report_flops(state, products * 2 * kWidth * static_cast<double>(batch) * static_cast<double>(batch));
}

/// w: weight of the contrastive term; 1 leaves the class term out.
void hybrid_loss(benchmark::State& state, daug::Execution execution, double w, daug::ContrastiveForm form,
                 daug::LabelPairs pairs = daug::LabelPairs::kNegatives) {
  daug::HybridLossOptions options;
  options.clip_weight = w, options.execution = execution, options.contrastive_form = form;
  options.label_pairs = pairs;
  const at::Tensor prompts = at::randn({kFindings, kWidth}).requires_grad_(true);
  const at::Tensor labels = at::rand({state.range(0), kFindings}).lt(0.2).to(at::kFloat);
  const bool tiled = execution == daug::Execution::kFused;
  const auto loss = [&](const at::Tensor& image, const at::Tensor& text) {
    return daug::hybrid_contrastive_loss(image, text, prompts, labels, {}, {}, options).total;
  };
  // Tiles make the scores again in the backward pass; whole matrices are kept.
  const bool published = form == daug::ContrastiveForm::kSoftmax && pairs == daug::LabelPairs::kNegatives;
  run(state, loss, tiled ? 4 : 3, tiled && w == 1 && published);
}

void batches(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("B")->Arg(512)->Arg(4096)->Arg(16384)->Unit(benchmark::kMillisecond)->UseRealTime();
}
/// Whole matrices of soft pairs are seven and more: 16384 items would take 7 GB.
void few_batches(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("B")->Arg(512)->Arg(4096)->Unit(benchmark::kMillisecond)->UseRealTime();
}
void tiled_batches(benchmark::internal::Benchmark* benchmark) {
  batches(benchmark);
  if (std::getenv("DAUG_BENCH_LARGE")) benchmark->Arg(65536);
}

constexpr auto kSoftmax = daug::ContrastiveForm::kSoftmax;
constexpr auto kSigmoid = daug::ContrastiveForm::kSigmoid;
constexpr auto kSoft = daug::LabelPairs::kSoft;
BENCHMARK_CAPTURE(hybrid_loss, clip_tiled, daug::Execution::kFused, 1.0, kSoftmax)->Apply(tiled_batches);
BENCHMARK_CAPTURE(run, clip_two_products, two_products, 6)->Apply(batches);
BENCHMARK_CAPTURE(run, clip_one_product, one_product, 3)->Apply(batches);
BENCHMARK_CAPTURE(hybrid_loss, clip_reference, daug::Execution::kReference, 1.0, kSoftmax)->Apply(batches);
BENCHMARK_CAPTURE(hybrid_loss, hybrid_tiled, daug::Execution::kFused, 0.7, kSoftmax)->Apply(batches);
BENCHMARK_CAPTURE(hybrid_loss, hybrid_reference, daug::Execution::kReference, 0.7, kSoftmax)->Apply(batches);
BENCHMARK_CAPTURE(hybrid_loss, sigmoid_tiled, daug::Execution::kFused, 1.0, kSigmoid)->Apply(batches);
BENCHMARK_CAPTURE(hybrid_loss, sigmoid_reference, daug::Execution::kReference, 1.0, kSigmoid)->Apply(batches);
BENCHMARK_CAPTURE(hybrid_loss, soft_tiled, daug::Execution::kFused, 1.0, kSoftmax, kSoft)->Apply(tiled_batches);
BENCHMARK_CAPTURE(hybrid_loss, soft_reference, daug::Execution::kReference, 1.0, kSoftmax, kSoft)->Apply(few_batches);

}  // namespace

DAUG_TORCH_BENCHMARK_MAIN()
