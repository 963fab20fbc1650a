#include "daug/encoder/text_encoder.h"

#include <ATen/ATen.h>

#include <cmath>
#include <string>

#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/encoder/tokenizer.h"
#include "text_tower.h"

namespace daug {
namespace detail {

TextTower::TextTower(const TextEncoderOptions& options)
    : transformer_(register_module(
          "encoder", Transformer(TransformerOptions{options.width, options.depth, options.heads, options.mlp_width,
                                                    options.activation, options.norm_epsilon, /*causal=*/true,
                                                    options.use_checkpoint}))),
      norm_(register_module("final_layer_norm", layer_norm(options.width, options.norm_epsilon))) {
  const auto embeddings = register_module("embeddings", Group());
  tokens_ = embeddings->add("token_embedding", torch::nn::Embedding(options.vocab_size, options.width));
  positions_ = embeddings->add("position_embedding", torch::nn::Embedding(options.context_length, options.width));
}

at::Tensor TextTower::embed(const at::Tensor& ids) {
  return tokens_(ids) + positions_->weight.narrow(0, 0, ids.size(1));
}

at::Tensor TextTower::forward(const at::Tensor& ids, const at::Tensor& end) {
  const at::Tensor x = transformer_(embed(ids));
  return norm(x.index({at::arange(ids.size(0), ids.options()), end}));
}

namespace {

constexpr const char* kFunction = "TextEncoder";

std::string describe(const at::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  return concat("shape ", tensor.sizes(), " of ", tensor.scalar_type());
}

/// Throws unless every value is in [0, limit).
void require_below(const at::Tensor& values, std::int64_t limit, const char* argument) {
  const auto [low, high] = at::aminmax(values);
  const auto smallest = low.item<std::int64_t>(), largest = high.item<std::int64_t>();
  if (smallest < 0 || largest >= limit)
    fail(ErrorCode::kInvalidArgument, kFunction, argument, concat("values in [0, ", limit - 1, "]"),
         smallest < 0 ? smallest : largest);
}

/// Index of the first end-of-text token of each row.
at::Tensor find_end(const at::Tensor& ids, std::int64_t end_of_text_id) {
  const auto length = ids.size(1);
  const at::Tensor is_end = end_of_text_id >= 0 ? ids == end_of_text_id : ids == ids.amax(1, /*keepdim=*/true);
  const at::Tensor end = at::where(is_end, at::arange(length, ids.options()), length).amin(1);
  if (end.max().item<std::int64_t>() == length)
    fail(ErrorCode::kInvalidArgument, kFunction, concat("ids row ", end.argmax().item<std::int64_t>()),
         concat("an end-of-text token ", end_of_text_id), "none");
  return end;
}

}  // namespace
}  // namespace detail

void TextEncoderOptions::validate() const {
  constexpr const char* kName = "TextEncoderOptions";
  require_range(vocab_size, 1, 1 << 24, kName, "vocab_size");
  require_range(context_length, 1, 1 << 16, kName, "context_length");
  require_range(width, 1, 1 << 16, kName, "width");
  require_range(depth, 1, 256, kName, "depth");
  require(heads >= 1 && width % heads == 0, kName, "heads", detail::concat("a divisor of width ", width), heads);
  require_range(mlp_width, 1, 1 << 18, kName, "mlp_width");
  require_range(embed_dim, 1, 1 << 16, kName, "embed_dim");
  require_range(end_of_text_id, -1, vocab_size - 1, kName, "end_of_text_id");
  require(norm_epsilon > 0 && norm_epsilon <= 1, kName, "norm_epsilon", "a value in (0, 1]", norm_epsilon);
}

TextEncoderImpl::TextEncoderImpl(const TextEncoderOptions& options, LoadedLater) : options_(options) {
  options_.validate();
  tower_ = register_module("text_model", std::make_shared<detail::TextTower>(options_));
  projection_ = register_module("text_projection", detail::projection(options_.width, options_.embed_dim));
}

TextEncoderImpl::TextEncoderImpl(const TextEncoderOptions& options, std::uint64_t seed)
    : TextEncoderImpl(options, LoadedLater{}) {
  detail::init_parameters(*this, seed, [&](const std::string& name, const at::Tensor&) {
    if (name.ends_with("token_embedding.weight")) return 0.02;
    if (name.ends_with("position_embedding.weight")) return 0.01;
    const double known = detail::transformer_deviation(name, options_.width, options_.depth);
    return known >= 0 ? known : 1 / std::sqrt(static_cast<double>(options_.width));
  });
}

at::Tensor TextEncoderImpl::forward(const at::Tensor& ids, const at::Tensor& end) {
  if (!ids.defined() || ids.dim() != 2 || ids.scalar_type() != at::kLong || ids.size(0) < 1 || ids.size(1) < 1 ||
      ids.size(1) > options_.context_length)
    fail(ErrorCode::kMismatch, detail::kFunction, "ids",
         detail::concat("shape [B, L] of Long, L in [1, ", options_.context_length, "]"), detail::describe(ids));
  detail::require_below(ids, options_.vocab_size, "ids");
  at::Tensor last = end;
  if (!last.defined()) last = detail::find_end(ids, options_.end_of_text_id);
  if (last.dim() != 1 || last.size(0) != ids.size(0) || last.scalar_type() != at::kLong)
    fail(ErrorCode::kMismatch, detail::kFunction, "end", detail::concat("shape [", ids.size(0), "] of Long"),
         detail::describe(last));
  detail::require_below(last, ids.size(1), "end");
  // Attention is causal: nothing after the last end-of-text token of the batch is needed.
  const auto needed = last.max().item<std::int64_t>() + 1;
  const c10::Device device = projection_->weight.device();
  const at::Tensor tokens = ids.narrow(1, 0, needed).contiguous();
  return projection_->forward(tower_->forward(backend::upload(tokens, device), backend::upload(last, device)));
}

void require_vocabulary(const TextEncoder& text, std::int64_t tokens, const char* function) {
  const auto rows = text->options().vocab_size;
  if (tokens > rows)
    fail(ErrorCode::kMismatch, function, "vocabulary",
         detail::concat("at most ", rows, " tokens, the text tower's rows"), tokens);
}

void require_vocabulary(const TextEncoder& text, const Tokenizer& tokenizer, const char* function) {
  require_vocabulary(text, tokenizer.size(), function);
  const auto& options = text->options();
  const bool largest = options.end_of_text_id < 0;
  const auto end = largest ? options.vocab_size - 1 : options.end_of_text_id;
  if (end != tokenizer.end_id())
    fail(ErrorCode::kMismatch, function, "vocabulary",
         detail::concat("the end-of-text token as number ", end, ", where the text tower reads",
                        largest ? " (the largest id; or an end_of_text_id: eos_token_id in config.json, eos_id beside "
                                  "pool_type \"eos\" in open_clip's)"
                                : ""),
         tokenizer.end_id());
}

}  // namespace daug
