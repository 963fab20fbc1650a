// The arms of a run: which encoders are trained, and with what maps.

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/heatmap/map_scaler.h"
#include "daug/translator/noise.h"
#include "run_impl.h"

namespace daug {

namespace {
std::string arm_file(const std::string& name, const char* ending) {
  std::string name_for_file;
  for (char c : name) name_for_file += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return "encoders/" + name_for_file + ending;
}
}  // namespace

std::string Arm::file() const { return arm_file(name, ".safetensors"); }

std::string Arm::last_file() const { return arm_file(name, ".last.safetensors"); }

std::vector<Arm> Run::Impl::paper_arms() const {
  const double hybrid = config.encoder.clip_weight;
  const std::string& maps_kind = config.encoder.maps;
  const std::string with_maps = "image+" + maps_kind;
  return {{"image, image-text loss", "", 1.0},
          {"image", "", hybrid},
          {with_maps + ", image-text loss", maps_kind, 1.0},
          {with_maps, maps_kind, hybrid}};
}

std::vector<Arm> Run::Impl::arms() const {
  const double hybrid = config.encoder.clip_weight;
  std::vector<Arm> list = paper_arms();
  for (const char* kind : {"difference", "evidence", "noise"}) {
    const std::string name = std::string("image+") + kind;
    if (std::any_of(list.begin(), list.end(), [&](const Arm& arm) { return arm.name == name; })) continue;
    if (config.encoder.arms == "all") list.push_back({name + ", image-text loss", kind, 1.0});
    list.push_back({name, kind, hybrid});
  }
  return list;
}

std::int64_t Run::Impl::map_channels(const Arm& arm) {
  return arm.maps.empty() ? 0 : static_cast<std::int64_t>(data().maps());
}

at::Tensor Run::Impl::arm_maps(const Arm& arm, const std::vector<std::size_t>& rows) {
  if (arm.maps.empty()) return {};
  if (arm.maps == "noise") {
    const std::vector<std::uint64_t> items(rows.begin(), rows.end());
    return item_noise(items, map_channels(arm), config.size, config.size, static_cast<std::uint64_t>(config.seed),
                      "noise channels");
  }
  const MapScaler scaler = MapScaler::fit(maps().select(arm.maps, data().encoder_train));
  return scaler.apply(maps().select(arm.maps, rows)).to(at::kFloat);
}

}  // namespace daug
