#include <algorithm>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch_plan.h"

// Two launches a tile: the best of every chunk that beat the worst of what its query has, and these joined with that.
// The very first scores go beforehand by themselves, so that there is something to beat. Keys differ, so that it does
// not matter in which order threads put them into a block's memory.

namespace daug::kernels {
namespace cuda {
namespace {

constexpr int kKeysOfThread = kSearchRound / kThreads;

/// Where number i of the keys of this thread lies in a round.
__device__ int key_at(int i) { return i * kThreads + static_cast<int>(threadIdx.x); }

// Keys are made for a round at a time: those of the thread among `count` > 0 from `first` on, 0 beyond them. Nothing
// that is read waits on a branch that another key takes, so that all reads are on their way together: for a key that
// does not count the first one's place is read.

/// Keys of a tile's scores.
struct TileKeys {
  SearchTile tile;

  __device__ void operator()(std::int64_t query, std::int64_t first, int count,
                             SearchKey (&keys)[kKeysOfThread]) const {
    int at[kKeysOfThread];
    bool counts[kKeysOfThread];
#pragma unroll
    for (int i = 0; i < kKeysOfThread; ++i) {
      counts[i] = key_at(i) < count;
      at[i] = counts[i] ? key_at(i) : 0;
    }
    if (tile.allowed) {
      const std::int32_t* words = tile.allowed + query * tile.allowed_stride;
#pragma unroll
      for (int i = 0; i < kKeysOfThread; ++i) {
        const std::int64_t row = first + at[i];
        const auto word = static_cast<unsigned>(words[row / 32]);
        counts[i] = counts[i] && (word >> (row % 32) & 1U) != 0;
        if (!counts[i]) at[i] = 0;
      }
    }
    float bounds[kKeysOfThread];
    read_scores(query, first, at, bounds);
#pragma unroll
    for (int i = 0; i < kKeysOfThread; ++i) bounds[i] += tile.error[first + at[i]];
    if (tile.offset) {
      const float inverse = tile.inverse[query];
#pragma unroll
      for (int i = 0; i < kKeysOfThread; ++i) bounds[i] = fmaf(-tile.offset[first + at[i]], inverse, bounds[i]);
    }
#pragma unroll
    for (int i = 0; i < kKeysOfThread; ++i)
      keys[i] = counts[i] ? search_key(bounds[i], tile.first_row + first + at[i]) : 0;
  }

  __device__ void read_scores(std::int64_t query, std::int64_t first, const int (&at)[kKeysOfThread],
                              float (&scores)[kKeysOfThread]) const {
    const std::int64_t line = query * tile.rows + first;
    if (tile.scores) {
#pragma unroll
      for (int i = 0; i < kKeysOfThread; ++i) scores[i] = tile.scores[line + at[i]];
      return;
    }
    const float factor = tile.factor[query];
#pragma unroll
    for (int i = 0; i < kKeysOfThread; ++i)
      scores[i] = static_cast<float>(256 * tile.high[line + at[i]] + tile.low[line + at[i]]) *
                  tile.scale[first + at[i]] * factor;
  }
};

/// What was found in the chunks of a query, then what it had.
struct ListedKeys {
  const SearchKey* found;
  std::int64_t found_count;
  const SearchKey* best;
  std::int64_t best_count;

  __device__ void operator()(std::int64_t query, std::int64_t first, int count,
                             SearchKey (&keys)[kKeysOfThread]) const {
#pragma unroll
    for (int i = 0; i < kKeysOfThread; ++i) {
      const bool counts = key_at(i) < count;
      const std::int64_t at = first + (counts ? key_at(i) : 0);
      const SearchKey key =
          *(at < found_count ? found + query * found_count + at : best + query * best_count + (at - found_count));
      keys[i] = counts ? key : 0;
    }
  }
};

/// The largest first. A block, all of whose threads call it.
__device__ void sort_keys(SearchKey* keys, int count) {
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kThreads) keys[i] = 0;
  for (int span = 2; span <= size; span *= 2)
    for (int step = span / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        const int first = bitonic_first(i, step);
        const SearchKey a = keys[first], b = keys[first + step];
        if ((a < b) == bitonic_descends(first, span)) {
          keys[first] = b;
          keys[first + step] = a;
        }
      }
    }
  __syncthreads();
}

/// The `wanted` largest keys of every chunk of [begin, end), 0 where there are fewer: grid (chunks, queries). Those
/// that do not beat the last of the query's `best` may be left out. `found` may be where `best` and `keys` are, with
/// one chunk.
template <class Keys>
__global__ void __launch_bounds__(kThreads)
    select_keys(Keys keys, std::int64_t begin, std::int64_t end, std::int64_t chunk, int wanted, const SearchKey* best,
                SearchKey* found) {
  __shared__ SearchKey kept[kSearchBuffer];
  __shared__ int count;
  const std::int64_t query = blockIdx.y;
  const std::int64_t first = begin + blockIdx.x * chunk, last = first + chunk < end ? first + chunk : end;
  SearchKey least = best ? best[query * wanted + wanted - 1] : 0;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  for (std::int64_t round = first; round < last; round += kSearchRound) {
    SearchKey made[kKeysOfThread];
    keys(query, round, last - round < kSearchRound ? static_cast<int>(last - round) : kSearchRound, made);
#pragma unroll
    for (int i = 0; i < kKeysOfThread; ++i)
      if (made[i] > least) kept[atomicAdd(&count, 1)] = made[i];
    __syncthreads();
    const int now = count;
    __syncthreads();
    if (now <= kSearchBuffer - kSearchRound) continue;
    sort_keys(kept, now);
    if (kept[wanted - 1] > least) least = kept[wanted - 1];
    if (threadIdx.x == 0) count = wanted;
    __syncthreads();
  }
  const int now = count;
  sort_keys(kept, now);
  for (int i = static_cast<int>(threadIdx.x); i < wanted; i += kThreads)
    found[(query * gridDim.x + blockIdx.x) * wanted + i] = i < now ? kept[i] : 0;
}

/// Puts the best of the rows [begin, end) of a tile among those of its queries.
void take(const SearchTile& tile, std::int64_t begin, std::int64_t end, std::int64_t chunk, SearchKey* found,
          Launches& launches) {
  const std::int64_t chunks = (end - begin + chunk - 1) / chunk, all = (chunks + 1) * tile.wanted;
  const auto queries = static_cast<unsigned>(tile.queries);
  select_keys<TileKeys>
      <<<dim3(static_cast<unsigned>(chunks), queries), kThreads, 0, launches.next("select_keys<TileKeys>")>>>(
          TileKeys{tile}, begin, end, chunk, tile.wanted, tile.best, found);
  const ListedKeys listed{found, chunks * tile.wanted, tile.best, tile.wanted};
  select_keys<ListedKeys><<<dim3(1, queries), kThreads, 0, launches.next("select_keys<ListedKeys>")>>>(
      listed, 0, all, all, tile.wanted, nullptr, tile.best);
}

}  // namespace
}  // namespace cuda

std::int64_t search_select_workspace(const SearchTile& tile) {
  return tile.queries * tile.wanted * cuda::search_chunks(tile.rows, tile.queries);
}

LaunchError search_select_device(const SearchTile& tile, std::uint64_t* workspace, const DeviceStream& where) {
  using namespace cuda;
  if (tile.queries == 0 || tile.rows == 0) return nullptr;
  if (tile.queries > kMostInGrid || tile.wanted < 1 || tile.wanted > kMostWanted ||
      tile.first_row + tile.rows > kMostRows)
    return "more queries, rows or keys than a launch takes";
  Launches launches(where);
  if (launches.error()) return launches.error();
  const std::int64_t seed = tile.first_row == 0 ? std::min(tile.rows, kSearchSeed) : 0;
  if (seed > 0) take(tile, 0, seed, kShortestChunk, workspace, launches);
  if (seed < tile.rows) take(tile, seed, tile.rows, search_chunk(tile.rows, tile.queries), workspace, launches);
  return launches.error();
}

}  // namespace daug::kernels
