#pragma once
// Problems of the losses' tests, and the comparison with golden sets.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "daug/loss/hybrid_contrastive_loss.h"
#include "support/catch.h"
#include "support/golden.h"
#include "support/tensor.h"

namespace daug::test {

inline HybridLossOptions options_for(double w, ClassForm form = ClassForm::kBce) {
  HybridLossOptions options;
  options.clip_weight = w;
  options.class_form = form;
  options.logit_scale = 1.5;
  return options;
}

/// A random problem of B items, K findings, D dimensions, all float64.
struct Problem {
  at::Tensor image, text, prompts, labels, label_mask, text_mask;

  Problem(std::int64_t b, std::int64_t k, std::int64_t d, ClassForm form, std::uint64_t seed)
      : image(random_tensor({b, d}, seed)),
        text(random_tensor({b, d}, seed + 1)),
        prompts(random_tensor({form == ClassForm::kPaired ? 2 * k : k, d}, seed + 2)),
        labels((random_tensor({b, k}, seed + 3) > 0.3).to(at::kLong)),
        label_mask(random_tensor({b, k}, seed + 4) > -0.7),
        text_mask(random_tensor({b}, seed + 5) > -0.5) {}

  HybridLossOutput loss(const HybridLossOptions& options) const {
    return hybrid_contrastive_loss(image, text, prompts, labels, label_mask, text_mask, options);
  }
};

/// Whole matrices and tiles.
inline const Execution kForms[] = {Execution::kReference, Execution::kFused};

/// A problem in which some items share labels.
inline HybridLossInputs some_inputs(std::int64_t b, std::int64_t k, std::int64_t d, std::uint64_t seed,
                                    bool mask = true) {
  const Problem p(b, k, d, ClassForm::kBce, seed);
  HybridLossInputs inputs;
  inputs.image = p.image, inputs.text = p.text, inputs.class_prompts = p.prompts, inputs.labels = p.labels;
  if (b > 3) inputs.labels[3].copy_(inputs.labels[0]), inputs.labels[2].copy_(inputs.labels[0]);
  if (mask) {
    inputs.label_mask = p.label_mask, inputs.text_mask = p.text_mask;
    if (b > 3) inputs.label_mask[3].copy_(inputs.label_mask[0]), inputs.text_mask[0] = inputs.text_mask[3] = true;
  }
  return inputs;
}

/// The same with every fourth item of one study.
inline HybridLossInputs with_studies(HybridLossInputs inputs) {
  inputs.study = at::arange(inputs.image.size(0), at::kLong).remainder(4) * 7 - 3;
  return inputs;
}

/// The same rows with other gaps: as class tokens of sequences, column by column, with gaps between their numbers.
inline std::vector<std::function<at::Tensor(const at::Tensor&)>> layouts() {
  return {[](const at::Tensor& rows) {
            return at::stack({rows, rows}, 1).select(1, 0);
          },
          [](const at::Tensor& rows) { return rows.t().contiguous().t(); },
          [](const at::Tensor& rows) {
            return at::stack({rows, rows}, 2).select(2, 0);
          }};
}

inline double value(const at::Tensor& scalar) { return scalar.item<double>(); }

/// One number out of a golden tolerance such as "loss rtol 1e-5; gradients rtol 1e-4, atol 1e-6*max|grad|".
struct Tolerance {
  double relative = 0, absolute = 0, absolute_of_largest = 0;

  Tolerance(const std::string& text, const std::string& quantity) {
    std::string clause = text;
    const auto start = text.find(quantity);
    if (start != std::string::npos) clause = text.substr(start, text.find(';', start) - start);
    std::smatch match;
    const std::string number = " ([0-9.eE+-]+)";
    if (std::regex_search(clause, match, std::regex("rtol" + number))) relative = std::stod(match[1]);
    if (std::regex_search(clause, match, std::regex("atol" + number + "(\\*max)?")))
      (match[2].matched ? absolute_of_largest : absolute) = std::stod(match[1]);
    REQUIRE(relative + absolute + absolute_of_largest > 0);
  }
};

/// Checks every element; returns the largest |difference| / largest |expected|, or the former if the latter is within
/// the absolute tolerance.
inline double compare(const at::Tensor& actual, const at::Tensor& expected, const Tolerance& tolerance) {
  REQUIRE(actual.sizes() == expected.sizes());
  const auto a = to_doubles(actual), e = to_doubles(expected);
  double largest = 0, worst = 0;
  for (double x : e) largest = std::max(largest, std::abs(x));
  const double floor = tolerance.absolute + tolerance.absolute_of_largest * largest;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - e[i]);
    if (!(difference <= floor + tolerance.relative * std::abs(e[i])))  // nor is what is not a number
      FAIL_CHECK("element " << i << ": " << a[i] << " against " << e[i]);
    worst = std::max(worst, difference);
  }
  return largest > floor ? worst / largest : worst;
}

/// "0", "0.3": how the golden sets write a weight in a tensor's name.
inline std::string short_number(double x) {
  std::ostringstream out;
  out << x;
  return out.str();
}

struct Precision {
  at::ScalarType type;
  const char* key;
};
inline const Precision kPrecisions[] = {{at::kFloat, "float32"}, {at::kDouble, "float64"}};

/// A number or gradient of a case, its name in a golden set, and what the set calls its tolerance.
struct CaseValue {
  std::string name;
  at::Tensor value;
  const char* quantity;
};

/// Where and how a case is computed: of inputs rounded to `rounded` first.
struct CaseWay {
  at::Device device;
  at::ScalarType type, rounded;

  at::Tensor leaf(const at::Tensor& tensor) const {
    return tensor.to(rounded).to(device, type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  }
};

/// Checks `values(way, execution)`, what a case comes to, on a device; returns the largest error against the set.
/// All are held to the set's float64. Float32 may be off by the set's tolerance of it and, a single number, by 1e-6, as
/// a score of tau = 100 is rounded by up to 4e-6, other gradients by 1e-7, which saturated pairs may get from that
/// where the set has 0; the sets' own float32 takes a seventh of this. On a CUDA device it may also be off by 1e-5 of
/// the largest number, as it adds up in another order. Bfloat16 there is compared with float64 on the CPU of the same
/// rounded numbers: scores of tau = 100 move by more than any tolerance when the set's inputs are rounded.
template <class Values>
double compare_with_set(const GoldenSet& set, const at::Device& device, const Values& values) {
  double worst = 0;
  for (const auto execution : {Execution::kReference, Execution::kFused}) {
    INFO("execution " << static_cast<int>(execution));
    for (const auto& precision : kPrecisions)
      for (const CaseValue& found : values(CaseWay{device, precision.type, precision.type}, execution)) {
        INFO(found.name << " in " << precision.key);
        Tolerance tolerance(set.settings.at("tolerance").at(precision.key).get<std::string>(), found.quantity);
        const double least = found.value.dim() == 0 ? 1e-6 : 1e-7;
        if (precision.type == at::kFloat) tolerance.absolute = std::max(tolerance.absolute, least);
        if (device.is_cuda() && precision.type == at::kFloat)
          tolerance.absolute_of_largest = std::max(tolerance.absolute_of_largest, 1e-5);
        worst = std::max(worst, compare(found.value, to_tensor(set.at(found.name + ".f64")), tolerance));
      }
    if (!device.is_cuda()) continue;
    const auto expected = values(CaseWay{at::kCPU, at::kDouble, at::kBFloat16}, Execution::kReference);
    const auto found = values(CaseWay{device, at::kBFloat16, at::kBFloat16}, execution);
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      INFO(found[i].name << " in bfloat16");
      compare(found[i].value, expected[i].value, Tolerance("atol 2e-2*max", found[i].quantity));
    }
  }
  return worst;
}

/// The outputs of a set that compare_with_set leaves alone.
inline std::vector<Unread> unread_on(const at::Device& device) {
  return {{"*.f32", "float32 on " + device.str() + " is held to float64"}};
}

/// Whether a case's settings name this number; a bias may be absent.
inline bool has_number(const nlohmann::json& config, const char* key) {
  return config.contains(key) && config.at(key).is_number();
}

/// Whether the published code's number of this name is none, as with a zero embedding, of which the library makes an
/// error.
inline bool is_no_number(const GoldenSet& set, const std::string& name) {
  return set.file.contains(name + ".f64") && std::isnan(to_tensor(set.file.at(name + ".f64")).sum().item<double>());
}

/// Checks the cases of a set that lie on several ranks, each rank a thread; the largest relative error. What it could
/// not compare goes to `unread`.
double compare_ranks(const GoldenSet& set, std::vector<Unread>& unread);

}  // namespace daug::test
