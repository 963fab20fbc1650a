// The classifier that pools every block, then normalises a hidden layer ("spatial_v2"), beside guided-diffusion's
// EncoderUNetModel written out in loops over float64 numbers. No stored outputs of that one are at hand.

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daug/translator/noise_aware_classifier.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

using Numbers = std::vector<double>;
using Planes = std::vector<Numbers>;  ///< [channels][side * side], row by row

double silu_of(double value) { return value / (1 + std::exp(-value)); }

double mean_of(const Numbers& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// tiny_classifier_options(kSpatialV2) with the parameters of a network, one image at a time.
class SlowSpatialClassifier {
 public:
  explicit SlowSpatialClassifier(std::map<std::string, at::Tensor> parameters) : parameters_(std::move(parameters)) {}

  Numbers logits(const Numbers& image, double timestep) const {
    const Numbers embedding = embedded(timestep);
    Numbers means;
    const auto pooled = [&](const Planes& planes) {
      for (const Numbers& plane : planes) means.push_back(mean_of(plane));
    };
    Planes h = conv({image}, 8, "input_blocks.0.0");
    pooled(h);
    h = residual(h, 8, "input_blocks.1.0", embedding, false);
    pooled(h);
    h = residual(h, 8, "input_blocks.2.0", embedding, true);
    pooled(h);
    h = attention(residual(h, 4, "input_blocks.3.0", embedding, false), "input_blocks.3.1");
    pooled(h);
    h = residual(h, 4, "middle_block.0", embedding, false);
    h = residual(attention(h, "middle_block.1"), 4, "middle_block.2", embedding, false);
    pooled(h);
    Planes hidden;
    for (const double value : linear(means, "out.0")) hidden.push_back({value});
    hidden = norm(hidden, "out.1");
    Numbers active;
    for (const Numbers& unit : hidden) active.push_back(silu_of(unit[0]));
    return linear(active, "out.3");
  }

 private:
  static constexpr std::size_t kGroups = 4, kHeadChannels = 8;

  Numbers values(const std::string& name) const { return to_doubles(parameters_.at(name)); }

  Numbers linear(const Numbers& in, const std::string& name) const {
    const Numbers weight = values(name + ".weight");
    Numbers out = values(name + ".bias");
    for (std::size_t o = 0; o < out.size(); ++o)
      for (std::size_t i = 0; i < in.size(); ++i) out[o] += weight[o * in.size() + i] * in[i];
    return out;
  }

  Numbers embedded(double timestep) const {
    Numbers waves(8);
    for (std::size_t i = 0; i < 4; ++i) {
      const double angle = timestep * std::exp(-std::log(10000.0) * static_cast<double>(i) / 4);
      waves[i] = std::cos(angle), waves[4 + i] = std::sin(angle);
    }
    Numbers hidden = linear(waves, "time_embed.0");
    for (double& value : hidden) value = silu_of(value);
    return linear(hidden, "time_embed.2");
  }

  /// Convolution of odd kernels, zeros around the image; one of size 1 is as well that over a sequence.
  Planes conv(const Planes& in, std::int64_t side, const std::string& name) const {
    const Numbers weight = values(name + ".weight"), bias = values(name + ".bias");
    const std::int64_t kernel = parameters_.at(name + ".weight").size(2);
    Planes out;
    for (std::size_t o = 0; o < bias.size(); ++o) {
      Numbers plane;
      for (std::int64_t y = 0; y < side; ++y)
        for (std::int64_t x = 0; x < side; ++x) {
          double sum = bias[o];
          for (std::size_t c = 0; c < in.size(); ++c)
            for (std::int64_t dy = 0; dy < kernel; ++dy)
              for (std::int64_t dx = 0; dx < kernel; ++dx) {
                const std::int64_t row = y + dy - kernel / 2, column = x + dx - kernel / 2;
                if (row < 0 || row >= side || column < 0 || column >= side) continue;
                const auto tap = static_cast<std::size_t>(dy * kernel + dx);
                sum += weight[(o * in.size() + c) * static_cast<std::size_t>(kernel * kernel) + tap] *
                       in[c][static_cast<std::size_t>(row * side + column)];
              }
          plane.push_back(sum);
        }
      out.push_back(std::move(plane));
    }
    return out;
  }

  Planes norm(Planes planes, const std::string& name) const {
    const Numbers weight = values(name + ".weight"), bias = values(name + ".bias");
    const std::size_t size = planes.size() / kGroups;
    for (std::size_t group = 0; group < kGroups; ++group) {
      Numbers all, squares;
      for (std::size_t c = group * size; c < (group + 1) * size; ++c)
        all.insert(all.end(), planes[c].begin(), planes[c].end());
      const double mean = mean_of(all);
      for (const double value : all) squares.push_back((value - mean) * (value - mean));
      const double deviation = std::sqrt(mean_of(squares) + 1e-5);
      for (std::size_t c = group * size; c < (group + 1) * size; ++c)
        for (double& value : planes[c]) value = (value - mean) / deviation * weight[c] + bias[c];
    }
    return planes;
  }

  static Planes activated(Planes planes) {
    for (Numbers& plane : planes)
      for (double& value : plane) value = silu_of(value);
    return planes;
  }

  /// Means of 2 x 2 pixels.
  static Planes halved(const Planes& planes, std::size_t side) {
    Planes result;
    for (const Numbers& plane : planes) {
      Numbers half;
      for (std::size_t y = 0; y < side; y += 2)
        for (std::size_t x = 0; x < side; x += 2)
          half.push_back((plane[y * side + x] + plane[y * side + x + 1] + plane[(y + 1) * side + x] +
                          plane[(y + 1) * side + x + 1]) /
                         4);
      result.push_back(std::move(half));
    }
    return result;
  }

  static Planes sum_of(Planes a, const Planes& b) {
    for (std::size_t c = 0; c < a.size(); ++c)
      for (std::size_t p = 0; p < a[c].size(); ++p) a[c][p] += b[c][p];
    return a;
  }

  /// With scale and shift after the second norm, and `down` halved between the first activation and its convolution.
  Planes residual(Planes x, std::int64_t side, const std::string& name, Numbers embedding, bool down) const {
    Planes h = activated(norm(x, name + ".in_layers.0"));
    if (down) {
      h = halved(h, static_cast<std::size_t>(side));
      x = halved(x, static_cast<std::size_t>(side));
      side /= 2;
    }
    h = norm(conv(h, side, name + ".in_layers.2"), name + ".out_layers.0");
    for (double& value : embedding) value = silu_of(value);
    const Numbers scale_shift = linear(embedding, name + ".emb_layers.1");
    for (std::size_t c = 0; c < h.size(); ++c)
      for (double& value : h[c]) value = value * (1 + scale_shift[c]) + scale_shift[h.size() + c];
    h = conv(activated(std::move(h)), side, name + ".out_layers.3");
    if (parameters_.count(name + ".skip_connection.weight")) x = conv(x, side, name + ".skip_connection");
    return sum_of(std::move(x), h);
  }

  /// Over 4 x 4 positions; each head's q, k and v stand side by side.
  Planes attention(const Planes& x, const std::string& name) const {
    const Planes qkv = conv(norm(x, name + ".norm"), 4, name + ".qkv");
    const std::size_t positions = x[0].size();
    Planes mixed(x.size(), Numbers(positions));
    for (std::size_t head = 0; head < x.size() / kHeadChannels; ++head) {
      const std::size_t q = 3 * head * kHeadChannels, k = q + kHeadChannels, v = k + kHeadChannels;
      for (std::size_t at = 0; at < positions; ++at) {
        Numbers weights;
        double total = 0;
        for (std::size_t from = 0; from < positions; ++from) {
          double score = 0;
          for (std::size_t i = 0; i < kHeadChannels; ++i) score += qkv[q + i][at] * qkv[k + i][from];
          weights.push_back(std::exp(score / std::sqrt(static_cast<double>(kHeadChannels))));
          total += weights.back();
        }
        for (std::size_t i = 0; i < kHeadChannels; ++i)
          for (std::size_t from = 0; from < positions; ++from)
            mixed[head * kHeadChannels + i][at] += weights[from] / total * qkv[v + i][from];
      }
    }
    return sum_of(conv(mixed, 4, name + ".proj_out"), x);
  }

  std::map<std::string, at::Tensor> parameters_;
};

}  // namespace

TEST_CASE("spatial_v2 pooling equals upstream's encoder written out in loops", "[noise_aware_classifier]") {
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kSpatialV2));
  randomise(*network, 3, 0.3);
  network->to(at::kDouble);
  const auto parameters = parameters_of(*network);
  const SlowSpatialClassifier slow(parameters);
  const at::Tensor x = random_tensor({3, 1, 8, 8}, 1), timesteps = longs({0, 3, 12});
  const at::Tensor logits = network->forward(x, timesteps);
  REQUIRE(logits.sizes() == at::IntArrayRef({3, 3}));
  for (std::int64_t i = 0; i < 3; ++i) {
    const Numbers expected = slow.logits(to_doubles(x[i]), timesteps[i].item<double>());
    REQUIRE(expected.size() == 3);
    // The frequencies of timesteps are float32 in upstream's code.
    for (std::size_t k = 0; k < 3; ++k)
      CHECK(logits[i][static_cast<std::int64_t>(k)].item<double>() == Approx(expected[k]).epsilon(1e-5).margin(1e-5));
  }
  CHECK(largest_difference(logits.select(0, 0), logits.select(0, 1)) > 1e-2);

  std::vector<at::Tensor> head;
  for (const char* name : {"out.0.weight", "out.0.bias", "out.1.weight", "out.1.bias", "out.3.weight", "out.3.bias"})
    head.push_back(parameters.at(name));
  const at::Tensor factors = random_tensor({3, 3}, 2);
  check_gradients([&] { return (network->forward(x, timesteps) * factors).sum(); }, head, 4);
}
