#include "trained_encoders.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

#include "daug/encoder/prompts.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/train/classify.h"
#include "daug/train/encoder_file.h"
#include "encoder_texts.h"
#include "pipeline/settings/stage_options.h"

namespace daug {

EncoderPair load_encoders(Run::Impl& run, const Arm& arm) {
  std::map<std::string, std::string> metadata;
  const std::string file = run.path(arm.file());
  const EncoderPair pair = load_encoders(file, &metadata);
  require_metadata(metadata, file, "fingerprint", run.fingerprint(Stage::kEncoders));
  require_metadata(metadata, file, "tokenizer", run.tokenizer_fingerprint());
  pair.as_module()->to(run.device);
  return pair;
}

at::Tensor embed_rows(Run::Impl& run, const Arm& arm, const EncoderPair& pair, const std::vector<std::size_t>& rows) {
  const HeatmapChannelAugmenter augmenter(run.encoder_options(arm).augment);
  return embed_images(pair, augmenter, run.images(rows), run.arm_maps(arm, rows));
}

at::Tensor class_embeddings(Run::Impl& run, const EncoderPair& pair, const Tokenizer& tokenizer) {
  const auto& findings = run.data().cohort.findings;
  const std::int64_t context = run.config.encoder.context;
  const ClassForm form = class_form(run.config);
  if (run.config.encoder.prompts == "ensemble")
    return embed_class_prompts(pair.text, tokenizer, class_prompt_ensemble(findings), form, context);
  return embed_texts(pair, to_text_batch(tokenizer, training_prompts(findings, form), context));
}

std::function<at::Tensor(const at::Tensor&)> image_only_classifier(Run::Impl& run) {
  const std::vector<Arm> arms = run.paper_arms();
  const Arm& arm = *std::find_if(arms.begin(), arms.end(), [](const Arm& one) { return one.name == "image"; });
  const EncoderPair pair = load_encoders(run, arm);
  const at::Tensor classes = class_embeddings(run, pair, load_tokenizer(run));
  const EncoderTrainerOptions options = run.encoder_options(arm);
  return [=, augmenter = HeatmapChannelAugmenter(options.augment)](const at::Tensor& images) {
    return class_probabilities(pair, embed_images(pair, augmenter, images, {}), classes, options.loss);
  };
}

}  // namespace daug
