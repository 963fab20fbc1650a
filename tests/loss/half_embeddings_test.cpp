#include <ATen/ATen.h>

#include "daug/core/error.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("embeddings of 16 bits have the loss and the gradients of the same numbers in float32", "[loss]") {
  for (const auto type : {at::kHalf, at::kBFloat16})
    for (const bool normalise : {true, false})
      for (const auto execution : {Execution::kReference, Execution::kFused}) {
        INFO(type << (normalise ? " normalised" : " as it comes"));
        HybridLossOptions options;
        options.logit_scale = 2.3;
        options.normalise = normalise;
        options.execution = execution;
        HybridLossInputs narrow;
        narrow.image = (200 * random_tensor({5, 4}, 1)).to(type);
        narrow.text = (200 * random_tensor({5, 4}, 2)).to(type);
        narrow.class_prompts = (200 * random_tensor({3, 4}, 3)).to(type);
        narrow.labels = random_tensor({5, 3}, 4).gt(0).to(at::kFloat);
        HybridLossInputs wide = narrow;
        wide.image = narrow.image.to(at::kFloat).requires_grad_(true);
        wide.text = narrow.text.to(at::kFloat).requires_grad_(true);
        wide.class_prompts = narrow.class_prompts.to(at::kFloat).requires_grad_(true);
        // As they come, scores are more than a half can hold.
        REQUIRE(wide.text.matmul(wide.image.t()).abs().max().item<double>() * 9.9 > 65504);
        for (at::Tensor* leaf : {&narrow.image, &narrow.text, &narrow.class_prompts}) leaf->requires_grad_(true);

        const auto actual = hybrid_contrastive_loss(narrow, options), expected = hybrid_contrastive_loss(wide, options);
        CHECK(actual.total.scalar_type() == at::kFloat);
        CHECK(actual.total.isfinite().item<bool>());
        CHECK(same_bits(actual.total.detach(), expected.total.detach()));
        actual.total.backward();
        expected.total.backward();
        CHECK(same_bits(narrow.image.grad(), wide.image.grad().to(type)));
        CHECK(same_bits(narrow.text.grad(), wide.text.grad().to(type)));
        CHECK(same_bits(narrow.class_prompts.grad(), wide.class_prompts.grad().to(type)));
        CHECK(same_bits(class_probabilities(narrow.image, narrow.class_prompts, options).detach(),
                        class_probabilities(wide.image, wide.class_prompts, options).detach()));
      }
}

TEST_CASE("an embedding of 16 bits that is not finite is refused by its row", "[loss]") {
  HybridLossInputs inputs;
  inputs.image = random_tensor({3, 4}, 1).to(at::kHalf);
  at::Tensor text = random_tensor({3, 4}, 2);
  text[2][1].fill_(1e6);
  inputs.text = text.to(at::kHalf);  // infinite there
  HybridLossOptions options;
  options.clip_weight = 1;
  for (const bool normalise : {true, false}) {
    options.normalise = normalise;
    contains(error_text(ErrorCode::kNumeric, [&] { hybrid_contrastive_loss(inputs, options); }),
             normalise ? "text row 2" : "text");
  }
}
