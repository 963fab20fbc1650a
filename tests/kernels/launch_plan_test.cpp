// How device kernels cut their work, checked without a device.

#include "kernels/cuda/launch_plan.h"

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
  for (const std::int64_t rows : {1, 7, 8, 9, 512, 2047, 2048}) {
    CHECK(tile_blocks(rows) * kTileRowsOfBlock >= rows);
    CHECK((tile_blocks(rows) - 1) * kTileRowsOfBlock < rows);
  }
  CHECK(kMostTileColumns == 2048);
  CHECK(fits_tile(kLeastTileRows << kMostDoublings, kMostTileColumns));
  CHECK_FALSE(fits_tile(1, 2049));
  CHECK(fits_tile(65535 * 8, 1));
  CHECK_FALSE(fits_tile(65535 * 8 + 1, 1));
}

TEST_CASE("tiles grow with what the bound on the memory of a loss leaves for them", "[kernels]") {
  // Tiles of 1024 rows take 2 * 2^21 + 2 * 3072 * 512 numbers, 6144 * 512 more than 2^22; of 2048 rows 2 * 2^22 + 2 *
  // 4096 * 512, 16384 * 512 more.
  CHECK(tile_doublings(1, 512) == 0);
  CHECK(tile_doublings(6143, 512) == 0);
  CHECK(tile_doublings(6144, 512) == 1);
  CHECK(tile_doublings(16383, 512) == 1);
  CHECK(tile_doublings(16384, 512) == 2);
  CHECK(tile_doublings(std::int64_t{1} << 20, 4096) == 2);
  CHECK(tile_doublings(2500, 6) == 0);
  CHECK(tile_doublings(1 << 20, 1) == 1);
}
