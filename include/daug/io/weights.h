#pragma once
/// @file
/// Weights of LibTorch modules as safetensors files, with a strict account of what fitted.

#include <map>
#include <string>
#include <vector>

#include "daug/io/safetensors.h"

namespace at {
class Tensor;
}
namespace torch::nn {
class Module;
}

namespace daug {

/// Copies a tensor of any shape, device and layout into an Array of its shape. Throws kUnsupported for element types
/// without a name there.
Array array_from(const at::Tensor& tensor);
/// A CPU tensor that owns a copy of the array, of the same shape and element type. Throws kInvalidArgument when the
/// array's data and shape disagree.
at::Tensor tensor_from(const Array& array);

/// What loading found. Empty lists mean a perfect fit.
struct WeightsReport {
  std::vector<std::string> missing;     ///< in the module, not in the file
  std::vector<std::string> unexpected;  ///< in the file, not in the module
  /// In both with another shape or kind of number: "key: expected [2, 3], got [3, 2]", "key: expected floating point,
  /// got U8".
  std::vector<std::string> mismatched;

  /// Whether all fitted.
  bool ok() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
  /// One line a list, the first few keys of each.
  std::string text() const;
};

/// Tensors by name. Sharing memory with a module's, they are the way to load into several modules at once or to leave
/// some of a module's out.
using NamedTensors = std::map<std::string, at::Tensor>;
/// Every parameter and buffer of a module.
NamedTensors named_tensors(const torch::nn::Module& module);

/// Writes every tensor under its name, atomically. Throws as array_from and write_safetensors.
void save_weights(const std::string& path, const NamedTensors& tensors,
                  const std::map<std::string, std::string>& metadata = {});
/// The same of every parameter and buffer of a module.
void save_weights(const std::string& path, const torch::nn::Module& module,
                  const std::map<std::string, std::string>& metadata = {});

/// Compares a file's keys, shapes and kinds of numbers with those of tensors, changing nothing. Floating point fits
/// floating point of any precision, integers and bool fit each other. `num_batches_tracked` fits both where the file's
/// values are there and whole, as changing a module's dtype changes that of its counters too.
WeightsReport compare_weights(const NamedTensors& tensors, const SafetensorsFile& file);
/// The same for every parameter and buffer of a module.
WeightsReport compare_weights(const torch::nn::Module& module, const SafetensorsFile& file);

/// Copies a file's arrays into tensors, without gradient (converted to their dtype and device). All or nothing: throws
/// kMismatch with the report, before any change, unless everything fits. `name` is what the message calls the file.
void load_weights(const NamedTensors& tensors, const SafetensorsFile& file, const std::string& name);
/// The same for every parameter and buffer of a module.
void load_weights(torch::nn::Module& module, const SafetensorsFile& file, const std::string& name);
/// The same from a path; returns the file's metadata. Throws also as read_safetensors.
std::map<std::string, std::string> load_weights(torch::nn::Module& module, const std::string& path);

}  // namespace daug
