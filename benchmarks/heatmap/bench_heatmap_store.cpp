// The heatmap store: bytes a second, counted as the float32 maps that go in and come out.

#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/heatmap/heatmap_store.h"
#include "support/context.h"

namespace {

using daug::HeatmapLayout;
using daug::HeatmapStore;
using daug::HeatmapStoreWriter;
using daug::MapStorage;

constexpr std::uint64_t kImages = 64;  // what is read lies in the page cache: a read is a copy, checksum and decoding

HeatmapLayout layout(MapStorage storage) {
  HeatmapLayout layout{"bench", {}, 224, 224, storage};
  for (int k = 0; k < 13; ++k) layout.names.push_back(std::to_string(k));
  return layout;
}

std::vector<float> maps(std::size_t count) {
  std::vector<float> values(count);
  daug::RandomStream stream(1, 0, "bench heatmap store");
  for (auto& value : values) value = static_cast<float>(stream.normal());
  return values;
}

std::int64_t bytes(const benchmark::State& state, const std::vector<float>& values) {
  return static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(values.size() * sizeof(float));
}

std::string store_path() {
  return (std::filesystem::temp_directory_path() / ("daug-bench-" + std::to_string(::getpid()))).string();
}

void remove_store() {
  std::filesystem::remove(store_path());
  std::filesystem::remove(store_path() + ".lock");
}

void append(benchmark::State& state, MapStorage storage, bool flush) {
  const auto common = layout(storage);
  const auto values = maps(common.values());
  std::unique_ptr<HeatmapStoreWriter> writer;
  std::uint64_t key = 0;
  for (auto _ : state) {
    if (key % kImages == 0) {  // a new file now and then, so that it stays in the page cache
      state.PauseTiming();
      writer.reset();
      remove_store();
      writer = std::make_unique<HeatmapStoreWriter>(store_path(), common, flush);
      state.ResumeTiming();
    }
    writer->append(key++, values);
  }
  writer.reset();
  state.SetBytesProcessed(bytes(state, values));
  remove_store();
}

void read(benchmark::State& state, MapStorage storage) {
  const auto common = layout(storage);
  const auto values = maps(common.values());
  remove_store();
  {
    HeatmapStoreWriter writer(store_path(), common, false);
    for (std::uint64_t key = 0; key < kImages; ++key) writer.append(key, values);
  }
  const HeatmapStore store(store_path(), common.fingerprint);
  std::uint64_t key = 0;
  for (auto _ : state) benchmark::DoNotOptimize(store.read(key++ % kImages));
  state.SetBytesProcessed(bytes(state, values));
  remove_store();
}

// Wall-clock time, of which waiting for the disk is a part.
BENCHMARK_CAPTURE(append, float16, MapStorage::kFloat16, false)->UseRealTime();
BENCHMARK_CAPTURE(append, uint8, MapStorage::kUint8, false)->UseRealTime();
BENCHMARK_CAPTURE(append, float16_flushed, MapStorage::kFloat16, true)->UseRealTime();
BENCHMARK_CAPTURE(append, uint8_flushed, MapStorage::kUint8, true)->UseRealTime();
BENCHMARK_CAPTURE(read, float16, MapStorage::kFloat16);
BENCHMARK_CAPTURE(read, uint8, MapStorage::kUint8);

}  // namespace

DAUG_BENCHMARK_MAIN()
