#pragma once
// A small CLIP model in the files of both formats, which tests change.

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "daug/encoder/clip_checkpoint.h"
#include "daug/io/file.h"
#include "daug/io/weights.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/clip.h"
#include "support/scratch.h"
#include "support/tensor.h"

namespace daug::test {

inline ClipModel small_model(Activation activation = Activation::kQuickGelu, std::int64_t end_of_text = 29,
                             VitPooling pooling = VitPooling::kClassToken) {
  ClipParts parts = small_clip_parts();
  parts.image.image_size = 12;
  parts.image.vit.width = 16;
  parts.image.vit.mlp_width = 24;
  parts.image.vit.pooling = pooling;
  parts.text.vocab_size = 30;
  parts.text.context_length = 9;
  parts.text.depth = 3;
  parts.text.heads = 4;
  parts.text.mlp_width = 20;
  parts.text.end_of_text_id = end_of_text;
  parts.image.embed_dim = parts.text.embed_dim = 6;
  parts.image.vit.activation = parts.text.activation = activation;
  ClipModel model = make_clip(parts);
  model.start_of_text_id = 28;
  model.padding_id = 29;
  // Biases and gains take part as well.
  const torch::NoGradGuard no_grad;
  std::uint64_t seed = 300;
  for (const auto& tensors : {named_tensors(*model.image), named_tensors(*model.text)})
    for (const auto& [name, tensor] : tensors)
      if (tensor.dim() == 1) at::Tensor(tensor).add_(0.2 * random_tensor(tensor.sizes().vec(), ++seed));
  return model;
}

inline at::Tensor pixels(std::int64_t channels = 3, std::int64_t side = 12) {
  return random_tensor({2, channels, side, side}, 7).to(at::kFloat);
}

/// A text that ends early and one that ends at the last of `length` >= 9 tokens.
inline at::Tensor texts(std::int64_t length = 9) {
  const at::Tensor ids =
      at::tensor({28, 3, 29, 29, 29, 29, 29, 29, 29, 28, 5, 4, 3, 12, 17, 8, 9, 29}, at::kLong).reshape({2, 9});
  const at::Tensor longer = at::constant_pad_nd(ids, {0, length - 9}, 29);
  longer[1].narrow(0, 8, length - 9).fill_(6);
  return longer;
}

inline bool same_outputs(ClipModel a, ClipModel b) {
  const torch::NoGradGuard no_grad;
  const at::Tensor seen = pixels(3, a.image->options().image_size), read = texts(a.text->options().context_length);
  return at::equal(a.image(seen), b.image(seen)) && at::equal(a.text(read), b.text(read)) &&
         at::equal(a.logit_scale, b.logit_scale);
}

inline nlohmann::json read_json(const std::string& path) { return nlohmann::json::parse(read_text_file(path)); }

/// A saved model whose files a test changes before they are read.
class Folder {
 public:
  explicit Folder(const ClipModel& model = small_model()) {
    save_clip(scratch_.folder(), model);
    save_open_clip(weights(), settings(), model);
  }
  std::string folder() const { return scratch_.folder(); }
  std::string weights() const { return scratch_.path("open_clip.safetensors"); }
  std::string settings() const { return scratch_.path("open_clip.json"); }

  static void change_json(const std::string& path, const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json config = read_json(path);
    change(config);
    write_file_atomically(path, config.dump());
  }
  static void change_weights(const std::string& path, const std::function<void(SafetensorsFile&)>& change) {
    SafetensorsFile file = read_safetensors(path);
    change(file);
    write_safetensors(path, file);
  }
  Error config_error(const std::function<void(nlohmann::json&)>& change) const {
    const std::string path = folder() + "/config.json", before = read_text_file(path);
    change_json(path, change);
    const Error error = caught([&] { load_clip(folder()); });
    write_file_atomically(path, before);
    return error;
  }
  Error open_clip_error(const std::function<void(nlohmann::json&)>& change) const {
    const std::string before = read_text_file(settings());
    change_json(settings(), change);
    const Error error = caught([&] { load_open_clip(weights(), settings()); });
    write_file_atomically(settings(), before);
    return error;
  }
  Error weights_error(const std::string& path, const std::function<void(SafetensorsFile&)>& change,
                      const ClipLoadOptions& options = {}) const {
    const SafetensorsFile before = read_safetensors(path);
    change_weights(path, change);
    const Error error = caught(
        [&] { path == weights() ? load_open_clip(weights(), settings(), options) : load_clip(folder(), options); });
    write_safetensors(path, before);
    return error;
  }

 private:
  Scratch scratch_;
};

inline bool names(const Error& error, ErrorCode code, const std::string& text) {
  INFO(error.what() << " should name " << text);
  CHECK(error.code() == code);
  CHECK(mentions(error, text));
  return error.code() == code && mentions(error, text);
}

}  // namespace daug::test
