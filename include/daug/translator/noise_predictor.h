#pragma once
/// @file
/// What samplers need from a diffusion model: the noise in an image at a level.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daug/core/execution.h"
#include "daug/translator/network_precision.h"
#include "daug/translator/noise_schedule.h"

namespace at {
class Tensor;
}

namespace daug {

class DenoiserUNet;

/// What a denoiser was trained to output (all are linear in each other given x_t).
enum class Prediction {
  kEps,        ///< the noise
  kX0,         ///< the clean image
  kV,          ///< v = sqrt(abar) eps - sqrt(1 - abar) x_0 (arXiv 2202.00512, appendix D)
  kPreviousX,  ///< the mean of x_{t-1} (guided-diffusion's PREVIOUS_X)
};

/// "eps", "x0", "v" or "previous_x"; throws kInvalidArgument otherwise.
Prediction prediction(std::string_view name);

/// Throws kInvalidArgument, in the name of `function`, when a network of this kind says nothing about the image
/// somewhere on the schedule: kEps and kPreviousX do on one whose last level has no signal.
void require_predictable(const NoiseSchedule& schedule, Prediction kind, const char* function);

/// What NoisePredictor::noise wants to know of a condition at one level: a row for each of the condition's, of which
/// some can be taken, or undefined.
using LevelCondition = std::function<at::Tensor(std::int64_t level)>;

/// Noise estimate of a diffusion model. Implementations are stateless at inference and may be shared between threads.
class NoisePredictor {
 public:
  /// Implementations may be destroyed as this.
  virtual ~NoisePredictor() = default;

  /// eps estimate [B, C, H, W] for x at one level of the schedule (0 = clean). condition: undefined, or [B, F] with
  /// +1 present, -1 absent, 0 unknown, or what `prepared` makes of such, or `embedded` for this level. Level 0 is
  /// answered with the network of level 1.
  virtual at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const = 0;

  /// What `noise` wants to know of a condition, for a walk that asks under the same one at every step: undefined, or a
  /// row for each of the condition's, of which some can be taken, and which can be repeated and joined as its own.
  /// `noise` answers it as it answers the condition, bit for bit, and then reads nothing back from a device. Throws
  /// what `noise` throws for a condition that it has no answer for, and asks no network: so that a walk is refused
  /// before its first step. Whoever passes `noise` on to another passes this on too. By default the condition itself,
  /// of which all will do.
  virtual at::Tensor prepared(const at::Tensor& condition) const;

  /// What `noise` wants to know at each level of a walk under a condition that is `prepared`, of so many rows (an
  /// undefined one, too): what a network computes of level and condition alone, for all `levels` at once, so that no
  /// step computes it again. Answers are equal but for rounding. At other levels, which a solver of its own may ask at,
  /// it is the prepared condition. Holds for the weights as they are now: to be made anew for every walk. May read the
  /// condition back from a device, once. Whoever passes `noise` on to another passes this on too. By default the
  /// prepared condition at every level. Throws as `noise` for a condition of other rows, and kOutOfMemory.
  virtual LevelCondition embedded(const at::Tensor& prepared, std::int64_t rows,
                                  const std::vector<std::int64_t>& levels) const;

  /// C of the images it was made for; 0: any.
  virtual std::int64_t channels() const { return 0; }

  /// The schedule whose levels `noise` counts, so that whoever walks along another is refused (require_schedule). Null:
  /// not said, and not checked.
  virtual const NoiseSchedule* schedule() const { return nullptr; }

  /// About the memory `noise` takes for each item of height x width pixels, in bytes; 0: not known.
  virtual std::int64_t bytes_per_item(std::int64_t /*height*/, std::int64_t /*width*/) const { return 0; }
};

/// Throws kMismatch, calling it `argument`, for a model that counts the levels of another schedule, `models`, than the
/// one it is about to be asked along: its answers would be for other noise than there is. Null: nothing is checked.
void require_schedule(const NoiseSchedule* models, const NoiseSchedule& schedule, const char* function,
                      const char* argument);

/// Throws kInvalidArgument unless x [B, C, H, W] holds images as they go in, before any noise: floating point, the
/// predictor's channels, finite values in [-1, 1] (a thousandth more may be rounding). Pixels in 0..255 are named as
/// such.
void require_images(const NoisePredictor& predictor, const at::Tensor& x, const char* function);

/// The same for images of `channels` channels (0: any), which errors call `argument`.
void require_images(const at::Tensor& images, std::int64_t channels, const char* function, const char* argument);

/// Throws kInvalidArgument, calling them `argument`, unless all states are 1 (present), -1 (absent) or 0 (unknown).
void require_states(const at::Tensor& states, const char* function, const char* argument);

/// Throws kNumeric naming `function` and `where` ("step 3, level 75") when a value of x, of any shape, is not finite: a
/// sampler stops where it happened, not with a map of NaN.
void require_finite(const at::Tensor& x, const char* function, const std::string& where);

/// Rows of a network call of `each` bytes a row that fit into `budget` bytes: at least 1, at most `most`, which is also
/// the answer where either is 0.
std::int64_t rows_within(std::int64_t budget, std::int64_t each, std::int64_t most);

/// Which class of a class-conditional network (DenoiserUNetOptions::num_classes) answers for the states of an item. Its
/// classes exclude each other: no class stands for two findings, and all images without a finding share one.
struct StateClasses {
  std::vector<std::int64_t> present;    ///< of each finding, in the order of the states, where it alone is present
  std::optional<std::int64_t> healthy;  ///< where something is absent and nothing present
  std::optional<std::int64_t> unknown;  ///< where nothing is known: the null class of a network trained with one
};

/// A DenoiserUNet as a NoisePredictor, put into evaluation mode. With learned sigma (2C outputs) the first C channels
/// are used. A network built without findings accepts conditions in which everything is unknown, and refuses others. A
/// class-conditional network needs `classes`, others have none; `noise` then throws kInvalidArgument for states that no
/// class stands for. Both read states back from a device to tell, unless they are `prepared`: undefined for the former,
/// and int64 [B], the items' classes, for the latter. `prepared` refuses classes that the network lacks; `noise` does
/// not look at them, so that those handed straight to it must come from `prepared`. The network runs in inference mode;
/// its estimates carry no gradient, but are tensors that a program may go on to compute gradients with. With another
/// `precision` than kFull a rounded copy answers, and `network` stays as it is. A network of a half type also answers
/// images of a wider one, and estimates are of the images' type. What does not fit into the memory of a device is asked
/// in parts, and `noise` throws kOutOfMemory where one image does not, and kDevice where a kernel of anybody's failed
/// on the device. `embedded` computes rows ahead for a network on a CUDA device, each condition once, while they take
/// no more than 256 MiB; on the CPU, where a row's bits would depend on the others, never. Throws kInvalidArgument for
/// a kind that does not go with the schedule, and for classes that the network lacks.
///
/// `graphs`: whether calls on a CUDA device are captured as CUDA graphs, one a shape and kind of condition, and
/// replayed from the second one on, with the same results. kAuto: once a device has passed the test of them, which none
/// has yet, and where they can be; kReference: never. kFused: always, and kUnsupported is thrown in a build without
/// them, for images on the CPU, and where another stream than the device's default one is current or LibTorch's
/// autocast is on. Weights may change in place meanwhile; of LibTorch's settings those of a captured call hold.
std::shared_ptr<const NoisePredictor> make_noise_predictor(const DenoiserUNet& network, const NoiseSchedule& schedule,
                                                           Prediction kind, const StateClasses& classes = {},
                                                           NetworkPrecision precision = NetworkPrecision::kFull,
                                                           Execution graphs = Execution::kAuto);

/// The same estimates with the clean image they imply held in [-1, 1], as guided-diffusion's `clip_denoised` does: for
/// parity with maps made that way. The data must lie in [-1, 1] then. Level 0 is passed on as it is, and so is a level
/// without signal, where all clean images imply the same. Throws kInvalidArgument without a predictor, and as
/// require_schedule.
std::shared_ptr<const NoisePredictor> make_clipping_predictor(std::shared_ptr<const NoisePredictor> predictor,
                                                              const NoiseSchedule& schedule);

}  // namespace daug
