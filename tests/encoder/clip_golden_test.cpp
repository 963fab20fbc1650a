// CLIP checkpoints read from their own formats, against what transformers and open_clip compute from them. Which kind a
// set is, its checkpoint, sizes and tolerances are read from its JSON.

#include <ATen/ATen.h>
#include <ATen/Version.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/clip_checkpoint.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/io/weights.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "encoder/text_tower.h"
#include "encoder/vit_tower.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden_device.h"
#include "support/scratch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

struct Tolerance {
  double relative = 0, absolute = 0;

  /// The numbers behind the first "rtol" and "atol" after `phrase`.
  static Tolerance parse(const std::string& text, const std::string& phrase = "") {
    const auto from = text.find(phrase);
    REQUIRE(from != std::string::npos);
    const auto number = [&](const char* name) {
      const auto at = text.find(name, from);
      return at == std::string::npos ? 0.0 : std::stod(text.substr(at + 5));
    };
    return {number("rtol "), number("atol ")};
  }
};

struct Tolerances {
  Tolerance float32, float64;
  double unit_float32 = 0, logits_float32 = 0;

  explicit Tolerances(const nlohmann::json& json)
      : float32(Tolerance::parse(json.at("float32"))), float64(Tolerance::parse(json.at("float64"))) {
    const std::string text = json.at("float32");
    unit_float32 = Tolerance::parse(text, "unit-norm embeddings").absolute;
    logits_float32 = Tolerance::parse(text, "logits").absolute;
  }
};

/// Asserts, and remembers the largest float64 error relative to the tensor's largest value, where that is above the
/// absolute tolerance.
class Comparison {
 public:
  void near(const std::string& what, const at::Tensor& actual, const at::Tensor& expected, Tolerance tolerance) {
    INFO(what);
    REQUIRE(actual.sizes() == expected.sizes());
    const at::Tensor error = (actual.detach().to(at::kCPU, at::kDouble) - expected).abs();
    CHECK((error <= tolerance.absolute + tolerance.relative * expected.abs()).all().item<bool>());
    const double scale = expected.abs().max().item<double>();
    if (scale > tolerance.absolute) largest_ = std::max(largest_, error.max().item<double>() / scale);
    ++compared_;
  }
  double largest() const {
    REQUIRE(compared_ > 0);
    return largest_;
  }

 private:
  double largest_ = 0;
  int compared_ = 0;
};

at::Tensor integers(const GoldenSet& set, const std::string& name) { return to_tensor(set.at(name)).to(at::kLong); }
at::Tensor unit(const at::Tensor& x) { return x / x.norm(2, -1, true); }

/// What `load` reads, or the set skipped for a setting that is documented not to be offered.
template <class Load>
ClipModel offered(const Load& load) {
  try {
    return load();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    throw Skip{std::string("not compared: ") + error.what()};
  }
}

/// Where transformers reads texts, [B]: the first end-of-text, the first token of a row without one; by its older
/// rule the largest id.
at::Tensor published_end(const at::Tensor& ids, std::int64_t end_of_text_id) {
  return (end_of_text_id < 0 ? ids : (ids == end_of_text_id).to(at::kLong)).argmax(1);
}

/// The tokens before which the mask hides none, [B, L]: for them causal attention alone computes the same.
at::Tensor unmasked(const at::Tensor& mask) { return mask.cumprod(1).to(at::kBool); }

/// The texts that are read at such a token, [B, 1].
at::Tensor comparable(const at::Tensor& mask, const at::Tensor& end) {
  return unmasked(mask).gather(1, end.unsqueeze(1));
}

at::Tensor kept(const at::Tensor& where, const at::Tensor& x) {
  return at::where(where, x.to(at::kCPU, at::kDouble), 0.0);
}

ClipModel double_model(ClipModel model) {
  model.image->to(at::kDouble);
  model.text->to(at::kDouble);
  model.logit_scale = model.logit_scale.to(at::kDouble);
  return model;
}

/// The same model, now there.
ClipModel moved(ClipModel model, const at::Device& device) {
  model.image->to(device);
  model.text->to(device);
  model.logit_scale = model.logit_scale.to(device);
  return model;
}

std::string folder_of(const GoldenSet& set) {
  const std::string text = set.settings.at("checkpoint");
  return set.folder + "/" + text.substr(0, text.find('/'));
}

template <class Tower, class Encoder>
Tower& tower_of(const Encoder& encoder, const char* name) {
  return dynamic_cast<Tower&>(*encoder->named_children()[name]);
}

/// What a forward pass leaves behind: entry 0 of the states is what enters the first layer.
struct Forward {
  at::Tensor image_states, pooled, image;  ///< [depth + 1, B, 1 + patches, W], [B, W], [B, D]
  at::Tensor text_states, last;            ///< [depth + 1, B, L, W], [B, L, W] behind the norm
  at::Tensor text_pooled, text;            ///< [B, W], [B, D]
};

using Layers = std::function<std::vector<at::Tensor>(const at::Tensor& tokens, const std::string& tower)>;

Forward run(const ClipModel& model, const at::Tensor& pixels, const at::Tensor& ids, const at::Tensor& end,
            const Layers& layers) {
  auto& vision = tower_of<daug::detail::VitTower>(model.image, "vision_model");
  auto& words = tower_of<daug::detail::TextTower>(model.text, "text_model");
  const auto project = [](const at::Tensor& x, const auto& encoder, const char* name) {
    return x.matmul(named_tensors(*encoder).at(name).t());
  };
  Forward result;
  result.image_states = at::stack(layers(vision.embed(pixels), "vision_model"));
  result.pooled = vision.pool(result.image_states[-1]);
  result.image = project(result.pooled, model.image, "visual_projection.weight");
  result.text_states = at::stack(layers(words.embed(ids), "text_model"));
  result.last = words.norm(result.text_states[-1]);
  result.text_pooled = result.last.index({at::arange(ids.size(0), at::kLong), end});
  result.text = project(result.text_pooled, model.text, "text_projection.weight");
  return result;
}

/// The library's own layers, one by one.
Layers own_layers(const ClipModel& model) {
  return [&model](at::Tensor tokens, const std::string& tower) {
    const auto& transformer = tower == "text_model"
                                  ? tower_of<daug::detail::TextTower>(model.text, "text_model").transformer()
                                  : tower_of<daug::detail::VitTower>(model.image, "vision_model").transformer();
    std::vector<at::Tensor> states = {tokens};
    for (auto layer : transformer->layers()) states.push_back(layer(states.back()));
    return states;
  };
}

/// The layers written out. transformers' eager attention, which made the float64 outputs of these sets, takes the
/// softmax in float32 whatever the weights are; `rounded` does so too.
Layers written_out_layers(const ClipModel& model, bool rounded) {
  return [&model, rounded](const at::Tensor& tokens, const std::string& tower) {
    const bool text = tower == "text_model";
    const NamedTensors weights = text ? named_tensors(*model.text) : named_tensors(*model.image);
    const auto& t = model.text->options();
    const auto& v = model.image->options().vit;
    const std::int64_t depth = text ? t.depth : v.depth, heads = text ? t.heads : v.heads;
    const double epsilon = text ? t.norm_epsilon : v.norm_epsilon;
    const Activation activation = text ? t.activation : v.activation;
    std::vector<at::Tensor> states = {tokens};
    for (std::int64_t layer = 0; layer < depth; ++layer) {
      const std::string prefix = tower + ".encoder.layers." + std::to_string(layer) + ".";
      const auto linear = [&](const at::Tensor& x, const std::string& name) {
        return x.matmul(weights.at(prefix + name + ".weight").t()) + weights.at(prefix + name + ".bias");
      };
      const auto norm = [&](const at::Tensor& x, const std::string& name) {
        const at::Tensor centred = x - x.mean(-1, true);
        return centred / (centred.square().mean(-1, true) + epsilon).sqrt() * weights.at(prefix + name + ".weight") +
               weights.at(prefix + name + ".bias");
      };
      at::Tensor x = states.back();
      const at::Tensor n = norm(x, "layer_norm1");
      const auto split = [&](const char* name) {
        return linear(n, std::string("self_attn.") + name).unflatten(2, {heads, -1}).transpose(1, 2);
      };
      const at::Tensor q = split("q_proj"), k = split("k_proj"), values = split("v_proj");
      at::Tensor scores = q.matmul(k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
      if (text) {
        const at::Tensor later = at::ones({n.size(1), n.size(1)}, at::kBool).triu(1);
        scores = scores.masked_fill(later, -std::numeric_limits<double>::infinity());
      }
      const at::Tensor attention = rounded ? scores.to(at::kFloat).softmax(-1).to(at::kDouble) : scores.softmax(-1);
      x = x + linear(attention.matmul(values).transpose(1, 2).flatten(2), "self_attn.out_proj");
      const at::Tensor hidden = linear(norm(x, "layer_norm2"), "mlp.fc1");
      const at::Tensor active = activation == Activation::kGelu ? hidden * 0.5 * (1 + (hidden / std::sqrt(2.0)).erf())
                                                                : hidden * (1.702 * hidden).sigmoid();
      states.push_back(x + linear(active, "mlp.fc2"));
    }
    return states;
  };
}

at::Tensor logits_per_image(const Forward& forward, const at::Tensor& logit_scale) {
  return logit_scale.exp() * unit(forward.image).matmul(unit(forward.text).t());
}

/// `rows` [B, 1]: the texts that a mask may not have changed.
void check_forward(const GoldenSet& set, const Forward& forward, const at::Tensor& rows, const at::Tensor& logit_scale,
                   const std::string& suffix, const Tolerances& tolerances, Comparison& compare) {
  const bool wide = suffix == ".f64";
  const Tolerance general = wide ? tolerances.float64 : tolerances.float32;
  const auto bounded = [&](double absolute) { return wide ? general : Tolerance{0, absolute}; };
  const auto near = [&](const std::string& name, const at::Tensor& actual, Tolerance tolerance) {
    if (set.file.contains(name + suffix))
      compare.near(name + suffix, actual, to_tensor(set.at(name + suffix)), tolerance);
  };
  near("vision.hidden_states", forward.image_states, general);
  near("vision.last_hidden_state", forward.image_states[-1], general);
  near("vision.pooler_output", forward.pooled, general);
  near("text_no_mask.last_hidden_state", forward.last, general);
  // Behind the padding mask are values that nothing reads; before it the mask changes nothing.
  const auto near_where = [&](const at::Tensor& seen, const std::string& name, const at::Tensor& actual,
                              Tolerance tolerance) {
    if (set.file.contains(name + suffix))
      compare.near(name + suffix, kept(seen, actual), kept(seen, to_tensor(set.at(name + suffix))), tolerance);
  };
  const at::Tensor seen = unmasked(integers(set, "in.attention_mask")).unsqueeze(-1);
  near_where(seen, "text.last_hidden_state", forward.last, general);
  near_where(seen, "text.hidden_states", forward.text_states, general);
  near_where(rows, "text.pooler_output", forward.text_pooled, general);
  near("image_embeds_raw", forward.image, general);
  near_where(rows, "text_embeds_raw", forward.text, general);
  near("text_no_mask.text_embeds_raw", forward.text, general);
  near("image_embeds", unit(forward.image), bounded(tolerances.unit_float32));
  near_where(rows, "text_embeds", unit(forward.text), bounded(tolerances.unit_float32));
  const at::Tensor logits = logits_per_image(forward, logit_scale);
  near_where(rows.t(), "logits_per_image", logits, bounded(tolerances.logits_float32));
  near_where(rows, "logits_per_text", logits.t(), bounded(tolerances.logits_float32));
  if (!wide || !rows.slice(0, 0, forward.image.size(0)).all().item<bool>()) return;
  HybridLossOptions contrastive;
  contrastive.clip_weight = 1;
  const at::Tensor text = forward.text.slice(0, 0, forward.image.size(0));
  near("clip_loss", hybrid_contrastive_loss(forward.image, text, {}, {}, {}, {}, contrastive, logit_scale).total,
       general);
}

/// What the last bits of a float32 softmax may change of float64 outputs. The sets were made with LibTorch's loops for
/// AVX2; those for other vectors sum in another order and have another exponential, so that there the outputs are only
/// held to a few times what all of the softmax's rounding moves them by: less than `most`, which the set allows
/// float32.
double softmax_slack(const Forward& rounded, const Forward& exact, const at::Tensor& logit_scale, double most) {
  if (at::get_cpu_capability() == "AVX2") return 0;
  double moved = 0;
  const auto compare = [&](const at::Tensor& a, const at::Tensor& b) {
    moved = std::max(moved, (a - b).abs().max().item<double>());
  };
  for (const auto part :
       {&Forward::image_states, &Forward::image, &Forward::text_states, &Forward::last, &Forward::text})
    compare(rounded.*part, exact.*part);
  compare(logits_per_image(rounded, logit_scale), logits_per_image(exact, logit_scale));
  CHECK(moved < most);
  return 4 * moved;
}

/// What a set says of a model's towers in float32, wherever they lie: sums in another order are within its tolerances.
class FloatForward {
 public:
  FloatForward(const GoldenSet& set, const ClipModel& model)
      : ids(integers(set, "in.input_ids")),
        end(integers(set, model.text->options().end_of_text_id < 0 ? "pool.legacy_index" : "pool.real_index")),
        readable(comparable(integers(set, "in.attention_mask"), end)),
        pixels_(to_tensor(set.at("in.pixel_values")).to(at::kFloat)) {
    CHECK(at::equal(end, published_end(ids, model.text->options().end_of_text_id)));
    if (!readable.all().item<bool>()) set.left_out.push_back("texts read behind a masked token (no mask is offered)");
  }

  void check(const GoldenSet& set, ClipModel model, const Tolerances& tolerances, Comparison& compare) const {
    const at::Device device = model.logit_scale.device();
    const at::Tensor pixels = pixels_.to(device), texts = ids.to(device);
    check_forward(set, run(model, pixels, texts, end.to(device), own_layers(model)), readable, model.logit_scale,
                  ".f32", tolerances, compare);
    compare.near("image", model.image(pixels), to_tensor(set.at("image_embeds_raw.f32")), tolerances.float32);
    compare.near("text", kept(readable, model.text(texts, end.to(device))),
                 kept(readable, to_tensor(set.at("text_embeds_raw.f32"))), tolerances.float32);
  }

  at::Tensor ids, end, readable;

 private:
  at::Tensor pixels_;
};

double check_transformers(const GoldenSet& set) {
  const at::NoGradGuard no_grad;
  Tolerances tolerances(set.settings.at("tolerance"));
  ClipModel model = offered([&] { return load_clip(folder_of(set)); });
  const at::Tensor pixels = to_tensor(set.at("in.pixel_values")), mask = integers(set, "in.attention_mask");
  const FloatForward given(set, model);
  const at::Tensor ids = given.ids, end = given.end, readable = given.readable;
  const bool legacy = model.text->options().end_of_text_id < 0;
  Comparison float32, float64;
  given.check(set, model, tolerances, float32);

  // Where the checkpoint's rule finds end-of-text. transformers reads a row without it at its first token; here it is
  // refused.
  const at::Tensor rows =
      legacy ? at::ones({ids.size(0)}, at::kBool) : (ids == model.text->options().end_of_text_id).any(1);
  if (rows.any().item<bool>())
    CHECK(at::equal(model.text(ids.index({rows})), model.text(ids.index({rows}), end.index({rows}))));
  if (!rows.all().item<bool>()) CHECK(mentions(caught([&] { model.text(ids); }), "an end-of-text token"));

  // Written and read again it is the same model, to the bit.
  Scratch scratch;
  save_clip(scratch.path("copy"), model);
  ClipModel copy = load_clip(scratch.path("copy"));
  CHECK(at::equal(model.image(pixels.to(at::kFloat)), copy.image(pixels.to(at::kFloat))));
  CHECK(copy.text->options().end_of_text_id == model.text->options().end_of_text_id);
  CHECK(copy.padding_id == set.settings.at("config").at("text").at("pad_token_id").get<std::int64_t>());

  copy = double_model(copy);
  const Forward exact = run(copy, pixels, ids, end, written_out_layers(copy, /*rounded=*/false));
  const Tolerance own{1e-12, 1e-12};
  float32.near("image", copy.image(pixels), exact.image, own);
  float32.near("text", copy.text(ids, end), exact.text, own);
  const auto rounded = written_out_layers(copy, /*rounded=*/true);
  const Forward as_upstream = run(copy, pixels, ids, end, rounded);
  tolerances.float64.absolute += softmax_slack(as_upstream, exact, copy.logit_scale, tolerances.float32.absolute);
  check_forward(set, as_upstream, readable, copy.logit_scale, ".f64", tolerances, float64);
  for (const std::string rule : {"pool.legacy", "pool.real"}) {
    const at::Tensor index = integers(set, rule + "_index"), known = comparable(mask, index);
    float64.near(rule, kept(known, run(copy, pixels, ids, index, rounded).text),
                 kept(known, to_tensor(set.at(rule + "_text_embeds_raw.f64"))), tolerances.float64);
    if (!known.all().item<bool>()) set.left_out.push_back(rule + " behind a masked token (no mask is offered)");
  }
  std::vector<Unread> unread;
  if (!readable.all().item<bool>()) unread.push_back({"clip_loss.*", "of a text read behind a masked token"});
  check_outputs_read(set, unread);
  return float64.largest();
}

double check_transformers_there(const GoldenSet& set, const at::Device& device) {
  const at::NoGradGuard no_grad;
  const Tolerances tolerances(set.settings.at("tolerance"));
  const ClipModel model = offered([&] { return load_clip(folder_of(set)); });
  Comparison compare;
  FloatForward(set, model).check(set, moved(model, device), tolerances, compare);
  return compare.largest();
}

double check_resampled(const GoldenSet& set) {
  const at::NoGradGuard no_grad;
  const Tolerance tables = Tolerance::parse(set.settings.at("tolerance").at("tables"));
  const Tolerances tolerances(set.settings.at("tolerance").at("embeddings"));
  const auto& config = set.settings.at("config");
  const std::int64_t side = config.at("grid")[0], larger = config.at("grid")[1], length = config.at("text")[1];
  const at::Tensor image = to_tensor(set.at("image_table")).to(at::kFloat),
                   text = to_tensor(set.at("text_table")).to(at::kFloat);
  Comparison compare, embeddings;
  for (const bool antialias : {true, false}) {
    const auto filter = antialias ? PositionFilter::kBicubicAntialias : PositionFilter::kBicubic;
    const std::string suffix = antialias ? "_antialias" : "_plain";
    const auto check_grid = [&](const std::string& name, PositionGrid to) {
      compare.near(name + suffix, resampled_image_positions(image, {side, side}, to, filter),
                   to_tensor(set.at(name + suffix)), tables);
    };
    check_grid("image", {larger, larger});
    // The size of the smaller one follows from its table, that of the other stands in the JSON: "grid 4x4 -> 5x7".
    const auto smaller = static_cast<std::int64_t>(std::lround(std::sqrt(set.at("image_down" + suffix).shape[0] - 1)));
    check_grid("image_down", {smaller, smaller});
    const std::string meaning = set.settings.at("tensors").at("image_rect" + suffix).at("meaning");
    int rows = 0, columns = 0;
    REQUIRE(std::sscanf(meaning.c_str(), "grid %*dx%*d -> %dx%d", &rows, &columns) == 2);
    check_grid("image_rect", {rows, columns});
    compare.near("text" + suffix, resampled_text_positions(text, length, filter), to_tensor(set.at("text" + suffix)),
                 tables);
  }
  compare.near("text_same_length", resampled_text_positions(text, text.size(0)), to_tensor(set.at("text_same_length")),
               tables);

  ClipLoadOptions options;
  options.image_size = config.at("new_image_size");
  options.context_length = length;
  ClipModel model = offered([&] { return load_clip(folder_of(set), options); });
  const at::Tensor pixels = to_tensor(set.at("in.pixel_values")), ids = integers(set, "in.input_ids");
  const at::Tensor end = published_end(ids, model.text->options().end_of_text_id);
  const at::Tensor readable = comparable(integers(set, "in.attention_mask"), end);
  if (!readable.all().item<bool>()) set.left_out.push_back("texts read behind a masked token (no mask is offered)");
  const auto near_text = [&](Comparison& result, const std::string& name, Tolerance tolerance) {
    result.near(name, kept(readable, model.text(ids, end)), kept(readable, to_tensor(set.at(name))), tolerance);
  };
  compare.near("image_embeds_raw.f32", model.image(pixels.to(at::kFloat)), to_tensor(set.at("image_embeds_raw.f32")),
               tolerances.float32);
  near_text(compare, "text_embeds_raw.f32", tolerances.float32);
  // The float64 outputs come from float32 tables, taken as they are: other processors round the resampling otherwise.
  model = double_model(model);
  const auto put = [&](const at::Tensor& embedding, const char* name) { embedding.copy_(to_tensor(set.at(name))); };
  const auto positions = [](const auto& encoder, const char* tower) {
    return named_tensors(*encoder).at(std::string(tower) + ".embeddings.position_embedding.weight");
  };
  put(positions(model.image, "vision_model"), "image_antialias");
  put(positions(model.text, "text_model"), "text_antialias");
  embeddings.near("image_embeds_raw.f64", model.image(pixels), to_tensor(set.at("image_embeds_raw.f64")),
                  tolerances.float64);
  near_text(embeddings, "text_embeds_raw.f64", tolerances.float64);
  // transformers' own interpolation is the plain filter.
  options.image_positions = PositionFilter::kBicubic;
  ClipModel plain = load_clip(folder_of(set), options);
  compare.near("image_table_hf_interpolate", positions(plain.image, "vision_model"),
               to_tensor(set.at("image_table_hf_interpolate")), tables);
  compare.near("image_embeds_raw_hf_interpolate", plain.image(pixels.to(at::kFloat)),
               to_tensor(set.at("image_embeds_raw_hf_interpolate.f64")), tolerances.float32);
  check_outputs_read(set, {}, {"*_antialias", "*_plain", "*_hf_interpolate", "text_same_length"});
  return embeddings.largest();
}

/// The files of a set's checkpoint, without their endings.
std::string open_clip_stem(const GoldenSet& set) {
  const std::string files = set.settings.at("checkpoint");  // "NAME.safetensors (...) + NAME.json (...)"
  return set.folder + "/" + files.substr(0, files.find(".safetensors"));
}

/// Wherever the towers lie.
void check_open_clip_towers(const GoldenSet& set, ClipModel towers, const std::string& suffix,
                            const Tolerances& tolerances, Comparison& compare) {
  const bool wide = suffix == ".f64";
  const at::Device device = towers.logit_scale.device();
  const Tolerance general = wide ? tolerances.float64 : tolerances.float32;
  const auto near = [&](const std::string& name, const at::Tensor& actual, double absolute) {
    compare.near(name + suffix, actual, to_tensor(set.at(name + suffix)),
                 wide || absolute == 0 ? general : Tolerance{0, absolute});
  };
  const at::Tensor pixels = to_tensor(set.at("in.pixel_values")).to(device, wide ? at::kDouble : at::kFloat);
  const at::Tensor image = towers.image(pixels), text = towers.text(integers(set, "in.input_ids").to(device));
  near("image_raw", image, 0);
  near("text_raw", text, 0);
  near("image", unit(image), tolerances.unit_float32);
  near("text", unit(text), tolerances.unit_float32);
  near("logits_per_image", towers.logit_scale.exp() * unit(image).matmul(unit(text).t()), tolerances.logits_float32);
}

double check_open_clip_there(const GoldenSet& set, const at::Device& device) {
  const at::NoGradGuard no_grad;
  const std::string stem = open_clip_stem(set);
  const ClipModel model = offered([&] { return load_open_clip(stem + ".safetensors", stem + ".json"); });
  Comparison compare;
  check_open_clip_towers(set, moved(model, device), ".f32", Tolerances(set.settings.at("tolerance")), compare);
  return compare.largest();
}

double check_open_clip(const GoldenSet& set) {
  const at::NoGradGuard no_grad;
  const Tolerances tolerances(set.settings.at("tolerance"));
  const std::string stem = open_clip_stem(set);
  ClipModel model = offered([&] { return load_open_clip(stem + ".safetensors", stem + ".json"); });
  // Written and read again: the same numbers under the same names, those of half precision widened.
  Scratch scratch;
  const std::string weights = scratch.path("weights.safetensors"), settings = scratch.path("config.json");
  save_open_clip(weights, settings, model);
  const SafetensorsFile before = read_safetensors(stem + ".safetensors"), after = read_safetensors(weights);
  REQUIRE(before.tensors.size() == after.tensors.size());
  for (const auto& [name, array] : before.tensors) {
    INFO(name);
    CHECK(after.at(name).shape == array.shape);
    CHECK((after.at(name).to_double() == array.to_double()));
  }
  Comparison float32, float64;
  check_open_clip_towers(set, model, ".f32", tolerances, float32);
  check_open_clip_towers(set, double_model(load_open_clip(weights, settings)), ".f64", tolerances, float64);

  ClipLoadOptions options;
  options.image_size = set.settings.at("config").at("new_img");
  options.context_length = set.settings.at("config").at("new_len");
  options.text_positions = PositionFilter::kLinear;  // open_clip's own
  ClipModel resized = load_open_clip(stem + ".safetensors", stem + ".json", options);
  const at::Tensor image_table = named_tensors(*resized.image).at("vision_model.embeddings.position_embedding.weight");
  const at::Tensor text_table = named_tensors(*resized.text).at("text_model.embeddings.position_embedding.weight");
  const Tolerance tables{0, 2e-6};  // as the resampled sets say; this one has no line for tables
  float32.near("resized.visual", image_table, to_tensor(set.at("resized.visual.positional_embedding")), tables);
  float32.near("resized.text", text_table, to_tensor(set.at("resized.positional_embedding")), tables);
  resized = double_model(resized);
  named_tensors(*resized.image)
      .at("vision_model.embeddings.position_embedding.weight")
      .copy_(to_tensor(set.at("resized.visual.positional_embedding")));
  float64.near("resized.image_raw", resized.image(to_tensor(set.at("resized.in.pixel_values"))),
               to_tensor(set.at("resized.image_raw.f64")), tolerances.float64);
  check_outputs_read(set, {}, {"*positional_embedding"});
  return float64.largest();
}

/// The loss end to end in every channel mode; in float32 what the set has a tolerance for, which gradients have not.
void check_modes(const GoldenSet& set, at::ScalarType type, const at::Device& device, Comparison& compare) {
  const bool wide = type == at::kDouble;
  const std::string text = set.settings.at("tolerance");
  const Tolerance float64 = Tolerance::parse(text);
  // A device adds up in another order, which may cost a digit more.
  const double least = device.is_cpu() ? 0 : 1e-5;
  const Tolerance embeddings = {0, std::max(least, Tolerance::parse(text, "embeddings").absolute)},
                  probabilities = {0, Tolerance::parse(text, "probabilities").absolute},
                  losses = {Tolerance::parse(text, "loss").relative, 0};
  const auto& config = set.settings.at("config");
  const auto there = [&](const char* name) { return to_tensor(set.at(name)).to(device, type); };
  const at::Tensor image = there("image"), heatmap = there("heatmap"), labels = to_tensor(set.at("labels"));
  // The published code holds the temperature in float32.
  const at::Tensor scale = at::scalar_tensor(config.at("logit_scale").get<double>(), at::kFloat).to(device, type);
  for (const std::string mode : {"none", "channel", "add"})
    for (const std::string form : {"bce", "paired"}) {
      const std::string prefix = mode + "." + form + ".";
      ClipModel model = offered([&] { return load_clip(folder_of(set)); });
      if (wide) model = double_model(model);
      model = moved(model, device);
      const HeatmapChannelAugmenter augmenter({channel_mode(mode)});
      at::Tensor embedding;
      if (mode == "add") {
        ImageEncoder second(model.image->options());
        SafetensorsFile weights;
        const std::string own = "vision_hmp.";
        for (const auto& [name, array] : set.file.tensors)
          if (name.rfind(own, 0) == 0) weights.tensors.emplace(name.substr(own.size()), array);
        load_weights(*second, weights, set.name);
        second->to(device, type);
        embedding = combined_embedding(model.image(image), second(heatmap));
      } else {
        const at::Tensor before = image.clone();
        const at::Tensor input = augmenter.apply(image, heatmap);
        CHECK(at::equal(image, before));  // the published code overwrites the caller's image
        if (mode == "channel") CHECK(at::equal(input, there("channel.input_after_call")));
        embedding = model.image(input);
      }
      const auto read = [&](const std::string& ids_name, const std::string& mask_name) {
        const at::Tensor ids = integers(set, ids_name);
        const at::Tensor end = published_end(ids, model.text->options().end_of_text_id);
        if (!comparable(integers(set, mask_name), end).all().item<bool>())
          throw Skip{"not compared: " + ids_name + " are read behind a masked token (no mask is offered)"};
        return model.text(ids.to(device), end.to(device));
      };
      const at::Tensor report = read("report_ids", "report_mask"),
                       prompts = read("prompt_ids_" + form, "prompt_mask_" + form);
      HybridLossOptions options;
      options.clip_weight = config.at("w");
      options.class_form = form == "bce" ? ClassForm::kBce : ClassForm::kPaired;
      const auto near = [&](const std::string& name, const at::Tensor& actual, Tolerance float32) {
        if (set.file.contains(prefix + name))
          compare.near(prefix + name, actual, to_tensor(set.at(prefix + name)), wide ? float64 : float32);
      };
      near("image_embeds", unit(embedding), embeddings);
      near("report_embeds", unit(report), embeddings);
      near("probabilities", class_probabilities(embedding, prompts, options, scale), probabilities);
      const at::Tensor loss = hybrid_contrastive_loss(embedding, report, prompts, labels, {}, {}, options, scale).total;
      near("loss", loss, losses);
      if (!wide) continue;
      loss.backward();
      const auto gradient = [](const auto& encoder, const char* name) {
        return named_tensors(*encoder).at(name).grad();
      };
      near("grad_patch_embedding", gradient(model.image, "vision_model.embeddings.patch_embedding.weight"), float64);
      near("grad_token_embedding_norm", gradient(model.text, "text_model.embeddings.token_embedding.weight").norm(),
           float64);
    }
}

void check_mode_sets(const at::Device& device) {
  for_each_golden("heatmap_encoder_modes", [&device](const GoldenSet& set) {
    Comparison float32, float64;
    check_modes(set, at::kFloat, device, float32);
    check_modes(set, at::kDouble, device, float64);
    check_outputs_read(set, {}, {"none.*", "channel.*", "add.*"});
    return float64.largest();
  });
}

/// Sets of the kinds that have towers to compare on a device, and of all of them on the CPU.
void check_clip_sets(const at::Device& device) {
  for_each_golden("clip_", [&device](const GoldenSet& set) {
    const std::string kind = set.settings.value("kind", "");
    const bool here = device.is_cpu();
    if (kind == "CLIP forward") return here ? check_transformers(set) : check_transformers_there(set, device);
    if (kind == "CLIP position-table resampling" && here) return check_resampled(set);
    if (kind == "open_clip checkpoint and forward")
      return here ? check_open_clip(set) : check_open_clip_there(set, device);
    if (kind.empty()) throw Skip{"the configuration of a checkpoint, no set of outputs"};
    throw Skip{here ? "no check for kind " + kind : "compared on the CPU alone"};
  });
}

}  // namespace

TEST_CASE("CLIP checkpoints compute what their libraries compute", "[encoder][golden]") { check_clip_sets(at::kCPU); }

TEST_CASE("golden CLIP towers on a device", "[gpu]") {
  if (!no_golden_on_device()) check_clip_sets(at::Device(at::kCUDA, 0));
}

TEST_CASE("channel modes give the published loss and gradients end to end", "[encoder][golden]") {
  check_mode_sets(at::kCPU);
}

TEST_CASE("golden channel modes on a device", "[gpu]") {
  if (!no_golden_on_device()) check_mode_sets(at::Device(at::kCUDA, 0));
}
