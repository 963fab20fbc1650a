#include "daug/io/weights.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <limits>

#include "daug/io/file.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// A parameter, a parameter of a child, and buffers of two types.
struct Small : torch::nn::Module {
  explicit Small(std::uint64_t seed, std::int64_t width = 3) {
    struct Child : torch::nn::Module {};
    auto child = register_module("child", std::make_shared<Child>());
    weight = register_parameter("weight", random_tensor({2, width}, seed).to(at::kFloat));
    bias = child->register_parameter("bias", random_tensor({4}, seed + 1));
    mean = register_buffer("mean", random_tensor({2}, seed + 2).to(at::kFloat));
    count = register_buffer("count", at::full({}, static_cast<std::int64_t>(seed), at::kLong));
  }
  std::vector<at::Tensor> all() const { return {weight, bias, mean, count}; }
  at::Tensor weight, bias, mean, count;
};

std::vector<at::Tensor> copies(const Small& module) {
  std::vector<at::Tensor> result;
  for (const auto& tensor : module.all()) result.push_back(tensor.detach().clone());
  return result;
}

bool same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i]) || a[i].scalar_type() != b[i].scalar_type()) return false;
  return a.size() == b.size();
}

SafetensorsFile file_of(const Small& module) {
  SafetensorsFile file;
  for (const auto& item : module.named_parameters()) file.tensors.emplace(item.key(), array_from(item.value()));
  for (const auto& item : module.named_buffers()) file.tensors.emplace(item.key(), array_from(item.value()));
  return file;
}

}  // namespace

TEST_CASE("arrays keep type, shape and values of tensors", "[weights]") {
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort, at::kChar,
                          at::kByte, at::kBool}) {
    const at::Tensor tensor = (10 * random_tensor({3, 2, 5}, 1)).abs().to(type);
    for (const at::Tensor& view : {tensor, tensor.transpose(0, 2), tensor.select(1, 1), tensor.narrow(0, 0, 0)}) {
      const Array array = array_from(view);
      CHECK(array.shape == view.sizes().vec());
      const at::Tensor back = tensor_from(array);
      CHECK(back.scalar_type() == type);
      CHECK(same_bits(back, view.contiguous()));
    }
  }
  // Row-major, whatever the layout in memory; a copy, not a view.
  at::Tensor matrix = at::tensor({1.0F, 2.0F, 3.0F, 4.0F}).reshape({2, 2});
  const Array array = array_from(matrix.t());
  CHECK(array.to_float() == std::vector<float>{1, 3, 2, 4});
  matrix.zero_();
  CHECK(array.to_float() == std::vector<float>{1, 3, 2, 4});
  CHECK(array_from(at::full({}, 2.5)).shape.empty());
  CHECK(caught([] { array_from(at::zeros({2}, at::kComplexFloat)); }).code() == ErrorCode::kUnsupported);
  Array broken = array;
  broken.data.pop_back();
  CHECK_THROWS_AS(tensor_from(broken), Error);
}

TEST_CASE("weights come back from a file bit for bit, buffers and metadata too", "[weights]") {
  const Small original(7);
  const Scratch scratch;
  const std::string path = scratch.path("weights.safetensors");
  save_weights(path, original, {{"made by", "a test"}});
  Small loaded(50);
  const at::Tensor storage = loaded.weight;
  REQUIRE_FALSE(same(loaded.all(), original.all()));
  CHECK(load_weights(loaded, path) == std::map<std::string, std::string>{{"made by", "a test"}});
  CHECK(same(loaded.all(), original.all()));
  CHECK(storage.is_same(loaded.weight));  // copied in place: whoever holds the parameter sees it
  CHECK(loaded.weight.requires_grad());
  CHECK(compare_weights(loaded, read_safetensors(path)).text() == "all keys match");

  write_file_atomically(path, "not weights");
  CHECK(caught([&] { load_weights(loaded, path); }).code() == ErrorCode::kFormat);
  CHECK(same(loaded.all(), original.all()));
  std::filesystem::remove(path);
  CHECK(caught([&] { load_weights(loaded, path); }).code() == ErrorCode::kNotFound);
  CHECK_THROWS_AS(save_weights(scratch.path("no such folder/weights.safetensors"), original), Error);
}

TEST_CASE("stored types are converted to the module's", "[weights]") {
  const Small original(7);
  SafetensorsFile file = file_of(original);
  file.tensors["weight"] = array_from(original.weight.detach().to(at::kHalf));
  file.tensors["child.bias"] = array_from(original.bias.detach().to(at::kFloat));
  Small loaded(50);
  load_weights(loaded, file, "half");
  CHECK(loaded.weight.scalar_type() == at::kFloat);
  CHECK(same_bits(loaded.weight.detach(), original.weight.detach().to(at::kHalf).to(at::kFloat)));
  CHECK(loaded.bias.scalar_type() == at::kDouble);
  CHECK(same_bits(loaded.bias.detach(), original.bias.detach().to(at::kFloat).to(at::kDouble)));
}

TEST_CASE("whole numbers are not taken for real ones, nor real ones for whole", "[weights]") {
  const Small original(7);
  Small target(50);
  const auto before = copies(target);
  const auto refused = [&](const std::string& key, const std::string& expected, const at::Tensor& stored) {
    SafetensorsFile file = file_of(original);
    file.tensors[key] = array_from(stored);
    const std::string line = key + ": expected " + expected + ", got " + element_name(file.at(key).type);
    CHECK(compare_weights(target, file).mismatched == std::vector<std::string>{line});
    check_refused(ErrorCode::kMismatch, "1 mismatched: " + line, [&] { load_weights(target, file, "other"); });
    CHECK(same(target.all(), before));
  };
  for (const auto type : {at::kLong, at::kInt, at::kShort, at::kChar, at::kByte, at::kBool}) {
    refused("weight", "floating point", at::ones({2, 3}, type));
    refused("mean", "floating point", at::ones({2}, type));
  }
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16})
    refused("count", "whole numbers", at::ones({}, type));
  // Of whole numbers any type will do.
  for (const auto type : {at::kInt, at::kByte, at::kBool}) {
    SafetensorsFile file = file_of(original);
    file.tensors["count"] = array_from(at::ones({}, type));
    load_weights(target, file, "narrow");
    CHECK(target.count.item<std::int64_t>() == 1);
    CHECK(target.count.scalar_type() == at::kLong);
  }
}

TEST_CASE("counters of batches may have become real numbers with a module's others", "[weights]") {
  const std::string key = "norm.num_batches_tracked";
  const auto loaded = [&](const at::Tensor& stored, at::ScalarType type) {
    const at::Tensor counter = at::zeros({}, type);
    SafetensorsFile file;
    file.tensors.emplace(key, array_from(stored));
    load_weights(NamedTensors{{key, counter}}, file, "counters");
    return counter.item<double>();
  };
  CHECK(loaded(at::full({}, 17.0, at::kFloat), at::kLong) == 17);
  CHECK(loaded(at::full({}, 17.0, at::kHalf), at::kLong) == 17);
  CHECK(loaded(at::full({}, 17, at::kLong), at::kDouble) == 17);
  for (const double value :
       {16.5, 1e300, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
    check_refused(ErrorCode::kMismatch, key + ": expected whole numbers, got F64",
                  [&] { loaded(at::full({}, value, at::kDouble), at::kLong); });
}

TEST_CASE("what does not fit is reported, and nothing is loaded", "[weights]") {
  const Small original(7);
  Small target(50);
  const auto before = copies(target);
  const auto refused = [&](const SafetensorsFile& file, std::initializer_list<const char*> parts) {
    const Error error = caught([&] { load_weights(target, file, "other.safetensors"); });
    CHECK(error.code() == ErrorCode::kMismatch);
    CHECK(mentions(error, "other.safetensors"));
    for (const char* part : parts) {
      INFO(error.what());
      CHECK(mentions(error, part));
    }
    CHECK(same(target.all(), before));
  };

  SafetensorsFile file = file_of(original);
  REQUIRE(compare_weights(target, file).ok());
  file.tensors.erase("mean");
  CHECK(compare_weights(target, file).missing == std::vector<std::string>{"mean"});
  refused(file, {"1 missing: mean"});

  file = file_of(original);
  file.tensors.emplace("extra", array_from(at::ones({1})));
  CHECK(compare_weights(target, file).unexpected == std::vector<std::string>{"extra"});
  refused(file, {"1 unexpected: extra"});

  file = file_of(original);
  file.tensors["child.bias"] = array_from(at::ones({2, 2}));  // as many elements, another shape
  file.tensors.erase("count");
  file.tensors.emplace("child.bias2", array_from(at::ones({4})));
  const WeightsReport report = compare_weights(target, file);
  CHECK_FALSE(report.ok());
  CHECK(report.mismatched.size() == 1);
  refused(file, {"1 missing: count", "1 unexpected: child.bias2", "1 mismatched: child.bias", "[4]", "[2, 2]"});

  refused(file_of(Small(7, 5)), {"weight", "[2, 3]", "[2, 5]"});
  refused({}, {"4 missing"});

  for (int i = 0; i < 20; ++i) file.tensors.emplace("key " + std::to_string(i), array_from(at::ones({1})));
  CHECK(mentions(caught([&] { load_weights(target, file, "many"); }), "21 unexpected"));
  CHECK(mentions(caught([&] { load_weights(target, file, "many"); }), "and 13 more"));
}
