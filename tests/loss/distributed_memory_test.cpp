// The memory of ranks, counted over threads.

#include <ATen/ATen.h>

#include <cstdint>

#include "daug/loss/distributed_loss.h"
#include "loss/problems.h"
#include "support/memory_count.h"
#include "support/ranks.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a rank holds 8 n D numbers and 16 MB at most, and no scores of its items with all", "[loss][distributed]") {
  constexpr int kRanks = 2;
  constexpr std::int64_t kItems = 3072, kWidth = 64;  // of a rank, whose scores with all items would be 75 MB
  constexpr std::int64_t kRows = kItems * kWidth * 4;
  const at::Tensor image = random_tensor({kRanks * kItems, kWidth}, 1).to(at::kFloat),
                   text = random_tensor({kRanks * kItems, kWidth}, 2).to(at::kFloat),
                   prompts = random_tensor({3, kWidth}, 3).to(at::kFloat),
                   labels = (random_tensor({kRanks * kItems, 3}, 4) > 0.3).to(at::kFloat),
                   studies = at::arange(kRanks * kItems, at::kLong).div(3, "floor");
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft}) {
      HybridLossOptions options = options_for(0.7);
      options.contrastive_form = form, options.label_pairs = pairs;
      MemoryCount count;
      run_as_threads(kRanks, [&](c10d::ProcessGroup& group) {
        // Leaves that share the memory of what was made before.
        const auto leaf = [](const at::Tensor& rows) { return rows.detach().requires_grad_(true); };
        const auto own = [&](const at::Tensor& all) { return all.narrow(0, group.getRank() * kItems, kItems); };
        HybridLossInputs mine;
        mine.image = leaf(own(image)), mine.text = leaf(own(text)), mine.class_prompts = leaf(prompts);
        mine.labels = own(labels);
        if (pairs == LabelPairs::kIgnored) mine.study = own(studies);
        distributed_contrastive_loss(mine, options, group).total.backward();
      });
      INFO("form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs));
      CHECK(count.peak() <= kRanks * (8 * kRows + (16 << 20)));
      CHECK(count.peak() >= 2 * kRows);  // it counts at all: the gradients
    }
}

TEST_CASE("a rank holds 8 n D numbers and 16 MB at most where norms are extreme and some reports are absent",
          "[loss][distributed]") {
  constexpr int kRanks = 2;
  constexpr std::int64_t kItems = 512, kWidth = 16384;  // so wide that one more copy of the rows would be twice 16 MB
  constexpr std::int64_t kRows = kItems * kWidth * 4;
  const at::Tensor prompts = at::randn({3, kWidth}), labels = at::zeros({kRanks * kItems, 3});
  at::Tensor image = at::randn({kRanks * kItems, kWidth}), text = at::randn({kRanks * kItems, kWidth});
  for (const std::int64_t row : {std::int64_t{3}, kItems + 7}) image[row].mul_(1e25), text[row].mul_(1e-25);
  const at::Tensor text_mask = at::arange(kRanks * kItems, at::kLong).remainder(8) != 1;
  const HybridLossOptions options = options_for(0.7);
  MemoryCount count;
  run_as_threads(kRanks, [&](c10d::ProcessGroup& group) {
    const auto own = [&](const at::Tensor& all) { return all.narrow(0, group.getRank() * kItems, kItems); };
    HybridLossInputs mine;
    mine.image = own(image).detach().requires_grad_(true), mine.text = own(text).detach().requires_grad_(true);
    mine.class_prompts = prompts.detach().requires_grad_(true);
    mine.labels = own(labels), mine.text_mask = own(text_mask);
    distributed_contrastive_loss(mine, options, group).total.backward();
  });
  CHECK(count.peak() <= kRanks * (8 * kRows + (16 << 20)));
  CHECK(count.peak() >= 2 * kRows);
}
