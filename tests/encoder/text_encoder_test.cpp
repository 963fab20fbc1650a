#include "daug/encoder/text_encoder.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr std::int64_t kEnd = 19;

TextEncoderOptions small() {
  TextEncoderOptions options;
  options.vocab_size = 20;
  options.context_length = 9;
  options.width = 8;
  options.depth = 2;
  options.heads = 2;
  options.mlp_width = 12;
  options.embed_dim = 5;
  options.end_of_text_id = kEnd;
  return options;
}

at::Tensor ids(const std::vector<std::int64_t>& values, std::int64_t rows = 1) {
  return at::tensor(values, at::kLong).reshape({rows, -1});
}

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

}  // namespace

TEST_CASE("a text becomes one embedding, whatever its batch and padding", "[encoder]") {
  const torch::NoGradGuard no_grad;
  TextEncoder encoder(small(), 1);
  const at::Tensor batch = ids({3, 7, kEnd, 0, 0, 0, 4, 4, 2, 11, kEnd, 0, 5, kEnd, 0, 0, 0, 0}, 3);
  const at::Tensor together = encoder(batch);
  REQUIRE(together.sizes() == at::IntArrayRef({3, 5}));
  CHECK(largest(together[0] - encoder(ids({3, 7, kEnd}))[0]) < 1e-6);
  CHECK(largest(together[1] - encoder(ids({4, 4, 2, 11, kEnd, 13, 17, kEnd}))[0]) < 1e-6);
  CHECK(largest(together[2] - encoder(batch.slice(0, 2, 3))[0]) < 1e-6);
  CHECK(largest(together[0] - together[2]) > 1e-3);
}

TEST_CASE("what precedes end-of-text matters, in its order", "[encoder]") {
  const torch::NoGradGuard no_grad;
  TextEncoder encoder(small(), 2);
  const at::Tensor base = encoder(ids({3, 7, 5, kEnd}));
  CHECK(largest(base - encoder(ids({7, 3, 5, kEnd}))) > 1e-4);
  CHECK(largest(base - encoder(ids({3, 7, 6, kEnd}))) > 1e-4);
  CHECK(largest(base - encoder(ids({3, 7, 5, kEnd, 2}))) < 1e-6);
}

TEST_CASE("end-of-text is found by id, by the largest id, or given", "[encoder]") {
  const torch::NoGradGuard no_grad;
  TextEncoder by_id(small(), 3);
  TextEncoderOptions options = small();
  options.end_of_text_id = -1;
  TextEncoder by_largest(options, 3);
  const at::Tensor x = ids({3, 12, 5, kEnd, kEnd, 1});
  CHECK(at::equal(by_id(x), by_largest(x)));
  CHECK(at::equal(by_id(x), by_id(x, at::tensor({3}, at::kLong))));
  CHECK_FALSE(at::equal(by_id(x), by_id(x, at::tensor({4}, at::kLong))));
  // Without the id, row 1 ends at its largest, 12.
  CHECK(at::equal(by_largest(ids({3, 12, 5})), by_id(ids({3, 12, 5}), at::tensor({1}, at::kLong))));
}

TEST_CASE("weights of the text encoder depend on options and seed alone", "[encoder]") {
  const torch::NoGradGuard no_grad;
  const at::Tensor x = ids({1, 2, kEnd});
  TextEncoder first(small(), 7);
  (void)at::randn({100});
  TextEncoder second(small(), 7), other(small(), 8);
  CHECK(at::equal(first(x), second(x)));
  CHECK_FALSE(at::equal(first(x), other(x)));
  TextEncoder large{TextEncoderOptions()};
  const auto parameters = large->named_parameters();
  CHECK(parameters["text_model.embeddings.token_embedding.weight"].std().item<double>() == Approx(0.02).epsilon(0.05));
  CHECK(parameters["text_model.embeddings.position_embedding.weight"].std().item<double>() ==
        Approx(0.01).epsilon(0.05));
}

TEST_CASE("the text encoder is the written-out formula", "[encoder]") {
  TextEncoderOptions options = small();
  options.depth = 1;
  options.heads = 1;
  TextEncoder encoder(options, 5);
  encoder->to(at::kDouble);
  const torch::NoGradGuard no_grad;
  auto parameters = encoder->named_parameters();
  std::uint64_t seed = 200;
  for (auto& item : parameters) item.value().copy_(0.5 * random_tensor(item.value().sizes().vec(), ++seed));
  const auto get = [&](const std::string& name) { return parameters["text_model." + name]; };
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    const at::Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-5).sqrt() * get(name + ".weight") + get(name + ".bias");
  };
  const auto linear = [&](const at::Tensor& x, const std::string& name) {
    return x.matmul(get(name + ".weight").t()) + get(name + ".bias");
  };
  at::Tensor h =
      at::stack({get("embeddings.token_embedding.weight")[6], get("embeddings.token_embedding.weight")[kEnd]});
  h = h + get("embeddings.position_embedding.weight").slice(0, 0, 2);
  const std::string layer = "encoder.layers.0.";
  const at::Tensor n = norm(h, layer + "layer_norm1");
  // Only the last token is read; being last, it sees both.
  const at::Tensor scores =
      linear(n[1], layer + "self_attn.q_proj").matmul(linear(n, layer + "self_attn.k_proj").t()) / std::sqrt(8.0);
  const at::Tensor mixed = scores.softmax(-1).matmul(linear(n, layer + "self_attn.v_proj"));
  at::Tensor last = h[1] + linear(mixed, layer + "self_attn.out_proj");
  const at::Tensor hidden = linear(norm(last, layer + "layer_norm2"), layer + "mlp.fc1");
  last = last + linear(hidden * (1.702 * hidden).sigmoid(), layer + "mlp.fc2");
  const at::Tensor expected = norm(last, "final_layer_norm").matmul(parameters["text_projection.weight"].t());
  CHECK(largest(encoder(ids({6, kEnd, 1}))[0] - expected) < 1e-12);
}

TEST_CASE("gradients of the text encoder agree with finite differences", "[encoder]") {
  for (const auto activation : {Activation::kQuickGelu, Activation::kGelu}) {
    TextEncoderOptions options = small();
    options.activation = activation;
    TextEncoder encoder(options, 6);
    encoder->to(at::kDouble);
    const at::Tensor x = ids({3, 7, 5, kEnd, 4, kEnd, 0, 0}, 2), direction = random_tensor({2, 5}, 13);
    check_gradients([&] { return (encoder(x) * direction).sum(); }, encoder->parameters(), 6);
  }
}

TEST_CASE("recomputed layers of the text encoder change neither values nor gradients", "[encoder]") {
  const at::Tensor x = ids({3, 7, 5, kEnd, 4, kEnd, 0, 0}, 2), direction = random_tensor({2, 5}, 17);
  const auto run = [&](bool again) {
    TextEncoderOptions options = small();
    options.use_checkpoint = again;
    TextEncoder encoder(options, 6);
    encoder->to(at::kDouble);
    const at::Tensor y = encoder(x);
    (y * direction).sum().backward();
    std::vector<at::Tensor> results = {y.detach()};
    for (const auto& parameter : encoder->parameters()) results.push_back(parameter.grad());
    return results;
  };
  const auto kept = run(false), again = run(true);
  REQUIRE(kept.size() == again.size());
  for (std::size_t i = 0; i < kept.size(); ++i) CHECK(largest(kept[i] - again[i]) < 1e-12 * (1 + largest(kept[i])));
}

TEST_CASE("parameters of the text encoder carry CLIP's names and shapes", "[encoder]") {
  TextEncoder encoder(small());
  const auto parameters = encoder->named_parameters();
  using Shape = std::vector<std::int64_t>;
  const auto shape = [&](const std::string& name) {
    REQUIRE(parameters.contains(name));
    return parameters[name].sizes().vec();
  };
  CHECK(parameters.size() == 5 + 2 * 16);
  CHECK(shape("text_model.embeddings.token_embedding.weight") == Shape{20, 8});
  CHECK(shape("text_model.embeddings.position_embedding.weight") == Shape{9, 8});
  CHECK(shape("text_model.encoder.layers.1.self_attn.out_proj.bias") == Shape{8});
  CHECK(shape("text_model.encoder.layers.0.mlp.fc2.weight") == Shape{8, 12});
  CHECK(shape("text_model.final_layer_norm.weight") == Shape{8});
  CHECK(shape("text_projection.weight") == Shape{5, 8});
}

TEST_CASE("input that does not fit the text encoder is named", "[encoder]") {
  TextEncoder encoder(small());
  const at::Tensor good = ids({1, kEnd, 2, kEnd}, 2);
  const auto message = [&](ErrorCode code, const at::Tensor& x, const at::Tensor& end = {}) {
    return error_text(code, [&] { encoder(x, end); });
  };
  contains(message(ErrorCode::kMismatch, good.to(at::kInt)), "of Int");
  contains(message(ErrorCode::kMismatch, good[0]), "ids");
  contains(message(ErrorCode::kMismatch, at::zeros({2, 10}, at::kLong)), "L in [1, 9]");
  contains(message(ErrorCode::kMismatch, {}), "undefined");
  contains(message(ErrorCode::kInvalidArgument, ids({1, 20, kEnd})), "[0, 19], got 20");
  contains(message(ErrorCode::kInvalidArgument, ids({1, -3, kEnd})), "got -3");
  contains(message(ErrorCode::kInvalidArgument, ids({1, kEnd, 2, 3}, 2)), "ids row 1");
  contains(message(ErrorCode::kMismatch, good, at::tensor({1}, at::kLong)), "end");
  contains(message(ErrorCode::kInvalidArgument, good, at::tensor({1, 2}, at::kLong)), "[0, 1], got 2");

  const auto invalid = [&](const std::function<void(TextEncoderOptions&)>& change) {
    TextEncoderOptions options = small();
    change(options);
    return error_text(ErrorCode::kInvalidArgument, [&] { TextEncoder refused(options); });
  };
  contains(invalid([](auto& o) { o.heads = 3; }), "heads");
  contains(invalid([](auto& o) { o.vocab_size = 0; }), "vocab_size");
  contains(invalid([](auto& o) { o.end_of_text_id = 20; }), "end_of_text_id");
  contains(invalid([](auto& o) { o.depth = 0; }), "depth");
}
