#pragma once
// Stores with contents that can be told from their keys.

#include <cmath>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/heatmap/heatmap_store.h"
#include "support/catch.h"

namespace daug::test {

inline HeatmapLayout small_layout(MapStorage storage = MapStorage::kFloat16) {
  return {"model 1", {"Edema", "Nodule"}, 3, 4, storage};
}

/// Maps of an image: integers, which float16 keeps exactly; those of different keys and versions differ.
inline std::vector<float> maps_of(const HeatmapLayout& layout, std::uint64_t key, std::uint64_t version = 0) {
  RandomStream random(version, key, "maps");
  std::vector<float> maps(layout.values());
  for (auto& value : maps) value = static_cast<float>(random.below(1001)) - 500;
  return maps;
}

/// Appends the maps of some keys, in order.
inline void fill(const std::string& path, const HeatmapLayout& layout, const std::vector<std::uint64_t>& keys,
                 std::uint64_t version = 0) {
  HeatmapStoreWriter writer(path, layout, false);
  for (const auto key : keys) writer.append(key, maps_of(layout, key, version));
}

/// Checks that a store holds these images, in this order, with their maps.
inline void require_images(const std::string& path, const HeatmapLayout& layout, const std::vector<std::uint64_t>& keys,
                           std::uint64_t version = 0) {
  const HeatmapStore store(path, layout.fingerprint);
  REQUIRE(store.keys() == keys);
  for (const auto key : keys) REQUIRE(store.read(key) == maps_of(layout, key, version));
}

/// Bytes of a record, and of what lies before the first.
inline std::size_t record_bytes(const HeatmapLayout& layout) {
  const std::size_t value = layout.storage == MapStorage::kFloat16 ? 2 : layout.storage == MapStorage::kUint8 ? 1 : 4;
  return 40 + layout.names.size() * 8 + layout.values() * value;
}
inline std::size_t header_bytes(const HeatmapLayout& layout) {
  std::size_t bytes = 24 + 3 * 8 + 8 + layout.fingerprint.size() + 8;
  for (const auto& name : layout.names) bytes += 8 + name.size();
  return bytes;
}

}  // namespace daug::test
