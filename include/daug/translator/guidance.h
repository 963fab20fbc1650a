#pragma once
/// @file
/// Where a translation is headed: named targets, the conditions they stand for, and how strongly they pull.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/execution.h"
#include "daug/translator/network_precision.h"
#include "daug/translator/noise_schedule.h"

namespace at {
class Tensor;
}

namespace daug {

class NoiseAwareClassifier;
struct FindingGroup;

/// The name that stands for "every finding absent".
inline constexpr const char* kNoFinding = "No Finding";

/// A named direction of translation.
struct Target {
  std::string finding;                    ///< a finding of the model, kNoFinding, or the name of a group
  bool toward = true;                     ///< false: away from it
  double strength = 1;                    ///< multiplies the guidance's weight and classifier scale, in [0, 1000]
  std::vector<std::string> members = {};  ///< a group's findings, which all take its state; empty: no group
};

/// Towards the presence of a finding; toward(kNoFinding) makes every finding absent.
Target toward(std::string finding);
/// Towards the absence of a finding.
Target away_from(std::string finding);
/// Towards the presence of every finding of a group.
Target toward(const FindingGroup& group);
/// Towards the absence of every finding of a group.
Target away_from(const FindingGroup& group);

/// The ternary condition of a target: +1 present, -1 absent, 0 unknown, one entry a finding. `opposite` flips the
/// states that the target sets. Throws kNotFound listing the findings when a name is unknown.
std::vector<float> target_condition(const Target& target, const std::vector<std::string>& findings,
                                    bool opposite = false);

/// How a target changes the noise estimate at each decode step.
enum class GuidanceKind {
  kNone,            ///< condition on the target alone: eps(dst)
  kClassifierFree,  ///< eps(null) + w (eps(dst) - eps(null)) (arXiv 2207.12598)
  kContrast,        ///< eps(dst) + w (eps(dst) - eps(src)), src the opposite state
  kClassifier,      ///< eps(null) - s sqrt(1 - abar) grad log p(target | x_t) (arXiv 2105.05233)
};

/// "none", "classifier_free", "contrast" or "classifier"; throws kInvalidArgument otherwise.
GuidanceKind guidance_kind(const std::string& name);

/// Settings of guidance. Classifier guidance can be added to any kind by a non-zero classifier_scale.
struct GuidanceOptions {
  GuidanceKind kind = GuidanceKind::kContrast;  ///< how conditional estimates are combined
  double weight = 2.0;                          ///< w of classifier-free and contrast guidance, in [0, 1000]
  double classifier_scale = 0.0;                ///< s of classifier guidance, in [0, 10000]; used when > 0
  std::int64_t lowest_level = 0;                ///< guidance acts at levels in [lowest, highest] (arXiv 2404.07724);
  std::int64_t highest_level = 1 << 20;         ///< elsewhere the target's condition alone, one evaluation

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Gradient of a classifier's log-likelihood of a target with respect to a noisy image.
class GuidanceClassifier {
 public:
  /// Implementations may be destroyed as this.
  virtual ~GuidanceClassifier() = default;

  /// F, the findings it knows: columns of `condition`, in the order of the model it guides.
  virtual std::int64_t num_findings() const = 0;

  /// Their names, in that order; empty: not said, and those of a model of as many are taken for them, unchecked.
  virtual std::vector<std::string> findings() const { return {}; }

  /// C of the images it was made for; 0: any.
  virtual std::int64_t channels() const { return 0; }

  /// The schedule whose levels `gradient` counts; null: not said (see NoisePredictor::schedule).
  virtual const NoiseSchedule* schedule() const { return nullptr; }

  /// Height and width of the only images it takes, in pixels; 0: any.
  virtual std::int64_t image_size() const { return 0; }

  /// Throws kInvalidArgument, in the name of `function`, for images x [B, C, H, W] that `gradient` refuses for what the
  /// members above do not tell (their dtype, say), and computes nothing: so that a walk is refused before its first
  /// step. Whoever passes `gradient` on to another passes this on too. By default all images will do.
  virtual void require_input(const at::Tensor& /*x*/, const char* /*function*/) const {}

  /// grad_x log p(condition | x_t) [B, C, H, W]. condition [B, F]: +1 adds log p_f, -1 adds log(1 - p_f), 0 nothing.
  virtual at::Tensor gradient(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const = 0;

  /// About the memory `gradient` takes for each item of height x width pixels, in bytes; 0: not known.
  virtual std::int64_t bytes_per_item(std::int64_t /*height*/, std::int64_t /*width*/) const { return 0; }
};

/// What the logits of a classifier mean. The gradient must be that of the loss the classifier was trained with.
enum class GuidanceHead {
  kSigmoid,  ///< one independent probability a finding
  kSoftmax,  ///< one of several exclusive classes
};

/// A NoiseAwareClassifier as guide, its logits in the model's finding order; `findings` names them, so that a
/// translator can refuse a guide for others or in another order. A network has no names by itself: without them a
/// translator checks the number of logits alone, and that they stand in its order is for the caller to know. With
/// kSoftmax log p_f is the log-softmax and 1 - p_f the probability of all other classes together; at least two logits.
/// The network is put into evaluation mode; with another `precision` than kFull a rounded copy answers, and `network`
/// stays as it is.
/// `gradient` throws kMismatch for a condition of other rows than x or other findings than logits, kOutOfMemory where
/// one image does not fit into the memory of a device, which it asks of in parts else, and kDevice where a kernel of
/// anybody's failed on the device. Half networks take images of wider types too, and their gradients are returned as
/// float32; float16's are computed on a scale at which they neither vanish nor overflow, which bfloat16, with float32's
/// range, does without. Throws kInvalidArgument for a softmax of one logit, and kMismatch for another number of names
/// than of logits.
/// `graphs`: as of make_noise_predictor, of the way to the likelihood and back, on kAuto by a run of its own. Gradients
/// equal those of plain calls up to the order in which LibTorch's backward passes add.
std::shared_ptr<const GuidanceClassifier> make_guidance_classifier(const NoiseAwareClassifier& network,
                                                                   const NoiseSchedule& schedule,
                                                                   GuidanceHead head = GuidanceHead::kSigmoid,
                                                                   std::vector<std::string> findings = {},
                                                                   NetworkPrecision precision = NetworkPrecision::kFull,
                                                                   Execution graphs = Execution::kAuto);

/// Throws kInvalidArgument naming `function` and x for images [B, C, H, W] that the classifier does not take: of other
/// channels or another size, and what its require_input refuses (that of a NoiseAwareClassifier: another dtype than the
/// network's, unless that is a half type, another device, and sides of fewer pixels than its levels need).
void require_guidable(const GuidanceClassifier& classifier, const at::Tensor& x, const char* function);

}  // namespace daug
