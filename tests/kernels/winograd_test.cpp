#include "kernels/winograd.h"

#include <cstring>
#include <limits>

#include "kernels/emulation.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

struct Case {
  std::int64_t batch, height, width, in, out;
};

struct Arrays {
  std::vector<float> input, filters, bias, transformed, output;
  WinogradConv conv;

  /// Filters [out, in, 3, 3] in order, or channels last as [out, 3, 3, in].
  Arrays(const Case& c, bool filters_last, bool with_bias)
      : input(random_floats(c.batch * c.height * c.width * c.in, 1)),
        filters(random_floats(c.out * c.in * 9, 2, 0, 1 / std::sqrt(9.0 * static_cast<double>(c.in)))),
        bias(random_floats(c.out, 3)),
        transformed(static_cast<std::size_t>(winograd_filter_floats(c.in, c.out)),
                    std::numeric_limits<float>::quiet_NaN()),
        output(static_cast<std::size_t>(c.batch * c.height * c.width * c.out), std::numeric_limits<float>::quiet_NaN()),
        strides_{9 * c.in, filters_last ? 1 : 9, filters_last ? 3 * c.in : 3, filters_last ? c.in : 1} {
    winograd_filters(filters.data(), strides_, c.in, c.out, transformed.data(), {});
    conv.batch = c.batch, conv.height = c.height, conv.width = c.width, conv.in = c.in, conv.out = c.out;
    conv.input = input.data(), conv.filters = transformed.data(), conv.output = output.data();
    if (with_bias) conv.bias = bias.data();
  }

  /// The definition, in float64.
  std::vector<double> expected() const {
    std::vector<double> result;
    for (std::int64_t n = 0; n < conv.batch; ++n)
      for (std::int64_t y = 0; y < conv.height; ++y)
        for (std::int64_t x = 0; x < conv.width; ++x)
          for (std::int64_t k = 0; k < conv.out; ++k) {
            double sum = conv.bias != nullptr ? conv.bias[k] : 0;
            for (std::int64_t dy = std::max<std::int64_t>(0, 1 - y);
                 dy < std::min<std::int64_t>(3, conv.height + 1 - y); ++dy)
              for (std::int64_t dx = std::max<std::int64_t>(0, 1 - x);
                   dx < std::min<std::int64_t>(3, conv.width + 1 - x); ++dx)
                for (std::int64_t c = 0; c < conv.in; ++c)
                  sum += static_cast<double>(input[static_cast<std::size_t>(
                             ((n * conv.height + y + dy - 1) * conv.width + x + dx - 1) * conv.in + c)]) *
                         filters[static_cast<std::size_t>(k * strides_[0] + c * strides_[1] + dy * strides_[2] +
                                                          dx * strides_[3])];
            result.push_back(sum);
          }
    return result;
  }

 private:
  std::int64_t strides_[4];
};

}  // namespace

TEST_CASE("a convolution by minimal filtering is the definition's", "[kernels][winograd]") {
  const std::vector<Case> cases = {{1, 1, 1, 1, 1},    {2, 1, 5, 3, 2},     {1, 4, 1, 2, 33},  {3, 2, 2, 17, 16},
                                   {2, 5, 7, 19, 40},  {1, 8, 6, 64, 32},   {2, 9, 9, 33, 65}, {1, 16, 16, 16, 64},
                                   {2, 5, 4, 182, 70}, {3, 18, 17, 200, 96}};
  for (const bool filters_last : {false, true})
    for (const Case& c : cases) {
      INFO(c.batch << " x " << c.height << " x " << c.width << ", " << c.in << " to " << c.out);
      Arrays arrays(c, filters_last, c.in % 2 == 1);
      const auto expected = arrays.expected();
      for_each_instruction_set([&] {
        std::fill(arrays.output.begin(), arrays.output.end(), std::numeric_limits<float>::quiet_NaN());
        winograd_conv(arrays.conv, {});
        CHECK(largest_error(arrays.output, expected) < 5e-6);
      });
    }
}

TEST_CASE("neither threads nor other images change a convolution's bits", "[kernels][winograd]") {
  // Filters that every thread reads, and such that threads share, for one and for several blocks of patches.
  for (const Case& c : {Case{5, 7, 6, 20, 37}, Case{5, 7, 6, 182, 70}, Case{3, 18, 17, 200, 96}}) {
    INFO(c.batch << " x " << c.height << " x " << c.width << ", " << c.in << " to " << c.out);
    Arrays whole(c, false, true);
    winograd_conv(whole.conv, {});
    const std::vector<float> once = whole.output;
    for (const int threads : {2, 3, 16}) {
      std::fill(whole.output.begin(), whole.output.end(), 0.0F);
      winograd_conv(whole.conv, odd_threads(threads));
      CHECK(std::memcmp(whole.output.data(), once.data(), once.size() * sizeof(float)) == 0);
    }
    const std::size_t pixels = static_cast<std::size_t>(c.height * c.width);
    WinogradConv alone = whole.conv;
    alone.batch = 1;
    for (std::size_t n = 0; n < static_cast<std::size_t>(c.batch); ++n) {
      std::vector<float> output(pixels * static_cast<std::size_t>(c.out));
      alone.input = whole.input.data() + n * pixels * static_cast<std::size_t>(c.in);
      alone.output = output.data();
      winograd_conv(alone, {});
      CHECK(std::memcmp(output.data(), once.data() + n * output.size(), output.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("a convolution of nothing writes nothing", "[kernels][winograd]") {
  for (const Case& c : {Case{0, 4, 4, 3, 2}, Case{2, 0, 4, 3, 2}, Case{2, 4, 0, 3, 2}}) {
    Arrays arrays(c, false, true);
    winograd_conv(arrays.conv, odd_threads(2));
    CHECK(arrays.output.empty());
  }
}

namespace {

/// A filter gradient's arrays; `expected` by the definition, in float64.
struct GradientArrays {
  std::vector<float> input, output_gradient, sums, gradient, bias_gradient;
  WinogradFilterGradient conv;

  GradientArrays(const Case& c, bool filters_last)
      : input(random_floats(c.batch * c.height * c.width * c.in, 1)),
        output_gradient(random_floats(c.batch * c.height * c.width * c.out, 2)),
        sums(static_cast<std::size_t>(winograd_filter_floats(c.in, c.out))),
        gradient(static_cast<std::size_t>(c.out * c.in * 9)),
        bias_gradient(static_cast<std::size_t>(c.out)) {
    forget();
    conv.batch = c.batch, conv.height = c.height, conv.width = c.width, conv.in = c.in, conv.out = c.out;
    conv.input = input.data(), conv.output_gradient = output_gradient.data(), conv.sums = sums.data();
    conv.gradient = gradient.data(), conv.bias_gradient = bias_gradient.data();
    const std::int64_t strides[4] = {9 * c.in, filters_last ? 1 : 9, filters_last ? 3 * c.in : 3,
                                     filters_last ? c.in : 1};
    std::copy(strides, strides + 4, conv.strides);
  }

  void forget() {
    for (auto* values : {&sums, &gradient, &bias_gradient})
      std::fill(values->begin(), values->end(), std::numeric_limits<float>::quiet_NaN());
  }

  /// The sum over images and pixels of an output's gradient times the input `dy - 1` rows and `dx - 1` columns away.
  double expected(std::int64_t k, std::int64_t c, std::int64_t dy, std::int64_t dx) const {
    double sum = 0;
    for (std::int64_t n = 0; n < conv.batch; ++n)
      for (std::int64_t y = 0; y < conv.height; ++y)
        for (std::int64_t x = 0; x < conv.width; ++x) {
          const std::int64_t row = y + dy - 1, column = x + dx - 1;
          if (row < 0 || row >= conv.height || column < 0 || column >= conv.width) continue;
          sum += static_cast<double>(input[index(n, row, column, c, conv.in)]) *
                 output_gradient[index(n, y, x, k, conv.out)];
        }
    return sum;
  }
  double expected_bias(std::int64_t k) const {
    double sum = 0;
    for (std::size_t i = static_cast<std::size_t>(k); i < output_gradient.size();
         i += static_cast<std::size_t>(conv.out))
      sum += output_gradient[i];
    return sum;
  }

 private:
  std::size_t index(std::int64_t n, std::int64_t y, std::int64_t x, std::int64_t c, std::int64_t channels) const {
    return static_cast<std::size_t>(((n * conv.height + y) * conv.width + x) * channels + c);
  }
};

}  // namespace

TEST_CASE("the gradient to filters and bias is the definition's", "[kernels][winograd]") {
  // The last ones make several blocks of patches.
  const std::vector<Case> cases = {{1, 1, 1, 1, 1},     {2, 1, 5, 3, 2},   {1, 4, 1, 2, 33},  {3, 2, 2, 17, 16},
                                   {2, 5, 7, 19, 40},   {1, 8, 6, 64, 32}, {2, 9, 9, 33, 65}, {1, 32, 34, 16, 18},
                                   {2, 18, 17, 20, 70}, {3, 18, 17, 50, 7}};
  for (const bool filters_last : {false, true})
    for (const Case& c : cases) {
      INFO(c.batch << " x " << c.height << " x " << c.width << ", " << c.in << " to " << c.out);
      GradientArrays arrays(c, filters_last);
      std::vector<double> expected(arrays.gradient.size()), expected_bias;
      for (std::int64_t k = 0; k < c.out; ++k) {
        expected_bias.push_back(arrays.expected_bias(k));
        for (std::int64_t i = 0; i < c.in; ++i)
          for (std::int64_t tap = 0; tap < 9; ++tap)
            expected[static_cast<std::size_t>(k * arrays.conv.strides[0] + i * arrays.conv.strides[1] +
                                              tap / 3 * arrays.conv.strides[2] + tap % 3 * arrays.conv.strides[3])] =
                arrays.expected(k, i, tap / 3, tap % 3);
      }
      const double terms = std::sqrt(static_cast<double>(c.batch * c.height * c.width));
      for_each_instruction_set([&] {
        arrays.forget();
        winograd_filter_gradient(arrays.conv, {});
        CHECK(largest_error(arrays.gradient, expected) < 1e-6 * terms);
        CHECK(largest_error(arrays.bias_gradient, expected_bias) < 1e-6 * terms);
      });
    }
}

TEST_CASE("threads do not change the bits of filters and of their gradient", "[kernels][winograd]") {
  for (const Case& c : {Case{5, 7, 6, 20, 37}, Case{3, 18, 17, 100, 70}}) {
    INFO(c.batch << " x " << c.height << " x " << c.width << ", " << c.in << " to " << c.out);
    GradientArrays arrays(c, false);
    winograd_filter_gradient(arrays.conv, {});
    const std::vector<float> once = arrays.gradient, bias_once = arrays.bias_gradient;
    Arrays forward(c, false, true);
    for (const int threads : {2, 3, 16}) {
      arrays.forget();
      winograd_filter_gradient(arrays.conv, odd_threads(threads));
      CHECK(std::memcmp(arrays.gradient.data(), once.data(), once.size() * sizeof(float)) == 0);
      CHECK(std::memcmp(arrays.bias_gradient.data(), bias_once.data(), bias_once.size() * sizeof(float)) == 0);
      std::vector<float> transformed(forward.transformed.size());
      const std::int64_t strides[4] = {9 * c.in, 9, 3, 1};
      winograd_filters(forward.filters.data(), strides, c.in, c.out, transformed.data(), odd_threads(threads));
      CHECK(std::memcmp(transformed.data(), forward.transformed.data(), transformed.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("nothing convolved has a gradient of nothing", "[kernels][winograd]") {
  GradientArrays arrays({0, 4, 4, 3, 2}, false);
  winograd_filter_gradient(arrays.conv, odd_threads(2));
  CHECK(arrays.gradient == std::vector<float>(arrays.gradient.size(), 0.0F));
  CHECK(arrays.bias_gradient == std::vector<float>(2, 0.0F));
}
