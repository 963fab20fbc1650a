// How device kernels cut their work, checked without a device.

#include "kernels/cuda/launch_plan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "daug/core/random.h"
#include "kernels/map_plan.h"
#include "support/catch.h"

using namespace daug::kernels::cuda;

TEST_CASE("a load takes as many elements as length, addresses and strides allow", "[kernels]") {
  alignas(16) static const float data[16] = {};
  CHECK(vector_width(8, 4, {data}) == 4);
  CHECK(vector_width(8, 2, {data}) == 8);
  CHECK(vector_width(6, 4, {data}) == 2);
  CHECK(vector_width(7, 4, {data}) == 1);
  CHECK(vector_width(8, 4, {data, nullptr}) == 4);
  CHECK(vector_width(8, 4, {data, data + 1}) == 1);
  CHECK(vector_width(8, 4, {data, data + 2}) == 2);
  CHECK(vector_width(8, 4, {data}, {4, 6}) == 2);
  CHECK(vector_width(0, 4, {data}) == 4);
}

TEST_CASE("chunks cover everything once and are no more than asked for", "[kernels]") {
  for (const std::int64_t total : {0LL, 1LL, 63LL, 64LL, 65LL, 4096LL, 100003LL, 1LL << 40})
    for (const std::int64_t preferred : {1LL, 64LL, 5000LL})
      for (const int most : {1, 64}) {
        const Chunks cut = chunks(total, preferred, most);
        INFO(total << " by " << preferred << ", at most " << most);
        CHECK(cut.count >= 1);
        CHECK(cut.count <= most);
        CHECK(cut.size * cut.count >= total);
        if (total > 0) {
          CHECK(cut.size * (cut.count - 1) < total);
          CHECK(cut.size >= preferred);
        }
      }
}

TEST_CASE("the threads of a block keep to their columns", "[kernels]") {
  for (const std::int64_t length : {1, 3, 32, 128, 256, 1000, 4096})
    for (const int width : {1, 4, 8}) {
      if (length % width != 0) continue;
      const RowBlock block = row_block(length, width);
      CHECK(block.lanes >= 1);
      CHECK(block.rows >= 1);
      CHECK(block.lanes <= length / width);
      CHECK(block.lanes * block.rows <= kThreads);
      CHECK(block.lanes * (block.rows + 1) > kThreads);
    }
}

TEST_CASE("sizes that a launch takes are those within its grid and its block's memory", "[kernels]") {
  CHECK(fits_group_norm(65535, 6144, 32, true));
  CHECK_FALSE(fits_group_norm(65536, 64, 32, false));
  CHECK_FALSE(fits_group_norm(1, 65536, 65536, false));
  CHECK(fits_group_norm(1, 65536, 32, false));
  CHECK_FALSE(fits_group_norm(1, 6145, 5, true));
  // A row of the block keeps two floats a channel in the 48 KiB that every device has.
  for (const std::int64_t channels : {1, 7, 64, 256, 1000, 1040, 2048, 2056, 4096, 6144, 6145})
    for (const int width : {1, 4, 8}) {
      if (channels % width != 0) continue;
      INFO(channels << " by " << width);
      CHECK(fits_group_norm(1, channels, 1, true) == (row_block(channels, width).rows * channels * 8 <= 48 * 1024));
    }
}

TEST_CASE("the blocks of a tile share its rows, and their threads its columns", "[kernels]") {
  CHECK(tile_blocks(0) == 0);
  for (const std::int64_t rows : {1, 7, 8, 9, 512, 2047, 2048, 2049, 4095, 4096}) {
    CHECK(tile_blocks(rows) * tile_rows_of_block(rows) >= rows);
    CHECK((tile_blocks(rows) - 1) * tile_rows_of_block(rows) < rows);
    CHECK(tile_blocks(rows) <= 256);
  }
  CHECK(kMostTileColumns == 2048);
  CHECK(fits_tile(kLeastTileRows << kMostDoublings, kMostTileColumns));
  CHECK_FALSE(fits_tile(1, 2049));
  CHECK(fits_tile(65535 * 16, 1));
  CHECK_FALSE(fits_tile(65535 * 16 + 1, 1));
}

TEST_CASE("tiles grow with what the bound on the memory of a loss leaves for them", "[kernels]") {
  constexpr std::int64_t kMillion = std::int64_t{1} << 20;
  // 2048 rows of 2048 numbers are 2^20 more than 3 * 2^20, 4096 are 5 * 2^20 = 10240 * 512 more.
  CHECK(tile_doublings(2049, 512) == 2);
  CHECK(tile_doublings(10239, 512) == 2);
  CHECK(tile_doublings(10240, 512) == 3);
  CHECK(tile_doublings(kMillion, 4096) == 3);
  CHECK(tile_doublings(2500, 6) == 1);
  CHECK(tile_doublings(kMillion, 1) == 2);
  // A single row of tiles is as high as there are items.
  CHECK(tile_doublings(1, 512) == 3);
  CHECK(tile_doublings(2048, 512) == 3);
  // Soft pairs are as many numbers again, of tiles half as high at most; states come on top.
  CHECK(tile_doublings(10239, 512, {true, 0, 0}) == 1);
  CHECK(tile_doublings(10240, 512, {true, 0, 0}) == 2);
  CHECK(tile_doublings(10240, 512, {true, 0, 1}) == 1);
  CHECK(tile_doublings(kMillion, 4096, {true, 0, kMillion}) == 2);
  // Gathered rows of both sides with their gradients: (512 * 2^n + 2048) * 1024 numbers more.
  CHECK(tile_doublings(4095, 512, {false, 1024, 0}) == 0);
  CHECK(tile_doublings(4096, 512, {false, 1024, 0}) == 1);
  CHECK(tile_doublings(10239, 512, {false, 1024, 0}) == 1);
  CHECK(tile_doublings(10240, 512, {false, 1024, 0}) == 2);
  CHECK(tile_doublings(22527, 512, {false, 1024, 0}) == 2);
  CHECK(tile_doublings(22528, 512, {false, 1024, 0}) == 3);
}

TEST_CASE("bits of floats order as the floats do, and keys by score and then by row", "[kernels]") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> ascending = {-kInfinity, -3e38F, -1.5F, -1e-40F, -0.0F,
                                        0.0F,       1e-40F, 1e-3F, 1.5F,    kInfinity};
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    const float back = from_ordered_bits(ordered_bits(ascending[i]));
    CHECK(back == ascending[i]);
    CHECK(std::signbit(back) == std::signbit(ascending[i]));
    if (i > 0) CHECK(ordered_bits(ascending[i - 1]) < ordered_bits(ascending[i]));
    for (const std::int64_t row : {std::int64_t{0}, std::int64_t{77}, kMostRows - 1}) {
      const SearchKey key = search_key(ascending[i], row);
      CHECK(key > 0);
      CHECK(score_of(key) == ascending[i]);
      CHECK(row_of(key) == row);
      if (row > 0) CHECK(key < search_key(ascending[i], row - 1));
      if (i > 0) CHECK(key > search_key(ascending[i - 1], 0));
    }
  }
}

TEST_CASE("the steps of a bitonic sort put the largest first", "[kernels]") {
  daug::RandomStream random(3, 0, "bitonic sort");
  for (int size = 1; size <= kSearchBuffer; size *= 2) {
    std::vector<std::uint32_t> keys(static_cast<std::size_t>(size));
    for (auto& key : keys) key = random.below(1000);  // with ties
    auto expected = keys;
    std::sort(expected.begin(), expected.end(), std::greater<>());
    for (int span = 2; span <= size; span *= 2)
      for (int step = span / 2; step > 0; step /= 2) {
        std::vector<bool> seen(keys.size());
        for (int i = 0; i < size / 2; ++i) {
          const int first = bitonic_first(i, step);
          const auto a = static_cast<std::size_t>(first), b = static_cast<std::size_t>(first + step);
          REQUIRE(b < keys.size());
          REQUIRE_FALSE((seen[a] || seen[b]));  // threads do not meet
          seen[a] = seen[b] = true;
          if ((keys[a] < keys[b]) == bitonic_descends(first, span)) std::swap(keys[a], keys[b]);
        }
      }
    CHECK(keys == expected);
  }
}

TEST_CASE("pixels beyond a border are those as far inside, and none is anywhere else", "[kernels]") {
  for (int size = 1; size <= 9; ++size)
    for (int radius = 0; radius < size; ++radius)
      for (int at = -radius - 100; at < size + 100; ++at) {
        const int pixel = reflected(at, radius, size);
        INFO(at << " of " << size << ", radius " << radius);
        REQUIRE((pixel >= 0 && pixel < size));
        if (at >= -radius && at < 0) CHECK(pixel == -at);
        if (at >= 0 && at < size) CHECK(pixel == at);
        if (at >= size && at < size + radius) CHECK(pixel - (size - 1) == size - 1 - at);
      }
}

TEST_CASE("a search in rising values counts those that are less, of equal ones none", "[kernels]") {
  for (const int count : {0, 1, 2, 3, 7, 8, 100, 999}) {
    std::vector<float> rising;
    for (int i = 0; i < count; ++i) rising.push_back(static_cast<float>(i / 3) - 20);  // in threes
    for (const float edge : {-INFINITY, -20.5F, -20.0F, -3.0F, -2.9F, 12.0F, 312.0F, 313.0F, INFINITY}) {
      const auto less = [&](float value) {
        return std::lower_bound(rising.begin(), rising.end(), value) - rising.begin();
      };
      INFO(edge << " among " << count);
      const float* const from[3] = {rising.data(), rising.data(), rising.data()};
      const float edges[3] = {edge, NAN, -edge};
      int below[3] = {};
      count_below(from, count, edges, below);
      CHECK(below[0] == less(edge));
      CHECK(below[1] == 0);
      CHECK(below[2] == less(-edge));
    }
  }
}

TEST_CASE("maps that a launch takes fit into a block's memory, and go in groups that fit into a cache", "[kernels]") {
  for (std::int64_t radius = 0; radius <= 48; ++radius) {
    const MapTile tile = map_tile(radius, radius);
    INFO("radius " << radius);
    CHECK(fits_map_postprocess(2048, 2048, radius, radius, 2048));
    CHECK(tile.fixed == fixed_radius(radius, radius));
    CHECK(tile.rows == (radius <= 4 ? 64 : radius <= 35 ? 32 : 16));
    CHECK(tile.rows % kMapRun == 0);
    CHECK((radius > 20) == (tile.floats > kMostTileFloats));
  }
  CHECK(map_tile(4, 4).floats == 72 * 136);
  CHECK(map_tile(24, 24).floats == 80 * 176);
  CHECK(map_tile(48, 48).floats == 112 * 224);
  CHECK(map_tile(30, 48).floats == 92 * 224);  // two of which just fit
  CHECK(map_tile(31, 48).rows == 16);
  CHECK_FALSE(fits_map_postprocess(2048, 2048, 49, 49, 2048));
  CHECK_FALSE(fits_map_postprocess(2048, 2049, 3, 3, 2048));
  CHECK_FALSE(fits_map_postprocess(16, 16, 30000, 30000, 16));
  CHECK(fits_map_postprocess(352, 16, 3, 3, 2));
  CHECK_FALSE(fits_map_postprocess(353, 16, 3, 3, 2));
  // And 256 bytes for the extremes of its warps.
  CHECK(4 * kMostTileFloats + 256 <= 48 * 1024);
  CHECK(4 * kLargestTileFloats + 256 <= 99 * 1024);
  CHECK(2 * (4 * kPairedTileFloats + 256 + 1024) <= 164 * 1024);
  for (const int radius : {0, 1, 4}) CHECK(fixed_radius(radius, radius) == radius);
  CHECK(fixed_radius(5, 5) == kAnyRadius);
  CHECK(fixed_radius(2, 3) == kAnyRadius);
  for (const int pixels : {0, 1, 3, 4, 5, 127, 128}) {
    CHECK(whole_runs(pixels) % kMapRun == 0);
    CHECK((whole_runs(pixels) >= pixels && whole_runs(pixels) < pixels + kMapRun));
  }
  for (const int rows : {16, 32, 64}) {
    CHECK(map_tiles(rows, kMapColumns, rows) == 1);
    CHECK(map_tiles(rows + 1, kMapColumns + 1, rows) == 4);
  }
  CHECK(smoothed_floats(3, 5) == 16);
  CHECK(smoothed_floats(4, 5) == 20);
  for (const std::int64_t maps : {std::int64_t{1}, std::int64_t{13}, std::int64_t{832}, std::int64_t{1} << 30})
    for (const std::int64_t pixels : {std::int64_t{1}, std::int64_t{65536}, std::int64_t{233877}, kMostMapPixels}) {
      const std::int64_t at_once = maps_at_once(maps, pixels);
      INFO(maps << " maps of " << pixels);
      CHECK((at_once >= 1 && at_once <= kMostInGrid));
      CHECK(at_once * pixels <= kSmoothedFloats);
      const std::int64_t groups = (maps + at_once - 1) / at_once;
      CHECK(groups * std::min(kMostInGrid, kSmoothedFloats / pixels) <
            maps + std::min(kMostInGrid, kSmoothedFloats / pixels));
    }
}

TEST_CASE("every column of a strip has its place, and few threads of a warp meet in a bank", "[kernels]") {
  CHECK(kStripColumns % 8 == 0);  // whole loads of halves
  std::vector<bool> taken(kStripColumns);
  for (int column = 0; column < kStripColumns; ++column) {
    const int place = strip_place(column);
    REQUIRE((place >= 0 && place < kStripColumns));
    REQUIRE_FALSE(taken[static_cast<std::size_t>(place)]);
    taken[static_cast<std::size_t>(place)] = true;
  }
  const auto most_in_a_bank = [](int step, int tap) {
    std::vector<int> threads(32);
    for (int lane = 0; lane < 32; ++lane) ++threads[static_cast<std::size_t>(strip_place(lane * step + tap) % 32)];
    return *std::max_element(threads.begin(), threads.end());
  };
  for (int tap = 0; tap < 32; ++tap) {
    INFO("tap " << tap);
    CHECK(most_in_a_bank(4, tap) == 1);
    CHECK(most_in_a_bank(2, tap) <= 2);
    CHECK(most_in_a_bank(1, tap) <= 2);
  }
}

TEST_CASE("tiles of resized maps are made of source rows that fit into a block's memory", "[kernels]") {
  for (const std::int64_t out_height : {1, 2, 7, 64, 65, 224, 1000})
    for (const std::int64_t height : {std::int64_t{1}, std::int64_t{9}, std::int64_t{256}, std::int64_t{1000},
                                      out_height, 2 * out_height, kMostMapShrink * out_height})
      for (const bool antialias : {true, false}) {
        if (height > kMostMapShrink * out_height) continue;
        const auto rows = daug::kernels::resampling(height, out_height, antialias);
        const ResizedTile tile = resized_tile(height, out_height, rows.taps);
        INFO(height << " to " << out_height << " antialias " << antialias);
        REQUIRE(tile.rows > 0);
        CHECK(tile.rows <= kResizedRows);
        CHECK((tile.run == 1 || (tile.run == kMapRun && tile.rows >= 8)));
        CHECK(tile.floats <= kMostTileFloats);
        for (std::int64_t top = 0; top < out_height; top += tile.rows) {
          const auto first = static_cast<std::size_t>(top),
                     last = static_cast<std::size_t>(std::min(top + tile.rows, out_height) - 1);
          CHECK((rows.first[last] + rows.taps - rows.first[first]) * 32 * tile.run <= tile.floats);
        }
      }
  CHECK(resized_tile(256, 224, 3).rows == kResizedRows);
  CHECK(resized_tile(256, 224, 3).run == kMapRun);
  CHECK(resized_tile(1000, 1, 1000).rows == 0);
}

TEST_CASE("a step of AdamW takes every element once, in whole loads where addresses allow them", "[kernels]") {
  alignas(16) static const float data[16] = {};
  for (const std::int64_t elements : {std::int64_t{0}, std::int64_t{1}, std::int64_t{4}, std::int64_t{1025},
                                      kMostAdamwBlocks * kThreads * 4 + 3, std::int64_t{1} << 33})
    for (const int skipped : {0, 1, 2, 4}) {
      const AdamwPlan plan = adamw_plan(elements, {data, nullptr, data + skipped});
      INFO(elements << " elements, " << skipped << " skipped");
      CHECK(plan.width == (skipped % 4 == 0 ? 4 : 1));
      CHECK(plan.packs * plan.width <= elements);
      const std::int64_t left = elements - plan.packs * plan.width;
      CHECK(left < plan.width);  // each by a thread of its own
      CHECK((plan.blocks >= 1 && plan.blocks <= kMostAdamwBlocks));
      if (plan.blocks < kMostAdamwBlocks) CHECK(std::int64_t{plan.blocks} * kThreads >= plan.packs);
      if (plan.blocks > 1) CHECK((std::int64_t{plan.blocks} - 1) * kThreads < plan.packs);
    }
}

TEST_CASE("a search's chunks fit into what is set aside for their keys, its rows into the budget", "[kernels]") {
  CHECK(kMostWanted + kSearchRound <= kSearchBuffer);
  CHECK(static_cast<std::int64_t>(kSearchBuffer * sizeof(SearchKey)) < 48 * 1024);
  for (const std::int64_t queries : {1, 7, 64, 512, 1000, 1024})
    for (const std::int64_t scores : {1, 2048, 2049, 16384, 16385, 20000, 20001, 524288, 1 << 20}) {
      INFO(scores << " scores of " << queries << " queries");
      const std::int64_t chunk = search_chunk(scores, queries), most = search_chunks(scores, queries);
      const std::int64_t seed = std::min<std::int64_t>(scores, kSearchSeed);
      CHECK((seed + kShortestChunk - 1) / kShortestChunk <= most);
      CHECK((scores - seed + chunk - 1) / chunk <= most);
      CHECK((scores + chunk - 1) / chunk <= most);  // of a tile that is not the first
    }
  for (const std::int64_t rows : {0, 1, 1000, 1 << 20})
    for (const std::int64_t row_bytes : {12, 1032, 2056})
      for (const std::int64_t budget :
           {std::int64_t{1}, std::int64_t{1} << 20, std::int64_t{1} << 28, std::int64_t{1} << 40}) {
        INFO(rows << " rows of " << row_bytes << " bytes in " << budget);
        const SearchBlocks blocks = search_blocks(rows, row_bytes, budget);
        CHECK((blocks.rows >= 32 && blocks.rows % 32 == 0));
        CHECK(blocks.rows * kQueriesAtOnce < std::int64_t{1} << 31);
        const std::int64_t there = blocks.resident ? rows : blocks.rows;
        if (blocks.rows > 32) CHECK(there * row_bytes + blocks.rows * kQueriesAtOnce * 4 <= budget);
        CHECK(blocks.resident == (4 * rows * row_bytes <= 3 * budget || rows == 0));
      }
  for (const std::int64_t k : {1, 10, 100, 1000})
    for (const bool reduced : {false, true}) CHECK(search_candidates(k, reduced) >= k + 22);
  CHECK(search_candidates(819, false) <= kMostWanted);
  CHECK(search_candidates(820, false) > kMostWanted);
  CHECK(search_candidates(128, true) <= kMostWanted);
  CHECK(search_candidates(129, true) > kMostWanted);
}
