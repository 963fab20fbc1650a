// The loss on a CUDA device, which takes tiles by itself, beside whole matrices in float64 on the CPU.

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/version.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/backend/determinism.h"
#include "daug/core/error.h"
#include "daug/loss/deferred_checks.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "kernels/device.h"
#include "loss/problems.h"
#include "loss/seen_tiles.h"
#include "loss/tile_math.h"
#include "support/caught.h"
#include "support/device.h"

// LibTorch before this does not say what a device's tensors hold.
#define DAUG_TEST_COUNTS_DEVICE_MEMORY \
  (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 9))
#if DAUG_TEST_COUNTS_DEVICE_MEMORY
#include <c10/core/CachingDeviceAllocator.h>
#endif

using namespace daug;
using namespace daug::test;

namespace {

at::TensorOptions on_device(at::ScalarType type) { return at::TensorOptions(type).device(at::Device(at::kCUDA, 0)); }

using Layout = std::function<at::Tensor(const at::Tensor&)>;

/// The loss of such a problem where and in what type `where` says, labels and the like beside it.
struct LossOnDevice {
  HybridLossOutput output;
  std::vector<at::Tensor> gradients;  ///< by images, reports, prompts, ln tau, b and, where there are some, biases

  LossOnDevice(HybridLossInputs inputs, HybridLossOptions options, Execution execution, const at::TensorOptions& where,
               DeferredChecks* checks = nullptr, const Layout& laid_out = {}) {
    options.execution = execution;
    std::vector<at::Tensor*> leaves = {&inputs.image, &inputs.text, &inputs.class_prompts, &inputs.logit_scale,
                                       &inputs.logit_bias};
    if (inputs.class_bias.defined()) leaves.push_back(&inputs.class_bias);
    for (at::Tensor* leaf : leaves) *leaf = leaf->to(where, /*non_blocking=*/false, /*copy=*/true);
    if (laid_out) inputs.image = laid_out(inputs.image).detach(), inputs.text = laid_out(inputs.text).detach();
    for (at::Tensor* leaf : leaves) leaf->requires_grad_(true);
    for (at::Tensor* given :
         {&inputs.labels, &inputs.label_mask, &inputs.text_mask, &inputs.study, &inputs.positive_weights})
      if (given->defined()) *given = given->to(where.device());
    output = hybrid_contrastive_loss(inputs, options, checks);
    output.total.backward();
    // Without any report there is no gradient by the bias.
    for (const at::Tensor* leaf : leaves)
      gradients.push_back(leaf->grad().defined() ? leaf->grad() : at::zeros_like(*leaf));
  }

  bool tiled() const { return output.clip.grad_fn()->name().find("TiledContrastive") != std::string::npos; }

  /// Errors relative to the loss and to the largest number of each gradient and, with a tau, to what a score of that
  /// size comes to. Single numbers may come to next to nothing.
  void check_near(const LossOnDevice& expected, double tolerance, double tau = 0) const {
    CHECK(value(output.total) == Approx(value(expected.output.total)).epsilon(tolerance));
    for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
      INFO("gradient " << i);
      const at::Tensor right = expected.gradients[i], left = gradients[i].to(right.options());
      const double floor = right.numel() == 1 ? 1 + tau : i < 2 ? tau / static_cast<double>(right.size(0)) : 0;
      CHECK(value((left - right).abs().max()) <= tolerance * (floor + value(right.abs().max())));
    }
  }
};

/// In numbers that bfloat16 holds.
HybridLossInputs device_problem(std::int64_t items) {
  HybridLossInputs inputs;
  inputs.image = random_tensor({items, 6}, 1);
  inputs.text = 0.5 * inputs.image + random_tensor({items, 6}, 2);
  inputs.class_prompts = random_tensor({3, 6}, 3);
  for (at::Tensor* rows : {&inputs.image, &inputs.text, &inputs.class_prompts})
    *rows = rows->to(at::kBFloat16).to(at::kDouble);
  inputs.labels = (random_tensor({items, 3}, 4) > 0.3).to(at::kLong);
  inputs.logit_scale = at::tensor({3.0}, at::kDouble), inputs.logit_bias = at::tensor({-4.0}, at::kDouble);
  return inputs;
}

/// body(inputs, options) for such problems with every form and kind of pairs, with and without absent reports and,
/// beside them, studies.
template <class Body>
void for_each_problem(std::int64_t items, const Body& body) {
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
      for (const bool masked : {false, true}) {
        HybridLossInputs inputs = device_problem(items);
        if (masked) inputs.text_mask = random_tensor({items}, 5) > -1;
        if (masked && pairs != LabelPairs::kPositives) inputs.study = at::arange(items, at::kLong).div(3, "floor");
        HybridLossOptions options = options_for(0.7);
        options.contrastive_form = form, options.label_pairs = pairs;
        INFO(items << " items, form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs) << " masked "
                   << masked);
        body(inputs, options);
      }
}

}  // namespace

TEST_CASE("the CPU takes tiles where whole matrices would take more than they may, and from 1024 items on",
          "[loss][tiled]") {
  struct Limit {
    ContrastiveForm form;
    LabelPairs pairs;
    at::ScalarType type;
    std::int64_t items;  ///< from which on there are tiles
  };
  // The roots of 2^22 numbers, of float64 2^23, over 6, 10 and 14 matrices.
  const std::vector<Limit> limits = {{ContrastiveForm::kSoftmax, LabelPairs::kNegatives, at::kFloat, 837},
                                     {ContrastiveForm::kSoftmax, LabelPairs::kNegatives, at::kDouble, 1024},
                                     {ContrastiveForm::kSoftmax, LabelPairs::kIgnored, at::kFloat, 648},
                                     {ContrastiveForm::kSoftmax, LabelPairs::kPositives, at::kFloat, 648},
                                     {ContrastiveForm::kSoftmax, LabelPairs::kSoft, at::kDouble, 916},
                                     {ContrastiveForm::kSigmoid, LabelPairs::kNegatives, at::kFloat, 548},
                                     {ContrastiveForm::kSigmoid, LabelPairs::kSoft, at::kDouble, 775}};
  for (const Limit& limit : limits)
    for (const std::int64_t items : {limit.items - 1, limit.items}) {
      HybridLossOptions options = options_for(0.7);
      options.contrastive_form = limit.form, options.label_pairs = limit.pairs;
      INFO(items << " items of " << limit.type << ", form " << static_cast<int>(limit.form) << " pairs "
                 << static_cast<int>(limit.pairs));
      const LossOnDevice loss(device_problem(items), options, Execution::kAuto,
                              at::TensorOptions(limit.type).device(at::kCPU));
      CHECK(loss.tiled() == (items == limit.items));
    }
  // Without a contrastive term there are no matrices of pairs.
  HybridLossInputs labelled = device_problem(1000);
  labelled.image.requires_grad_(true);
  const at::Tensor total = hybrid_contrastive_loss(labelled, options_for(0)).total;
  CHECK(torch::autograd::grad({total}, {labelled.image}, {}, /*retain_graph=*/true, /*create_graph=*/true)[0]
            .requires_grad());
  // So wide that copies of the rows take more.
  HybridLossInputs wide = device_problem(16);
  wide.image = random_tensor({16, 70000}, 1), wide.text = random_tensor({16, 70000}, 2);
  wide.class_prompts = random_tensor({3, 70000}, 3);
  const auto where = at::TensorOptions(at::kFloat).device(at::kCPU);
  CHECK(LossOnDevice(wide, options_for(0.7), Execution::kAuto, where).tiled());
}

TEST_CASE("tiles of device kernels are refused where they are not compiled in, or too broad", "[loss][cuda]") {
  if (!kernels::device_kernels_compiled()) {
    check_refused(ErrorCode::kUnsupported, "DAUG_CUDA", [] { daug::detail::device_tile_math(512, 2048); });
    return;
  }
  check_refused(ErrorCode::kInvalidArgument, "2048", [] { daug::detail::device_tile_math(512, 2049); });
  CHECK(daug::detail::device_tile_math(512, 2048)->takes_bfloat16());
}

TEST_CASE("the loss on a device is that of whole matrices on the CPU, in tiles where these would take more", "[gpu]") {
  if (no_device()) return;
  struct Way {
    at::ScalarType type;
    Execution execution;
    double tolerance;
  };
  const std::vector<Way> ways = {{at::kDouble, Execution::kAuto, 1e-10},
                                 {at::kFloat, Execution::kAuto, 1e-4},
                                 {at::kBFloat16, Execution::kAuto, 2e-2},
                                 {at::kFloat, Execution::kFused, 1e-5},
                                 {at::kBFloat16, Execution::kFused, 2e-2}};
  for (const std::int64_t items : {300, 2500})  // six matrices of 2500 x 2500 are more than eight tiles of 2048 x 2048
    for_each_problem(items, [&](const HybridLossInputs& inputs, const HybridLossOptions& options) {
      const LossOnDevice whole(inputs, options, Execution::kReference, at::TensorOptions(at::kDouble).device(at::kCPU));
      for (const Way& way : ways) {
        INFO(way.type << ", execution " << static_cast<int>(way.execution));
        const LossOnDevice there(inputs, options, way.execution, on_device(way.type));
        CHECK(there.tiled() == (items == 2500 || way.execution == Execution::kFused));
        there.check_near(whole, way.tolerance);
      }
    });
}

TEST_CASE("device kernels take tiles of every shape and temperature, and give the same bits twice", "[gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  // Rows in packs of four and single; blocks of eight rows and fewer; tiles without own pairs.
  const std::vector<std::pair<std::int64_t, std::int64_t>> sizes = {{40, 64}, {9, 30}};
  for (const auto& size : sizes) {
    const auto math = daug::detail::device_tile_math(size.first, size.second);
    const daug::detail::TileMathGuard guard(*math);
    for (const std::int64_t items : {1, 37, 100})
      for (const double log_tau : {0.0, 2.625, 4.5})
        for_each_problem(items, [&](HybridLossInputs inputs, const HybridLossOptions& options) {
          inputs.logit_scale = at::tensor({log_tau}, at::kDouble);
          const double tau = std::exp(log_tau);
          const LossOnDevice whole(inputs, options, Execution::kReference,
                                   at::TensorOptions(at::kDouble).device(at::kCPU));
          for (const auto type : {at::kFloat, at::kBFloat16}) {
            INFO("tiles of " << size.first << " x " << size.second << ", tau " << tau << " " << type);
            const LossOnDevice once(inputs, options, Execution::kFused, on_device(type));
            const LossOnDevice twice(inputs, options, Execution::kFused, on_device(type));
            // float32 scores of tau are off by some 1e-7 of it.
            once.check_near(whole, type == at::kFloat ? 1e-6 * (10 + tau) : 2e-2, tau);
            CHECK(at::equal(once.output.clip, twice.output.clip));
            for (const std::size_t i : {0U, 1U}) CHECK(at::equal(once.gradients[i], twice.gradients[i]));
          }
        });
  }
}

TEST_CASE("with checks that are read later a device multiplies bfloat16 as it is, of rows of any norm", "[gpu]") {
  if (no_device()) return;
  std::vector<std::unique_ptr<const daug::detail::TileMath>> kinds;
  kinds.push_back(daug::detail::aten_tile_math(32, 48));
  if (kernels::device_kernels_compiled()) kinds.push_back(daug::detail::device_tile_math(40, 64));
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    SeenTiles seen(*kinds[kind]);
    const daug::detail::TileMathGuard guard(seen);
    for_each_problem(100, [&](HybridLossInputs inputs, const HybridLossOptions& options) {
      const double far = std::ldexp(1.0, 66);  // whose square float32 does not hold
      inputs.image[3].mul_(far), inputs.text[5].div_(far);
      const LossOnDevice whole(inputs, options, Execution::kReference, at::TensorOptions(at::kDouble).device(at::kCPU));
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        INFO("kind of tiles " << kind << ", " << type);
        DeferredChecks checks;
        checks.begin(0);
        seen.types.clear();
        const LossOnDevice there(inputs, options, Execution::kFused, on_device(type), &checks);
        CHECK(seen.types == std::set<at::ScalarType>{type});
        there.check_near(whole, type == at::kFloat ? 1e-4 : 2e-2);
        checks.settle();
      }
    });
  }
}

namespace {

/// The contrastive term, without options, of many items, and the gradients of some of its rows.
struct SampledLoss {
  double loss = 0;
  at::Tensor by_image, by_text;  ///< of the rows `sampled`

  /// In float64 where the embeddings are, by LibTorch's operators on whole rows of scores, some rows at a time.
  SampledLoss(const at::Tensor& image, const at::Tensor& text, const at::Tensor& sampled,
              const HybridLossOptions& options) {
    const double tau = std::exp(options.logit_scale), bias = options.logit_bias;
    const bool sigmoid = options.contrastive_form == ContrastiveForm::kSigmoid;
    const at::Tensor images = image.detach().to(at::kDouble), texts = text.detach().to(at::kDouble);
    const at::Tensor image_norm = images.norm(2, 1, true), text_norm = texts.norm(2, 1, true);
    const at::Tensor v = images / image_norm, t = texts / text_norm, own = tau * (t * v).sum(1);
    const auto count = static_cast<double>(own.size(0));
    // of_rows(scores of some rows of a with all of b) of all rows of a
    const auto for_all = [tau](const at::Tensor& a, const at::Tensor& b, const auto& of_rows) {
      std::vector<at::Tensor> parts;
      for (const at::Tensor& rows : a.split(1024)) parts.push_back(of_rows(tau * rows.matmul(b.t())));
      return at::cat(parts);
    };
    at::Tensor row_sums, column_sums;  // logarithms of sums of exponentials
    if (sigmoid) {
      const auto repelled = [bias](const at::Tensor& s) { return at::softplus(s + bias, 1, 40).sum(1); };
      loss = value(for_all(t, v, repelled).sum() - (own + bias).sum()) / count;
    } else {
      const auto log_sums = [](const at::Tensor& s) { return s.logsumexp(at::IntArrayRef{1}); };
      row_sums = for_all(t, v, log_sums), column_sums = for_all(v, t, log_sums);
      loss = value(((row_sums + column_sums) / 2 - own).sum()) / count;
    }
    const auto gradient = [&](const at::Tensor& a, const at::Tensor& norm, const at::Tensor& b, const at::Tensor& mine,
                              const at::Tensor& theirs) {
      const at::Tensor unit = a.index_select(0, sampled), s = tau * unit.matmul(b.t());
      at::Tensor d;
      if (sigmoid)
        d = (s + bias).sigmoid();
      else
        d = ((s - mine.index_select(0, sampled).unsqueeze(1)).exp() + (s - theirs.unsqueeze(0)).exp()) / 2;
      d.scatter_add_(1, sampled.unsqueeze(1), at::full({sampled.size(0), 1}, -1.0, d.options()));
      const at::Tensor by_unit = tau / count * d.matmul(b);
      return (by_unit - unit * (unit * by_unit).sum(1, /*keepdim=*/true)) / norm.index_select(0, sampled);
    };
    by_text = gradient(t, text_norm, v, row_sums, column_sums);
    by_image = gradient(v, image_norm, t, column_sums, row_sums);
  }
};

}  // namespace

TEST_CASE("device kernels at the width and number of items of large batches agree with float64 by whole rows",
          "[gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  constexpr std::int64_t kWidth = 512, kSampled = 64;
  struct Batch {
    std::int64_t items, tile_rows;
  };
  for (const Batch& batch : {Batch{6200, 2048}, Batch{16500, 4096}}) {
    const at::Tensor images = random_tensor({batch.items, kWidth}, 1);
    const at::Tensor texts = 0.5 * images + random_tensor({batch.items, kWidth}, 2);
    const at::Tensor sampled =
        (at::arange(kSampled, on_device(at::kLong)) * (batch.items - 1)).div(kSampled - 1, "floor");
    for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        INFO(batch.items << " items of " << type << ", form " << static_cast<int>(form));
        HybridLossInputs inputs;
        inputs.image = images.to(on_device(type)).requires_grad_(true);
        inputs.text = texts.to(on_device(type)).requires_grad_(true);
        HybridLossOptions options = options_for(1);
        options.contrastive_form = form, options.logit_scale = 2.625, options.execution = Execution::kFused;
        CHECK(daug::detail::tile_math(inputs.image, Execution::kFused).max_rows() == batch.tile_rows);
        const at::Tensor total = hybrid_contrastive_loss(inputs, options).total;
        total.backward();
        const SampledLoss expected(inputs.image, inputs.text, sampled, options);
        const double tolerance = type == at::kFloat ? 1e-5 : 2e-2;
        CHECK(value(total) == Approx(expected.loss).epsilon(tolerance));
        for (const auto& [found, right] :
             {std::pair(inputs.image.grad(), expected.by_image), std::pair(inputs.text.grad(), expected.by_text)}) {
          const at::Tensor rows = found.index_select(0, sampled).to(at::kDouble);
          CHECK(value((rows - right).abs().max()) <= tolerance * value(right.abs().max()));
        }
      }
  }
}

namespace {

/// What LibTorch makes of float32 matrix products on devices while this lives: "high" is TF32.
class MatmulPrecision {
 public:
  explicit MatmulPrecision(const char* name) : before_(at::globalContext().float32MatmulPrecision()) {
    at::globalContext().setFloat32MatmulPrecision(name);
  }
  ~MatmulPrecision() {
    constexpr const char* kNames[] = {"highest", "high", "medium"};
    at::globalContext().setFloat32MatmulPrecision(kNames[static_cast<std::size_t>(before_)]);
  }
  MatmulPrecision(const MatmulPrecision&) = delete;
  MatmulPrecision& operator=(const MatmulPrecision&) = delete;

 private:
  at::Float32MatmulPrecision before_;
};

}  // namespace

TEST_CASE("the loss on a device multiplies float32 as TF32 only when LibTorch is asked for it", "[gpu]") {
  if (no_device()) return;
  HybridLossInputs inputs = device_problem(600);  // with more digits than TF32 has
  inputs.image = random_tensor({600, 256}, 1), inputs.text = 0.5 * inputs.image + random_tensor({600, 256}, 2);
  inputs.class_prompts = random_tensor({3, 256}, 3), inputs.logit_scale = at::tensor({2.0}, at::kDouble);
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid}) {
    INFO("form " << static_cast<int>(form));
    HybridLossOptions options = options_for(0.7);
    options.contrastive_form = form;
    const LossOnDevice whole(inputs, options, Execution::kReference, at::TensorOptions(at::kDouble).device(at::kCPU));
    const auto there = [&] { return LossOnDevice(inputs, options, Execution::kFused, on_device(at::kFloat)); };
    const auto check_exact = [&] { there().check_near(whole, 1e-5); };
    check_exact();
    {
      const MatmulPrecision reduced("high");
      const LossOnDevice rough = there();
      rough.check_near(whole, 1e-2);
      // By more than the default is off by.
      const at::Tensor right = whole.gradients[0], off = rough.gradients[0].to(right.options()) - right;
      CHECK(value(off.abs().max()) > 2e-5 * value(right.abs().max()));
    }
    check_exact();
  }
}

TEST_CASE("options of the class term and of the temperature on a device are those of the CPU", "[gpu]") {
  if (no_device()) return;
  struct Choice {
    const char* name;
    std::function<void(HybridLossInputs&, HybridLossOptions&)> choose;
  };
  const std::vector<Choice> choices = {
      {"biases of findings and weights of positives",
       [](auto& in, auto&) {
         in.class_bias = at::tensor({-2.0, 0.5, 1.0}, at::kDouble);
         in.positive_weights = at::tensor({3.0, 1.0, 0.25}, at::kDouble);
       }},
      {"one bias", [](auto& in, auto&) { in.class_bias = at::tensor({-1.5}, at::kDouble); }},
      {"a bias that is not learnt", [](auto&, auto& o) { o.class_bias = -2; }},
      {"uncertain labels masked",
       [](auto& in, auto& o) {
         o.uncertain = UncertainLabels::kMasked;
         in.labels[0][1] = -1, in.labels[7][2] = -1, in.label_mask = random_tensor(in.labels.sizes().vec(), 6) > -1;
       }},
      {"uncertain labels smoothed, soft pairs",
       [](auto& in, auto& o) {
         o.uncertain = UncertainLabels::kSmoothed, o.label_pairs = LabelPairs::kSoft;
         in.labels[0][1] = -1, in.labels[7][2] = -1;
       }},
      {"a temperature beyond its bound", [](auto&, auto& o) { o.max_logit_scale = 2.5; }},
      {"a temperature below its bound", [](auto&, auto& o) { o.min_logit_scale = 3.25; }},
      {"paired prompts, weights of positives", [](auto& in, auto& o) {
         o.class_form = ClassForm::kPaired;
         in.class_prompts = random_tensor({6, 6}, 3).to(at::kBFloat16).to(at::kDouble);
         in.positive_weights = at::tensor({3.0, 1.0, 0.25}, at::kDouble);
       }}};
  for (const Choice& choice : choices)
    for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid}) {
      HybridLossInputs inputs = device_problem(300);
      HybridLossOptions options = options_for(0.7);
      options.contrastive_form = form;
      choice.choose(inputs, options);
      const LossOnDevice whole(inputs, options, Execution::kReference, at::TensorOptions(at::kDouble).device(at::kCPU));
      for (const auto type : {at::kFloat, at::kBFloat16})
        for (const auto execution : {Execution::kReference, Execution::kFused})
          for (const bool defers : {false, true}) {
            INFO(choice.name << ", form " << static_cast<int>(form) << " " << type << " execution "
                             << static_cast<int>(execution) << " defers " << defers);
            DeferredChecks checks;
            checks.begin(0);
            LossOnDevice(inputs, options, execution, on_device(type), defers ? &checks : nullptr)
                .check_near(whole, type == at::kFloat ? 1e-4 : 2e-2);
            checks.settle();
          }
    }
}

TEST_CASE("embeddings on a device may have gaps and be float16", "[gpu]") {
  if (no_device()) return;
  std::vector<Layout> all = layouts();
  all.emplace_back();  // none
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
      HybridLossInputs inputs = device_problem(300);
      for (at::Tensor* rows : {&inputs.image, &inputs.text, &inputs.class_prompts})
        *rows = rows->to(type).to(at::kDouble);
      HybridLossOptions options = options_for(0.7);
      options.contrastive_form = form;
      const LossOnDevice whole(inputs, options, Execution::kReference, at::TensorOptions(at::kDouble).device(at::kCPU));
      for (const auto execution : {Execution::kReference, Execution::kFused})
        for (std::size_t layout = 0; layout < all.size(); ++layout) {
          INFO("form " << static_cast<int>(form) << " " << type << " execution " << static_cast<int>(execution)
                       << " layout " << layout);
          const LossOnDevice there(inputs, options, execution, on_device(type), nullptr, all[layout]);
          CHECK(there.output.total.scalar_type() == at::kFloat);
          there.check_near(whole, type == at::kFloat ? 1e-4 : type == at::kHalf ? 2e-3 : 2e-2);
        }
    }
}

TEST_CASE("the loss on a device refuses what the CPU refuses, in the same words", "[gpu]") {
  if (no_device()) return;
  struct Fault {
    const char* argument;
    std::function<void(HybridLossInputs&)> make;
  };
  const std::vector<Fault> faults = {
      {"image row 2", [](auto& in) { in.image[2][1] = std::nan(""); }},
      {"image row 0", [](auto& in) { in.image[0].zero_(), in.image[5].zero_(); }},
      {"text row 3", [](auto& in) { in.text[3].zero_(); }},
      {"text row 299", [](auto& in) { in.text[299][0] = std::numeric_limits<double>::infinity(); }},
      {"class_prompts row 1", [](auto& in) { in.class_prompts[1].zero_(); }},
      {"logit_scale", [](auto& in) { in.logit_scale.fill_(100); }},
      {"logit_bias", [](auto& in) { in.logit_bias.fill_(std::nan("")); }},
      {"image: expected", [](auto& in) {
         for (at::Tensor* rows : {&in.image, &in.text, &in.labels}) *rows = rows->narrow(0, 0, 0);
       }}};
  for (const Fault& fault : faults)
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const auto execution : {Execution::kReference, Execution::kFused}) {
        INFO(fault.argument << " " << type << " execution " << static_cast<int>(execution));
        HybridLossInputs inputs = device_problem(300);
        fault.make(inputs);
        const HybridLossOptions options = options_for(0.7);
        const auto refused = [&](const at::TensorOptions& where, DeferredChecks* checks) {
          return caught([&] {
            LossOnDevice(inputs, options, execution, where, checks);
            if (checks) checks->settle();
          });
        };
        const Error here = refused(at::TensorOptions(type).device(at::kCPU), nullptr);
        contains(here.what(), fault.argument);
        const Error there = refused(on_device(type), nullptr);
        CHECK(there.code() == here.code());
        CHECK(std::string(there.what()) == here.what());
        DeferredChecks checks;
        checks.begin(7);
        const Error later = refused(on_device(type), &checks);
        CHECK(later.code() == here.code());
        const bool at_once = here.code() != ErrorCode::kNumeric;
        CHECK(std::string(later.what()) == here.what() + std::string(at_once ? "" : ", in step 7"));
      }
  // No item with a report: 0, and no gradient.
  HybridLossInputs silent = device_problem(300);
  silent.text_mask = at::zeros({300}, at::kBool);
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const auto execution : {Execution::kReference, Execution::kFused}) {
      const LossOnDevice loss(silent, options_for(1), execution, on_device(type));
      CHECK(value(loss.output.clip) == 0);
      for (const at::Tensor& gradient : loss.gradients) CHECK(value(gradient.abs().max()) == 0);
    }
}

TEST_CASE("the loss on a device runs on the stream that is current", "[gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  const auto* guard = c10::impl::getDeviceGuardImpl(at::kCUDA);
  const c10::Stream other = guard->getStreamFromGlobalPool(at::Device(at::kCUDA, 0));
  for_each_problem(700, [&](const HybridLossInputs& inputs, const HybridLossOptions& options) {
    const LossOnDevice whole(inputs, options, Execution::kReference, at::TensorOptions(at::kDouble).device(at::kCPU));
    guard->synchronizeStream(guard->getStream(at::Device(at::kCUDA, 0)));
    const c10::StreamGuard on(other);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      INFO(type);
      // Each of its kernels needs what the one before writes: on another stream it would read too early.
      const LossOnDevice there(inputs, options, Execution::kFused, on_device(type));
      guard->synchronizeStream(other);
      there.check_near(whole, type == at::kFloat ? 1e-5 : 2e-2);
    }
  });
}

TEST_CASE("the loss on a device and all its gradients have the same bits twice under determinism", "[gpu]") {
  if (no_device()) return;
  for (const std::int64_t items : {300, 2500})
    for_each_problem(items, [&](const HybridLossInputs& inputs, const HybridLossOptions& options) {
      for (const auto type : {at::kFloat, at::kBFloat16})
        for (const auto execution : {Execution::kAuto, Execution::kFused}) {
          INFO(type << ", execution " << static_cast<int>(execution));
          deterministically([&] {
            const LossOnDevice once(inputs, options, execution, on_device(type));
            const LossOnDevice twice(inputs, options, execution, on_device(type));
            CHECK(at::equal(once.output.total, twice.output.total));
            for (std::size_t i = 0; i < once.gradients.size(); ++i) {
              INFO("gradient " << i);
              CHECK(at::equal(once.gradients[i], twice.gradients[i]));
            }
          });
        }
    });
}

#if DAUG_TEST_COUNTS_DEVICE_MEMORY
TEST_CASE("device kernels keep the loss within its bound on memory", "[gpu]") {
  if (no_device()) return;
  constexpr std::int64_t kWidth = 512;
  c10::DeviceAllocator& allocator = *c10::getDeviceAllocator(at::kCUDA);
  const auto held = [&] { return allocator.getDeviceStats(0).requested_bytes[0]; };
  HybridLossOptions options;
  options.clip_weight = 1, options.execution = Execution::kFused;
  for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kSoft})
    for (const std::int64_t items : {3000, 8192, 12288, 65536})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        if (items == 65536 && type == at::kFloat) continue;  // without tensor cores it takes a while
        options.label_pairs = pairs;
        HybridLossInputs inputs;
        inputs.image = at::randn({items, kWidth}, on_device(type)).requires_grad_(true);
        inputs.text = at::randn({items, kWidth}, on_device(type)).requires_grad_(true);
        if (pairs == LabelPairs::kSoft)
          inputs.labels = at::rand({items, 14}, on_device(at::kFloat)).lt(0.2).to(at::kFloat);
        std::int64_t peak = 0;
        for (int i = 0; i < 2; ++i) {  // the first time LibTorch takes memory for its matrix products
          inputs.image.mutable_grad() = inputs.text.mutable_grad() = at::Tensor();
          allocator.resetPeakStats(0);
          const std::int64_t before = held().current;
          hybrid_contrastive_loss(inputs, options).total.backward();
          peak = held().peak - before;
        }
        INFO("pairs " << static_cast<int>(pairs) << " " << items << " items " << type);
        const std::int64_t numbers = (type == at::kFloat ? 4 : 7) * items * kWidth;
        CHECK(peak <= 4 * (numbers + daug::detail::kKernelTileNumbers));
        CHECK(peak >= items * kWidth * (type == at::kFloat ? 8 : 4));  // it counts at all: the gradients
        if (items == 65536) CHECK(peak <= std::int64_t{2} << 30);
      }
}
#endif
