#include "stage_options.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace daug {

PreprocessOptions preprocess_options(const RunConfig& config) {
  PreprocessOptions options;
  options.size = static_cast<int>(config.size);
  return options;
}

NoiseSchedule noise_schedule(const RunConfig& config) { return NoiseSchedule::named(config.diffusion.schedule, 1000); }

DenoisingLossOptions denoising_loss_options(const RunConfig& config) {
  const auto& d = config.diffusion;
  return {prediction(d.prediction), variance_kind(d.variance), denoising_objective(d.objective), d.min_snr};
}

DenoiserUNetOptions denoiser_network(const RunConfig& config, std::int64_t findings) {
  const auto& d = config.diffusion;
  DenoiserUNetOptions network;
  network.image_size = config.size;
  network.model_channels = d.base;
  network.num_res_blocks = d.blocks;
  network.channel_mult = parse_numbers(d.levels, "diffusion.levels");
  network.attention_downsample = parse_integers(d.attention, "diffusion.attention");
  network.num_heads = d.heads;
  network.norm_groups = d.norm_groups;
  network.use_scale_shift_norm = d.embedding == "scale_shift";
  network.patch = d.patch;
  network.dropout = d.dropout;
  network.use_checkpoint = d.checkpoint;
  if (is_learned(variance_kind(d.variance))) network.out_channels = 2 * network.in_channels;
  network.num_findings = findings;
  return network;
}

NoiseAwareClassifierOptions guide_network(const RunConfig& config, std::int64_t findings) {
  const auto& g = config.guide;
  NoiseAwareClassifierOptions network;
  network.image_size = config.size;
  network.model_channels = g.base;
  network.num_res_blocks = g.blocks;
  network.channel_mult = parse_numbers(g.levels, "guide.levels");
  network.attention_downsample = parse_integers(g.attention, "guide.attention");
  network.num_head_channels = g.base;
  network.norm_groups = std::min<std::int64_t>(8, g.base);
  network.use_scale_shift_norm = true;
  network.resblock_updown = true;
  network.out_channels = findings;
  return network;
}

bool guided_by_classifier(const RunConfig& config) {
  return guidance_kind(config.maps.guidance) == GuidanceKind::kClassifier || config.maps.add_classifier;
}

std::int64_t memory_budget(const RunConfig& config) { return config.maps.memory_budget * 1'000'000; }

EvidenceOptions evidence_options(const RunConfig& config) {
  EvidenceOptions options;
  options.levels = parse_integers(config.maps.evidence_levels, "maps.evidence_levels");
  options.samples = config.maps.evidence_samples;
  options.memory_budget = memory_budget(config);
  options.seed = static_cast<std::uint64_t>(config.seed);
  return options;
}

ProcessGroupOptions process_group_options(const RunConfig& config) {
  ProcessGroupOptions options;
  options.ranks = config.ranks;
  options.rank = config.rank;
  options.meeting = config.meeting;
  return options;
}

ClassForm class_form(const RunConfig& config) {
  return config.encoder.class_form == "paired" ? ClassForm::kPaired : ClassForm::kBce;
}

ImagePooling image_pooling(const std::string& setting, ImagePooling own) {
  if (setting == "flatten") return ImagePooling::kFlatten;
  if (setting == "attention") return ImagePooling::kAttention;
  return setting == "mean" ? ImagePooling::kMean : own;
}

ImageEncoderOptions image_tower(const RunConfig& config) {
  const auto& e = config.encoder;
  ImageEncoderOptions tower;
  tower.image_size = config.size;
  tower.embed_dim = e.embedding;
  tower.drop_path = e.drop_path;
  tower.use_checkpoint = e.checkpoint;
  tower.extra.gates = e.map_gates;
  tower.extra.dropout = e.map_dropout;
  if (e.kind == "vit") {
    tower.kind = ImageEncoderKind::kViT;
    tower.vit.patch_size = e.patch > 0 ? e.patch : std::max<std::int64_t>(4, config.size / 8);
    tower.vit.width = 2 * e.width;
    tower.vit.mlp_width = 8 * e.width;
    if (e.depth > 0) tower.vit.depth = e.depth;
    if (e.heads > 0) tower.vit.heads = e.heads;
    if (e.pooling != "default")
      tower.vit.pooling = e.pooling == "mean"        ? VitPooling::kMean
                          : e.pooling == "attention" ? VitPooling::kAttention
                                                     : VitPooling::kClassToken;
  } else if (e.kind == kClipViT) {
    tower.kind = ImageEncoderKind::kViT;
    tower.vit.patch_size = 32;
    tower.vit.width = 768;
    tower.vit.depth = tower.vit.heads = 12;
    tower.vit.mlp_width = 3072;
  } else if (e.kind == "resnet18" || e.kind == "resnet50") {
    tower.kind = ImageEncoderKind::kResNet;
    tower.resnet = ResNetTowerOptions::of_depth(e.kind == "resnet18" ? 18 : 50);
    tower.resnet.base_width = e.width;
    tower.resnet.pooling = image_pooling(e.pooling, tower.resnet.pooling);
  } else if (e.kind == "densenet121") {
    tower.kind = ImageEncoderKind::kDenseNet;
    tower.densenet.base_width = e.width;
    tower.densenet.growth = std::max<std::int64_t>(1, e.width / 2);
    tower.densenet.pooling = image_pooling(e.pooling, tower.densenet.pooling);
  } else {
    tower.conv.base_width = e.width;
    // Flattening keeps position; deeper networks for larger images keep the flattened map small.
    tower.conv.stages = std::max<std::int64_t>(
        2, static_cast<std::int64_t>(std::lround(std::log2(static_cast<double>(config.size) / 4))));
    tower.conv.pooling = image_pooling(e.pooling, tower.conv.pooling);
  }
  return tower;
}

TextEncoderOptions text_tower(const RunConfig& config) {
  const auto& e = config.encoder;
  TextEncoderOptions tower;
  tower.vocab_size = e.vocabulary;  // at most; what was learned decides
  tower.context_length = e.context;
  tower.embed_dim = e.embedding;
  tower.use_checkpoint = e.checkpoint;
  const bool clip = e.kind == kClipViT;
  const auto size = [](std::int64_t setting, std::int64_t own) { return setting > 0 ? setting : own; };
  tower.width = size(e.text_width, clip ? 512 : 64);
  tower.depth = size(e.text_depth, clip ? 12 : 1);
  tower.heads = size(e.text_heads, clip ? 8 : 4);
  tower.mlp_width = 4 * tower.width;
  return tower;
}

std::vector<Target> map_targets(const FindingGroups& groups) {
  std::vector<Target> targets;
  for (const auto& group : groups) targets.push_back(away_from(group));
  return targets;
}

at::Tensor map_conditions(const FindingGroups& groups, const std::vector<std::string>& findings) {
  std::vector<at::Tensor> rows;
  for (const auto& group : groups) {
    const std::vector<float> row = target_condition(toward(group), findings);
    rows.push_back(at::tensor(at::ArrayRef<float>(row)));
  }
  return at::stack(rows);
}

double map_blur(const RunConfig& config) { return config.maps.smoothing * static_cast<double>(config.size) / 32; }

std::int64_t network_threads(const RunConfig& config) { return config.device == "cpu" ? config.threads : 1; }

std::int64_t worker_count(const RunConfig& config, std::int64_t batch_size) {
  std::int64_t workers = std::min(network_threads(config), batch_size);
  while (batch_size % workers) --workers;
  return workers;
}

void freeze(torch::nn::Module& network, c10::Device device) {
  network.eval();
  for (auto& parameter : network.parameters()) parameter.set_requires_grad(false);
  network.to(device);
}

}  // namespace daug
