#include "backend/fitting_rows.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "daug/core/error.h"

namespace daug::backend {

namespace {

/// What LibTorch's errors say of a failed allocation that was not its allocator's: of the CUDA runtime (error 2) and
/// driver, and where cuBLAS and cuDNN name memory. A handle of theirs that is merely NOT_INITIALIZED may lack anything.
constexpr std::string_view kOutOfMemoryTexts[] = {
    "CUDA error: out of memory",  "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",  // CUDNN_STATUS_INTERNAL_ERROR_..., since cuDNN 9
};

/// Whether LibTorch's allocator failed while it told of a shortage: before it throws, it asks the driver's NVML who
/// holds the memory, and where that may not be asked, as on parts of a device and in some containers, it asserts
/// instead.
bool failed_telling(std::string_view said) {
  return said.find("NVML_SUCCESS") != std::string_view::npos &&
         said.find("CUDACachingAllocator") != std::string_view::npos;
}

/// What they say of work that failed while a device ran it (kernels::cuda::is_fault). LibTorch's type for errors of the
/// CUDA runtime, which only newer versions have, is that of calls that were refused as well.
constexpr std::string_view kFaultTexts[] = {
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: operation not supported on global/shared address space",
    "CUDA error: invalid program counter",
    "CUDA error: hardware stack error",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: context is destroyed",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: uncorrectable NVLink error",
    "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error",
    "CUDA error: tensor memory not completely freed",
    "CUDA error: unknown error",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
};

bool says_one_of(std::string_view text, at::ArrayRef<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [text](std::string_view part) { return text.find(part) != std::string_view::npos; });
}

/// Throws kDevice in the name of `function` for what tells of a device that has failed; the library's own names an
/// operation already. Does nothing for other errors.
void throw_fault(const std::exception& error, const std::string& function) {
  const std::string begin = function + ": ";
  if (const auto* own = dynamic_cast<const Error*>(&error)) {
    const std::string said = own->what();
    if (own->code() == ErrorCode::kDevice && said.rfind(begin, 0) != 0) throw Error(ErrorCode::kDevice, begin + said);
  } else if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    const std::string said = torch_error->what_without_backtrace();
    if (says_one_of(said, kFaultTexts))
      throw Error(ErrorCode::kDevice, begin + "its device has failed, in this call or in one before it: " + said);
  }
}

}  // namespace

void tell_of_halving(std::int64_t rows) {
  if (!told_of_halving().exchange(true))
    TORCH_WARN("daug: a batch of ", rows,
               " did not fit into the memory of its device. It is halved until it does, and so are others from here on "
               "without a word; a smaller batch size or memory budget (of a run's maps: maps.memory_budget) saves the "
               "attempts.");
}

std::atomic<bool>& told_of_halving() {
  static std::atomic<bool> told{false};
  return told;
}

const char* out_of_memory(const std::exception& error) {
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    const char* text = torch_error->what_without_backtrace();
    if (dynamic_cast<const c10::OutOfMemoryError*>(&error)) return text;
    return says_one_of(text, kOutOfMemoryTexts) || failed_telling(text) ? text : nullptr;
  }
  const auto* own = dynamic_cast<const Error*>(&error);
  return own && own->code() == ErrorCode::kOutOfMemory ? own->what() : nullptr;
}

void rethrow_typed(const std::exception& error, const char* function) {
  const char* text = out_of_memory(error);
  if (text && !dynamic_cast<const Error*>(&error))
    fail(ErrorCode::kOutOfMemory, function, "memory", "enough for this call", text);
  throw_fault(error, function);
  throw;
}

void FittingRows::each(std::int64_t rows, const Work& work) const {
  std::int64_t begin = 0;
  do {
    const std::int64_t count = std::min(most_.load(), rows - begin);
    bool done = false;
    try {
      work(begin, count);
      done = true;
    } catch (const std::exception& error) {
      const char* text = out_of_memory(error);
      if (!text) rethrow_typed(error, function_);
      if (count <= unit_ && dynamic_cast<const Error*>(&error)) throw;
      if (count <= unit_)
        fail(ErrorCode::kOutOfMemory, function_, "memory", detail::concat("enough for ", smallest_), text);
    }
    if (done) {
      begin += count;
      continue;
    }
    // Not where it was caught: what the failed call held is freed by now.
    tell_of_halving(count);
    const std::int64_t half = (count / 2 + unit_ - 1) / unit_ * unit_;
    std::int64_t known = most_;
    while (half < known && !most_.compare_exchange_weak(known, half)) {
    }
  } while (begin < rows);
}

at::Tensor FittingRows::join(std::int64_t rows, const Part& part) const {
  std::vector<at::Tensor> parts;
  each(rows, [&](std::int64_t begin, std::int64_t count) { parts.push_back(part(begin, count)); });
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

}  // namespace daug::backend
