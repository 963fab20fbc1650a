#include "backend/graph_cache.h"

#ifdef DAUG_CUDA_GRAPHS

#include <ATen/autocast_mode.h>
#include <c10/core/Allocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <utility>

#include "backend/device_kernels.h"
#include "kernels/cuda/launch_check.h"

namespace daug::backend {

namespace {

using c10::cuda::MempoolId_t;

/// LibTorch's memory of CUDA devices. Its functions are virtual, so that nothing of LibTorch's CUDA part is linked.
c10::cuda::CUDACachingAllocator::CUDAAllocator& device_memory() {
  return static_cast<c10::cuda::CUDACachingAllocator::CUDAAllocator&>(*c10::GetAllocator(c10::DeviceType::CUDA));
}

const c10::impl::DeviceGuardImplInterface& streams() { return *c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA); }

cudaStream_t native(const c10::Stream& stream) {
  return static_cast<cudaStream_t>(streams().getStreamNativeHandle(stream));
}

/// Throws unless a call succeeded. `blame`: what an error of work that ran on the device is put down to.
void require_success(cudaError_t error, const char* what, kernels::Blame blame = kernels::Blame::kEarlier) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // which would report it once more
  throw_graph_error(error, cudaGetErrorString(error), what, blame);
}

class CudaGraph final : public CapturedGraph {
 public:
  CudaGraph(const c10::Device& device, std::shared_ptr<const MempoolId_t> pool)
      : device_(device), pool_(std::move(pool)) {}

  ~CudaGraph() override {
    if (executable_) {
      // A replay may still run, on the default stream. Memory whose addresses are given up one by one ("expandable
      // segments") is so without a wait for other streams than that which it was taken for.
      bool failed = false;
      try {
        const c10::DeviceGuard on(device_);
        failed = cudaStreamSynchronize(native(streams().getDefaultStream(device_))) != cudaSuccess;
      } catch (const std::exception&) {
        // LibTorch does not get at a device that has failed, nor at any when the program ends: nothing runs there.
      }
      failed = cudaGraphExecDestroy(executable_) != cudaSuccess || failed;
      if (failed) (void)cudaGetLastError();  // which would refuse the next launch
    }
    if (shares_pool_) device_memory().releasePool(device_.index(), *pool_);
  }

  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void capture(const c10::Stream& aside, const std::function<void()>& work) {
    const c10::StreamGuard current(aside);
    const cudaStream_t stream = native(aside);
    device_memory().emptyCache();  // which the pool cannot draw on, and which is not given up while work is captured
    device_memory().beginAllocateToPool(device_.index(), *pool_,
                                        [stream](cudaStream_t other) { return other == stream; });
    shares_pool_ = true;
    cudaGraph_t graph = nullptr;
    const auto end = [&] {
      const cudaError_t error = cudaStreamEndCapture(stream, &graph);
      device_memory().endAllocateToPool(device_.index(), *pool_);
      return error;
    };
    try {
      // What other threads do meanwhile is none of it; what this one must not do is an error.
      require_success(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
      work();
    } catch (...) {
      (void)end();
      if (graph) (void)cudaGraphDestroy(graph);
      (void)cudaGetLastError();
      throw;
    }
    require_success(end(), "capturing");
    const cudaError_t error =
        cudaGraphInstantiateWithFlags(&executable_, graph, cudaGraphInstantiateFlagAutoFreeOnLaunch);
    (void)cudaGraphDestroy(graph);
    require_success(error, "making a captured graph executable");
  }

  void replay() override {
    const c10::DeviceGuard on(device_);
    const cudaStream_t stream = native(streams().getStream(device_));
    const bool checked = kernels::cuda::checks_kernels();
    if (checked) require_success(cudaStreamSynchronize(stream), "waiting for what was queued before a captured graph");
    require_success(cudaGraphLaunch(executable_, stream), "replaying a captured graph");
    if (checked) require_success(cudaStreamSynchronize(stream), "running a captured graph", kernels::Blame::kKernel);
  }

 private:
  c10::Device device_;
  std::shared_ptr<const MempoolId_t> pool_;
  bool shares_pool_ = false;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaGraphs final : public GraphBackend {
 public:
  bool captures(const at::Tensor& x) const override {
    return x.is_cuda() && streams().getStream(x.device()) == streams().getDefaultStream(x.device()) &&
           !at::autocast::is_autocast_enabled(c10::DeviceType::CUDA);  // which keeps copies of weights elsewhere
  }

  std::unique_ptr<CapturedGraph> capture(const c10::Device& device, const std::function<void()>& work) override {
    // One stream a device, and one capture at a time: LibTorch keeps memory for each stream, and hands the streams of
    // its pool out again.
    static std::mutex mutex;
    static std::map<c10::DeviceIndex, c10::Stream> aside;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto stream = aside.try_emplace(device.index(), streams().getStreamFromGlobalPool(device)).first;
    auto graph = std::make_unique<CudaGraph>(device, pool());
    graph->capture(stream->second, work);
    return graph;
  }

 private:
  /// One pool serves all graphs, as one stream replays them and callers copy results at once: their memory is that of
  /// the largest. LibTorch gives a pool up with its last graph, so that the next one has another name.
  std::shared_ptr<const MempoolId_t> pool() {
    static std::atomic<c10::cuda::CaptureId_t> next{c10::cuda::CaptureId_t{1} << 63};  // LibTorch's own count from 1
    std::shared_ptr<const MempoolId_t> result = pool_.lock();
    if (!result) pool_ = result = std::make_shared<const MempoolId_t>(next++, c10::cuda::CaptureId_t{0});
    return result;
  }

  std::weak_ptr<const MempoolId_t> pool_;
};

}  // namespace

std::unique_ptr<GraphBackend> cuda_graphs() { return std::make_unique<CudaGraphs>(); }

}  // namespace daug::backend

#else

namespace daug::backend {

std::unique_ptr<GraphBackend> cuda_graphs() { return nullptr; }

}  // namespace daug::backend

#endif
