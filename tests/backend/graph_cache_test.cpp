#include "backend/graph_cache.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <cmath>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/device_kernels.h"
#include "backend/fitting_rows.h"
#include "daug/backend/determinism.h"
#include "daug/core/error.h"
#include "daug/heatmap/maps.h"
#include "daug/translator/diffusion_translator.h"
#include "daug/translator/noise_aware_classifier.h"
#include "daug/translator/noise_predictor.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/host_reads.h"
#include "support/repeated_graphs.h"
#include "support/tensor.h"
#include "translator/half_network.h"
#include "translator/replayed_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

/// weight * x + shift, where there is one.
struct ScaledNetwork {
  at::Tensor weight = at::full({1}, 3.0, at::kDouble), result = {};
  std::int64_t calls = 0;

  GraphCache::Network network() {
    return [this](const std::vector<at::Tensor>& in) {
      ++calls;
      const at::Tensor value = in[1].defined() ? weight * in[0] + in[1] : weight * in[0];
      // A replay writes where the captured call wrote.
      if (!result.defined() || result.sizes() != value.sizes()) return result = value;
      return result.copy_(value);
    };
  }

  at::Tensor expected(const std::vector<at::Tensor>& in) const {
    const double factor = weight.item<double>();
    return in[1].defined() ? factor * in[0] + in[1] : factor * in[0];
  }
};

std::vector<at::Tensor> numbers(std::int64_t rows, std::uint64_t seed, bool shifted = true) {
  return {random_tensor({rows, 2}, seed), shifted ? random_tensor({rows, 1}, seed + 100) : at::Tensor()};
}

/// Captures whatever there is, on a device that fails at every replay.
class FaultyBackend final : public GraphBackend {
 public:
  bool captures(const at::Tensor&) const override { return true; }
  std::unique_ptr<CapturedGraph> capture(const c10::Device&, const std::function<void()>& work) override {
    work();
    return std::make_unique<FaultyGraph>();
  }

 private:
  class FaultyGraph final : public CapturedGraph {
   public:
    void replay() override {
      throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, 719, "CUDA error: unspecified launch failure");
    }
  };
};

}  // namespace

TEST_CASE("calls alike are captured at the second one and replayed from then on", "[backend][graph_cache]") {
  GraphCounts counts;
  ScaledNetwork scaled;
  GraphCache cache(std::make_unique<RepeatingBackend>(counts), {scaled.weight}, false);
  std::vector<at::Tensor> answers, expected;
  for (std::uint64_t i = 0; i < 5; ++i) {
    const auto in = numbers(3, i);
    answers.push_back(cache.call(in, scaled.network()));
    expected.push_back(scaled.expected(in));
    CHECK(counts.attempts == (i > 0 ? 1 : 0));
    CHECK(counts.replays == static_cast<std::int64_t>(i));
  }
  // An answer of a replay is a tensor of its own: the next replay leaves it as it is.
  for (std::size_t i = 1; i < answers.size(); ++i) CHECK(same_bits(answers[i], expected[i]));
  // A weight that changed in place is read by the same graph.
  scaled.weight.mul_(2);
  const auto in = numbers(3, 9);
  CHECK(same_bits(cache.call(in, scaled.network()), scaled.expected(in)));
  CHECK(counts.attempts == 1);
  CHECK(counts.replays == 5);
}

TEST_CASE("graphs of other shapes, types, layouts and conditions are apart, and the oldest go",
          "[backend][graph_cache]") {
  GraphCounts counts;
  const GraphCache::Network doubled = [](const std::vector<at::Tensor>& in) {
    return in[1].defined() ? 2 * in[0] + in[1] : 2 * in[0];
  };
  const at::Tensor x = random_tensor({4, 4}, 1), shift = random_tensor({4, 1}, 2);
  const std::vector<std::vector<at::Tensor>> kinds = {{x, shift},
                                                      {x, at::Tensor()},
                                                      {x.t(), shift},
                                                      {x.narrow(0, 0, 3), shift.narrow(0, 0, 3)},
                                                      {x.to(at::kFloat), shift},
                                                      {x, shift.to(at::kFloat)}};
  GraphCache roomy(std::make_unique<RepeatingBackend>(counts), {}, false);
  for (int round = 1; round <= 3; ++round) {
    for (const auto& in : kinds) CHECK(same_bits(roomy.call(in, doubled), doubled(in)));
    CHECK(counts.attempts == (round > 1 ? static_cast<std::int64_t>(kinds.size()) : 0));
  }
  CHECK(counts.alive == static_cast<std::int64_t>(kinds.size()));

  GraphCounts few;
  GraphCache small(std::make_unique<RepeatingBackend>(few), {}, false, 2);
  const auto ask = [&](std::size_t kind) { CHECK(same_bits(small.call(kinds[kind], doubled), doubled(kinds[kind]))); };
  for (const std::size_t kind : {0U, 0U, 1U, 1U, 0U}) ask(kind);
  CHECK(few.alive == 2);
  ask(2);  // in place of 1, which was asked for longest ago
  CHECK(few.alive == 1);
  ask(0);
  CHECK(few.attempts == 2);
  ask(1), ask(1);
  CHECK(few.attempts == 3);
  CHECK(few.alive == 2);
}

TEST_CASE("a graph that was captured without determinism is not replayed under it", "[backend][graph_cache]") {
  GraphCounts counts;
  const GraphCache::Network doubled = [](const std::vector<at::Tensor>& in) { return 2 * in[0]; };
  GraphCache cache(std::make_unique<RepeatingBackend>(counts), {}, false);
  const at::Tensor x = random_tensor({3, 2}, 1);
  const auto ask = [&] { CHECK(same_bits(cache.call({x}, doubled), 2 * x)); };
  ask(), ask(), ask();
  CHECK(counts.attempts == 1);
  CHECK(counts.replays == 2);
  deterministically([&] {
    ask();
    CHECK(counts.replays == 2);
    ask(), ask();
  });
  CHECK(counts.attempts == 2);
  CHECK(counts.replays == 4);
  ask();
  CHECK(counts.attempts == 2);
  CHECK(counts.replays == 5);
}

TEST_CASE("graphs whose weights lie elsewhere are dropped", "[backend][graph_cache]") {
  GraphCounts counts;
  ScaledNetwork scaled;
  GraphCache cache(std::make_unique<RepeatingBackend>(counts), {scaled.weight}, false);
  const auto ask = [&](std::int64_t rows) {
    scaled.result = at::Tensor();
    const auto in = numbers(rows, 3);
    CHECK(same_bits(cache.call(in, scaled.network()), scaled.expected(in)));
  };
  for (const std::int64_t rows : {2, 2, 5, 5}) ask(rows);
  CHECK(counts.alive == 2);
  scaled.weight.set_data(at::full({1}, 7.0, at::kDouble));
  ask(2);
  CHECK(counts.alive == 0);
  for (const std::int64_t rows : {2, 5, 5}) ask(rows);
  CHECK(counts.attempts == 4);
  CHECK(counts.alive == 2);
}

TEST_CASE("a call that cannot be captured is a plain one, or an error where graphs are required",
          "[backend][graph_cache]") {
  GraphCounts counts;
  counts.refuses = true;
  ScaledNetwork scaled;
  GraphCache lenient(std::make_unique<RepeatingBackend>(counts), {scaled.weight}, false);
  for (std::uint64_t i = 0; i < 4; ++i) {
    scaled.result = at::Tensor();
    const auto in = numbers(3, i, false);
    CHECK(same_bits(lenient.call(in, scaled.network()), scaled.expected(in)));
  }
  CHECK(counts.attempts == 1);  // and never again
  CHECK(scaled.calls == 5);     // one of them to get libraries ready

  GraphCache strict(std::make_unique<RepeatingBackend>(counts), {scaled.weight}, true);
  const auto in = numbers(3, 1);
  scaled.result = at::Tensor();
  strict.call(in, scaled.network());
  for (int i = 0; i < 2; ++i)
    CHECK_THROWS_WITH(strict.call(in, scaled.network()), contains_text("waits for its device"));
  counts.refuses = false;
  CHECK(same_bits(strict.call(in, scaled.network()), scaled.expected(in)));

  counts.possible = false;
  scaled.result = at::Tensor();
  CHECK(same_bits(lenient.call(in, scaled.network()), scaled.expected(in)));
  CHECK(mentions(error_text(ErrorCode::kUnsupported, [&] { strict.call(in, scaled.network()); }), "GraphCache::call"));
}

namespace {

/// A call of so many rows through the cache, whose network doubles them.
void check_doubled(GraphCache& cache, const GraphCache::Network& doubled, std::int64_t rows) {
  const at::Tensor x = random_tensor({rows, 3}, static_cast<std::uint64_t>(rows));
  CHECK(same_bits(cache.call({x}, doubled), 2 * x));
}

}  // namespace

TEST_CASE("graphs are dropped where a call runs out of the memory that they hold", "[backend][graph_cache]") {
  for (const int kind : {0, 1, 2, 3}) {
    const bool required = kind % 2 == 1, of_runtime = kind > 1;  // which has kernels to load, and is not the allocator
    INFO("required " << required << ", of the runtime " << of_runtime);
    GraphCounts counts;
    // Up to four rows fit always, up to eight where no graph holds memory, more never.
    const GraphCache::Network doubled = [&counts, of_runtime](const std::vector<at::Tensor>& in) {
      const std::int64_t rows = in[0].size(0);
      const bool fits = rows <= (counts.alive > 0 ? 4 : 8);
      if (!fits && of_runtime) C10_THROW_ERROR(Error, "CUDA error: out of memory");
      if (!fits) C10_THROW_ERROR(OutOfMemoryError, "no memory is left");
      return 2 * in[0];
    };
    GraphCache cache(std::make_unique<RepeatingBackend>(counts), {}, required);
    const auto ask = [&](std::int64_t rows) { check_doubled(cache, doubled, rows); };
    ask(3), ask(3);
    CHECK(counts.alive == 1);
    ask(6);  // plainly, without them
    CHECK(counts.alive == 0);
    ask(3);
    CHECK(counts.alive == 0);
    ask(3);  // and they come back
    CHECK(counts.alive == 1);
    CHECK(counts.attempts == 2);
    // What does not fit without graphs either is for the caller, who makes smaller calls.
    bool told_of_memory = false;
    try {
      (void)cache.call({random_tensor({12, 3}, 12)}, doubled);
    } catch (const c10::Error& error) {
      told_of_memory = out_of_memory(error) != nullptr;
    }
    CHECK(told_of_memory);
    CHECK(counts.alive == 0);
    ask(3), ask(3);
    const at::Tensor x = random_tensor({12, 3}, 1);
    std::vector<std::int64_t> parts;
    const at::Tensor joined =
        FittingRows("daug::numbers", "a row").join(12, [&](std::int64_t begin, std::int64_t count) {
          parts.push_back(count);
          return cache.call({x.narrow(0, begin, count)}, doubled);
        });
    CHECK(same_bits(joined, 2 * x));
    CHECK(parts.front() == 12);
    CHECK(parts.back() <= 6);
  }
}

TEST_CASE("a capture that runs out of memory drops other graphs, and is not tried again where there are none",
          "[backend][graph_cache]") {
  const GraphCache::Network doubled = [](const std::vector<at::Tensor>& in) { return 2 * in[0]; };
  for (const bool required : {false, true}) {
    INFO("required " << required);
    GraphCounts counts;
    counts.room = 1;
    GraphCache cache(std::make_unique<RepeatingBackend>(counts), {}, required);
    const auto ask = [&](std::int64_t rows) { check_doubled(cache, doubled, rows); };
    ask(3), ask(3);
    CHECK(counts.alive == 1);
    ask(5), ask(5);  // the second plainly, without the graph of 3 rows
    CHECK(counts.attempts == 2);
    CHECK(counts.alive == 0);
    ask(5), ask(5);
    CHECK(counts.attempts == 3);
    CHECK(counts.alive == 1);
    counts.room = 0;
    ask(3), ask(3);
    CHECK(counts.attempts == 4);
    CHECK(counts.alive == 0);
    ask(3);
    if (required) {
      CHECK_THROWS_AS(cache.call({random_tensor({3, 3}, 3)}, doubled), c10::OutOfMemoryError);
      continue;
    }
    for (int i = 0; i < 3; ++i) ask(3);
    CHECK(counts.attempts == 5);
    counts.room = 1;
    ask(5), ask(5);
    CHECK(counts.attempts == 6);
    CHECK(counts.alive == 1);
    ask(3);
    CHECK(counts.attempts == 6);
    CHECK(counts.alive == 1);
  }
}

TEST_CASE("whatever a device would be waited for is counted in what is captured", "[backend][graph_cache]") {
  const auto reads_of = [](const GraphCache::Network& network) {
    GraphCounts counts;
    GraphCache cache(std::make_unique<RepeatingBackend>(counts), {}, true);
    const at::Tensor x = random_tensor({4, 3}, 1);
    for (int i = 0; i < 3; ++i) CHECK(same_bits(cache.call({x}, network), network({x})));
    CHECK(counts.attempts == 1);
    return counts.reads;
  };
  CHECK(reads_of([](const auto& in) { return in[0] * (in[0] > 0); }) == 0);
  const std::vector<std::pair<const char*, GraphCache::Network>> waiting = {
      {"a number", [](const auto& in) { return in[0] * in[0].sum().template item<double>(); }},
      {"places", [](const auto& in) { return at::nonzero(in[0] > 0); }},
      {"what a mask selects", [](const auto& in) { return in[0].masked_select(in[0] > 0); }},
      {"a mask as an index", [](const auto& in) { return in[0].index({in[0] > 0}); }},
      {"whether tensors are equal", [](const auto& in) { return in[0] * (at::equal(in[0], -in[0]) ? 1 : 2); }},
      {"different numbers", [](const auto& in) { return std::get<0>(at::_unique2(in[0])); }},
      {"different rows", [](const auto& in) { return std::get<0>(at::unique_dim(in[0], 0)); }}};
  for (const auto& [kind, network] : waiting) {
    INFO(kind);
    CHECK(reads_of(network) > 0);
  }
}

TEST_CASE("a guide's gradients are replayed with the bits of plain ones", "[backend][graph_cache]") {
  const auto schedule = NoiseSchedule::linear();
  {
    const HostReads reads;
    (void)at::ones({1}).item<double>();
    REQUIRE(reads.count() == 1);
  }
  for (const auto head : {GuidanceHead::kSigmoid, GuidanceHead::kSoftmax})
    for (const auto precision : {NetworkPrecision::kFull, NetworkPrecision::kBFloat16, NetworkPrecision::kFloat16}) {
      INFO("head " << static_cast<int>(head) << ", precision " << static_cast<int>(precision));
      NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAdaptive));
      randomise(*network, 4, 0.3);
      const NoiseAwareClassifier answering = daug::detail::in_precision(network, precision);
      GraphCounts counts;
      const auto plain = daug::detail::replayed_guide(answering, schedule, head, {}, nullptr);
      const auto replayed = daug::detail::replayed_guide(
          answering, schedule, head, {},
          std::make_unique<GraphCache>(std::make_unique<RepeatingBackend>(counts), answering->parameters(), true));
      const auto agree = [&](std::int64_t batch, std::uint64_t seed, std::int64_t level, const at::Tensor& condition) {
        const at::Tensor x = random_tensor({batch, 1, 8, 8}, seed).to(at::kFloat);
        const at::Tensor expected = plain->gradient(x, level, condition);
        const at::Tensor made = replayed->gradient(x, level, condition);
        CHECK(expected.abs().max().item<double>() > 0);
        CHECK(made.scalar_type() == at::kFloat);
        CHECK(same_bits(made, expected));
        CHECK_FALSE(made.is_inference());
        CHECK_FALSE(made.requires_grad());
      };
      const at::Tensor two = rows({{1, 0, 0}, {0, 0, -1}}), three = rows({{0, 1, 0}, {-1, 0, 0}, {0, 0, 1}});
      for (std::uint64_t i = 0; i < 4; ++i) {
        const auto level = static_cast<std::int64_t>(200 * i + 3);
        agree(2, i, level, two);
        agree(2, i, level + 1, -two);
        agree(3, i, level + 2, three);
      }
      {
        const c10::InferenceMode inference;
        agree(2, 9, 40, two);
      }
      {
        const at::NoGradGuard no_grad;
        for (at::Tensor& parameter : answering->parameters()) parameter.mul_(1.25);
      }
      agree(2, 1, 40, two);
      CHECK(counts.attempts == 2);
      CHECK(counts.replays >= 9 + 3);  // but for the first of each kind, float16's on several scales
      CHECK(counts.reads == 0);
      CHECK(counts.alive == 2);
    }
}

TEST_CASE("a guided walk and maps of replayed networks have the bits of plain ones", "[backend][graph_cache]") {
  const auto schedule = NoiseSchedule::linear();
  const auto denoiser = tiny_unet(tiny_options());
  NoiseAwareClassifier classifier(tiny_classifier_options(ClassifierPool::kAttention));
  randomise(*classifier, 4, 0.3);
  classifier->to(at::kDouble);
  GraphCounts calls, gradients;
  Execution embeddings = Execution::kReference;
  const auto graphs = [](GraphCounts& counts, const std::vector<at::Tensor>& weights) {
    return std::make_unique<GraphCache>(std::make_unique<RepeatingBackend>(counts), weights, true);
  };
  const auto predictor = [&](bool replayed) {
    return daug::detail::replayed_predictor(denoiser, schedule, Prediction::kV, {},
                                            replayed ? graphs(calls, denoiser->parameters()) : nullptr, embeddings);
  };
  const auto guide = [&](bool replayed) {
    return daug::detail::replayed_guide(classifier, schedule, GuidanceHead::kSigmoid, {},
                                        replayed ? graphs(gradients, classifier->parameters()) : nullptr);
  };
  const at::Tensor x = (0.3 * random_tensor({3, 1, 8, 8}, 7)).clamp(-1, 1);
  TranslatorOptions options;
  options.level = 100, options.steps = 4;
  options.guidance.kind = GuidanceKind::kClassifier, options.guidance.classifier_scale = 2;
  const auto walked = [&](bool replayed) {
    return DiffusionTranslator(predictor(replayed), schedule, {"a", "b", "c"}, options, guide(replayed))
        .translate(x, {toward("a"), away_from("b")})
        .images;
  };
  for (const auto ahead : {Execution::kReference, Execution::kFused}) {  // calls are told timesteps, or embeddings
    INFO("embeddings made ahead: " << (ahead == Execution::kFused));
    embeddings = ahead;
    calls = gradients = GraphCounts();
    CHECK(same_bits(walked(true), walked(false)));
    CHECK(calls.replays > 0);
    CHECK(gradients.attempts == 1);
    CHECK(gradients.replays == 3);  // of four steps
    CHECK(calls.reads + gradients.reads == 0);

    // Signed evidence and score differences of all images and conditions are one graph, whatever the level.
    calls = GraphCounts();
    EvidenceOptions noises;
    noises.levels = {40, 80, 120}, noises.samples = 2;
    const auto maps = [&](bool replayed) {
      return evidence_and_score_difference_maps(*predictor(replayed), schedule, x, {4, 5, 6}, at::eye(3), noises);
    };
    CHECK(same_bits(maps(true), maps(false)));
    CHECK(calls.attempts == 1);
    CHECK(calls.replays == 5);
    CHECK(calls.reads == 0);
  }
}

TEST_CASE("a device that fails at a replay is an error of the call of the network", "[backend][graph_cache]") {
  const auto schedule = NoiseSchedule::linear();
  const auto denoiser = tiny_unet(tiny_options());
  NoiseAwareClassifier classifier(tiny_classifier_options(ClassifierPool::kAdaptive));
  classifier->to(at::kDouble);
  const auto graphs = [](const std::vector<at::Tensor>& weights) {
    return std::make_unique<GraphCache>(std::make_unique<FaultyBackend>(), weights, true);
  };
  const auto predictor =
      daug::detail::replayed_predictor(denoiser, schedule, Prediction::kV, {}, graphs(denoiser->parameters()));
  const auto guide =
      daug::detail::replayed_guide(classifier, schedule, GuidanceHead::kSigmoid, {}, graphs(classifier->parameters()));
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 8), condition = rows({{1, 0, 0}, {0, 0, -1}});
  const auto check = [](const std::string& function, const std::function<void()>& call) {
    CHECK_NOTHROW(call());  // a plain one
    const std::string text = error_text(ErrorCode::kDevice, call);
    CHECK(mentions(text, function + ": its device has failed", "CUDA error: unspecified launch failure"));
  };
  check("daug::NoisePredictor::noise", [&] { (void)predictor->noise(x, 40, condition); });
  check("daug::GuidanceClassifier::gradient", [&] { (void)guide->gradient(x, 40, condition); });
}

TEST_CASE("a guide has graphs on request alone, and none for the CPU", "[backend][graph_cache]") {
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAdaptive));
  randomise(*network, 4, 0.3);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 8).to(at::kFloat), condition = rows({{1, 0, 0}, {0, 0, -1}});
  const auto with = [&](Execution graphs) {
    return make_guidance_classifier(network, NoiseSchedule::linear(), GuidanceHead::kSigmoid, {},
                                    NetworkPrecision::kFull, graphs);
  };
  const auto plain = with(Execution::kReference), chosen = with(Execution::kAuto);
  for (int i = 0; i < 3; ++i) CHECK(same_bits(chosen->gradient(x, 40, condition), plain->gradient(x, 40, condition)));
  // The build lacks them, or these tensors are on the CPU.
  CHECK(mentions(error_text(ErrorCode::kUnsupported, [&] { with(Execution::kFused)->gradient(x, 40, condition); }),
                 "kFused"));
}

TEST_CASE("a predictor has graphs on request alone, and none for the CPU", "[backend][graph_cache]") {
  CHECK_FALSE(make_graph_cache(Execution::kReference, {}, "a test"));
  for (const char* run : {"cuda_graph", "gradient_graph", "training_graph", "no_such_graph"}) {
    INFO(run);
    const bool made = make_graph_cache(Execution::kAuto, {}, "a test", run) != nullptr;
    CHECK(made == (ran_on_a_device(run) && cuda_graphs() != nullptr));
  }
  const auto network = tiny_unet(tiny_options());
  const auto schedule = NoiseSchedule::linear();
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 8), condition = rows({{1, 0, 0}, {0, 0, -1}});
  const auto with = [&](Execution graphs) {
    return make_noise_predictor(network, schedule, Prediction::kV, {}, NetworkPrecision::kFull, graphs);
  };
  const auto plain = with(Execution::kReference), chosen = with(Execution::kAuto);
  for (int i = 0; i < 3; ++i) CHECK(same_bits(chosen->noise(x, 40, condition), plain->noise(x, 40, condition)));
  // The build lacks them, or these tensors are on the CPU.
  CHECK(mentions(error_text(ErrorCode::kUnsupported, [&] { with(Execution::kFused)->noise(x, 40, condition); }),
                 "kFused"));
}

TEST_CASE("replayed calls of a network on a device have the bits of plain ones", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const auto schedule = NoiseSchedule::linear();
  const auto on_device = [&](std::int64_t batch, std::uint64_t seed) {
    return (0.3 * random_tensor({batch, 1, 8, 8}, seed)).clamp(-1, 1).to(at::kFloat).to(device);
  };
  const at::Tensor states = rows({{1, 0, 0}, {0, 0, -1}}).to(at::kFloat).to(device);
  for (const auto execution : {Execution::kAuto, Execution::kFused})
    for (const auto precision : {NetworkPrecision::kFull, NetworkPrecision::kBFloat16, NetworkPrecision::kFloat16}) {
      INFO("fused kernels " << (execution == Execution::kFused) << ", precision " << static_cast<int>(precision));
      auto network = tiny_unet(tiny_options(3, execution));
      network->to(at::kFloat);
      network->to(device);
      const auto with = [&](Execution graphs) {
        return make_noise_predictor(network, schedule, Prediction::kV, {}, precision, graphs);
      };
      const auto plain = with(Execution::kReference), replayed = with(Execution::kFused);
      const auto agree = [&](std::int64_t batch, std::uint64_t seed, std::int64_t level, const at::Tensor& condition) {
        const at::Tensor x = on_device(batch, seed);
        const at::Tensor expected = plain->noise(x, level, condition);
        CHECK(expected.isfinite().all().item<bool>());
        CHECK(same_bits(replayed->noise(x, level, condition), expected));
      };
      for (std::uint64_t i = 0; i < 5; ++i) {  // shapes and conditions by turns, levels that change
        INFO("round " << i);
        const auto level = static_cast<std::int64_t>(100 * i + 3);
        agree(2, i, level, states);
        agree(2, i, level + 1, -states);
        agree(2, i, level + 2, {});
        agree(5, i, level + 3, {});
      }
      if (precision == NetworkPrecision::kFull) {  // others have a copy of the weights
        const at::NoGradGuard no_grad;
        const at::Tensor before = replayed->noise(on_device(2, 1), 40, states);
        for (at::Tensor& parameter : network->parameters()) parameter.add_(0.01);
        agree(2, 1, 40, states);
        CHECK_FALSE(same_bits(replayed->noise(on_device(2, 1), 40, states), before));
        for (at::Tensor& parameter : network->parameters()) parameter.set_data(parameter + 0.01);
        for (int i = 0; i < 3; ++i) agree(2, 1, 40, states);
      }
      TranslatorOptions options;
      options.level = 100, options.steps = 4;
      const auto walked = [&](const std::shared_ptr<const NoisePredictor>& predictor) {
        return DiffusionTranslator(predictor, schedule, {"a", "b", "c"}, options)
            .translate(on_device(3, 7), {toward("a"), away_from("b")})
            .images;
      };
      CHECK(same_bits(walked(replayed), walked(plain)));
    }
  // Another stream than the default one is refused.
  auto network = tiny_unet(tiny_options());
  network->to(at::kFloat);
  network->to(device);
  const auto replayed =
      make_noise_predictor(network, schedule, Prediction::kV, {}, NetworkPrecision::kFull, Execution::kFused);
  const c10::StreamGuard other(c10::impl::getDeviceGuardImpl(at::kCUDA)->getStreamFromGlobalPool(device));
  CHECK_THROWS_WITH(replayed->noise(on_device(2, 1), 40, states), contains_text("kFused"));
}

// LibTorch's backward passes on a device add in any order, so that bits are not asked for.
TEST_CASE("replayed gradients of a guide on a device are those of plain calls", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const auto schedule = NoiseSchedule::linear();
  struct Kind {
    NetworkPrecision precision;
    double tolerance;
  };
  for (const auto execution : {Execution::kAuto, Execution::kFused})
    for (const Kind& kind : {Kind{NetworkPrecision::kFull, 1e-5}, Kind{NetworkPrecision::kBFloat16, 2e-2},
                             Kind{NetworkPrecision::kFloat16, 2e-2}}) {
      INFO("fused kernels " << (execution == Execution::kFused) << ", precision " << static_cast<int>(kind.precision));
      NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAttention, execution));
      randomise(*network, 4, 0.3);
      network->to(device);
      const auto with = [&](Execution graphs) {
        return make_guidance_classifier(network, schedule, GuidanceHead::kSigmoid, {}, kind.precision, graphs);
      };
      const auto plain = with(Execution::kReference), replayed = with(Execution::kFused);
      const auto agree = [&](std::int64_t batch, std::uint64_t seed, std::int64_t level, const at::Tensor& condition) {
        const at::Tensor x = random_tensor({batch, 1, 8, 8}, seed).to(at::kFloat).to(device);
        const at::Tensor expected = plain->gradient(x, level, condition);
        const double largest = expected.abs().max().item<double>();
        CHECK(largest > 0);
        CHECK(std::isfinite(largest));
        CHECK(largest_difference(replayed->gradient(x, level, condition), expected) <= kind.tolerance * largest);
      };
      const at::Tensor two = rows({{1, 0, 0}, {0, 0, -1}}).to(at::kFloat).to(device),
                       three = rows({{0, 1, 0}, {-1, 0, 0}, {0, 0, 1}}).to(at::kFloat).to(device);
      for (std::uint64_t i = 0; i < 5; ++i) {  // shapes, conditions and levels by turns
        const auto level = static_cast<std::int64_t>(100 * i + 3);
        agree(2, i, level, two);
        agree(2, i, level + 1, -two);
        agree(3, i, level + 2, three);
      }
      if (kind.precision == NetworkPrecision::kFull) {  // others have a copy of the weights
        const at::NoGradGuard no_grad;
        for (at::Tensor& parameter : network->parameters()) parameter.mul_(1.25);
        agree(2, 1, 40, two);
        for (at::Tensor& parameter : network->parameters()) parameter.set_data(parameter * 0.8);
        for (int i = 0; i < 3; ++i) agree(2, 1, 40, two);
      }
      DenoiserUNet denoiser(tiny_options(3, execution));
      randomise(*denoiser, 5);
      denoiser->to(device);
      TranslatorOptions options;
      options.level = 100, options.steps = 4;
      options.guidance.kind = GuidanceKind::kClassifier, options.guidance.classifier_scale = 2;
      const at::Tensor x = (0.3 * random_tensor({3, 1, 8, 8}, 7)).clamp(-1, 1).to(at::kFloat).to(device);
      const auto walked = [&](Execution graphs) {
        const auto predictor = make_noise_predictor(denoiser, schedule, Prediction::kV, {}, kind.precision, graphs);
        return DiffusionTranslator(predictor, schedule, {"a", "b", "c"}, options, with(graphs))
            .translate(x, {toward("a"), away_from("b")})
            .images;
      };
      const at::Tensor expected = walked(Execution::kReference);
      CHECK(largest_difference(walked(Execution::kFused), expected) <=
            10 * kind.tolerance * expected.abs().max().item<double>());
    }
}
