#include "daug/train/parameter_groups.h"

#include <ATen/ATen.h>
#include <fnmatch.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <string_view>

#include "daug/core/error.h"

namespace daug {

namespace {

constexpr std::int64_t kInput = -1, kOutput = -2;

/// Where a parameter stands: a block's number, kInput or kOutput.
struct Place {
  std::string tower;
  std::int64_t block = kOutput;
};

bool one_of(std::string_view part, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), part) != words.end();
}

/// The number a part consists of, or -1. Longer ones number no block.
std::int64_t number(std::string_view part) {
  if (part.empty() || part.size() > 4 || part.find_first_not_of("0123456789") != std::string_view::npos) return -1;
  return std::stoll(std::string(part));
}

/// The number behind a stage's name, counted from 0, or -1.
std::int64_t stage(std::string_view part) {
  for (const std::string_view word : {"layer", "denseblock", "transition"})
    if (part.substr(0, word.size()) == word) return std::max<std::int64_t>(number(part.substr(word.size())), 0) - 1;
  return -1;
}

Place place_of(const std::string& name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(std::string_view(name).substr(begin, end - begin));
    begin = end + 1;
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    Place place{i > 0 ? std::string(parts[0]) : std::string()};
    if (one_of(parts[i], {"layers", "blocks", "resblocks"}) && i + 1 < parts.size())
      place.block = number(parts[i + 1]);
    else
      place.block = stage(parts[i]);
    if (place.block >= 0) return place;
    place.block =
        one_of(parts[i], {"embeddings", "pre_layrnorm", "stem", "conv0", "norm0", "conv1", "bn1"}) ? kInput : kOutput;
    if (place.block == kInput || parts[i] == "pool") return place;
  }
  return {};
}

}  // namespace

std::int64_t freeze_parameters(torch::nn::Module& module, const std::vector<std::string>& patterns) {
  const auto parameters = module.named_parameters();
  std::vector<bool> used(patterns.size(), false);
  std::vector<at::Tensor> frozen;
  for (const auto& item : parameters) {
    bool matches = false;
    for (std::size_t i = 0; i < patterns.size(); ++i)
      if (fnmatch(patterns[i].c_str(), item.key().c_str(), 0) == 0) matches = used[i] = true;
    if (matches) frozen.push_back(item.value());
  }
  const auto unused = std::find(used.begin(), used.end(), false);
  if (unused != used.end())
    fail(ErrorCode::kInvalidArgument, "daug::freeze_parameters", "patterns",
         detail::concat("each to match one of ", parameters.size(), " parameters, such as '",
                        parameters.is_empty() ? "" : parameters[0].key(), "'"),
         "'" + patterns[static_cast<std::size_t>(unused - used.begin())] + "'");
  for (const auto& parameter : frozen) parameter.requires_grad_(false);
  return static_cast<std::int64_t>(frozen.size());
}

std::vector<double> layer_rate_scales(const std::vector<std::string>& names, double decay) {
  constexpr const char* kFunction = "daug::layer_rate_scales";
  require(decay > 0 && decay <= 1, kFunction, "decay", "a value in (0, 1]", decay);
  std::vector<Place> places;
  std::map<std::string, std::int64_t> blocks;
  for (const auto& name : names) {
    places.push_back(place_of(name));
    if (places.back().block >= 0) {
      std::int64_t& count = blocks[places.back().tower];
      count = std::max(count, places.back().block + 1);
    }
  }
  require(decay == 1 || !blocks.empty(), kFunction, "names", "blocks among them, for a decay below 1", "none");
  std::vector<double> scales;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto& [tower, block] = places[i];
    const std::string last = names[i].substr(names[i].rfind('.') + 1);
    const bool added = last == "extra_weight" || last == "extra_gate";
    const std::int64_t from_output = added || block == kOutput ? 0 : blocks[tower] - (block == kInput ? -1 : block);
    scales.push_back(std::pow(decay, static_cast<double>(from_output)));
  }
  return scales;
}

}  // namespace daug
