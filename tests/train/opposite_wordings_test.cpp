#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <string>

#include "daug/core/error.h"
#include "daug/train/classify.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("wordings that cancel each other are refused by the class", "[classify]") {
  const Tokenizer tokenizer(BpeVocabulary::from_merges({}));
  TextEncoderOptions options;
  options.vocab_size = tokenizer.size();
  options.context_length = 60;
  options.width = 16;
  options.heads = 2;
  options.depth = 1;
  options.mlp_width = 16;
  options.embed_dim = 6;
  TextEncoder text(options, 3);
  // Layers that add nothing and tokens that say nothing: a text is where it ends, u or -u by turns.
  at::Tensor projection;
  {
    at::NoGradGuard no_grad;
    const at::Tensor u = random_tensor({1, 16}, 1).to(at::kFloat);
    for (auto& item : text->named_parameters()) {
      if (item.key() == "text_projection.weight") {
        projection = item.value();
        continue;
      }
      item.value().zero_();
      if (item.key() == "text_model.final_layer_norm.weight") item.value().fill_(1);
      if (item.key() != "text_model.embeddings.position_embedding.weight") continue;
      for (std::int64_t i = 0; i < 60; ++i) item.value().narrow(0, i, 1).copy_(i % 2 ? u : -u);
    }
  }
  REQUIRE(projection.defined());
  const auto side = [&](const std::string& prompt) { return tokenizer.encode(prompt, 60).length % 2; };
  REQUIRE(side("pus") == side("fat"));
  REQUIRE(side("air") != side("mass"));
  const ClassPrompts first{{"pus", "air"}, {"no", "to"}}, second{{"fat", "mass"}, {"no", "to"}};
  const auto embed = [&](const std::vector<ClassPrompts>& wordings, ClassForm form) {
    return embed_class_prompts(text, tokenizer, wordings, form, 60);
  };
  for (const auto form : {ClassForm::kBce, ClassForm::kPaired}) {
    CHECK(embed({first}, form).isfinite().all().item<bool>());
    const std::string refusal = error_text(ErrorCode::kNumeric, [&] { embed({first, second}, form); });
    CHECK(mentions(refusal, "wordings", "'air'"));
    CHECK_FALSE(mentions(refusal, "'pus'"));
  }
  {
    at::NoGradGuard no_grad;
    projection.zero_();
  }
  contains(error_text(ErrorCode::kNumeric, [&] { embed({first}, ClassForm::kBce); }), "'pus'");
}
