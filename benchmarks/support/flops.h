#pragma once
// How many multiplications and additions LibTorch's operators make, counted while they run.

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <memory>
#include <string_view>

namespace daug::bench {

namespace detail {

/// Of an operator's inputs, kept until its output is known.
struct OpFlops : at::ObserverContext {
  double per_output = 0;  ///< operations an element of the output
};

inline double& counted_flops() {
  thread_local double flops = 0;
  return flops;
}

inline std::unique_ptr<at::ObserverContext> before_op(const at::RecordFunction& op) {
  const std::string_view name = op.name();
  const auto input = [&](std::size_t i) { return op.inputs()[i].toTensor(); };
  auto flops = std::make_unique<OpFlops>();
  if (name == "aten::convolution") {
    const at::Tensor weight = input(1);
    flops->per_output = 2.0 * static_cast<double>(weight.numel() / weight.size(0));
  } else if (name == "aten::linear") {
    flops->per_output = 2.0 * static_cast<double>(input(1).size(1));
  } else if (name == "aten::scaled_dot_product_attention") {
    flops->per_output = 4.0 * static_cast<double>(input(1).size(-2));
  } else {
    return nullptr;
  }
  return flops;
}

inline void after_op(const at::RecordFunction& op, at::ObserverContext* context) {
  if (const auto* flops = static_cast<const OpFlops*>(context))
    counted_flops() += flops->per_output * static_cast<double>(op.outputs()[0].toTensor().numel());
}

}  // namespace detail

/// Operations of the convolutions, linear layers and attentions that `work` calls on this thread, forward alone; a
/// backward pass makes about twice as many.
template <class Work>
double count_flops(const Work& work) {
  detail::counted_flops() = 0;
  at::RecordFunctionCallback observer(detail::before_op, detail::after_op);
  observer.needsInputs(true).needsOutputs(true).scopes({at::RecordScope::FUNCTION});
  const at::CallbackHandle handle = at::addThreadLocalCallback(observer);
  work();
  at::removeCallback(handle);
  return detail::counted_flops();
}

}  // namespace daug::bench
