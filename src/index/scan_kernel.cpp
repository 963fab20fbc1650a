#include "scan_kernel.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "scan_kernel.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace daug::detail::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, kBlockRows>;
using FloatVector = hn::Vec<FloatTag>;
constexpr std::size_t kLanes = hn::MaxLanes(FloatTag());
constexpr std::size_t kVectors = kBlockRows / kLanes;
constexpr std::size_t kPrefetchBytes = 4096;
/// Queries whose sums with one block fill `sums` registers.
constexpr std::size_t tile_of(std::size_t sums) { return sums < kVectors ? 1 : sums / kVectors; }

/// Float codes of several kinds, multiplied with float queries.
template <class T>
struct FloatFormat {
  static constexpr std::size_t kStepBytes = sizeof(T) * kBlockRows;
  static constexpr std::size_t kTile = tile_of(12);  ///< hides the latency of a multiply-add
  using Sum = FloatVector;
  static std::size_t steps(std::size_t dimension) { return dimension; }
  static HWY_INLINE Sum zero() { return hn::Zero(FloatTag()); }
  static HWY_INLINE FloatVector row(const std::byte* block, std::size_t step, std::size_t vector) {
    const auto* at = reinterpret_cast<const T*>(block) + step * kBlockRows + vector * kLanes;
    if constexpr (std::is_same_v<T, float>)
      return hn::Load(FloatTag(), at);
    else
      return hn::PromoteTo(FloatTag(), hn::Load(hn::Rebind<T, FloatTag>(), at));
  }
  static HWY_INLINE FloatVector query(const std::byte* codes, std::size_t step) {
    return hn::Set(FloatTag(), reinterpret_cast<const float*>(codes)[step]);
  }
  static HWY_INLINE void add(FloatVector row, FloatVector query, Sum& sum) { sum = hn::MulAdd(row, query, sum); }
  static HWY_INLINE FloatVector value(Sum sum) { return sum; }
};

#if HWY_TARGET == HWY_SCALAR

/// Pairs of int8 codes, multiplied with pairs of int16 queries; sums are exact in int32.
struct Int8Format {
  static constexpr std::size_t kStepBytes = 2 * kBlockRows;
  static constexpr std::size_t kTile = tile_of(8);
  using Sum = std::int32_t;
  template <class T>
  struct Pair {
    T first;
    T second;
  };
  static std::size_t steps(std::size_t dimension) { return (dimension + 1) / 2; }
  static Sum zero() { return 0; }
  static Pair<std::int8_t> row(const std::byte* block, std::size_t step, std::size_t vector) {
    const auto* at = reinterpret_cast<const std::int8_t*>(block) + 2 * (step * kBlockRows + vector);
    return {at[0], at[1]};
  }
  static Pair<std::int16_t> query(const std::byte* codes, std::size_t step) {
    const auto* at = reinterpret_cast<const std::int16_t*>(codes) + 2 * step;
    return {at[0], at[1]};
  }
  static void add(Pair<std::int8_t> row, Pair<std::int16_t> query, Sum& sum) {
    sum += row.first * query.first + row.second * query.second;
  }
  static FloatVector value(Sum sum) { return hn::Set(FloatTag(), static_cast<float>(sum)); }
};

/// Packs nothing, see below.
std::size_t pack_squares(const float* const*, std::size_t, float*) { return 0; }

#else

/// Pairs of int8 codes, widened and multiplied with pairs of int16 queries; sums are exact in int32.
struct Int8Format {
  static constexpr std::size_t kStepBytes = 2 * kBlockRows;
  static constexpr std::size_t kTile = tile_of(8);  ///< leaves registers for products that are not summed yet
  using SumTag = hn::CappedTag<std::int32_t, kBlockRows>;
  using PairTag = hn::RepartitionToNarrow<SumTag>;
  using CodeTag = hn::Rebind<std::int8_t, PairTag>;
  using Pairs = hn::Vec<PairTag>;
#if HWY_ARCH_X86
  // GCC gives an integer sum a second register when it changes type on its way, as it does in Highway's vectors.
  using Sum __attribute__((vector_size(4 * kLanes))) = std::int32_t;
  static HWY_INLINE Sum zero() { return Sum{}; }
  static HWY_INLINE void add(Pairs row, Pairs query, Sum& sum) {
    auto unused = hn::Zero(SumTag());
    sum += __builtin_bit_cast(Sum, hn::ReorderWidenMulAccumulate(SumTag(), row, query, hn::Zero(SumTag()), unused).raw);
  }
  static HWY_INLINE FloatVector value(Sum sum) {
    hn::Vec<SumTag> vector;
    vector.raw = __builtin_bit_cast(decltype(vector.raw), sum);
    return hn::ConvertTo(FloatTag(), vector);
  }
#else
  struct Sum {
    hn::Vec<SumTag> low;
    hn::Vec<SumTag> high;
  };
  static HWY_INLINE Sum zero() { return {hn::Zero(SumTag()), hn::Zero(SumTag())}; }
  static HWY_INLINE void add(Pairs row, Pairs query, Sum& sum) {
    sum.low = hn::ReorderWidenMulAccumulate(SumTag(), row, query, sum.low, sum.high);
  }
  static HWY_INLINE FloatVector value(const Sum& sum) {
    return hn::ConvertTo(FloatTag(), hn::RearrangeToOddPlusEven(sum.low, sum.high));
  }
#endif
  static std::size_t steps(std::size_t dimension) { return (dimension + 1) / 2; }
  static HWY_INLINE Pairs row(const std::byte* block, std::size_t step, std::size_t vector) {
    const auto* at = reinterpret_cast<const std::int8_t*>(block) + 2 * (step * kBlockRows + vector * kLanes);
    return hn::PromoteTo(PairTag(), hn::Load(CodeTag(), at));
  }
  static HWY_INLINE Pairs query(const std::byte* codes, std::size_t step) {
    std::int32_t pair;
    std::memcpy(&pair, codes + step * sizeof pair, sizeof pair);
    return hn::BitCast(PairTag(), hn::Set(SumTag(), pair));
  }
};

/// Four components of four rows, transposed.
HWY_INLINE void pack_square(const float* const* rows, std::size_t at, float* out) {
  const hn::Full128<float> tag;
  const auto a = hn::LoadU(tag, rows[0] + at), b = hn::LoadU(tag, rows[1] + at);
  const auto c = hn::LoadU(tag, rows[2] + at), d = hn::LoadU(tag, rows[3] + at);
  const auto ac_low = hn::InterleaveLower(tag, a, c), bd_low = hn::InterleaveLower(tag, b, d);
  const auto ac_high = hn::InterleaveUpper(tag, a, c), bd_high = hn::InterleaveUpper(tag, b, d);
  hn::Store(hn::InterleaveLower(tag, ac_low, bd_low), tag, out);
  hn::Store(hn::InterleaveUpper(tag, ac_low, bd_low), tag, out + kBlockRows);
  hn::Store(hn::InterleaveLower(tag, ac_high, bd_high), tag, out + 2 * kBlockRows);
  hn::Store(hn::InterleaveUpper(tag, ac_high, bd_high), tag, out + 3 * kBlockRows);
}

/// Components of four rows, transposed as far as they make whole squares; returns where that ends.
std::size_t pack_squares(const float* const* rows, std::size_t dimension, float* out) {
  std::size_t at = 0;
  for (; at + 4 <= dimension; at += 4) pack_square(rows, at, out + at * kBlockRows);
  return at;
}

#endif

/// Appends the lanes of `estimate` whose bit is set.
HWY_NOINLINE Survivor* append(FloatVector estimate, hn::Mask<FloatTag> survives, std::size_t row, std::size_t query,
                              Survivor* out) {
  HWY_ALIGN float values[kLanes];
  HWY_ALIGN float flags[kLanes];
  hn::Store(estimate, FloatTag(), values);
  hn::Store(hn::IfThenElseZero(survives, hn::Set(FloatTag(), 1.0F)), FloatTag(), flags);
  for (std::size_t lane = 0; lane < kLanes; ++lane)
    if (flags[lane] != 0)
      *out++ = {static_cast<std::uint32_t>(row + lane), static_cast<std::uint32_t>(query), values[lane]};
  return out;
}

/// What turns the sums of kLanes rows from `row` on into bounds.
struct Terms {
  Terms(const ScanRows& rows, std::size_t row_)
      : row(row_),
        scale(hn::Load(FloatTag(), rows.scale + row_)),
        error(hn::Load(FloatTag(), rows.error + row_)),
        offset(hn::Load(FloatTag(), rows.offset + row_)) {}

  /// Appends those that survive a query with these sums.
  HWY_INLINE Survivor* judge(FloatVector sums, const ScanQueries& queries, std::size_t query, Survivor* out) const {
    const FloatTag tag;
    const auto factor = hn::Mul(scale, hn::Set(tag, queries.factor[query]));
    const auto estimate = hn::Mul(sums, factor);
    const auto upper = hn::NegMulAdd(offset, hn::Set(tag, queries.inverse[query]), hn::Add(estimate, error));
    const auto survives = hn::Ge(upper, hn::Set(tag, queries.threshold[query]));
    if (HWY_UNLIKELY(!hn::AllFalse(tag, survives))) out = append(estimate, survives, row, query, out);
    return out;
  }

  std::size_t row;
  FloatVector scale, error, offset;
};

/// One block with kCount queries from `first` on.
template <class Format, std::size_t kCount>
HWY_INLINE Survivor* scan_block(const ScanRows& rows, std::size_t block, const std::byte* codes,
                                const ScanQueries& queries, std::size_t first, std::size_t query_stride,
                                std::size_t steps, Survivor* out) {
  typename Format::Sum sums[kCount][kVectors];
  for (std::size_t q = 0; q < kCount; ++q)
    for (std::size_t v = 0; v < kVectors; ++v) sums[q][v] = Format::zero();
  const std::byte* query_codes = queries.codes + first * query_stride;
  for (std::size_t step = 0; step < steps; ++step) {
    // A single query waits for memory more than for anything else.
    if constexpr (kCount == 1) hwy::Prefetch(codes + step * Format::kStepBytes + kPrefetchBytes);
    decltype(Format::row(codes, 0, 0)) row[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) row[v] = Format::row(codes, step, v);
    for (std::size_t q = 0; q < kCount; ++q) {
      const auto query = Format::query(query_codes + q * query_stride, step);
      for (std::size_t v = 0; v < kVectors; ++v) Format::add(row[v], query, sums[q][v]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v) {
    const Terms terms(rows, block * kBlockRows + v * kLanes);
    for (std::size_t q = 0; q < kCount; ++q) out = terms.judge(Format::value(sums[q][v]), queries, first + q, out);
  }
  return out;
}

/// All blocks with kCount queries, which stay in the cache meanwhile.
template <class Format, std::size_t kCount>
HWY_NOINLINE Survivor* scan_tile(const ScanRows& rows, const ScanQueries& queries, std::size_t first,
                                 std::size_t block_stride, std::size_t query_stride, std::size_t steps, Survivor* out) {
  for (std::size_t block = 0; block < rows.blocks; ++block)
    out = scan_block<Format, kCount>(rows, block, rows.codes + block * block_stride, queries, first, query_stride,
                                     steps, out);
  return out;
}

template <class Format>
std::size_t scan_format(Storage storage, const ScanRows& rows, const ScanQueries& queries, std::size_t dimension,
                        Survivor* survivors) {
  const std::size_t block_stride = block_bytes(storage, dimension);
  const std::size_t query_stride = query_bytes(storage, dimension);
  const std::size_t steps = Format::steps(dimension);
  Survivor* out = survivors;
  std::size_t first = 0;
  const auto with = [&](auto count) {
    for (; queries.count - first >= count(); first += count())
      out = scan_tile<Format, count()>(rows, queries, first, block_stride, query_stride, steps, out);
  };
  constexpr std::size_t kTile = Format::kTile;
  with(std::integral_constant<std::size_t, kTile>());
  if constexpr (kTile > 4) with(std::integral_constant<std::size_t, 4>());
  if constexpr (kTile > 2) with(std::integral_constant<std::size_t, 2>());
  if constexpr (kTile > 1) with(std::integral_constant<std::size_t, 1>());
  return static_cast<std::size_t>(out - survivors);
}

/// int8 codes of rows and queries, laid out for tiles, and sums that come out of them.
///
/// A query's int16 code is 256 h + l with h in [-128, 127] and l in [0, 255], so that two products of bytes make its
/// own. A tile of queries has 16 of them, 64 components each; a tile of rows has a block's 16 rows, four components
/// side by side. Both end in zeros where the dimension does not fill them.
class TileOperands {
 public:
  TileOperands(const ScanQueries& queries, std::size_t dimension)
      : pairs_((dimension + 1) / 2), tiles_((2 * pairs_ + kTileRowBytes - 1) / kTileRowBytes) {
    const std::size_t groups = (queries.count + kTileRows - 1) / kTileRows;
    low_.assign(groups * tiles_ * kTileBytes, 0);
    high_.assign(groups * tiles_ * kTileBytes, 0);
    rows_.assign(2 * tiles_ * kTileBytes / sizeof(std::uint32_t), 0);
    for (std::size_t query = 0; query < queries.count; ++query) {
      const auto* codes = reinterpret_cast<const std::uint16_t*>(queries.codes) + query * 2 * pairs_;
      const std::size_t lane = query % kTileRows * kTileRowBytes;
      for (std::size_t tile = 0; tile < tiles_; ++tile) {
        const std::size_t at = (query / kTileRows * tiles_ + tile) * kTileBytes + lane;
        const std::size_t count = std::min(kTileRowBytes, 2 * pairs_ - tile * kTileRowBytes);
        for (std::size_t i = 0; i < count; ++i) low_[at + i] = static_cast<std::uint8_t>(codes[i]);
        for (std::size_t i = 0; i < count; ++i) high_[at + i] = static_cast<std::uint8_t>(codes[i] >> 8U);
        codes += count;
      }
    }
  }

  /// Takes a block in as the first or second one.
  void set_rows(std::size_t which, const std::byte* block) {
    const auto* pairs = reinterpret_cast<const std::uint16_t*>(block);
    std::uint32_t* out = rows_.data() + which * tiles_ * kTileBytes / sizeof(std::uint32_t);
    for (std::size_t pair = 0; pair + 2 <= pairs_; pair += 2, pairs += 2 * kBlockRows, out += kBlockRows)
      for (std::size_t row = 0; row < kBlockRows; ++row)
        out[row] = pairs[row] | static_cast<std::uint32_t>(pairs[kBlockRows + row]) << 16U;
    if (pairs_ % 2 != 0)
      for (std::size_t row = 0; row < kBlockRows; ++row) out[row] = pairs[row];
  }

  /// Sums of products of a group's 16 queries with both blocks, [block][query][row].
  template <class Tiles>
  void multiply(Tiles& tiles, std::size_t group, std::uint32_t* sums) {
    tiles.template zero<0>();
    tiles.template zero<1>();
    tiles.template zero<2>();
    tiles.template zero<3>();
    for (std::size_t tile = 0; tile < tiles_; ++tile) {
      const std::size_t query = (group * tiles_ + tile) * kTileBytes;
      constexpr std::size_t kCodes = kTileBytes / sizeof(std::uint32_t);
      tiles.template load<4>(low_.data() + query);
      tiles.template load<5>(high_.data() + query);
      tiles.template load<6>(rows_.data() + tile * kCodes);
      tiles.template load<7>(rows_.data() + (tiles_ + tile) * kCodes);
      tiles.template add_unsigned<0, 4, 6>();
      tiles.template add_unsigned<1, 4, 7>();
      tiles.template add_signed<2, 5, 6>();
      tiles.template add_signed<3, 5, 7>();
    }
    constexpr std::size_t kSums = kTileRows * kBlockRows;
    alignas(64) std::uint32_t high[2 * kSums];
    tiles.template store<0>(sums);
    tiles.template store<1>(sums + kSums);
    tiles.template store<2>(high);
    tiles.template store<3>(high + kSums);
    for (std::size_t i = 0; i < 2 * kSums; ++i) sums[i] += high[i] << 8U;
  }

 private:
  std::size_t pairs_;
  std::size_t tiles_;
  LineVector<std::uint8_t> low_;
  LineVector<std::uint8_t> high_;
  LineVector<std::uint32_t> rows_;
};

template <class Tiles>
std::size_t scan_in_tiles(const ScanRows& rows, const ScanQueries& queries, std::size_t dimension,
                          Survivor* survivors) {
  const std::size_t block_stride = block_bytes(Storage::kInt8, dimension);
  TileOperands operands(queries, dimension);
  Tiles tiles;
  Survivor* out = survivors;
  alignas(64) std::uint32_t sums[2 * kTileRows * kBlockRows];
  for (std::size_t first = 0; first < rows.blocks; first += 2) {
    const std::size_t blocks = std::min<std::size_t>(2, rows.blocks - first);
    for (std::size_t i = 0; i < blocks; ++i) operands.set_rows(i, rows.codes + (first + i) * block_stride);
    for (std::size_t group = 0; group * kTileRows < queries.count; ++group) {
      operands.multiply(tiles, group, sums);
      const std::size_t count = std::min(kTileRows, queries.count - group * kTileRows);
      for (std::size_t i = 0; i < blocks; ++i)
        for (std::size_t v = 0; v < kVectors; ++v) {
          const Terms terms(rows, (first + i) * kBlockRows + v * kLanes);
          for (std::size_t q = 0; q < count; ++q) {
            const hn::RebindToSigned<FloatTag> tag;
            const std::uint32_t* at = sums + (i * kTileRows + q) * kBlockRows + v * kLanes;
            out = terms.judge(hn::ConvertTo(FloatTag(), hn::Load(tag, reinterpret_cast<const std::int32_t*>(at))),
                              queries, group * kTileRows + q, out);
          }
        }
    }
  }
  return static_cast<std::size_t>(out - survivors);
}

/// Fewer queries than these are multiplied sooner than laid out.
constexpr std::size_t kLeastInTiles = 4;

std::size_t scan_here(Storage storage, const ScanRows& rows, const ScanQueries& queries, std::size_t dimension,
                      Survivor* survivors) {
  switch (storage) {
    case Storage::kFloat32:
      return scan_format<FloatFormat<float>>(storage, rows, queries, dimension, survivors);
    case Storage::kFloat16:
      return scan_format<FloatFormat<hwy::float16_t>>(storage, rows, queries, dimension, survivors);
    case Storage::kBFloat16:
      return scan_format<FloatFormat<hwy::bfloat16_t>>(storage, rows, queries, dimension, survivors);
    case Storage::kInt8:
      if (queries.count >= kLeastInTiles) {
#if defined(__x86_64__)
        if (tile_unit() == TileUnit::kAmx) return scan_in_tiles<AmxTiles>(rows, queries, dimension, survivors);
#endif
        if (tile_unit() == TileUnit::kPlain) return scan_in_tiles<PlainTiles>(rows, queries, dimension, survivors);
      }
      return scan_format<Int8Format>(storage, rows, queries, dimension, survivors);
  }
  return 0;
}

void pack_here(const float* const rows[kBlockRows], std::size_t dimension, float* block) {
  for (std::size_t first = 0; first < kBlockRows; first += 4) {
    const float* const* four = rows + first;
    const bool whole = four[0] && four[1] && four[2] && four[3];
    std::size_t at = whole ? pack_squares(four, dimension, block + first) : 0;
    for (; at < dimension; ++at)
      for (std::size_t row = 0; row < 4; ++row) block[at * kBlockRows + first + row] = four[row] ? four[row][at] : 0.0F;
  }
}

const char* target_here() { return hwy::TargetName(HWY_TARGET); }

}  // namespace daug::detail::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::detail {
HWY_EXPORT(scan_here);
HWY_EXPORT(pack_here);
HWY_EXPORT(target_here);

std::size_t scan(Storage storage, const ScanRows& rows, const ScanQueries& queries, std::size_t dimension,
                 Survivor* survivors) {
  return HWY_DYNAMIC_DISPATCH(scan_here)(storage, rows, queries, dimension, survivors);
}

void pack_block(const float* const rows[kBlockRows], std::size_t dimension, float* block) {
  HWY_DYNAMIC_DISPATCH(pack_here)(rows, dimension, block);
}

const char* scan_target() { return tile_unit() == TileUnit::kAmx ? "AMX" : HWY_DYNAMIC_DISPATCH(target_here)(); }

std::size_t block_bytes(Storage storage, std::size_t dimension) {
  switch (storage) {
    case Storage::kFloat32:
      return dimension * kBlockRows * sizeof(float);
    case Storage::kFloat16:
    case Storage::kBFloat16:
      return dimension * kBlockRows * sizeof(std::uint16_t);
    case Storage::kInt8:
      return (dimension + 1) / 2 * 2 * kBlockRows;
  }
  return 0;
}

std::size_t query_bytes(Storage storage, std::size_t dimension) {
  return storage == Storage::kInt8 ? (dimension + 1) / 2 * 2 * sizeof(std::int16_t) : dimension * sizeof(float);
}

}  // namespace daug::detail
#endif
