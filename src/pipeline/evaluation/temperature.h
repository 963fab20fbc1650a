#pragma once
// Temperature scaling of probabilities, fitted to other images than those it is then measured on.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace daug {

/// The temperature of some probabilities, or why there is none.
struct FittedTemperature {
  std::optional<double> value;
  std::string reason;       ///< empty where there is a value
  std::int64_t labels = 0;  ///< known ones, to which it was fitted
};

/// The temperature that fits probabilities [cells], in [0, 1], best to the labels of the known cells, all pooled: see
/// fit_temperature. Probabilities are held off 0 and 1 by what float32 tells from them, so that their logits are
/// finite. Throws kInvalidArgument for other lengths and probabilities.
FittedTemperature temperature_of(const std::vector<double>& probabilities, const std::vector<std::uint8_t>& positive,
                                 const std::vector<std::uint8_t>& known);

/// Probabilities [cells] at a temperature > 0: 1 / (1 + exp(-logit / temperature)), logits as above.
std::vector<double> at_temperature(const std::vector<double>& probabilities, double temperature);

}  // namespace daug
