#include "backend/graph_cache.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <utility>

#include "backend/device_kernels.h"
#include "backend/fitting_rows.h"
#include "daug/core/error.h"

namespace daug::backend {

namespace {

/// All that tells kinds of tensors apart, and where each lies if `places` are asked for.
std::vector<std::int64_t> description(const std::vector<at::Tensor>& tensors, bool places) {
  std::vector<std::int64_t> result;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) {
      result.push_back(-1);
      continue;
    }
    result.push_back(tensor.dim());
    result.insert(result.end(), tensor.sizes().begin(), tensor.sizes().end());
    result.insert(result.end(), tensor.strides().begin(), tensor.strides().end());
    result.push_back(static_cast<std::int64_t>(tensor.scalar_type()));
    result.push_back(static_cast<std::int64_t>(tensor.device().type()));
    result.push_back(static_cast<std::int64_t>(tensor.device().index()));
    if (places) result.push_back(static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(tensor.const_data_ptr())));
  }
  return result;
}

void tell_of_plain_calls(const std::exception& error) {
  static std::atomic<bool> told{false};
  if (told.exchange(true)) return;
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  TORCH_WARN("daug: a network call could not be captured as a graph of its device (",
             torch_error ? torch_error->what_without_backtrace() : error.what(),
             "). It is made plainly, and so are others like it from here on without a word.");
}

}  // namespace

GraphCache::GraphCache(std::unique_ptr<GraphBackend> backend, std::vector<at::Tensor> weights, bool required,
                       std::size_t most)
    : backend_(std::move(backend)), weights_(std::move(weights)), required_(required), most_(most) {}

bool GraphCache::captures(const at::Tensor& x) const {
  const bool possible = backend_->captures(x);
  if (!possible && required_)
    fail(ErrorCode::kUnsupported, "daug::backend::GraphCache::call", "inputs",
         "tensors on a CUDA device whose default stream is current, outside autocast, for Execution::kFused",
         x.device());
  return possible;
}

at::Tensor GraphCache::call(const std::vector<at::Tensor>& inputs, const Network& network) {
  if (!captures(inputs.front())) return network(inputs);
  try {
    return replayed_or_plain(inputs, network);
  } catch (const std::exception& error) {
    if (!out_of_memory(error) || !drop_graphs()) throw;
  }
  return network(inputs);  // not where it was caught: what the failed call held is freed by now
}

at::Tensor GraphCache::replayed_or_plain(const std::vector<at::Tensor>& inputs, const Network& network) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (Entry* entry = captured(inputs, network)) {
      for (std::size_t i = 0; i < inputs.size(); ++i)
        if (inputs[i].defined()) entry->inputs[i].copy_(inputs[i]);
      entry->graph->replay();
      return entry->output.clone();
    }
  }
  return network(inputs);
}

/// Forgets all kinds of calls; whether any of them had a graph, whose memory is free now.
bool GraphCache::drop_graphs() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool any = holds_graphs();
  entries_.clear();
  return any;
}

/// For those who have the mutex.
bool GraphCache::holds_graphs() const {
  return std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return entry.graph != nullptr; });
}

/// The entry of these inputs if it has a graph.
GraphCache::Entry* GraphCache::captured(const std::vector<at::Tensor>& inputs, const Network& network) {
  std::vector<std::int64_t> places = description(weights_, true);
  if (places != places_) entries_.clear();
  places_ = std::move(places);
  std::vector<std::int64_t> key = description(inputs, false);
  key.push_back(at::globalContext().deterministicAlgorithms() ? 1 : 0);  // a graph keeps the operators it was made of
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&key](const Entry& entry) { return entry.key == key; });
  if (found == entries_.end()) {
    entries_.emplace_front();
    entries_.front().key = std::move(key);
    if (entries_.size() > most_) entries_.pop_back();
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, found);
  Entry& entry = entries_.front();
  if (!entry.graph && !entry.refused) capture(entry, inputs, network);
  return entry.graph ? &entry : nullptr;
}

void GraphCache::capture(Entry& entry, const std::vector<at::Tensor>& inputs, const Network& network) {
  try {
    for (const at::Tensor& input : inputs) entry.inputs.push_back(input.defined() ? input.clone() : input);
    (void)network(entry.inputs);  // libraries get ready in each thread by itself, and must not while work is captured
    entry.graph =
        backend_->capture(inputs.front().device(), [&entry, network] { entry.output = network(entry.inputs); });
  } catch (const std::exception& error) {
    entry.inputs.clear();
    entry.output = at::Tensor();
    // `call` then drops graphs that hold memory. Without any, another attempt would fare no better.
    if (required_ || (out_of_memory(error) && holds_graphs())) throw;
    entry.refused = true;
    tell_of_plain_calls(error);
  }
}

std::unique_ptr<GraphCache> make_graph_cache(Execution execution, std::vector<at::Tensor> weights, const char* function,
                                             const char* run) {
  const bool required = execution == Execution::kFused;
  if (!required && (execution == Execution::kReference || !ran_on_a_device(run))) return nullptr;
  std::unique_ptr<GraphBackend> backend = cuda_graphs();
  if (!backend && required)
    fail(ErrorCode::kUnsupported, function, "graphs", "kAuto or kReference in a build without CUDA graphs", "kFused");
  return backend ? std::make_unique<GraphCache>(std::move(backend), std::move(weights), required) : nullptr;
}

}  // namespace daug::backend
