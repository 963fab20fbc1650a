#pragma once
// Calls of a network on a device: captured once as a graph of all that they queue, replayed from then on.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "daug/core/execution.h"

namespace daug::backend {

/// Work on a device as it was queued once.
class CapturedGraph {
 public:
  virtual ~CapturedGraph() = default;
  /// Queues it again, on the memory that it was captured with; waits for nothing.
  virtual void replay() = 0;
};

/// What captures. No device has run that of CUDA yet.
class GraphBackend {
 public:
  virtual ~GraphBackend() = default;
  /// Whether this thread could now capture a call on x, or replay one.
  virtual bool captures(const at::Tensor& x) const = 0;
  /// What `work` queues on `device`, of which nothing is done before it is replayed. Tensors that `work` makes have
  /// memory that no others get while the graph lives, but those of other graphs of this backend: a replay may overwrite
  /// all but what is still held. Throws what `work` throws, and kUnsupported for what cannot be captured.
  virtual std::unique_ptr<CapturedGraph> capture(const c10::Device& device, const std::function<void()>& work) = 0;
};

/// CUDA graphs, captured for a device's default stream and outside LibTorch's autocast; null in builds without.
std::unique_ptr<GraphBackend> cuda_graphs();

/// The graphs of one network. The first call of a kind is a plain one; the second is captured, after a plain one on the
/// same thread in which libraries get ready, and it and later ones are replayed: inputs are copied to where the graph
/// reads, its result from where it writes. Calls are of one kind whose inputs agree in type, shape, strides, device and
/// in which are given, and that LibTorch is to make deterministic or not. Weights may change in place; when one lies
/// elsewhere, all graphs are dropped, and so they are when a call runs out of the memory that they hold. Of LibTorch's
/// other settings those hold under which a call was captured, and whether gradients are recorded, or inference mode is
/// on, has to be the same in all calls. Threads may share it, and then wait for each other.
class GraphCache {
 public:
  /// What is captured: reads its arguments, of which some may be undefined, and the weights alone. It may write tensors
  /// that are listed with the weights, the same whatever they held: it is called more often than asked for.
  using Network = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

  /// For calls that read these weights. At most `most` graphs, >= 1, the least recently used of which go. Unless
  /// `required`, what cannot be captured is a plain call, of which LibTorch's warning handler is told once a process.
  GraphCache(std::unique_ptr<GraphBackend> backend, std::vector<at::Tensor> weights, bool required,
             std::size_t most = 8);

  /// Whether calls whose first input is x are captured here and now; others are plain. Throws kUnsupported for those
  /// where graphs are `required`.
  bool captures(const at::Tensor& x) const;

  /// network(inputs), the same bits; the first input is defined. Throws as `captures`, what `network` throws,
  /// kUnsupported for what cannot be captured where it is `required`, and at a replay what the device reports. A call
  /// that runs out of memory beside graphs is made again, plainly and without them.
  at::Tensor call(const std::vector<at::Tensor>& inputs, const Network& network);

 private:
  struct Entry {
    std::vector<std::int64_t> key;
    std::vector<at::Tensor> inputs;  ///< where the graph reads
    at::Tensor output;               ///< where it writes
    std::unique_ptr<CapturedGraph> graph;
    bool refused = false;  ///< could not be captured
  };

  at::Tensor replayed_or_plain(const std::vector<at::Tensor>& inputs, const Network& network);
  bool drop_graphs();
  bool holds_graphs() const;
  Entry* captured(const std::vector<at::Tensor>& inputs, const Network& network);
  void capture(Entry& entry, const std::vector<at::Tensor>& inputs, const Network& network);

  std::unique_ptr<GraphBackend> backend_;
  std::vector<at::Tensor> weights_;
  bool required_;
  std::size_t most_;
  std::mutex mutex_;
  std::vector<std::int64_t> places_;  ///< of the weights that graphs read
  std::list<Entry> entries_;          ///< the most recently used one first
};

/// The CUDA graphs of a network with these weights; null where there are to be none: for kReference, and for kAuto
/// without a row `run` in src/kernels/cuda/device_runs.csv ("cuda_graph": of forward passes; "gradient_graph": of
/// gradients; "training_graph": of the gradients of trained weights). kFused requires them, and throws kUnsupported
/// naming `function` in a build without.
std::unique_ptr<GraphCache> make_graph_cache(Execution execution, std::vector<at::Tensor> weights, const char* function,
                                             const char* run = "cuda_graph");

}  // namespace daug::backend
