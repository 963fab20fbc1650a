#pragma once
/// @file
/// How an index is stored and searched. Only `breadth`, an approximate search, changes what a search finds.

#include <cstdint>
#include <string>

namespace daug {

/// What a search reads first. The vectors themselves are kept in float32 beside it, and decide.
enum class Storage {
  kFloat32,   ///< the vectors themselves; no further memory
  kFloat16,   ///< 2 more bytes a component
  kBFloat16,  ///< 2 more bytes a component
  kInt8,      ///< 1 more byte a component; reads a quarter of the memory
};

/// "float32", "float16", "bfloat16" or "int8".
const char* storage_name(Storage storage);

/// How an index keeps its vectors.
struct IndexOptions {
  Storage storage = Storage::kInt8;  ///< what searches read first; speed and memory only, never results

  /// Throws kInvalidArgument.
  void validate() const;
};

/// How the graph of an approximate search is built (Malkov & Yashunin, 2018; hnswlib).
struct GraphOptions {
  int links = 16;     ///< links an item (M; twice as many on the lowest level), in [2, 256]
  int breadth = 200;  ///< items looked at when one is linked (efConstruction), in [2, 100000]
  int threads = 0;    ///< 0: as many as the processor runs, in [0, 1024]; 1: the same graph every time

  /// Throws kInvalidArgument.
  void validate() const;
};

/// What searches did, summed. Exact results are exact whatever these say.
struct SearchStats {
  std::int64_t queries = 0;            ///< queries answered
  std::int64_t scanned = 0;            ///< pairs of query and item whose score was bounded
  std::int64_t rescored = 0;           ///< pairs the bounds could not decide, scored again in float64
  std::int64_t float32_fallbacks = 0;  ///< queries for which the stored precision left too much open
  std::int64_t float64_fallbacks = 0;  ///< queries for which float32 left too much open as well (copies of one vector)
  std::int64_t graph_queries = 0;      ///< queries answered from the graph: these are not certified to be exact
};

/// How one search runs.
///
/// Vectors come without a fingerprint, so that a search cannot see which encoder made its queries. It takes the
/// caller's word (`fingerprint`): without one, an index that carries a fingerprint is searched unchecked. Whoever knows
/// what made the queries should say so, because scores between embeddings of two encoders look like any others.
struct SearchOptions {
  int threads = 0;                     ///< at most this many threads; 0: as many as the processor runs, in [0, 1024]
  std::int64_t max_candidates = 4096;  ///< items a query may leave open at one precision before the next finer one is
                                       ///< read for it (never fewer than 8 k); at least 1
  int breadth = 0;                     ///< 0: exact. Else approximate: as many items, or k where that is more, are
                                       ///< gathered from the graph (ef); more find more. In [0, 1000000]
  SearchStats* stats = nullptr;        ///< counts are added here; not to be shared by searches that run in parallel
  std::string fingerprint = {};        ///< what made the queries (see Fingerprint); unless it is empty, an index that
                                       ///< something else made is refused

  /// Throws kInvalidArgument.
  void validate() const;
};

/// The instruction set that searches run on in this process, e.g. "AVX2" or "AVX3" (AVX-512).
const char* search_instruction_set();

}  // namespace daug
