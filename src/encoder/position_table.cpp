#include "daug/encoder/position_table.h"

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "daug/core/error.h"

namespace daug {

namespace {

/// [rows columns, D] -> [to.rows to.columns, D].
at::Tensor resampled(const at::Tensor& cells, PositionGrid from, PositionGrid to, PositionFilter filter) {
  const at::Tensor image = cells.reshape({1, from.rows, from.columns, -1}).permute({0, 3, 1, 2});
  const std::vector<std::int64_t> size = {to.rows, to.columns};
  const at::Tensor larger =
      filter == PositionFilter::kBicubicAntialias ? at::_upsample_bicubic2d_aa(image, size, /*align_corners=*/false)
      : filter == PositionFilter::kBicubic        ? at::upsample_bicubic2d(image, size, /*align_corners=*/false)
                                                  : at::upsample_bilinear2d(image, size, /*align_corners=*/false);
  return larger.permute({0, 2, 3, 1}).reshape({to.rows * to.columns, -1});
}

void require_table(const at::Tensor& table, std::int64_t rows, const char* function) {
  const bool fits = table.defined() && table.dim() == 2 && (rows < 0 || table.size(0) == rows) && table.numel() > 0 &&
                    (table.scalar_type() == at::kFloat || table.scalar_type() == at::kDouble);
  if (fits) return;
  fail(ErrorCode::kMismatch, function, "table",
       rows < 0 ? std::string("shape [L, D] of Float or Double")
                : detail::concat("shape [", rows, ", D] of Float or Double"),
       table.defined() ? detail::concat("shape ", table.sizes(), " of ", table.scalar_type()) : "an undefined tensor");
}

}  // namespace

at::Tensor resampled_image_positions(const at::Tensor& table, PositionGrid from, PositionGrid to,
                                     PositionFilter filter) {
  constexpr const char* kFunction = "resampled_image_positions";
  constexpr std::int64_t kMost = 1 << 14;
  for (const std::int64_t side : {from.rows, from.columns}) require_range(side, 1, kMost, kFunction, "from");
  for (const std::int64_t side : {to.rows, to.columns}) require_range(side, 1, kMost, kFunction, "to");
  const std::int64_t cells = from.rows * from.columns;
  require_table(table, 1 + cells, kFunction);
  if (from.rows == to.rows && from.columns == to.columns) return table;
  return at::cat({table.narrow(0, 0, 1), resampled(table.narrow(0, 1, cells), from, to, filter)});
}

at::Tensor resampled_text_positions(const at::Tensor& table, std::int64_t length, PositionFilter filter) {
  constexpr const char* kFunction = "resampled_text_positions";
  require_range(length, 1, 1 << 16, kFunction, "length");
  require_table(table, -1, kFunction);
  if (table.size(0) == length) return table;
  return resampled(table, {1, table.size(0)}, {1, length}, filter);
}

}  // namespace daug
