#include "daug/train/training_precision.h"

#include "daug/core/error.h"
#include "kernels/instruction_set.h"

namespace daug {

TrainingPrecision training_precision(const std::string& name) {
  if (name == "float32") return TrainingPrecision::kFloat32;
  if (name == "bfloat16") return TrainingPrecision::kBfloat16;
  if (name == "auto") return TrainingPrecision::kAuto;
  fail(ErrorCode::kInvalidArgument, "daug::training_precision", "name", "float32, bfloat16 or auto", name);
}

bool trains_in_bfloat16(TrainingPrecision precision, c10::Device device) {
  return precision == TrainingPrecision::kBfloat16 ||
         (precision == TrainingPrecision::kAuto && (device.is_cuda() || kernels::multiplies_bfloat16()));
}

}  // namespace daug
