#pragma once
/// @file
/// Image-to-image translation by a diffusion model: encode an image to noise, decode it towards named targets.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/translator/guidance.h"
#include "daug/translator/noise_predictor.h"
#include "daug/translator/noise_schedule.h"
#include "daug/translator/solver.h"

namespace daug {

/// Settings of a translation.
struct TranslatorOptions {
  std::int64_t level = 500;              ///< noise level L to which an image is encoded, in [1, schedule steps]
  std::int64_t steps = 50;               ///< transitions between level 0 and L, in [1, level]
  std::int64_t evaluations = 2;          ///< of DDIM's encode step: 1 plain, 2 and more fixed-point, in [1, 20]
  GuidanceOptions guidance;              ///< how targets pull
  std::int64_t max_batch = 256;          ///< largest batch handed to the network, >= 1; 1: bits are an image's own
  std::int64_t memory_budget = 0;        ///< bytes of a network's activations, >= 0; 0: bounded by max_batch alone
  std::shared_ptr<const Solver> solver;  ///< null: DdimSolver with `evaluations`

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Network evaluations made for each image of a call.
struct NetworkCalls {
  std::int64_t denoiser = 0;              ///< to encode, and to decode towards every target
  std::int64_t classifier_gradients = 0;  ///< to decode towards every target
  std::int64_t reconstruction = 0;        ///< of the denoiser, to decode once without a target
};

/// Result of translating x [B, C, H, W] towards K targets.
struct Translation;

class FiniteCheck;
struct LabelledBatch;
struct SelfTest;

/// Translates images between health and disease (Wolleb et al., arXiv 2203.04306).
///
/// Encoding walks levels 0 -> L without a target; decoding walks the same levels L -> 0 with guidance, all K targets
/// from the one latent. How the steps are made is the solver's: DDIM solves the decode equation for its noisier end by
/// fixed-point iteration, BDIA is reversible, so that decoding without a target returns the image (up to `residual`).
/// Images are floating point of the predictor's dtype, on its device, and so are states and results; beside networks of
/// half types (NetworkPrecision) they may be float32. Deterministic: no random numbers are drawn, but by a DdimSolver
/// with eta > 0, a function of seed and id. Network calls are split into batches of at most `max_batch` rows, and of as
/// many as fit into `memory_budget` by the predictor's and the classifier's bytes_per_item (at least one; each
/// condition of an item is a row); results do not depend on it, nor on the number of LibTorch's threads, beyond
/// rounding. With max_batch = 1 an image's result is the same bits whatever stands beside it, in any order, on any
/// number of threads of the CPU of one machine: networks are called for a row at a time on one intra-op thread, so that
/// whoever wants more processors calls from several threads. Not thread safe only in that the networks it holds must
/// not be trained meanwhile; `translate` itself is const.
class DiffusionTranslator {
 public:
  /// `findings` name the columns of the model's condition, in order. `classifier` is needed for
  /// GuidanceKind::kClassifier or classifier_scale > 0. Throws kInvalidArgument, and kMismatch for a classifier of
  /// another number of findings, of images of other channels, or one that names other findings or the same in another
  /// order; one without names is taken to have these in this order. Likewise for a predictor or a classifier that
  /// counts the levels of another schedule (require_schedule).
  DiffusionTranslator(std::shared_ptr<const NoisePredictor> predictor, NoiseSchedule schedule,
                      std::vector<std::string> findings, TranslatorOptions options = {},
                      std::shared_ptr<const GuidanceClassifier> classifier = nullptr);

  /// Throws what `translate` throws for images, targets and states that do not fit, and computes nothing. For whoever
  /// calls `encode` and `decode` apart: `encode` knows no targets, and what does not fit them or the classifier would
  /// be refused only when it is paid for.
  void require_translatable(const at::Tensor& x, const std::vector<Target>& targets,
                            const at::Tensor& known = {}) const;

  /// Latent [B, S C, H, W] of x [B, C, H, W] in [-1, 1]: the state at level L and what else the solver carries (S =
  /// solver().states(), 1 for DDIM). known: undefined or [B, F] states to condition on (require_states). Checks x
  /// (require_images).
  at::Tensor encode(const at::Tensor& x, const at::Tensor& known = {}, const RunControl& control = {}) const;

  /// Images [B, K, C, H, W] decoded from latents towards each target. K = 0 is refused. known fills the states a
  /// target leaves unknown. Throws, before any network call, kNotFound for a finding that the model lacks,
  /// kInvalidArgument for a latent of another solver's states or, where guidance uses a classifier, of images that it
  /// does not take (require_guidable), and what NoisePredictor::prepared throws for states that guidance would
  /// ask for (with StateClasses those of toward(kNoFinding) and contrast, whose opposite is every finding at once);
  /// else as translate.
  at::Tensor decode(const at::Tensor& latent, const std::vector<Target>& targets, const at::Tensor& known = {},
                    const RunControl& control = {}) const;

  /// Images [B, C, H, W] decoded without any target: what encoding lost is the difference to the input.
  at::Tensor reconstruct(const at::Tensor& latent, const at::Tensor& known = {}, const RunControl& control = {}) const;

  /// encode, reconstruct and decode in one call. Checks x (require_images), and all that these refuse before any
  /// network call. Throws kNumeric when a value becomes non-finite (on a device after the last step, see FiniteCheck),
  /// with the step (counted from 1), the level it led to and, on the way to targets, the guidance's scales and the
  /// first image and target it happened to (counted from 0), with the target's strength; kCancelled when stopped;
  /// kOutOfMemory where a network call of one image does not fit into the memory of a device, and kDevice where a
  /// device failed during one.
  Translation translate(const at::Tensor& x, const std::vector<Target>& targets, const at::Tensor& known = {},
                        const RunControl& control = {}) const;

  /// translate that changes x only where `region` [B, 1, H, W] is 1 (in [0, 1], values between blend; one region may
  /// stand for the batch: [1, 1, H, W]). Outside it every level's state is put back on the way the encoder came, so
  /// that there the images are the input itself while the network sees the whole of it (as RePaint, arXiv 2201.09865,
  /// but with the encoder's states in place of fresh noise). Holds steps + 1 copies of x. Throws as translate, and
  /// kInvalidArgument for a region of another shape or range.
  Translation translate_inside(const at::Tensor& region, const at::Tensor& x, const std::vector<Target>& targets,
                               const at::Tensor& known = {}, const RunControl& control = {}) const;

  /// Whether presence and absence are exchanged in what guides this translator: the denoiser's conditions (all kinds
  /// but kClassifier) and the classifier's gradients. At three levels of the walk, with known noise e, an image scores
  /// by how much better eps(f present) finds e than eps(f absent), and by how far the classifier's gradients say its
  /// log-odds of f lie above those of the batch's mean image; see self_test.h for what becomes of the scores. A model
  /// that learned nothing passes with every finding undecided. 12 F denoiser evaluations and 24 F gradients an image.
  /// Throws, before any network call, kInvalidArgument for images (require_images), states or items that do not fit and
  /// what NoisePredictor::prepared throws for one finding present or absent; kNumeric naming network, level
  /// and finding when a score becomes non-finite (as translate), kCancelled when stopped.
  SelfTest self_test(const LabelledBatch& batch, const RunControl& control = {}) const;

  /// As given to the constructor.
  const NoiseSchedule& schedule() const { return schedule_; }
  /// Names of the columns of conditions.
  const std::vector<std::string>& findings() const { return findings_; }
  /// As given to the constructor.
  const TranslatorOptions& options() const { return options_; }
  /// The denoiser behind it.
  const NoisePredictor& predictor() const { return *predictor_; }

  /// What walks between levels: options().solver, or the DdimSolver in its place.
  const Solver& solver() const { return *solver_; }

  /// Network evaluations each image costs in `translate` with K targets; the most it may cost where the solver stops at
  /// a tolerance (`Translation::calls` has what was made). Denoiser: those of every encode step, and K times those of
  /// every decode step: 2 for classifier-free and contrast guidance at a guided level, else 1. Classifier gradients: K
  /// times the guided steps. `encode` and `decode` alone cost the same without the reconstruction.
  NetworkCalls calls_per_image(std::size_t targets) const;

 private:
  struct LaneStates;
  at::Tensor predict(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const;
  at::Tensor gradients(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const;
  GuidedNoise guided(const at::Tensor& x, std::int64_t level, const LaneStates& states) const;
  at::Tensor decode_lanes(const at::Tensor& latent, const LaneStates& lanes, const RunControl& control,
                          const StepDone& change) const;
  LaneStates lane_states(const at::Tensor& items, const std::vector<Target>& targets, const at::Tensor& known,
                         const char* function) const;
  at::Tensor decode_targets(const at::Tensor& latent, const LaneStates& states, const RunControl& control,
                            const StepDone& change) const;
  at::Tensor encode_counted(const at::Tensor& x, const at::Tensor& states, const RunControl& control,
                            std::int64_t* evaluations, const StepDone& change) const;
  Translation translate_with(const at::Tensor& x, const std::vector<Target>& targets, const at::Tensor& known,
                             const RunControl& control, const StepDone& encoded, const StepDone& decoded) const;
  bool guides_at(std::int64_t level) const;
  NetworkCalls calls(std::int64_t encode_evaluations, std::size_t targets) const;
  StepDone after_step(const char* function, const char* stage, const std::vector<std::string>& targets,
                      const RunControl& control, const StepDone& change, FiniteCheck& finite) const;
  void require_known(const at::Tensor& known, std::int64_t batch, const char* function) const;

  std::shared_ptr<const NoisePredictor> predictor_;
  NoiseSchedule schedule_;
  std::vector<std::string> findings_;
  TranslatorOptions options_;
  std::shared_ptr<const GuidanceClassifier> classifier_;
  std::shared_ptr<const Solver> solver_;
  std::vector<std::int64_t> path_;
};

}  // namespace daug
