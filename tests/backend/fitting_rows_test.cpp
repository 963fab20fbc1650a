#include "backend/fitting_rows.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/heatmap/encoder_maps.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/image/tensor_resize.h"
#include "daug/loss/hybrid_contrastive_loss.h"
#include "kernels/cuda/launch_check.h"
#include "support/caught.h"
#include "support/memory_count.h"
#include "support/tensor.h"

using namespace daug::backend;

namespace {

using Calls = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// Rows of 0, 1, 2, ... from a network that has memory for `room` of them at a time.
FittingRows::Part counted(Calls& calls, std::int64_t room) {
  return [&calls, room](std::int64_t begin, std::int64_t count) {
    calls.emplace_back(begin, count);
    if (count > room) C10_THROW_ERROR(OutOfMemoryError, "no memory is left");
    return at::arange(begin, begin + count).unsqueeze(1);
  };
}

/// For "three numbers" of daug::numbers.
FittingRows fitting(std::int64_t most, std::int64_t unit = 1) { return {"daug::numbers", "three numbers", most, unit}; }

/// Collects warnings.
class Heard final : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { texts.push_back(warning.msg()); }
  std::vector<std::string> texts;
};

}  // namespace

TEST_CASE("a call that does not fit is halved until it does, and the size is remembered", "[backend][memory]") {
  Heard heard;
  const c10::WarningUtils::WarningHandlerGuard guard(&heard);
  told_of_halving() = false;  // whatever ran before in this process
  const auto expected = [](std::int64_t rows) { return at::arange(rows).unsqueeze(1); };
  Calls calls;

  const FittingRows ample("daug::numbers", "a number");
  CHECK(at::equal(ample.join(10, counted(calls, 10)), expected(10)));
  CHECK(calls == Calls{{0, 10}});
  CHECK(ample.join(0, counted(calls, 10)).size(0) == 0);  // the network says what no rows are
  CHECK(calls.back() == std::pair<std::int64_t, std::int64_t>{0, 0});
  CHECK(heard.texts.empty());

  const FittingRows tight("daug::numbers", "a number");
  calls.clear();
  CHECK(at::equal(tight.join(10, counted(calls, 3)), expected(10)));
  CHECK(calls == Calls{{0, 10}, {0, 5}, {0, 2}, {2, 2}, {4, 2}, {6, 2}, {8, 2}});
  REQUIRE(heard.texts.size() == 1);
  CHECK_THAT(heard.texts[0], daug::test::contains_text("a batch of 10 did not fit"));
  calls.clear();
  CHECK(at::equal(tight.join(5, counted(calls, 3)), expected(5)));
  CHECK(calls == Calls{{0, 2}, {2, 2}, {4, 1}});

  // What is free may become less on the way.
  calls.clear();
  const FittingRows shrinking = fitting(4);
  const auto before = counted(calls, 4), after = counted(calls, 1);
  CHECK(at::equal(shrinking.join(6, [&](std::int64_t begin,
                                        std::int64_t count) { return (begin < 4 ? before : after)(begin, count); }),
                  expected(6)));
  CHECK(calls == Calls{{0, 4}, {4, 2}, {4, 1}, {5, 1}});

  // Halves are whole units.
  calls.clear();
  CHECK(at::equal(fitting(96, 32).join(100, counted(calls, 40)), expected(100)));
  CHECK(calls == Calls{{0, 96}, {0, 64}, {0, 32}, {32, 32}, {64, 32}, {96, 4}});
  calls.clear();
  const auto refused = [](const std::function<void()>& call) {
    return daug::test::error_text(daug::ErrorCode::kOutOfMemory, call);
  };
  CHECK(refused([&] { fitting(96, 32).join(100, counted(calls, 31)); }) ==
        "daug::numbers: memory: expected enough for three numbers, got no memory is left");
  CHECK(calls == Calls{{0, 96}, {0, 64}, {0, 32}});

  // One row is the end of it, and other errors are none of it.
  calls.clear();
  daug::test::contains(refused([&] { fitting(4).join(4, counted(calls, 0)); }), "no memory is left");
  CHECK(calls == Calls{{0, 4}, {0, 2}, {0, 1}});
  std::int64_t asked = 0;
  const auto broken = [&](std::int64_t, std::int64_t) -> at::Tensor {
    ++asked;
    C10_THROW_ERROR(ValueError, "another error");
  };
  CHECK_THROWS_AS(fitting(4).join(4, broken), c10::ValueError);
  CHECK(asked == 1);
  daug::test::check_refused(daug::ErrorCode::kMismatch, "another error", [&] {
    fitting(4).each(4, [&](std::int64_t, std::int64_t) {
      ++asked;
      throw daug::Error(daug::ErrorCode::kMismatch, "another error");
    });
  });
  CHECK(asked == 2);

  // What makes parts within a part is halved from inside, then from outside, and says itself what does not fit.
  const auto nested = [&](std::int64_t room) {
    calls.clear();
    const FittingRows inner("daug::products", "two columns", 4, 2);
    fitting(4).each(4, [&](std::int64_t, std::int64_t rows) {
      inner.each(4, [&](std::int64_t, std::int64_t columns) {
        calls.emplace_back(rows, columns);
        if (rows * columns > room) C10_THROW_ERROR(OutOfMemoryError, "no memory is left");
      });
    });
  };
  nested(4);
  CHECK(calls == Calls{{4, 4}, {4, 2}, {2, 2}, {2, 2}, {2, 2}, {2, 2}});
  CHECK(refused([&] { nested(1); }) ==
        "daug::products: memory: expected enough for two columns, got no memory is left");
  CHECK(calls == Calls{{4, 4}, {4, 2}, {2, 2}, {1, 2}});

  // Of all these the first alone was told of.
  CHECK(heard.texts.size() == 1);
}

TEST_CASE("too little memory is known whoever found it", "[backend][memory]") {
  // As LibTorch 2.11 puts them: of its allocator, of the CUDA runtime (a c10::AcceleratorError there) and driver,
  // cuBLAS and cuDNN.
  const std::vector<std::string> shortages = {
      "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in the CUDA runtime's documentation.\n",
      "CUDA driver error: out of memory",
      "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
      "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
      "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
      "NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at "
      "\"../c10/cuda/CUDACachingAllocator.cpp\":1135, please report a bug to PyTorch."};
  const auto halved = [](const auto& refuse) {
    Calls calls;
    fitting(4).each(4, [&](std::int64_t begin, std::int64_t count) {
      calls.emplace_back(begin, count);
      if (count > 2) refuse();
    });
    CHECK(calls == Calls{{0, 4}, {0, 2}, {2, 2}});
  };
  for (const std::string& text : shortages) {
    INFO(text);
    CHECK(out_of_memory(c10::Error({__func__, __FILE__, __LINE__}, text)) != nullptr);
    halved([&] { C10_THROW_ERROR(Error, text); });
  }
  const c10::OutOfMemoryError of_allocator({__func__, __FILE__, __LINE__}, "no memory is left");
  CHECK(std::string(out_of_memory(of_allocator)) == "no memory is left");
  halved([] { throw daug::Error(daug::ErrorCode::kOutOfMemory, "a kernel found no memory to be loaded into"); });
  for (const char* text :
       {"CUDA error: an illegal memory access was encountered", "CUDA error: device-side assert triggered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm()`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "NVML_SUCCESS == r INTERNAL ASSERT FAILED at \"../c10/cuda/PeerToPeerAccess.cpp\":60"}) {
    INFO(text);
    CHECK(out_of_memory(c10::Error({__func__, __FILE__, __LINE__}, text)) == nullptr);
  }
  CHECK(out_of_memory(daug::Error(daug::ErrorCode::kUnsupported, "CUDA error: out of memory")) == nullptr);
}

TEST_CASE("an error leaves a public function as the library's own if it is one of memory or of a fault",
          "[backend][memory]") {
  const auto left = [](const auto& work) {
    try {
      work();
    } catch (const std::exception& error) {
      rethrow_typed(error, "daug::numbers");
    }
  };
  daug::test::check_refused(daug::ErrorCode::kOutOfMemory,
                            "daug::numbers: memory: expected enough for this call, got no memory is left",
                            [&] { left([] { C10_THROW_ERROR(OutOfMemoryError, "no memory is left"); }); });
  CHECK_THROWS_AS(left([] { C10_THROW_ERROR(ValueError, "another error"); }), c10::ValueError);
  for (const auto code : {daug::ErrorCode::kOutOfMemory, daug::ErrorCode::kMismatch})
    CHECK(daug::test::error_text(code, [&] { left([&] { throw daug::Error(code, "said already"); }); }) ==
          "said already");
  const std::string text = "CUDA error: unspecified launch failure";
  const std::string expected = "daug::numbers: its device has failed, in this call or in one before it: " + text;
  const auto of_device = [](const auto& work) { return daug::test::error_text(daug::ErrorCode::kDevice, work); };
  const auto fault = [&] { throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, 719, text); };
  CHECK(of_device([&] { left(fault); }) == expected);
  CHECK(of_device([&] { left([&] { C10_THROW_ERROR(Error, text); }); }) == expected);
  CHECK(of_device([&] { left([&] { left(fault); }); }) == expected);
  CHECK(of_device([&] { left([] { throw daug::Error(daug::ErrorCode::kDevice, "daug::operation: out of luck"); }); }) ==
        "daug::numbers: daug::operation: out of luck");
}

TEST_CASE("what is called by itself says that it did not fit", "[backend][memory]") {
  using daug::test::float_tensor;
  at::Tensor images = float_tensor({4, 1, 16, 16}, 1), maps = float_tensor({4, 2, 16, 16}, 2);
  const at::Tensor rows = float_tensor({4, 8}, 3);
  daug::ChannelAugmenterOptions shifted;
  shifted.mode = daug::ChannelMode::kAppend, shifted.max_shift = 0.1;
  const daug::HeatmapChannelAugmenter augmenter(shifted);
  const auto calibration = daug::MapCalibration::fit(maps, {"A", "B"});
  daug::HybridLossOptions contrastive;
  contrastive.clip_weight = 1;
  const std::vector<std::pair<std::string, std::function<void()>>> calls = {
      {"resized", [&] { daug::resized(images, 8, 8); }},
      {"encoder_maps", [&] { daug::encoder_maps(maps, daug::EncoderMapOptions{}); }},
      {"encoder_maps", [&] { daug::encoder_maps(images, maps.unsqueeze(2)); }},
      {"hybrid_contrastive_loss", [&] { daug::hybrid_contrastive_loss(rows, rows, {}, {}, {}, {}, contrastive); }},
      {"HeatmapChannelAugmenter::apply", [&] { augmenter.apply(images, maps); }},
      {"HeatmapChannelAugmenter::augment",
       [&] {
         augmenter.augment(images, maps, {0, 1, 2, 3}, 5);
       }},
      {"MapCalibration::fit",
       [&] {
         daug::MapCalibration::fit(maps, {"A", "B"});
       }},
      {"MapCalibration::pixel_p_values", [&] { calibration.pixel_p_values(maps); }},
      {"MapCalibration::region_p_values", [&] { calibration.region_p_values(maps); }},
      {"MapCalibration::image_p_values", [&] { calibration.image_p_values(maps); }},
      {"MapCalibration::pixel_p_values", [&] { calibration.calibrated(maps); }}};
  for (const auto& [name, call] : calls) {
    INFO(name);
    CHECK_NOTHROW(call());
    const daug::test::MemoryCount none(0);
    CHECK(daug::test::error_text(daug::ErrorCode::kOutOfMemory, call) ==
          "daug::" + name + ": memory: expected enough for this call, got no memory is left");
  }
}

TEST_CASE("a device that fails is an error that names the function, whoever found it", "[backend]") {
  int calls = 0;
  const auto called = [&](const std::function<void()>& refuse) {
    calls = 0;
    fitting(4).each(4, [&](std::int64_t, std::int64_t) {
      ++calls;
      refuse();
    });
  };
  const auto told = [&](const std::function<void()>& refuse) {
    const std::string text = daug::test::error_text(daug::ErrorCode::kDevice, [&] { called(refuse); });
    CHECK(calls == 1);  // smaller calls would not help
    return text;
  };
  const auto of_runtime = [](int code, const std::string& text) {
    return [code, text] { throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, code, text); };
  };
  const std::string begin = "daug::numbers: its device has failed, in this call or in one before it: ";
  std::vector<std::string> texts = {
      "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'",
      "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm()`",
      "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"};
  // What CUDA 13 says of each error that is a fault.
  const std::vector<std::pair<int, std::string>> faults = {
      {214, "uncorrectable ECC error encountered"},
      {220, "uncorrectable NVLink error detected during the execution"},
      {226, "Invalid access of peer GPU memory over nvlink or a hardware error"},
      {700, "an illegal memory access was encountered"},
      {702, "the launch timed out and was terminated"},
      {709, "context is destroyed"},
      {710, "device-side assert triggered"},
      {714, "hardware stack error"},
      {715, "an illegal instruction was encountered"},
      {716, "misaligned address"},
      {717, "operation not supported on global/shared address space"},
      {718, "invalid program counter"},
      {719, "unspecified launch failure"},
      {721, "tensor memory not completely freed"},
      {999, "unknown error"}};
  std::size_t codes = 0;
  for (int code = 0; code < 1000; ++code)
    if (daug::kernels::cuda::is_fault(code)) ++codes;
  CHECK(codes == faults.size());
  for (const auto& [code, said] : faults) {
    CHECK(daug::kernels::cuda::is_fault(code));
    texts.push_back("CUDA error: " + said);
  }
  for (const std::string& text : texts) {
    INFO(text);
    CHECK(told(of_runtime(700, text)) == begin + text);
    CHECK(told([&] { C10_THROW_ERROR(Error, text); }) == begin + text);  // as LibTorch before it had that type
  }
  // Those of kernels and graphs name an operation, which stays; and nested parts of one function name it once.
  const auto of_graph = [] {
    throw daug::Error(daug::ErrorCode::kDevice, "daug::backend::GraphCache: replaying: out of luck");
  };
  CHECK(told(of_graph) == "daug::numbers: daug::backend::GraphCache: replaying: out of luck");
  CHECK(told([&] { fitting(2).each(1, [&](std::int64_t, std::int64_t) { of_graph(); }); }) ==
        "daug::numbers: daug::backend::GraphCache: replaying: out of luck");

  // All else is what it was: what a device refuses, shapes, a kernel that could not be launched.
  CHECK_THROWS_AS(called(of_runtime(9, "CUDA error: invalid configuration argument")), c10::AcceleratorError);
  for (const char* text : {"cuDNN error: CUDNN_STATUS_NOT_SUPPORTED", "mat1 and mat2 shapes cannot be multiplied"}) {
    INFO(text);
    CHECK_THROWS_WITH(called([&] { C10_THROW_ERROR(Error, text); }), daug::test::contains_text(text));
    CHECK_THROWS_AS(called([&] { C10_THROW_ERROR(Error, text); }), c10::Error);
  }
  daug::test::check_refused(daug::ErrorCode::kUnsupported, "not launched",
                            [&] { called([] { throw daug::Error(daug::ErrorCode::kUnsupported, "not launched"); }); });
  daug::test::check_refused(daug::ErrorCode::kOutOfMemory, "daug::numbers: memory: expected enough for three numbers",
                            [&] { called(of_runtime(2, "CUDA error: out of memory")); });
  CHECK(calls == 3);  // of four rows, two and one
}
