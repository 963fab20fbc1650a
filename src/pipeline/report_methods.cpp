#include "report_methods.h"

#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>

namespace daug {

namespace {

/// A word as a shell reads it back.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
    return std::isalnum(c) || std::string("_./,:=+-").find(static_cast<char>(c)) != std::string::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string guidance_text(const RunConfig::Maps& maps) {
  if (maps.add_classifier && maps.guidance != "classifier") {
    RunConfig::Maps one = maps;
    one.add_classifier = false;
    RunConfig::Maps other = one;
    other.guidance = "classifier";
    return guidance_text(one) + " and " + guidance_text(other);
  }
  if (maps.guidance == "contrast")
    return fmt::format("the difference between the estimates under a target and its opposite, weighted {} [3]",
                       maps.weight);
  if (maps.guidance == "classifier_free") return fmt::format("classifier-free guidance of weight {} [3]", maps.weight);
  if (maps.guidance == "classifier")
    return fmt::format("the gradient of a noise-aware classifier, scale {} [4]", maps.classifier_scale);
  return "the condition alone";
}

/// What there is to say of the training beyond the plain squared error.
std::string loss_text(const RunConfig::Diffusion& diffusion) {
  std::string text;
  if (diffusion.objective != "mse") text += fmt::format(", objective {}", diffusion.objective);
  if (diffusion.variance.rfind("learned", 0) == 0) text += fmt::format(", with variance {}", diffusion.variance);
  if (diffusion.min_snr > 0) text += fmt::format(", min-SNR weights of gamma {}", diffusion.min_snr);
  if (diffusion.loss_aware_levels) text += ", levels drawn by their losses";
  if (diffusion.dropout > 0) text += fmt::format(", dropout {}", diffusion.dropout);
  return text;
}

std::string start_text(const RunConfig::Encoder& encoder) {
  if (!encoder.clip.empty()) return fmt::format(", both started from the checkpoint {},", encoder.clip);
  if (!encoder.image_checkpoint.empty())
    return fmt::format(", the former started from the checkpoint {},", encoder.image_checkpoint);
  return "";
}

}  // namespace

std::vector<std::string> methods_text(const RunConfig& config, const RunData& data) {
  const auto& d = config.diffusion;
  const auto& m = config.maps;
  const auto& e = config.encoder;
  const std::string maps_of =
      data.maps() == data.findings() ? "each finding" : fmt::format("each of {} groups of findings", data.maps());
  std::string guided = guidance_text(m);
  if (m.lowest_level > 0 || m.highest_level < m.level)
    guided += fmt::format(" at levels {} to {}", m.lowest_level, std::min(m.highest_level, m.level));
  return {
      fmt::format(
          "Radiographs were brought to {0} x {0} pixels with their aspect ratio kept. A denoising diffusion model [1] "
          "with "
          "{1} prediction on a {2} schedule of 1000 steps saw {3} training images for {4} steps of {5} images, at "
          "noise "
          "levels up to {6}{9}. Its condition has one state for each of {7} findings: present, absent or unknown; "
          "labels "
          "of {8} training images were used.",
          config.size, d.prediction, d.schedule, data.train.size(), d.steps, d.batch, d.max_level, data.findings(),
          data.labelled.size(), loss_text(d)),
      fmt::format(
          "Every image was encoded without a target to level {} in {} steps of {} ({} network evaluations a step, [2, "
          "5]) "
          "and decoded from there away from {}, guided by {}. Difference maps are the absolute change, smoothed. "
          "Evidence maps compare how well the presence and the absence of a finding explain known noise, averaged over "
          "levels {} with {} draws each; they need no reconstruction.",
          m.level, m.steps, m.solver, m.evaluations, maps_of, guided, m.evidence_levels, m.evidence_samples),
      fmt::format(
          "An image and a text encoder [6]{} were trained on {} labelled images for {} epochs with a hybrid loss [7], "
          "weight "
          "{} on the image-text term, once with the image alone and once with its maps as further channels, all else "
          "equal; channels of noise are the control. {} Intervals are 95 % percentile bootstraps over patients with {} "
          "resamples.",
          start_text(e), data.encoder_train.size(), e.epochs, e.clip_weight,
          data.cohort.has_reports ? "Texts are the reports of the cohort."
                                  : "The cohort has no reports: texts were made from the labels by a template.",
          config.evaluate.resamples),
      "[1] Ho, Jain, Abbeel: Denoising diffusion probabilistic models. NeurIPS 2020, arXiv 2006.11239.",
      "[2] Song, Meng, Ermon: Denoising diffusion implicit models. ICLR 2021, arXiv 2010.02502.",
      "[3] Ho, Salimans: Classifier-free diffusion guidance. 2022, arXiv 2207.12598.",
      "[4] Dhariwal, Nichol: Diffusion models beat GANs on image synthesis. NeurIPS 2021, arXiv 2105.05233.",
      "[5] Wolleb, Bieder, Sandkühler, Cattin: Diffusion models for medical anomaly detection. MICCAI 2022, arXiv "
      "2203.04306.",
      "[6] Radford et al.: Learning transferable visual models from natural language supervision. ICML 2021, arXiv "
      "2103.00020.",
      "[7] DAug: diffusion-based channel augmentation for radiology image retrieval and classification. 2024, arXiv "
      "2412.04828."};
}

std::vector<std::pair<std::string, std::string>> provenance_facts(const RunConfig& config) {
  std::string command = "00_quickstart";
  for (const auto& word : command_line(config)) command += " " + shell_word(word);
  return {{"command", command},        {"library", kLibrary},
          {"LibTorch", TORCH_VERSION}, {"instruction set", at::get_cpu_capability()},
          {"compiler", __VERSION__},   {"threads", std::to_string(config.threads)}};
}

}  // namespace daug
