#include "daug/train/classify.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// A text tower of 60 tokens to 6 numbers.
TextEncoderOptions sixty_tokens(const Tokenizer& tokenizer) {
  TextEncoderOptions options;
  options.vocab_size = tokenizer.size();
  options.context_length = 60;
  options.width = 16;
  options.heads = 2;
  options.depth = 1;
  options.mlp_width = 16;
  options.embed_dim = 6;
  return options;
}

}  // namespace

TEST_CASE("prompt ensembles are averaged at unit length", "[classify]") {
  const Tokenizer tokenizer(BpeVocabulary::from_merges({}));
  TextEncoderOptions options = sixty_tokens(tokenizer);
  TextEncoder text(options, 3);
  const auto wordings = class_prompt_ensemble({"Edema", "Nodule", "No Finding"});
  REQUIRE(wordings.size() >= 2);
  // Each prompt by itself, summed in plain doubles.
  const auto direction = [&](const std::vector<std::string>& prompts) {
    std::vector<double> sum(6, 0.0);
    for (const auto& prompt : prompts) {
      const TokenIds row = tokenizer.encode(prompt, 60);
      const auto v =
          to_doubles(text->forward(at::tensor(row.ids).view({1, 60}), at::tensor({row.length - 1})).detach());
      double square = 0;
      for (double x : v) square += x * x;
      for (std::size_t i = 0; i < 6; ++i) sum[i] += v[i] / std::sqrt(square);
    }
    double square = 0;
    for (double x : sum) square += x * x;
    for (double& x : sum) x /= std::sqrt(square);
    return sum;
  };
  const at::Tensor single = embed_class_prompts(text, tokenizer, wordings, ClassForm::kBce, 60);
  const at::Tensor paired = embed_class_prompts(text, tokenizer, wordings, ClassForm::kPaired, 60);
  REQUIRE(single.sizes() == at::IntArrayRef({3, 6}));
  REQUIRE(paired.sizes() == at::IntArrayRef({6, 6}));
  for (std::int64_t f = 0; f < 3; ++f) {
    std::vector<std::string> positive, negative;
    for (const auto& wording : wordings) {
      positive.push_back(wording.positive[static_cast<std::size_t>(f)]);
      negative.push_back(wording.negative[static_cast<std::size_t>(f)]);
    }
    const auto present = direction(positive), absent = direction(negative);
    for (std::int64_t i = 0; i < 6; ++i) {
      const auto at = static_cast<std::size_t>(i);
      CHECK(single[f][i].item<double>() == Approx(present[at]).margin(1e-5));
      CHECK(paired[2 * f][i].item<double>() == Approx(absent[at]).margin(1e-5));
      CHECK(paired[2 * f + 1][i].item<double>() == Approx(present[at]).margin(1e-5));
    }
    // Zero-shot probabilities of an image that lies on a class's direction: tau times the cosines.
    HybridLossOptions loss;
    loss.logit_scale = 1.5;
    const at::Tensor probabilities = class_probabilities(single.narrow(0, f, 1) * 7, single, loss);
    for (std::int64_t k = 0; k < 3; ++k) {
      const double cosine = (single[f] * single[k]).sum().item<double>();
      CHECK(probabilities[0][k].item<double>() == Approx(1 / (1 + std::exp(-std::exp(1.5) * cosine))).epsilon(1e-5));
    }
  }

  const auto refused = [&](const std::string& argument, const std::vector<ClassPrompts>& some, std::int64_t length) {
    CHECK_THROWS_WITH(embed_class_prompts(text, tokenizer, some, ClassForm::kBce, length), contains_text(argument));
  };
  refused("wordings", {}, 60);
  refused("wordings", {wordings[0], class_prompts({"Edema"})}, 60);
  refused("context_length", wordings, 61);
  refused("context_length", wordings, 1);
  options.vocab_size = tokenizer.size() - 1;
  text = TextEncoder(options, 3);
  refused("vocabulary", wordings, 60);
  // A tower that reads texts at one token, and a tokenizer that ends them with another.
  options.vocab_size = tokenizer.size();
  options.end_of_text_id = tokenizer.end_id();
  text = TextEncoder(options, 3);
  CHECK_NOTHROW(embed_class_prompts(text, tokenizer, wordings, ClassForm::kBce, 60));
  options.end_of_text_id = 5;
  text = TextEncoder(options, 3);
  refused("the end-of-text token as number 5", wordings, 60);
  // A table with rows to spare: which token ends a text has to be named.
  options.vocab_size = tokenizer.size() + 2;
  options.end_of_text_id = tokenizer.end_id();
  text = TextEncoder(options, 3);
  CHECK_NOTHROW(embed_class_prompts(text, tokenizer, wordings, ClassForm::kBce, 60));
  options.end_of_text_id = -1;
  text = TextEncoder(options, 3);
  refused("the end-of-text token as number " + std::to_string(tokenizer.size() + 1), wordings, 60);
  // A token behind end-of-text, which would be the largest id of the texts that it is in.
  BpeVocabulary longer = BpeVocabulary::from_merges({});
  longer.tokens.emplace_back("more");
  const Tokenizer other(longer);
  options.vocab_size = other.size();
  text = TextEncoder(options, 3);
  CHECK_THROWS_WITH(embed_class_prompts(text, other, wordings, ClassForm::kBce, 60),
                    contains_text("the end-of-text token as number " + std::to_string(other.size() - 1)));
}

TEST_CASE("wordings that cancel each other are refused by the class", "[classify]") {
  const Tokenizer tokenizer(BpeVocabulary::from_merges({}));
  TextEncoder text(sixty_tokens(tokenizer), 3);
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

TEST_CASE("a linear probe finds the frequencies of a yes-no feature", "[classify]") {
  // One dimension at unit length is a sign. Without penalty the likeliest probabilities are each side's frequencies.
  const at::Tensor embeddings = at::tensor({2.0, 0.1, 5.0, 3.0, -1.0, -0.2, -9.0, -1.0}).view({8, 1});
  const at::Tensor labels = at::tensor({1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0}).view({8, 1});
  at::Tensor mask = at::ones({8, 1});
  mask[7] = 0;
  const auto probe = LinearProbe::fit(embeddings, labels, mask, 1e-9);
  const at::Tensor predicted = probe.predict(at::tensor({0.5, -0.5}).view({2, 1}));
  CHECK(predicted[0][0].item<double>() == Approx(3.0 / 4).epsilon(1e-6));
  CHECK(predicted[1][0].item<double>() == Approx(1.0 / 3).epsilon(1e-6));
}

TEST_CASE("a linear probe is calibrated in the mean, ignores unknown labels and lengths", "[classify]") {
  const at::Tensor embeddings = random_tensor({40, 5}, 1);
  const at::Tensor noise = random_tensor({40, 2}, 2);
  const at::Tensor labels =
      (at::stack({embeddings.select(1, 0), embeddings.select(1, 3)}, 1) + 0.5 * noise > 0).to(at::kDouble);
  const at::Tensor mask = (random_tensor({40, 2}, 3).abs() > 0.3).to(at::kDouble);
  const auto probe = LinearProbe::fit(embeddings, labels, mask);
  const at::Tensor predicted = probe.predict(embeddings);
  REQUIRE(predicted.sizes() == at::IntArrayRef({40, 2}));
  // The intercept is not penalised, so its derivative is zero: predictions sum to the labels.
  CHECK(((predicted - labels) * mask).sum(0).abs().max().item<double>() < 1e-6);
  const at::Tensor right = (predicted > 0.5).eq(labels > 0.5).to(at::kDouble).mean();
  CHECK(right.item<double>() > 0.75);

  const at::Tensor lengths = random_tensor({40, 1}, 4).abs() + 0.1;
  const auto other = LinearProbe::fit(embeddings * lengths, labels * mask, mask);
  CHECK((other.predict(3 * embeddings) - predicted).abs().max().item<double>() < 1e-9);
  // A feature that is the same everywhere after all: standardising must not divide by zero.
  const auto same = LinearProbe::fit(at::ones({4, 2}), labels.narrow(0, 0, 4), at::ones({4, 2}));
  CHECK(same.predict(at::ones({1, 2})).isfinite().all().item<bool>());
}

TEST_CASE("a linear probe refuses what it cannot learn from", "[classify]") {
  const at::Tensor x = random_tensor({6, 3}, 1), y = at::zeros({6, 2}), m = at::ones({6, 2});
  const auto refused = [](const char* argument, const at::Tensor& rows, const at::Tensor& labels,
                          const at::Tensor& mask, double l2 = 1) {
    CHECK_THROWS_WITH(LinearProbe::fit(rows, labels, mask, l2), contains_text(argument));
  };
  refused("embeddings", x[0], y, m);
  refused("embeddings", x * 0, y, m);
  refused("embeddings", x * std::nan(""), y, m);
  refused("embeddings", x.narrow(0, 0, 1), y.narrow(0, 0, 1), m.narrow(0, 0, 1));
  refused("labels", x, y + 0.5, m);
  refused("labels", x, y.narrow(0, 0, 5), m);
  refused("label_mask", x, y, -m);
  refused("label_mask", x, y, m.narrow(1, 0, 1));
  refused("l2", x, y, m, 0);
  const auto probe = LinearProbe::fit(x, y, m);
  CHECK_THROWS_WITH(probe.predict(x.narrow(1, 0, 2)), contains_text("embeddings"));
}
