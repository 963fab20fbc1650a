#include "daug/train/level_sampler.h"

#include <ATen/ATen.h>

#include "daug/core/error.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Records `loss(level)` ten times at every level, as two workers.
template <class Loss>
void fill(LevelSampler& sampler, std::int64_t lowest, std::int64_t highest, const Loss& loss, int times = 10) {
  for (int i = 0; i < times; ++i)
    for (std::int64_t level = lowest; level <= highest; level += 2) {
      sampler.record(0, at::tensor({level}), at::tensor({loss(level)}, at::kDouble));
      if (level < highest) sampler.record(1, at::tensor({level + 1}), at::tensor({loss(level + 1)}, at::kDouble));
      sampler.step_done();
    }
}

}  // namespace

TEST_CASE("uniform levels cover their range with weight 1", "[level_sampler]") {
  LevelSampler sampler({3, 7}, 1);
  std::vector<int> counts(8);
  RandomStream stream(1, 0, "levels");
  for (int i = 0; i < 5000; ++i) {
    const auto [level, weight] = sampler.draw(stream);
    CHECK(weight == 1);
    REQUIRE((level >= 3 && level <= 7));
    ++counts[static_cast<std::size_t>(level)];
  }
  for (std::size_t level = 3; level <= 7; ++level) CHECK(counts[level] == Approx(1000).margin(150));
}

TEST_CASE("loss-aware levels are drawn by the root mean square of their losses", "[level_sampler]") {
  LevelSampler sampler({1, 4, true, 0.1}, 2);
  RandomStream stream(2, 0, "levels");
  const auto loss = [](std::int64_t level) { return static_cast<double>(level * level); };
  fill(sampler, 1, 4, loss, 9);
  CHECK(sampler.draw(stream).weight == 1);  // still uniform: nine losses each
  fill(sampler, 1, 4, loss, 1);
  // By hand: constant losses 1, 4, 9, 16 are their own root mean squares; a tenth of the draws stays uniform.
  std::vector<double> share(5);
  for (std::int64_t level = 1; level <= 4; ++level)
    share[static_cast<std::size_t>(level)] = 0.9 * loss(level) / 30 + 0.1 / 4;
  std::vector<int> counts(5);
  constexpr int kDraws = 40000;
  double mean = 0;
  for (int i = 0; i < kDraws; ++i) {
    const auto [level, weight] = sampler.draw(stream);
    const auto index = static_cast<std::size_t>(level);
    CHECK(weight == Approx(1 / (4 * share[index])).epsilon(1e-9));
    ++counts[index];
    mean += weight * loss(level) / kDraws;
  }
  for (std::size_t level = 1; level <= 4; ++level) CHECK(counts[level] == Approx(kDraws * share[level]).epsilon(0.08));
  CHECK(mean == Approx(7.5).epsilon(0.02));  // the mean over uniform levels: that is what the weights are for
}

TEST_CASE("only the ten latest losses of a level count, and a state comes back", "[level_sampler]") {
  LevelSampler sampler({1, 2, true}, 2), other({1, 2, true}, 2);
  fill(sampler, 1, 2, [](std::int64_t) { return 100.0; });
  fill(sampler, 1, 2, [](std::int64_t level) { return level == 1 ? 3.0 : 1.0; });
  RandomStream one(3, 0, "levels"), two(3, 0, "levels");
  const double weight = 1 / (2 * (0.999 * 0.75 + 0.0005));
  Approx expected = Approx(weight).epsilon(1e-9);
  other.restore(sampler.saved().clone());
  for (int i = 0; i < 50; ++i) {
    const auto a = sampler.draw(one), b = other.draw(two);
    CHECK(a.level == b.level);
    CHECK(a.weight == b.weight);
    if (a.level == 1) CHECK(a.weight == expected);
  }
  // Losses of a step that was left out do not count.
  sampler.record(0, at::tensor({std::int64_t{1}}), at::tensor({1e6}));
  sampler.record(0, at::tensor({std::int64_t{1}}), at::tensor({3.0}));
  sampler.step_done();
  RandomStream again(4, 0, "levels");
  for (int i = 0; i < 20; ++i)
    if (const auto drawn = sampler.draw(again); drawn.level == 1) CHECK(drawn.weight == expected);
}

TEST_CASE("a level sampler refuses what does not fit", "[level_sampler]") {
  check_refused(ErrorCode::kInvalidArgument, "LevelSamplerOptions: lowest", [&] { LevelSampler({5, 4}, 1); });
  check_refused(ErrorCode::kInvalidArgument, "LevelSamplerOptions: uniform", [&] {
    LevelSampler({1, 4, true, 0.0}, 1);
  });
  LevelSampler sampler({1, 4, true}, 1);
  check_refused(ErrorCode::kInvalidArgument, "record: levels",
                [&] { sampler.record(0, at::tensor({std::int64_t{9}}), at::tensor({1.0})); });
  check_refused(ErrorCode::kInvalidArgument, "record: losses", [&] {
    sampler.record(0, at::tensor({std::int64_t{1}}), at::tensor({1.0, 2.0}));
  });
  for (const bool loss_aware : {true, false}) {
    LevelSampler two_workers({1, 4, loss_aware}, 2);
    const auto record = [&](std::size_t worker) {
      two_workers.record(worker, at::tensor({std::int64_t{1}}), at::tensor({1.0}));
    };
    CHECK_NOTHROW(record(1));
    const std::string text = error_text(ErrorCode::kInvalidArgument, [&] { record(2); });
    CHECK(mentions(text, "LevelSampler::record: worker", "below 2", "got 2"));
  }
}
