#include "daug/encoder/position_table.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <vector>

#include "daug/core/error.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

namespace {

/// The cubic convolution kernel with parameter a (Keys, 1981).
double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((x - 5) * x + 8) * x * a - 4 * a;
  return 0;
}

/// Weights of the `from` cells in cell `cell` of `to`, by definition.
std::vector<double> weights(std::int64_t cell, std::int64_t from, std::int64_t to, PositionFilter filter) {
  const double ratio = static_cast<double>(from) / static_cast<double>(to);
  const double centre = (static_cast<double>(cell) + 0.5) * ratio - 0.5;
  std::vector<double> result(static_cast<std::size_t>(from), 0.0);
  if (filter == PositionFilter::kBicubicAntialias) {
    const double stretch = std::max(ratio, 1.0);
    double sum = 0;
    for (std::int64_t i = 0; i < from; ++i) {
      result[static_cast<std::size_t>(i)] = cubic((static_cast<double>(i) - centre) / stretch, -0.5);
      sum += result[static_cast<std::size_t>(i)];
    }
    for (double& weight : result) weight /= sum;
    return result;
  }
  const bool linear = filter == PositionFilter::kLinear;
  const double start = linear ? std::max(centre, 0.0) : centre;
  const auto first = static_cast<std::int64_t>(std::floor(start));
  for (std::int64_t tap = first - 1; tap <= first + 2; ++tap) {
    const double distance = start - static_cast<double>(tap);
    const double weight = linear ? std::max(0.0, 1 - std::abs(distance)) : cubic(distance, -0.75);
    result[static_cast<std::size_t>(std::clamp<std::int64_t>(tap, 0, from - 1))] += weight;
  }
  return result;
}

constexpr std::array kFilters = {PositionFilter::kBicubicAntialias, PositionFilter::kBicubic, PositionFilter::kLinear};

}  // namespace

TEST_CASE("image positions are the separable filter by its definition", "[encoder]") {
  const PositionGrid from{3, 5};
  const at::Tensor table = random_tensor({16, 4}, 1);
  for (const auto filter : kFilters)
    for (const PositionGrid to : {PositionGrid{7, 7}, PositionGrid{2, 3}, PositionGrid{3, 8}, PositionGrid{1, 1}}) {
      INFO("filter " << int(filter) << " to " << to.rows << " x " << to.columns);
      const at::Tensor found = resampled_image_positions(table, from, to, filter);
      REQUIRE(found.sizes() == at::IntArrayRef({1 + to.rows * to.columns, 4}));
      CHECK(at::equal(found[0], table[0]));
      for (std::int64_t row = 0; row < to.rows; ++row)
        for (std::int64_t column = 0; column < to.columns; ++column) {
          const auto down = weights(row, from.rows, to.rows, filter);
          const auto across = weights(column, from.columns, to.columns, filter);
          const at::Tensor expected = at::einsum(
              "r,c,rcd->d",
              {at::tensor(down, at::kDouble), at::tensor(across, at::kDouble), table.slice(0, 1).reshape({3, 5, 4})});
          CHECK((found[1 + row * to.columns + column] - expected).abs().max().item<double>() < 1e-12);
        }
    }
}

TEST_CASE("text positions are the filter along one axis", "[encoder]") {
  const at::Tensor table = random_tensor({6, 3}, 2);
  for (const auto filter : kFilters)
    for (const std::int64_t length : {1, 4, 11}) {
      const at::Tensor found = resampled_text_positions(table, length, filter);
      REQUIRE(found.sizes() == at::IntArrayRef({length, 3}));
      for (std::int64_t i = 0; i < length; ++i) {
        const at::Tensor expected = at::tensor(weights(i, 6, length, filter), at::kDouble).matmul(table);
        CHECK((found[i] - expected).abs().max().item<double>() < 1e-12);
      }
    }
}

TEST_CASE("a position table of the right size stays as it is, others are named", "[encoder]") {
  const at::Tensor table = random_tensor({10, 3}, 3);
  CHECK(at::equal(resampled_image_positions(table, {3, 3}, {3, 3}), table));
  CHECK(at::equal(resampled_text_positions(table, 10), table));
  // The same number of cells in another arrangement is another grid.
  CHECK_FALSE(at::equal(resampled_image_positions(table, {3, 3}, {1, 9}), table));
  CHECK(mentions(caught([&] { resampled_image_positions(table, {3, 4}, {2, 2}); }), "expected shape [13, D]"));
  CHECK(mentions(caught([&] { resampled_image_positions(table, {3, 3}, {0, 2}); }), "to"));
  CHECK(mentions(caught([&] { resampled_image_positions(table.to(at::kInt), {3, 3}, {2, 2}); }), "of Int"));
  CHECK(mentions(caught([&] { resampled_text_positions(table, 0); }), "length"));
  CHECK(mentions(caught([&] { resampled_text_positions({}, 4); }), "undefined"));
}
