#include "daug/pipeline/run_config.h"

#include <algorithm>
#include <charconv>

#include "daug/backend/cuda.h"
#include "daug/core/error.h"
#include "daug/core/utf8.h"
#include "daug/data/labels.h"
#include "daug/data/phantom.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/train/encoder_trainer.h"
#include "daug/translator/solver.h"
#include "io/json.h"
#include "stage_options.h"

namespace daug {

namespace {
constexpr const char* kConfig = "daug::RunConfig";
constexpr int kConfigVersion = 1;
}  // namespace

void Setting::validate() const {
  if (const auto* integer = std::get_if<std::int64_t*>(&value))
    require_range(**integer, static_cast<std::int64_t>(low), static_cast<std::int64_t>(high), kConfig, name.c_str());
  if (const auto* number = std::get_if<double*>(&value)) require_range(**number, low, high, kConfig, name.c_str());
  if (const auto* words = std::get_if<std::string*>(&value))
    require(utf8_error(**words) == std::string::npos, kConfig, name.c_str(), "UTF-8", as_utf8(**words));
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
      {"maps.level", "noise level to which images are encoded", &c.maps.level, 1, 1000},
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
      {"maps.evidence_levels", "noise levels of evidence and score-difference maps", &c.maps.evidence_levels},
      {"maps.evidence_samples", "noise draws a level", &c.maps.evidence_samples, 1, 1 << 20},
      {"maps.train_images", "labelled training images that get maps and train the encoders; 0 = all",
       &c.maps.train_images, 0, kLong},
      {"maps.memory_budget", "what a network call of a thread may hold in activations, MB; 0 = not bounded",
       &c.maps.memory_budget, 0, 1e9},
      {"maps.precision",
       "in which denoiser and guide compute maps, all around them being float32: float32, bfloat16 or float16; a "
       "processor without instructions for it (AVX-512 BF16 for bfloat16) takes many times longer",
       &c.maps.precision, 0, 0, kAddedLater},
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
      {"encoder.precision",
       "float32, bfloat16, or auto: bfloat16 where the processor multiplies it (AVX-512 BF16, AMX), else float32",
       &c.encoder.precision},
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
      {"study.level",
       "noise level of the compared difference maps, one that diffusion.max_level trained; 0 = maps.level",
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

std::vector<std::string> preset_names() { return {"tiny", "small", "reference"}; }

void apply_preset(RunConfig& c, const std::string& name) {
  const RunConfig given = c;
  c = RunConfig{};
  c.preset = name;
  c.data = given.data;
  c.out = given.out;
  c.force = given.force;
  if (name == "tiny") return;
  if (name == "small") {
    c.size = 64;
    c.diffusion.steps = 2000;
    c.diffusion.levels = "1,2,2";
    c.diffusion.attention = "4";
    c.diffusion.learning_rate = 1e-3;
    c.diffusion.ema = 0.998;
    c.guide.levels = "1,2,2,4";
    c.guide.attention = "8";
    c.maps.steps = 5;
    c.maps.evidence_samples = 1;
    c.encoder.epochs = 40;
    return;
  }
  if (name == "reference") {
    c.size = 256;
    c.diffusion = {.steps = 500000,
                   .batch = 16,
                   .base = 128,
                   .blocks = 2,
                   .patch = 1,
                   .heads = 1,
                   .norm_groups = 32,
                   .levels = "1,1,2,2,4,4",
                   .attention = "16",
                   .schedule = "linear",
                   .prediction = "eps",
                   .embedding = "add",
                   .learning_rate = 1e-4,
                   .ema = 0.9999,
                   .max_level = 1000,
                   .finding_dropout = 0.15,
                   .condition_dropout = 0.15,
                   .labelled_share = 0};
    c.guide = {.steps = 150000,
               .batch = 32,
               .base = 32,
               .blocks = 4,
               .levels = "1,1,2,2,4,4",
               .attention = "8,16,32",
               .learning_rate = 1e-4};
    c.diffusion.variance = "learned_range";
    c.maps.level = 500;
    c.maps.steps = 500;
    c.maps.evaluations = 1;
    c.maps.guidance = "classifier";
    c.maps.classifier_scale = 100;
    c.labels.uncertain = c.labels.not_mentioned = "zeros";
    c.maps.train_images = 0;
    c.maps.smoothing = 0;
    c.encoder.maps = "difference";
    c.encoder.rotation = c.encoder.shift = c.encoder.zoom = 0;
    c.encoder.ema = 0;
    c.encoder.kind = kClipViT;
    c.encoder.embedding = 512;
    c.encoder.epochs = 10;
    c.encoder.learning_rate = 2e-5;
    c.encoder.weight_decay = 0.01;
    c.encoder.clip_weight = 0.7;
    c.encoder.logit_scale = 4.602;
    c.encoder.context = 154;
    return;
  }
  fail(ErrorCode::kInvalidArgument, "daug::apply_preset", "preset", "tiny, small or reference", name);
}

namespace {

template <class T, class Limit>
void require_each(const std::vector<T>& values, Limit low, Limit high, const char* setting) {
  for (const T value : values) require_range(value, low, high, kConfig, setting);
}

template <class T, class Limit>
void require_list(const std::vector<T>& values, Limit low, Limit high, const char* setting) {
  require(!values.empty(), kConfig, setting, "at least one number", "none");
  require_each(values, low, high, setting);
}

void require_word(const std::string& word, const std::vector<std::string>& known, const char* setting) {
  std::string list;
  for (const auto& one : known) list += (list.empty() ? "" : one == known.back() ? " or " : ", ") + one;
  require(std::find(known.begin(), known.end(), word) != known.end(), kConfig, setting, list, word);
}

void validate_loss(const RunConfig::Encoder& e) {
  require_word(e.loss, {"clip", "siglip"}, "encoder.loss");
  require_word(e.class_form, {"bce", "paired"}, "encoder.class_form");
  require_word(e.uncertain, {"labels", "masked", "smoothed"}, "encoder.uncertain");
  require_word(e.negatives, {"all", "masked", "soft", "positives"}, "encoder.negatives");
  require(e.negatives != "positives" || e.study.empty(), kConfig, "encoder.study",
          "none beside encoder.negatives positives", e.study);
  require(e.class_form == "bce" || !e.class_bias, kConfig, "encoder.class_bias", "false for paired prompts", true);
  require(e.class_form == "bce" || e.class_bias_value == 0, kConfig, "encoder.class_bias_value", "0 for paired prompts",
          e.class_bias_value);
  require(e.positive_weights == 0 || e.positive_weights >= 1, kConfig, "encoder.positive_weights", "0, or at least 1",
          e.positive_weights);
  require_range(e.min_logit_scale, -10.0, e.max_logit_scale, kConfig, "encoder.min_logit_scale");
  if (e.learn_temperature)
    require_range(e.logit_scale, e.min_logit_scale, e.max_logit_scale, kConfig, "encoder.logit_scale");
}

/// Sizes of the transformers: set where there is one that they are of, and fitting each other.
void validate_transformers(const RunConfig& config) {
  using Sizes = std::vector<std::pair<const char*, std::int64_t>>;
  const auto& e = config.encoder;
  const bool vit = e.kind == "vit", own_text = e.clip.empty() && e.kind != kClipViT;
  for (const auto& [name, size] :
       Sizes{{"encoder.patch", e.patch}, {"encoder.depth", e.depth}, {"encoder.heads", e.heads}})
    require(vit || size == 0, kConfig, name, "0, unless encoder.kind is vit", size);
  for (const auto& [name, size] : Sizes{{"encoder.text_width", e.text_width},
                                        {"encoder.text_depth", e.text_depth},
                                        {"encoder.text_heads", e.text_heads}})
    require(own_text || size == 0, kConfig, name, "0 for clip_vit_b32 and beside encoder.clip, which have a text tower",
            size);
  if (vit) {
    const VitTowerOptions tower = image_tower(config).vit;
    require(config.size % tower.patch_size == 0, kConfig, "encoder.patch",
            detail::concat("a divisor of the size, ", config.size), tower.patch_size);
    require(tower.width % tower.heads == 0, kConfig, "encoder.heads",
            detail::concat("a divisor of vit's width, 2 encoder.width = ", tower.width), tower.heads);
  }
  const TextEncoderOptions text = text_tower(config);
  require(text.width % text.heads == 0, kConfig, "encoder.text_heads",
          detail::concat("a divisor of encoder.text_width, ", text.width), text.heads);
}

void validate_towers(const RunConfig& config) {
  const auto& e = config.encoder;
  require_word(e.kind, {"conv", "vit", "resnet18", "resnet50", "densenet121", kClipViT}, "encoder.kind");
  const bool vit = e.kind == "vit", clip_vit = e.kind == kClipViT;
  require(!clip_vit || !e.clip.empty() || config.size % 32 == 0, kConfig, "size", "a multiple of 32 for clip_vit_b32",
          config.size);
  require(!clip_vit || e.pooling == "default", kConfig, "encoder.pooling", "default for clip_vit_b32", e.pooling);
  require_word(e.pooling, {"default", vit ? "class" : "flatten", "attention", "mean"}, "encoder.pooling");
  require_word(e.pixels, {"default", "radiograph"}, "encoder.pixels");
  require(e.pixels == "default" || !e.image_checkpoint.empty(), kConfig, "encoder.pixels",
          "default without encoder.image_checkpoint", e.pixels);
  require(e.clip.empty() || e.image_checkpoint.empty(), kConfig, "encoder.image_checkpoint",
          "none beside encoder.clip, which has an image tower", e.image_checkpoint);
  require(
      e.kind == "conv" || (clip_vit && e.image_checkpoint.empty()) || (e.clip.empty() && e.image_checkpoint.empty()),
      kConfig, "encoder.kind", "conv, the default, beside a checkpoint, which brings its own", e.kind);
  require(e.clip.empty() || e.pooling == "default", kConfig, "encoder.pooling", "default beside encoder.clip",
          e.pooling);
  for (const auto& [name, filter] : {std::pair<const char*, std::string>{"encoder.image_positions", e.image_positions},
                                     {"encoder.text_positions", e.text_positions}}) {
    require_word(filter, {"bicubic_antialias", "bicubic", "linear"}, name);
    require(!e.clip.empty() || filter == "bicubic_antialias", kConfig, name,
            "bicubic_antialias without encoder.clip, whose table it resamples", filter);
  }
  require_word(e.text_cleaning, {"transformers", "open_clip"}, "encoder.text_cleaning");
  validate_transformers(config);
}

}  // namespace

void RunConfig::validate() const {
  RunConfig copy = *this;  // settings() hands out pointers to change
  for (const auto& setting : settings(copy)) setting.validate();
  require_word(preset, preset_names(), "preset");
  require(is_device_name(device), kConfig, "device", "cpu, cuda or cuda:N", "'" + device + "'");
  require(ranks == 1 || device == "cpu", kConfig, "ranks", "1 on " + device, ranks);
  require(ranks == 1 || budget == 0, kConfig, "budget", "0 with several ranks", budget);
  process_group_options(*this).validate();
  require(labels.findings.empty() || labels.vocabulary.empty(), kConfig, "labels.findings",
          "none beside labels.vocabulary, which names them", labels.findings);
  parse_policy(labels.uncertain);
  parse_policy(labels.not_mentioned);
  phantom_labels(phantom.labels);
  parse_box_groups(evaluate.box_groups);
  require(diffusion.embedding == "scale_shift" || diffusion.embedding == "add", kConfig, "diffusion.embedding",
          "scale_shift or add", diffusion.embedding);
  require_predictable(noise_schedule(*this), prediction(diffusion.prediction), kConfig);
  denoising_loss_options(*this).validate();
  require(!guided_by_classifier(*this) || maps.classifier_scale > 0, kConfig, "maps.classifier_scale",
          "more than 0 for classifier guidance", maps.classifier_scale);
  require_range(maps.lowest_level, std::int64_t{0}, maps.highest_level, kConfig, "maps.lowest_level");
  const auto walk = [](const char* name, std::int64_t level) {
    return detail::concat("at most ", name, ", ", level, ": every step leads to another noise level");
  };
  require(maps.steps <= maps.level, kConfig, "maps.steps", walk("maps.level", maps.level), maps.steps);
  require(make_solver(maps.solver, maps.evaluations)->decode_evaluations(maps.steps) >= 1, kConfig, "maps.steps",
          "more than 1 with maps.solver " + maps.solver + ", whose first step asks no network", maps.steps);
  require(noise_schedule(*this).abar(maps.level) > 0, kConfig, "maps.level",
          "a level at which diffusion.schedule leaves some signal, or nothing of an image is encoded", maps.level);
  require_word(maps.precision, {"float32", "bfloat16", "float16"}, "maps.precision");
  require(encoder.maps == "evidence" || encoder.maps == "difference", kConfig, "encoder.maps", "evidence or difference",
          encoder.maps);
  channel_mode(encoder.mode);
  training_precision(encoder.precision);
  validate_towers(*this);
  validate_loss(encoder);
  require_word(encoder.prompts, {"single", "ensemble"}, "encoder.prompts");
  require_word(encoder.arms, {"paper", "all"}, "encoder.arms");
  require_list(parse_numbers(diffusion.levels, "diffusion.levels"), 1e-3, 1e3, "diffusion.levels");
  require_list(parse_numbers(guide.levels, "guide.levels"), 1e-3, 1e3, "guide.levels");
  require_each(parse_integers(diffusion.attention, "diffusion.attention"), 1, 512, "diffusion.attention");
  require_each(parse_integers(guide.attention, "guide.attention"), 1, 512, "guide.attention");
  require_list(parse_integers(maps.evidence_levels, "maps.evidence_levels"), 1, 1000, "maps.evidence_levels");
  const auto study_steps = parse_integers(study.steps, "study.steps");
  require_list(study_steps, 1, 1000, "study.steps");
  const bool own = study.level > 0;
  const std::int64_t top = own ? study.level : maps.level;
  for (const std::int64_t steps : study_steps)
    require(steps <= top, kConfig, "study.steps", walk(own ? "study.level" : "maps.level", top), steps);
  require_list(parse_integers(study.evaluations, "study.evaluations"), 1, 20, "study.evaluations");
}

namespace {
template <class T, class Parse>
std::vector<T> parse_list(const std::string& text, const std::string& setting, const Parse& parse) {
  std::vector<T> values;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    std::size_t used = 0;
    try {
      values.push_back(parse(item, &used));
    } catch (const std::exception&) {
      used = std::string::npos;
    }
    if (used != item.size())
      fail(ErrorCode::kInvalidArgument, kConfig, setting, "comma-separated numbers", "'" + text + "'");
    begin = end + 1;
  }
  return values;
}
}  // namespace

std::vector<std::int64_t> parse_integers(const std::string& text, const std::string& setting) {
  return parse_list<std::int64_t>(text, setting,
                                  [](const std::string& item, std::size_t* used) { return std::stoll(item, used); });
}

std::vector<double> parse_numbers(const std::string& text, const std::string& setting) {
  return parse_list<double>(text, setting,
                            [](const std::string& item, std::size_t* used) { return std::stod(item, used); });
}

std::vector<std::string> parse_names(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::size_t first = std::min(text.find_first_not_of(' ', begin), end);
    std::size_t last = end;
    while (last > first && text[last - 1] == ' ') --last;
    names.push_back(text.substr(first, last - first));
    begin = end + 1;
  }
  return names;
}

std::vector<std::pair<std::string, std::vector<std::string>>> parse_box_groups(const std::string& text) {
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;
  for (const auto& item : parse_names(text)) {
    const std::size_t equals = item.find('=');
    std::string members = equals == std::string::npos ? "" : item.substr(equals + 1);
    std::replace(members.begin(), members.end(), '|', ',');
    groups.emplace_back(item.substr(0, equals), parse_names(members));
    require(!groups.back().first.empty() && !groups.back().second.empty(), kConfig, "evaluate.box_groups",
            "name=map|map,...", "'" + text + "'");
  }
  return groups;
}

void write_config(const std::string& path, const RunConfig& config) {
  RunConfig copy = config;
  nlohmann::ordered_json json = {{"version", kConfigVersion}, {"preset", config.preset}};
  for (const auto& setting : settings(copy))
    std::visit([&](const auto* value) { json["settings"][setting.name] = *value; }, setting.value);
  write_file_atomically(path, json.dump(1) + "\n");
}

RunConfig read_config(const std::string& path) {
  constexpr const char* kFunction = "daug::read_config";
  constexpr std::uint64_t kMostBytes = 1 << 20;
  RunConfig config;
  std::vector<Setting> known = settings(config);
  const auto json = detail::parse_json(read_text_file(path, kMostBytes), kFunction, path);
  const auto version = detail::member_as<std::int64_t>(json, "version", kFunction, path);
  if (version != kConfigVersion)
    fail(ErrorCode::kUnsupported, kFunction, path, detail::concat("version ", kConfigVersion), version);
  config.preset = detail::member_as<std::string>(json, "preset", kFunction, path);
  const auto& given = detail::member_of(json, "settings", kFunction, path);
  if (!given.is_object()) fail(ErrorCode::kFormat, kFunction, path + ": settings", "{name: value}", given.type_name());
  for (const auto& [name, value] : given.items()) {
    const auto setting =
        std::find_if(known.begin(), known.end(), [&, key = name](const Setting& one) { return one.name == key; });
    if (setting == known.end()) fail(ErrorCode::kFormat, kFunction, path, "known settings", name);
    const auto read = [&, &found = value](auto* target) {
      *target = detail::value_of<std::decay_t<decltype(*target)>>(found, kFunction, path + ": " + setting->name);
    };
    std::visit(read, setting->value);
  }
  config.validate();
  return config;
}

std::string settings_fingerprint(RunConfig config, const std::vector<std::string>& prefixes) {
  Fingerprint fingerprint;
  RunConfig plain;
  const std::vector<Setting> all = settings(config), defaults = settings(plain);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Setting& setting = all[i];
    if (setting.added_later && setting.text() == defaults[i].text()) continue;
    const auto begins = [&](const std::string& prefix) { return setting.name.rfind(prefix, 0) == 0; };
    const auto left_out = [&](const std::string& prefix) { return prefix[0] == '-' && begins(prefix.substr(1)); };
    if (std::any_of(prefixes.begin(), prefixes.end(), left_out)) continue;
    if (std::any_of(prefixes.begin(), prefixes.end(), begins)) fingerprint.add(setting.name, setting.text());
  }
  return fingerprint.hex();
}

}  // namespace daug
