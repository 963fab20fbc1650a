// The settings of a run by name, with meaning and range.

#include <charconv>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/utf8.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/pipeline/run_config.h"

namespace daug {

void Setting::validate() const {
  constexpr const char* kName = "daug::RunConfig";
  if (const auto* integer = std::get_if<std::int64_t*>(&value))
    require_range(**integer, static_cast<std::int64_t>(low), static_cast<std::int64_t>(high), kName, name.c_str());
  if (const auto* number = std::get_if<double*>(&value)) require_range(**number, low, high, kName, name.c_str());
  if (const auto* words = std::get_if<std::string*>(&value))
    require(utf8_error(**words) == std::string::npos, kName, name.c_str(), "UTF-8", as_utf8(**words));
}

std::string Setting::description() const {
  const bool number = std::holds_alternative<std::int64_t*>(value) || std::holds_alternative<double*>(value);
  return number ? detail::concat(help, ", in [", low, ", ", high, "]") : help;
}

std::string Setting::text() const {
  struct Print {
    std::string operator()(const std::int64_t* number) const { return std::to_string(*number); }
    std::string operator()(const double* number) const {
      char buffer[32];
      return {buffer, std::to_chars(buffer, buffer + sizeof buffer, *number).ptr};
    }
    std::string operator()(const std::string* text) const { return *text; }
    std::string operator()(const bool* flag) const { return *flag ? "true" : "false"; }
  };
  return std::visit(Print{}, value);
}

std::vector<Setting> settings(RunConfig& c) {
  // Ranges are those of the options that settings become, so that what the first stage would refuse is refused here.
  using Changes = ChannelAugmenterOptions;
  constexpr double kLong = 1e15, kMany = 1 << 24, kWide = 1 << 16, kLargestBatch = 1 << 20;
  constexpr double kDeepest = 256, kMostHeads = 1 << 10;
  constexpr bool kAddedLater = true;
  const std::string precision_help =
      "float32, bfloat16, or auto: bfloat16 on CUDA devices and where the processor multiplies it (AVX-512 BF16, AMX)";
  return {
      {"data", "cohort folder with labels.csv; empty: phantoms are made in the run folder", &c.data},
      {"out", "run folder", &c.out},
      {"seed", "fixes every random choice", &c.seed, 0, kLong},
      {"size", "side of the square images, pixels", &c.size, 16, 512},
      {"labelled", "training images whose labels are used; the others stay in as unlabelled; 0 = all", &c.labelled, 0,
       kLong},
      {"budget",
       "minutes, .7 of which decide how long is trained; maps and evaluation, left the rest, are not scaled; 0 = steps "
       "and epochs as set",
       &c.budget, 0, 1e6},
      {"threads", "worker threads", &c.threads, 1, 256},
      {"device", "where networks are computed: cpu, cuda or cuda:N; there one thread does so", &c.device},
      {"deterministic",
       "on a CUDA device: results have the same bits in every run, which takes longer; what LibTorch cannot compute so "
       "is an error. On the CPU they have them in any case",
       &c.deterministic},
      {"ranks", "processes that train the encoders together, each started with this command and a rank of its own",
       &c.ranks, 1, 4096},
      {"rank", "which of them this one is, counted from 0; the others read the run folder, which rank 0 fills", &c.rank,
       0, 4095},
      {"meeting", "where they find each other: HOST:PORT of rank 0", &c.meeting},
      {"skip_bad", "go on without unreadable images, counted in the report", &c.skip_bad},
      {"phantom.train", "phantom training images", &c.phantom.train, 1, kMany},
      {"phantom.val", "phantom validation images", &c.phantom.val, 1, kMany},
      {"phantom.test", "phantom test images", &c.phantom.test, 1, kMany},
      {"phantom.seed", "which phantom cohort", &c.phantom.seed, 0, kLong},
      {"phantom.labels",
       "labels of phantoms: truth (what was planted) or report (what the report says; blank where it is silent)",
       &c.phantom.labels},
      {"labels.findings", "label columns used, comma-separated, in this order; empty: all", &c.labels.findings},
      {"labels.vocabulary",
       "vocabulary file (.json, .csv): findings and the groups that share a map; empty: the label columns, a map each",
       &c.labels.vocabulary},
      {"labels.uncertain", "what -1 counts as: ignore, zeros or ones", &c.labels.uncertain},
      {"labels.not_mentioned", "what a blank counts as: ignore, zeros or ones", &c.labels.not_mentioned},
      {"diffusion.steps", "optimiser steps", &c.diffusion.steps, 1, kLong},
      {"diffusion.batch", "images a step over all threads", &c.diffusion.batch, 1, kLargestBatch},
      {"diffusion.base", "channels of the first level", &c.diffusion.base, 1, kWide},
      {"diffusion.levels", "width of each level as a multiple of the base", &c.diffusion.levels},
      {"diffusion.blocks", "residual blocks a level", &c.diffusion.blocks, 1, 64},
      {"diffusion.attention", "downsample factors with attention, after the patch", &c.diffusion.attention},
      {"diffusion.heads", "attention heads", &c.diffusion.heads, 1, 1 << 10},
      {"diffusion.embedding", "how level and labels enter a residual block: scale_shift of its norm, or add",
       &c.diffusion.embedding},
      {"diffusion.norm_groups", "groups of every group norm", &c.diffusion.norm_groups, 1, 1 << 12},
      {"diffusion.patch", "pixel-unshuffle factor", &c.diffusion.patch, 1, 64},
      {"diffusion.schedule",
       "noise schedule of 1000 steps: linear, scaled_linear, cosine, or one of them with zero terminal SNR, such as "
       "zero_snr_linear, for which the network must predict x0 or v",
       &c.diffusion.schedule},
      {"diffusion.prediction", "what the network outputs: eps, x0, v or previous_x", &c.diffusion.prediction},
      {"diffusion.variance",
       "variance of a denoising step: fixed_small, fixed_large, or learned or learned_range, a second output",
       &c.diffusion.variance},
      {"diffusion.objective",
       "what is minimised: mse, rescaled_mse, kl or rescaled_kl; a learned variance makes the first two hybrid losses",
       &c.diffusion.objective},
      {"diffusion.min_snr", "gamma of min-SNR weighting of the squared error; 0 = none", &c.diffusion.min_snr, 0, 1e6},
      {"diffusion.loss_aware_levels", "draw noise levels by their recent losses, not uniformly",
       &c.diffusion.loss_aware_levels},
      {"diffusion.dropout", "inside residual blocks while training", &c.diffusion.dropout, 0, 0.999999},
      {"diffusion.checkpoint", "compute activations again in the backward pass: less memory, more time",
       &c.diffusion.checkpoint},
      {"diffusion.learning_rate", "peak learning rate", &c.diffusion.learning_rate, 1e-12, 1e3},
      {"diffusion.warmup_steps", "optimiser steps in which the learning rate rises to its peak; 0 = none",
       &c.diffusion.warmup_steps, 0, kLong},
      {"diffusion.weight_decay", "AdamW weight decay", &c.diffusion.weight_decay, 0, 1e3},
      {"diffusion.ema", "decay of the averaged weights, below 1; 0 = none", &c.diffusion.ema, 0, 0.999999},
      {"diffusion.precision", "of its training: " + precision_help, &c.diffusion.precision, 0, 0, kAddedLater},
      {"diffusion.max_level", "highest noise level trained", &c.diffusion.max_level, 1, 1000},
      {"diffusion.finding_dropout", "chance that one finding's label is hidden", &c.diffusion.finding_dropout, 0, 1},
      {"diffusion.condition_dropout", "chance that all labels are hidden", &c.diffusion.condition_dropout, 0, 1},
      {"diffusion.labelled_share", "least share of a batch whose labels are known", &c.diffusion.labelled_share, 0, 1},
      {"guide.steps", "optimiser steps of the noise-aware classifier", &c.guide.steps, 1, kLong},
      {"guide.batch", "images a step over all threads", &c.guide.batch, 1, kLargestBatch},
      {"guide.base", "channels of the first level", &c.guide.base, 1, kWide},
      {"guide.blocks", "residual blocks a level", &c.guide.blocks, 1, 64},
      {"guide.levels", "width of each level as a multiple of the base", &c.guide.levels},
      {"guide.attention", "downsample factors with attention", &c.guide.attention},
      {"guide.learning_rate", "peak learning rate", &c.guide.learning_rate, 1e-12, 1e3},
      {"guide.warmup_steps", "optimiser steps in which the learning rate rises to its peak; 0 = none",
       &c.guide.warmup_steps, 0, kLong},
      {"guide.weight_decay", "AdamW weight decay", &c.guide.weight_decay, 0, 1e3},
      {"guide.precision", "of its training: " + precision_help, &c.guide.precision, 0, 0, kAddedLater},
      {"maps.level", "noise level to which images are encoded, at most diffusion.max_level", &c.maps.level, 1, 1000},
      {"maps.steps", "transitions between the image and that level, at most the level", &c.maps.steps, 1, 1000},
      {"maps.solver", "how to walk between levels: ddim, dpm or bdia", &c.maps.solver},
      {"maps.evaluations", "network evaluations of ddim's encode step, 1 = plain inversion", &c.maps.evaluations, 1,
       20},
      {"maps.tolerance",
       "ddim's encode step ends before maps.evaluations for an image that an evaluation moves by less; 0 = never",
       &c.maps.tolerance, 0, 1e3},
      {"maps.guidance", "none, classifier_free, contrast or classifier", &c.maps.guidance},
      {"maps.weight", "weight of classifier-free or contrast guidance", &c.maps.weight, 0, 1000},
      {"maps.classifier_scale", "scale of classifier guidance", &c.maps.classifier_scale, 0, 10000},
      {"maps.add_classifier", "classifier guidance beside maps.guidance", &c.maps.add_classifier},
      {"maps.lowest_level", "guidance acts from this noise level", &c.maps.lowest_level, 0, 1000},
      {"maps.highest_level", "up to this one; elsewhere the target's condition alone", &c.maps.highest_level, 0, 1000},
      {"maps.smoothing", "sigma of the blur at 32 pixels, grows with the size; 0 = none", &c.maps.smoothing, 0, 100},
      {"maps.evidence_levels", "noise levels of evidence and score-difference maps, each at most diffusion.max_level",
       &c.maps.evidence_levels},
      {"maps.evidence_samples", "noise draws a level", &c.maps.evidence_samples, 1, 1 << 20},
      {"maps.train_images", "labelled training images that get maps and train the encoders; 0 = all",
       &c.maps.train_images, 0, kLong},
      {"maps.memory_budget", "what a network call of a thread may hold in activations, MB; 0 = not bounded",
       &c.maps.memory_budget, 0, 1e9},
      {"maps.precision",
       "in which denoiser and guide compute maps, all around them being float32: float32, bfloat16 or float16; a "
       "processor without instructions for it (AVX-512 BF16 for bfloat16) takes many times longer",
       &c.maps.precision, 0, 0, kAddedLater},
      {"maps.normalisation",
       "of difference maps and of the round trip's, before they are smoothed: none, or reference, the published "
       "scaling of each map to [0, 1], which marks healthy images as strongly as others",
       &c.maps.normalisation, 0, 0, kAddedLater},
      {"encoder.kind",
       "image tower: conv, vit, resnet18, resnet50, densenet121, or clip_vit_b32, which has CLIP's text tower beside "
       "it; a checkpoint below brings its own, and this stays conv (clip_vit_b32 beside encoder.clip)",
       &c.encoder.kind},
      {"encoder.pooling",
       "from the last map to one vector: flatten, attention or mean (vit: class, attention or mean); default: flatten "
       "for conv, class for vit, mean for the others",
       &c.encoder.pooling},
      {"encoder.image_checkpoint",
       "image tower to start from: safetensors file of a torchvision state dict, or of encoders without map channels "
       "and heatmap tower that this library wrote",
       &c.encoder.image_checkpoint},
      {"encoder.patch", "side of vit's patches, pixels, which divides the size; 0 = the size / 8, at least 4",
       &c.encoder.patch, 0, 512, kAddedLater},
      {"encoder.depth", "transformer layers of vit; 0 = 4", &c.encoder.depth, 0, kDeepest, kAddedLater},
      {"encoder.heads", "attention heads of vit, which divide its width; 0 = 4", &c.encoder.heads, 0, kMostHeads,
       kAddedLater},
      {"encoder.text_width",
       "size of the text tower's tokens; 0 = 64; this and the next two stay 0 for clip_vit_b32 and encoder.clip, which "
       "have a text tower",
       &c.encoder.text_width, 0, kWide, kAddedLater},
      {"encoder.text_depth", "transformer layers of the text tower; 0 = 1", &c.encoder.text_depth, 0, kDeepest,
       kAddedLater},
      {"encoder.text_heads", "attention heads of the text tower, which divide its width; 0 = 4", &c.encoder.text_heads,
       0, kMostHeads, kAddedLater},
      {"encoder.pixels",
       "how the tower of a torchvision file takes pixels: default (three channels by ImageNet's mean and deviation, "
       "one channel in [-1, 1]) or radiograph (in [-1024, 1024], as torchxrayvision's)",
       &c.encoder.pixels},
      {"encoder.clip",
       "CLIP folder of transformers or open_clip to start from: both towers, which bring their embedding size, and the "
       "vocabulary",
       &c.encoder.clip},
      {"encoder.clip_strict",
       "a field that the CLIP folder's configuration leaves out and earlier versions of its library wrote is an error; "
       "else it takes upstream's default, which the log names",
       &c.encoder.clip_strict},
      {"encoder.image_positions",
       "filter by which the CLIP folder's image positions become those of the size: bicubic_antialias (the reference "
       "method's, open_clip's), bicubic (transformers') or linear",
       &c.encoder.image_positions, 0, 0, kAddedLater},
      {"encoder.text_positions",
       "filter by which its text positions become those of a longer context: bicubic_antialias (the reference "
       "method's), bicubic or linear (open_clip's)",
       &c.encoder.text_positions, 0, 0, kAddedLater},
      {"encoder.text_cleaning",
       "how texts are cleaned before they are cut into tokens: transformers (normalisation form C alone) or open_clip "
       "(ftfy's repairs, HTML entities)",
       &c.encoder.text_cleaning, 0, 0, kAddedLater},
      {"encoder.mode", "how maps reach an encoder: append (all of them), channel or add (one)", &c.encoder.mode},
      {"encoder.map_index", "which map, counted from 0, for channel and add", &c.encoder.map_index, 0, kMany},
      {"encoder.epochs", "passes over the encoders' training images", &c.encoder.epochs, 1, kMany},
      {"encoder.batch", "images a step", &c.encoder.batch, 1, kLargestBatch},
      {"encoder.width",
       "channels of the first stage, for conv a multiple of 8 (published ResNets and DenseNets: 64); half of vit's "
       "width",
       &c.encoder.width, 8, kWide},
      {"encoder.embedding", "size of image and text embeddings", &c.encoder.embedding, 1, kWide},
      {"encoder.vocabulary", "byte-pair tokens learned from the training reports", &c.encoder.vocabulary, 514, 1 << 20},
      {"encoder.context", "longest text, tokens", &c.encoder.context, 3, kWide},
      {"encoder.learning_rate", "peak learning rate", &c.encoder.learning_rate, 1e-12, 1e3},
      {"encoder.warmup_steps", "optimiser steps in which the learning rate rises to its peak; 0 = none",
       &c.encoder.warmup_steps, 0, kLong},
      {"encoder.weight_decay", "AdamW weight decay", &c.encoder.weight_decay, 0, 1e3},
      {"encoder.clip_weight", "w of the hybrid loss", &c.encoder.clip_weight, 0, 1},
      {"encoder.logit_scale", "ln tau of both loss terms; where a learnt one starts", &c.encoder.logit_scale, -10, 10},
      {"encoder.learn_temperature", "ln tau is learnt, held between the bounds below", &c.encoder.learn_temperature},
      {"encoder.min_logit_scale", "least learnt ln tau", &c.encoder.min_logit_scale, -10, 10},
      {"encoder.max_logit_scale", "largest learnt ln tau", &c.encoder.max_logit_scale, -10, 10},
      {"encoder.class_form",
       "class term and classification: bce (a prompt a finding, sigmoid) or paired (a negative and a positive prompt a "
       "finding, softmax of the two, which takes no bias)",
       &c.encoder.class_form},
      {"encoder.class_bias", "a bias of each finding is learnt", &c.encoder.class_bias},
      {"encoder.class_bias_value", "bias of every finding; where learnt ones start", &c.encoder.class_bias_value, -1e3,
       1e3},
      {"encoder.uncertain",
       "what -1 counts as in the encoders' training: labels (as labels.uncertain says), masked (unknown) or smoothed "
       "(a target between absent and present)",
       &c.encoder.uncertain},
      {"encoder.uncertain_target", "that target", &c.encoder.uncertain_target, 0, 1},
      {"encoder.positive_weights",
       "weight of a finding's positive labels: negatives / positives of the training images, at most this and at least "
       "its inverse, at least 1; 0 = all weigh the same",
       &c.encoder.positive_weights, 0, 1e6},
      {"encoder.loss", "image-text term: clip (softmax) or siglip (pairwise sigmoid, whose bias is learnt)",
       &c.encoder.loss},
      {"encoder.logit_bias", "where siglip's bias starts", &c.encoder.logit_bias, -1e3, 1e3, kAddedLater},
      {"encoder.negatives",
       "pairs of images with the same labels in the image-text term: all (they repel), masked (they are left out), "
       "soft (pairs attract by how much their labels agree) or positives (they attract as an image's own pair does)",
       &c.encoder.negatives},
      {"encoder.label_softness", "temperature of soft; near 0 it is positives", &c.encoder.label_softness, 1e-3, 1e3},
      {"encoder.study",
       "images that attract each other's reports as their own in the image-text term: those of a patient with the same "
       "text in this column of meta.csv, or patient_id: all of a patient; empty: none do",
       &c.encoder.study},
      {"encoder.rotation", "random rotation, degrees either way", &c.encoder.rotation, 0, Changes::kLargestRotation},
      {"encoder.shift", "random shift, fraction of the side either way", &c.encoder.shift, 0, Changes::kLargestShift},
      {"encoder.zoom", "random zoom, fraction either way", &c.encoder.zoom, 0, Changes::kLargestScale},
      {"encoder.chunk", "images embedded at a time, with the loss over the whole batch; 0 = all at once",
       &c.encoder.chunk, 0, 1 << 20},
      {"encoder.patience",
       "epochs in a row without a better macro AUROC on the validation split that end an arm's training, which then "
       "keeps its best weights; 0 = all epochs, last weights",
       &c.encoder.patience, 0, kMany},
      {"encoder.min_improvement", "macro AUROC by which a better validation exceeds the best one",
       &c.encoder.min_improvement, 0, 1},
      {"encoder.clip_norm", "limit of the gradient's norm; 0 = none", &c.encoder.clip_norm, 0, 1e12},
      {"encoder.ema", "decay of the averaged weights, below 1; 0 = none", &c.encoder.ema, 0, 0.999999},
      {"encoder.layer_decay", "factor on the learning rate from each block to the one before it",
       &c.encoder.layer_decay, 1e-3, 1},
      {"encoder.freeze",
       "parameters that are not trained: patterns such as text.* or image.*.bias, comma-separated, each of which fits "
       "some; a batch norm of which all are frozen keeps its running statistics and uses them",
       &c.encoder.freeze},
      {"encoder.precision", precision_help, &c.encoder.precision},
      {"encoder.max_skipped", "steps in a row without finite loss and gradient that end the training with an error",
       &c.encoder.max_skipped, 1, kLong},
      {"encoder.drop_path", "chance that training leaves out the last residual branch for an image",
       &c.encoder.drop_path, 0, 0.999999},
      {"encoder.map_dropout", "chance that training hides each map of an image, and once more that it hides all",
       &c.encoder.map_dropout, 0, 0.999999},
      {"encoder.map_gates", "each map has a learnable factor", &c.encoder.map_gates},
      {"encoder.checkpoint", "both towers compute activations again in the backward pass: less memory, more time",
       &c.encoder.checkpoint},
      {"encoder.maps", "maps of the four-arm comparison: evidence or difference", &c.encoder.maps},
      {"encoder.arms",
       "encoders trained: paper (the four arms, and every other kind of maps with the hybrid loss) or all (every kind "
       "with both losses)",
       &c.encoder.arms},
      {"encoder.prompts",
       "wordings of the class prompts that images are classified by: single (the one of the training) or ensemble "
       "(the average of four)",
       &c.encoder.prompts},
      {"evaluate.resamples", "patient-bootstrap resamples behind each interval", &c.evaluate.resamples, 1, kMany},
      {"evaluate.slice_by", "metadata column whose values make slices of the test split, where the cohort has it",
       &c.evaluate.slice_by},
      {"evaluate.box_groups",
       "boxes whose name is no finding, with the maps whose highest they are compared with: name=map|map,...",
       &c.evaluate.box_groups},
      {"evaluate.metadata",
       "columns of the metadata-only baseline, view or of meta.csv; one that the cohort lacks is left out of the "
       "default list, and an error in any other",
       &c.evaluate.metadata},
      {"report.examples", "example images in the report", &c.report.examples, 1, 50},
      {"study.images", "test images on which ways of making maps are compared, those with masks or boxes first",
       &c.study.images, 1, kMany},
      {"study.level", "noise level of the compared difference maps, at most diffusion.max_level; 0 = maps.level",
       &c.study.level, 0, 999},
      {"study.steps",
       "steps of the compared difference maps of every solver, each at most their level; N steps to level L are as "
       "fine as 1000 N / L over the whole schedule",
       &c.study.steps},
      {"study.evaluations",
       "network evaluations of ddim's encode step in compared walks of at most 25 steps; longer ones take "
       "maps.evaluations",
       &c.study.evaluations},
      {"study.student_steps", "optimiser steps of the student of the evidence maps", &c.study.student_steps, 1, kMany},
  };
}

}  // namespace daug
