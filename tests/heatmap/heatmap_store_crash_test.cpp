// What is left of a store when its writer is killed or the disk is full. DAUG_LONG_TESTS=1 kills more often.

#include <chrono>
#include <filesystem>
#include <functional>
#include <iostream>

#include "daug/io/file.h"
#include "heatmap/store_fixtures.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/killed.h"
#include "support/long_tests.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a writer that is killed loses at most the record it was writing", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const HeatmapLayout layout{"model 1", {"a", "b", "c", "d"}, 192, 192, MapStorage::kFloat16};
  const std::vector<float> base = maps_of(layout, 0);
  const auto maps = [&](std::uint64_t key) {  // quickly made, so that most of the writer's time is writing
    std::vector<float> values = base;
    for (auto& value : values) value += static_cast<float>(key);
    return values;
  };
  const SharedCounter written;
  std::uint64_t images = 0;
  int torn = 0, unacknowledged = 0;
  const int kills = long_tests() ? 1000 : kSanitized ? 40 : 200;  // some 30 ms each, five times that when sanitized
  for (int kill = 0; kill < kills; ++kill) {
    if (images > 60) {  // a new store now and then, so that files stay small
      std::filesystem::remove(path);
      images = 0;
    }
    RandomStream random(11, static_cast<std::uint64_t>(kill), "kill");
    *written = images;
    const bool flush = random.below(2) != 0;
    const std::uint64_t whole = random.below(4);  // records before the time runs; then it runs out within one record
    const double part = random.uniform();
    run_until_killed([&] {
      double microseconds = 3000;
      if (whole == 0) kill_after(microseconds * part);
      HeatmapStoreWriter writer(path, layout, flush);
      for (std::uint64_t key = images;; ++key) {
        const auto values = maps(key);
        const auto start = std::chrono::steady_clock::now();
        if (whole > 0 && key == images + whole) kill_after(microseconds * part);
        writer.append(key, values);
        *written = key + 1;
        microseconds = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
      }
    });

    INFO("kill " << kill);
    if (!std::filesystem::exists(path)) {  // killed before there was a header
      REQUIRE(*written == 0);
      continue;
    }
    const auto check = verify_heatmap_store(path);
    REQUIRE(check.damaged.empty());
    REQUIRE(check.superseded == 0);
    REQUIRE(check.images >= *written);
    REQUIRE(check.images <= *written + 1);
    torn += check.torn_bytes > 0;
    unacknowledged += check.images > *written;
    const HeatmapStore store(path, layout.fingerprint);
    REQUIRE(store.size() == check.images);
    for (std::uint64_t key = images; key < check.images; ++key) REQUIRE(store.read(key) == maps(key));
    images = check.images;
    if (random.below(2)) {  // in the other half of the cases the next writer finds the torn end
      { const HeatmapStoreWriter writer(path, layout); }
      REQUIRE(verify_heatmap_store(path).torn_bytes == 0);
      REQUIRE(HeatmapStore(path, layout.fingerprint).size() == images);
    }
  }
  CHECK((kSanitized || torn + unacknowledged > 0));  // some of so many kills fell into a record's writing
  std::cout << "writer killed " << kills << " times: " << torn << " torn records, " << unacknowledged
            << " complete but not reported yet, none lost\n";
}

TEST_CASE("killed while it compacts, a store is the old one or the new one", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const HeatmapLayout layout{"model 1", {"a"}, 64, 64, MapStorage::kFloat16};
  constexpr std::uint64_t kKeys = 5;
  const SharedCounter rounds;
  const int kills = long_tests() ? 60 : 8;
  for (int kill = 0; kill < kills; ++kill) {
    RandomStream random(12, static_cast<std::uint64_t>(kill), "kill");
    const std::uint64_t before = *rounds;
    const double microseconds = random.uniform(0, 20000);
    run_until_killed([&] {
      for (std::uint64_t round = before + 1;; ++round) {
        if (round == before + 2) kill_after(microseconds);
        for (std::uint64_t key = 0; key < kKeys; ++key) fill(path, layout, {key}, round);
        compact_heatmap_store(path);
        *rounds = round;
      }
    });
    INFO("kill " << kill);
    REQUIRE(verify_heatmap_store(path).damaged.empty());
    const HeatmapStore store(path, layout.fingerprint);
    REQUIRE(store.size() == kKeys);
    for (std::uint64_t key = 0; key < kKeys; ++key) {
      const auto maps = store.read(key);
      REQUIRE((maps == maps_of(layout, key, *rounds) || maps == maps_of(layout, key, *rounds + 1)));
    }
  }
}

TEST_CASE("a full disk leaves the store as it was, and usable", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  const auto failure = [&](rlim_t bytes, const std::function<void()>& action) {
    const FullDisk full(bytes);
    return caught(action);
  };
  CHECK(failure(10, [&] { HeatmapStoreWriter(path, layout); }).code() == ErrorCode::kIo);
  CHECK_FALSE(std::filesystem::exists(path));

  HeatmapStoreWriter writer(path, layout);
  writer.append(1, maps_of(layout, 1));
  writer.append(1, maps_of(layout, 1, 1));
  const auto size = std::filesystem::file_size(path);
  for (const std::uint64_t room : {0, 1, 60, 103}) {
    const auto error = failure(size + room, [&] { writer.append(2, maps_of(layout, 2)); });
    CHECK(error.code() == ErrorCode::kIo);
    CHECK(mentions(error, path));
    CHECK(mentions(error, "File too large"));
    CHECK(std::filesystem::file_size(path) == size);
    CHECK_FALSE(writer.contains(2));
  }
  writer.append(3, maps_of(layout, 3));
  const HeatmapStore store(path, layout.fingerprint);
  CHECK(store.keys() == std::vector<std::uint64_t>{1, 3});
  CHECK(store.read(1) == maps_of(layout, 1, 1));
  CHECK(store.read(3) == maps_of(layout, 3));
}

TEST_CASE("a full disk while compacting leaves the old store", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  fill(path, layout, {1, 2, 1});
  const std::string before = read_text_file(path);
  {
    const FullDisk full(before.size() / 2);
    CHECK(caught([&] { compact_heatmap_store(path); }).code() == ErrorCode::kIo);
  }
  CHECK(read_text_file(path) == before);
  CHECK(scratch.count() == 2);  // the store and its lock
  CHECK(compact_heatmap_store(path).superseded == 1);
  require_images(path, layout, {2, 1});
}
