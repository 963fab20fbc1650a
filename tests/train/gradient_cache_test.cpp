#include "daug/train/gradient_cache.h"

#include <ATen/ATen.h>

#include <vector>

#include "daug/core/error.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "support/catch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Two small towers of two layers, one input that is learnt too, and the loss over their embeddings.
struct Towers {
  at::Tensor images = random_tensor({10, 6}, 1), texts = random_tensor({10, 4}, 2);
  at::Tensor labels = (random_tensor({10, 3}, 3) > 0).to(at::kLong);
  std::vector<at::Tensor> parameters = {random_tensor({6, 7}, 4), random_tensor({7, 5}, 5),
                                        random_tensor({4, 7}, 6), random_tensor({7, 5}, 7),
                                        random_tensor({3, 5}, 8), at::tensor({1.5}, at::kDouble)};
  int embedded = 0;  ///< calls of a tower

  Towers() {
    for (const auto& parameter : parameters) parameter.requires_grad_(true);
  }

  at::Tensor loss(std::int64_t chunk_size) {
    const auto tower = [this, chunk_size](const at::Tensor& inputs, std::size_t first) {
      return embed_in_chunks(
          inputs.size(0), chunk_size,
          [this, inputs, first](std::int64_t begin, std::int64_t count) {
            ++embedded;
            return inputs.narrow(0, begin, count).matmul(parameters[first]).tanh().matmul(parameters[first + 1]);
          },
          parameters);
    };
    HybridLossInputs in;
    in.image = tower(images, 0), in.text = tower(texts, 2);
    in.class_prompts = parameters[4], in.labels = labels, in.logit_scale = parameters[5];
    return hybrid_contrastive_loss(in, {}).total;
  }

  std::vector<at::Tensor> gradients(std::int64_t chunk_size, double* value) {
    for (const auto& parameter : parameters) parameter.mutable_grad() = at::Tensor();
    const at::Tensor total = loss(chunk_size);
    *value = total.item<double>();
    total.backward();
    std::vector<at::Tensor> result;
    for (const auto& parameter : parameters) result.push_back(parameter.grad().clone());
    return result;
  }
};

}  // namespace

TEST_CASE("chunks of any size give the gradient of the whole batch", "[train][gradient_cache]") {
  Towers towers;
  double whole = 0;
  const auto expected = towers.gradients(0, &whole);
  CHECK(towers.embedded == 2);
  for (const std::int64_t chunk : {1, 2, 3, 7, 9, 10, 100}) {
    towers.embedded = 0;
    double value = 0;
    const auto actual = towers.gradients(chunk, &value);
    INFO("chunk " << chunk);
    CHECK(value == Approx(whole).epsilon(1e-13));
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK((actual[i] - expected[i]).abs().max().item<double>() <=
            1e-12 * (1 + expected[i].abs().max().item<double>()));
    // Every chunk of both towers twice, where there are chunks.
    CHECK(towers.embedded == (chunk >= 10 ? 2 : 4 * ((10 + chunk - 1) / chunk)));
  }
}

TEST_CASE("without gradients chunks are embedded once, and bad arguments are named", "[train][gradient_cache]") {
  Towers towers;
  {
    const at::NoGradGuard no_grad;
    CHECK_FALSE(towers.loss(3).requires_grad());
  }
  CHECK(towers.embedded == 8);
  const auto rows = [](std::int64_t, std::int64_t count) { return at::zeros({count, 2}); };
  const auto one = [](std::int64_t, std::int64_t) { return at::zeros({1, 2}); };
  CHECK_THROWS_AS(embed_in_chunks(0, 1, rows, {}), Error);
  CHECK_THROWS_AS(embed_in_chunks(3, -1, rows, {}), Error);
  CHECK_THROWS_WITH(embed_in_chunks(4, 2, one, {}), contains_text("embed"));
}
