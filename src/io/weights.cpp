#include "daug/io/weights.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "daug/core/error.h"

namespace daug {

namespace {

struct TypePair {
  at::ScalarType torch;
  ElementType file;
};
constexpr TypePair kTypes[] = {{at::kDouble, ElementType::kF64}, {at::kFloat, ElementType::kF32},
                               {at::kHalf, ElementType::kF16},   {at::kBFloat16, ElementType::kBF16},
                               {at::kLong, ElementType::kI64},   {at::kInt, ElementType::kI32},
                               {at::kShort, ElementType::kI16},  {at::kChar, ElementType::kI8},
                               {at::kByte, ElementType::kU8},    {at::kBool, ElementType::kBool}};

std::string first_few(const std::vector<std::string>& keys) {
  constexpr std::size_t kShown = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(keys.size(), kShown); ++i) text += (i ? ", " : "") + keys[i];
  return keys.size() > kShown ? text + ", and " + std::to_string(keys.size() - kShown) + " more" : text;
}

/// Whether the tensor can take the array's values without rounding real numbers or taking codes for values.
bool is_of_kind(const std::string& name, const at::Tensor& tensor, const Array& array) {
  if (tensor.is_floating_point() == is_floating_point(array.type)) return true;
  if (!name.ends_with("num_batches_tracked") || tensor.sizes() != at::IntArrayRef(array.shape)) return false;
  if (array.data.empty()) return true;  // of a header alone
  const auto values = array.to_double();
  return std::all_of(values.begin(), values.end(),
                     [](double value) { return value == std::trunc(value) && std::abs(value) < 0x1p53; });
}

}  // namespace

Array array_from(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().cpu().contiguous();
  for (const auto& pair : kTypes) {
    if (pair.torch != flat.scalar_type()) continue;
    Array array;
    array.type = pair.file;
    array.shape = flat.sizes().vec();
    array.data.resize(flat.nbytes());
    if (!array.data.empty()) std::memcpy(array.data.data(), flat.data_ptr(), array.data.size());
    return array;
  }
  fail(ErrorCode::kUnsupported, "daug::array_from", "tensor", "a type safetensors names", flat.scalar_type());
}

at::Tensor tensor_from(const Array& array) {
  for (const auto& pair : kTypes) {
    if (pair.file != array.type) continue;
    at::Tensor tensor = at::empty(array.shape, pair.torch);
    require(tensor.nbytes() == array.data.size(), "daug::tensor_from", "array", tensor.nbytes(), array.data.size());
    if (!array.data.empty()) std::memcpy(tensor.data_ptr(), array.data.data(), array.data.size());
    return tensor;
  }
  fail(ErrorCode::kUnsupported, "daug::tensor_from", "array", "a type LibTorch names", element_name(array.type));
}

std::string WeightsReport::text() const {
  std::string text;
  const auto line = [&](const char* what, const std::vector<std::string>& keys) {
    if (!keys.empty()) text += detail::concat(text.empty() ? "" : "; ", keys.size(), " ", what, ": ", first_few(keys));
  };
  line("missing", missing);
  line("unexpected", unexpected);
  line("mismatched", mismatched);
  return text.empty() ? "all keys match" : text;
}

NamedTensors named_tensors(const torch::nn::Module& module) {
  NamedTensors tensors;
  for (const auto& item : module.named_parameters()) tensors.emplace(item.key(), item.value());
  for (const auto& item : module.named_buffers()) tensors.emplace(item.key(), item.value());
  return tensors;
}

void save_weights(const std::string& path, const NamedTensors& tensors,
                  const std::map<std::string, std::string>& metadata) {
  SafetensorsFile file;
  file.metadata = metadata;
  for (const auto& [name, tensor] : tensors) file.tensors.emplace(name, array_from(tensor));
  write_safetensors(path, file);
}

void save_weights(const std::string& path, const torch::nn::Module& module,
                  const std::map<std::string, std::string>& metadata) {
  save_weights(path, named_tensors(module), metadata);
}

WeightsReport compare_weights(const NamedTensors& tensors, const SafetensorsFile& file) {
  WeightsReport report;
  for (const auto& [name, tensor] : tensors) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) {
      report.missing.push_back(name);
      continue;
    }
    const Array& array = found->second;
    if (!is_of_kind(name, tensor, array))
      report.mismatched.push_back(detail::concat(name, ": expected ",
                                                 tensor.is_floating_point() ? "floating point" : "whole numbers",
                                                 ", got ", element_name(array.type)));
    else if (tensor.sizes() != at::IntArrayRef(array.shape))
      report.mismatched.push_back(
          detail::concat(name, ": expected ", tensor.sizes(), ", got ", at::IntArrayRef(array.shape)));
  }
  for (const auto& [name, array] : file.tensors)
    if (!tensors.count(name)) report.unexpected.push_back(name);
  return report;
}

WeightsReport compare_weights(const torch::nn::Module& module, const SafetensorsFile& file) {
  return compare_weights(named_tensors(module), file);
}

void load_weights(const NamedTensors& tensors, const SafetensorsFile& file, const std::string& name) {
  const WeightsReport report = compare_weights(tensors, file);
  if (!report.ok())
    throw Error(ErrorCode::kMismatch,
                detail::concat("daug::load_weights: ", name, ": weights of another architecture: ", report.text()));
  at::NoGradGuard no_grad;
  for (const auto& [key, tensor] : tensors) at::Tensor(tensor).copy_(tensor_from(file.at(key)));
}

void load_weights(torch::nn::Module& module, const SafetensorsFile& file, const std::string& name) {
  load_weights(named_tensors(module), file, name);
}

std::map<std::string, std::string> load_weights(torch::nn::Module& module, const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  load_weights(module, file, path);
  return file.metadata;
}

}  // namespace daug
