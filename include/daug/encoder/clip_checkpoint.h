#pragma once
/// @file
/// CLIP checkpoints in the formats people have: a Hugging Face folder (`config.json` and `model.safetensors`) and an
/// open_clip state dict with its configuration. Read and written.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "daug/encoder/image_encoder.h"
#include "daug/encoder/position_table.h"
#include "daug/encoder/text_encoder.h"

namespace daug {

/// Both towers of a CLIP model and what belongs to them.
struct ClipModel {
  ImageEncoder image{nullptr};        ///< kViT; pixels normalised as the checkpoint's preprocessing says
  TextEncoder text{nullptr};          ///< options().end_of_text_id is the checkpoint's pooling rule
  at::Tensor logit_scale;             ///< ln tau, a scalar of the towers' dtype
  std::int64_t start_of_text_id = 0;  ///< as the configuration says; towers do not read it
  std::int64_t padding_id = 0;        ///< as the configuration says; causal attention makes it irrelevant
  /// Fields that the configuration left out, with what was taken for them (ClipLoadOptions::assume_defaults), such as
  /// `vision_config.hidden_act = "quick_gelu"`.
  std::vector<std::string> assumed;
};

/// Settings of load_clip and load_open_clip.
struct ClipLoadOptions {
  std::int64_t image_size = 0;      ///< side in pixels, a multiple of the patch size; 0: the checkpoint's
  std::int64_t context_length = 0;  ///< longest text in tokens; 0: the checkpoint's
  PositionFilter image_positions = PositionFilter::kBicubicAntialias;  ///< for another image_size
  PositionFilter text_positions = PositionFilter::kBicubicAntialias;   ///< for another context_length
  double drop_path = 0;                                                ///< of the image tower, see ImageEncoderOptions
  bool use_checkpoint = false;                                         ///< of both towers, see ImageEncoderOptions
  /// A field that the configuration leaves out takes the upstream library's default (transformers writes only what
  /// differs from it), and ClipModel::assumed and any error name it; off, it is an error that names the field and that
  /// default. Off, `vision_config.num_channels` may be absent, as in OpenAI's files: the weights have to be those of 3.
  bool assume_defaults = false;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Reads a folder that `CLIPModel.save_pretrained` of Hugging Face's transformers wrote.
///
/// Activation, layer norm epsilon, heads and pooling come from config.json. Texts are read at the first
/// `text_config.eos_token_id`, or, when that is 2 (as in configurations from before the id was corrected), at the
/// largest id, the first one of several. A text without end-of-text is refused by TextEncoder; transformers reads it at
/// position 0. Half-precision weights are widened to float32.
///
/// Throws kNotFound and kIo for files; kFormat for config.json (naming the field) and a damaged safetensors file;
/// kUnsupported for a field whose value this network cannot have, or that `text_config_dict` or `vision_config_dict` of
/// older files contradicts; kMismatch, before memory is set aside, for a field that contradicts the weights, and with
/// the report of missing, unexpected and mismatched keys. `position_ids` of older files, which are no weights, are
/// left out; kMismatch unless they number the rows of the position table.
ClipModel load_clip(const std::string& folder, const ClipLoadOptions& options = {});

/// Writes such a folder (made if need be), atomically file by file: weights, then config.json. transformers loads it
/// with `CLIPModel.from_pretrained`. Extra channels become channels of the one patch embedding
/// (`vision_config.num_channels`), so that a reloaded model computes the same numbers up to rounding. Throws
/// kUnsupported for towers that the format does not cover, naming the option.
void save_clip(const std::string& folder, const ClipModel& model);

/// Reads a state dict of open_clip (keys under visual, fused in_proj, transposed projections) from a safetensors file,
/// with a model configuration of open_clip or the open_clip_config.json around one.
///
/// Quick GELU leaves no trace in the weights: `quick_gelu` of the configuration decides, and absent means exact GELU,
/// as in open_clip (OpenAI's weights need it to be true). Pooling is the largest id, or the first `eos_id` where
/// `text_cfg.pool_type` says eos. Errors as load_clip, in the names of the file.
ClipModel load_open_clip(const std::string& weights, const std::string& config, const ClipLoadOptions& options = {});

/// Reads the model of a folder: with load_clip, or with load_open_clip where there is no `config.json` but an
/// `open_clip_config.json`, beside which open_clip writes `open_clip_model.safetensors`. Errors are theirs.
ClipModel load_clip_folder(const std::string& folder, const ClipLoadOptions& options = {});

/// The file whose weights load_clip_folder reads, there or not.
std::string clip_weights_file(const std::string& folder);

/// Writes such a pair of files. open_clip itself makes `visual.conv1` of three channels: a model with more loads there
/// once that has been replaced. Throws kUnsupported as save_clip, and for towers with different activations or an
/// epsilon other than 1e-5, which the format cannot say.
void save_open_clip(const std::string& weights, const std::string& config, const ClipModel& model);

}  // namespace daug
