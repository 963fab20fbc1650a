#include "scan_store.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "chunk.h"

namespace daug::detail {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();  ///< the error of a row that is not there

/// Where component `i` of a row lies in its block, in codes.
std::size_t code_at(Storage storage, std::size_t lane, std::size_t i) {
  return storage == Storage::kInt8 ? (i / 2 * kBlockRows + lane) * 2 + i % 2 : i * kBlockRows + lane;
}

/// Writes codes of values / scale and returns the squared norm of what they leave out.
template <class Code, class Encode>
double encode_row(Storage storage, const float* values, std::size_t dimension, double scale, Code* block,
                  std::size_t lane, Encode encode) {
  double left_out = 0;
  for (std::size_t i = 0; i < dimension; ++i) {
    const Code code = encode(scale > 0 ? static_cast<double>(values[i]) / scale : 0.0);
    block[code_at(storage, lane, i)] = code;
    const double error = static_cast<double>(values[i]) - scale * static_cast<double>(static_cast<float>(code));
    left_out += error * error;
  }
  return left_out;
}

}  // namespace

ScanRows scan_rows(const ScanArrays& arrays, Storage storage, std::size_t dimension, std::size_t first,
                   std::size_t count) {
  const std::size_t row = first * kBlockRows;
  return {arrays.codes + first * block_bytes(storage, dimension), arrays.scale + row, arrays.error + row,
          arrays.offset + row, count};
}

ScanStore::ScanStore(std::size_t dimension, Metric metric, Storage storage, std::size_t rows)
    : dimension_(dimension), metric_(metric), storage_(storage) {
  if (storage == Storage::kFloat32) return;
  const std::size_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  codes_.resize(blocks * block_bytes(storage, dimension));
  scale_.resize(blocks * kBlockRows);
  error_.resize(blocks * kBlockRows, kNever);
  offset_.resize(blocks * kBlockRows);
}

double ScanStore::encode(std::size_t row, const float* values, double scale) noexcept {
  std::byte* block = codes_.data() + row / kBlockRows * block_bytes(storage_, dimension_);
  const std::size_t lane = row % kBlockRows;
  const auto with = [&](auto* codes, auto encode_value) {
    return std::sqrt(encode_row(storage_, values, dimension_, scale, codes, lane, encode_value));
  };
  if (storage_ == Storage::kFloat16)
    return with(reinterpret_cast<Eigen::half*>(block),
                [](double value) { return Eigen::half(static_cast<float>(value)); });
  if (storage_ == Storage::kBFloat16)
    return with(reinterpret_cast<Eigen::bfloat16*>(block),
                [](double value) { return Eigen::bfloat16(static_cast<float>(value)); });
  return with(reinterpret_cast<std::int8_t*>(block),
              [](double value) { return static_cast<std::int8_t>(std::nearbyint(value)); });
}

void ScanStore::set(std::size_t row, const float* values, double norm) noexcept {
  if (storage_ == Storage::kFloat32) return;
  float largest = 0;
  for (std::size_t i = 0; i < dimension_; ++i) largest = std::max(largest, std::abs(values[i]));
  const double scale = static_cast<double>(largest) / (storage_ == Storage::kInt8 ? 127 : 1);
  const double coding_error = encode(row, values, scale);
  // The sums of squares are rounded themselves.
  const auto terms = row_terms(metric_, storage_, dimension_, norm, scale, coding_error * (1 + 0x1p-20));
  scale_[row] = terms.scale;
  error_[row] = terms.error;
  offset_[row] = terms.offset;
}

void ScanStore::copy(const ScanRows& block, std::size_t lane, std::size_t row) noexcept {
  const std::size_t stride = block_bytes(storage_, dimension_);
  const std::size_t width = storage_ == Storage::kInt8 ? 2 : stride / (dimension_ * kBlockRows);
  const std::byte* source = block.codes + lane * width;
  std::byte* target = codes_.data() + row / kBlockRows * stride + row % kBlockRows * width;
  for (std::size_t at = 0; at < stride; at += width * kBlockRows) std::memcpy(target + at, source + at, width);
  scale_[row] = block.scale[lane];
  error_[row] = block.error[lane];
  offset_[row] = block.offset[lane];
}

void CodedQueries::add(const float* values, const QueryRank& rank) {
  const std::size_t bytes = query_bytes(storage_, dimension_);
  const std::size_t before = codes_.size();
  codes_.resize(before + bytes);
  double factor = 1;
  if (storage_ == Storage::kInt8) {
    double largest = 0;
    for (std::size_t i = 0; i < dimension_; ++i) largest = std::max(largest, std::abs(static_cast<double>(values[i])));
    // Both the codes and their sums of products with a row's have to fit.
    const double scale =
        largest > 0 ? std::min(kLargestQueryCode / largest, query_norm_limit(dimension_) / rank.unit()) : 0;
    auto* codes = reinterpret_cast<std::int16_t*>(codes_.data() + before);
    for (std::size_t i = 0; i < dimension_; ++i)
      codes[i] = static_cast<std::int16_t>(std::nearbyint(static_cast<double>(values[i]) * scale));
    factor = largest > 0 ? 1 / (scale * rank.unit()) : 0;
  } else {
    auto* codes = reinterpret_cast<float*>(codes_.data() + before);
    for (std::size_t i = 0; i < dimension_; ++i)
      codes[i] = static_cast<float>(static_cast<double>(values[i]) / rank.unit());
  }
  factor_.push_back(static_cast<float>(factor));
  inverse_.push_back(rank.inverse());
}

ScanQueries CodedQueries::queries(std::size_t first, std::size_t count, const float* thresholds) const {
  return {codes_.data() + first * query_bytes(storage_, dimension_), factor_.data() + first, inverse_.data() + first,
          thresholds + first, count};
}

ScanRows BlockReader::read(const Chunk& chunk, std::size_t first, std::size_t count) {
  if (storage_ != Storage::kFloat32) return chunk.blocks(first, count);
  const std::size_t rows = count * kBlockRows;
  if (scale_.size() < rows) {
    panel_.resize(rows * dimension_);
    scale_.resize(rows);
    error_.resize(rows);
    offset_.resize(rows);
  }
  for (std::size_t slot = 0; slot < count; ++slot) pack(chunk, first + slot, slot);
  return {reinterpret_cast<const std::byte*>(panel_.data()), scale_.data(), error_.data(), offset_.data(), count};
}

void BlockReader::pack(const Chunk& chunk, std::size_t block, std::size_t slot) {
  std::array<const float*, kBlockRows> rows{};
  for (std::size_t lane = 0; lane < kBlockRows; ++lane) {
    const std::size_t row = block * kBlockRows + lane;
    RowTerms terms{0, kNever, 0};
    if (row < chunk.rows()) {
      const float* values = chunk.values(row);
      terms = row_terms(metric_, Storage::kFloat32, dimension_, chunk.norms()[row], 1, 0);
      // A row outside of float's range would turn sums into infinities.
      if (std::isfinite(terms.error)) rows[lane] = values;
    }
    scale_[slot * kBlockRows + lane] = terms.scale;
    error_[slot * kBlockRows + lane] = terms.error;
    offset_[slot * kBlockRows + lane] = terms.offset;
  }
  pack_block(rows.data(), dimension_, panel_.data() + slot * kBlockRows * dimension_);
}

}  // namespace daug::detail
