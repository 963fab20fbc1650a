#pragma once
/// @file
/// Figures of a run: what was measured, how, and how sure it is.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace daug {

/// One measured number. `low` and `high` are a 95 % patient-bootstrap interval, or absent where none applies.
struct Figure {
  std::string name;           ///< e.g. "map.pixel_ap"
  std::string arm;            ///< what was measured, e.g. "evidence"
  std::string split;          ///< e.g. "test", or "test[src_repo=...]" for a slice
  double value = 0;           ///< not-a-number where the data do not define it
  std::optional<double> low,  ///< lower end of the interval
      high;                   ///< upper end of the interval
  std::int64_t n = 0;         ///< items behind the number
  std::string definition;     ///< in words or a formula
};

/// Version of the metrics.json layout.
inline constexpr int kMetricsVersion = 1;

/// Writes {"version", "fingerprint", "figures": [{name, arm, split, value, low, high, n, definition}]}, atomically;
/// what is not finite becomes null. Throws kIo, and kInvalidArgument for texts that are not UTF-8.
void write_metrics(const std::string& path, const std::vector<Figure>& figures, const std::string& fingerprint);

/// Reads such a file; a value that is null becomes not-a-number. `fingerprint` (may be null) gets the file's. Throws
/// kNotFound, kIo, kUnsupported for another version of the layout, and kFormat naming the field.
std::vector<Figure> read_metrics(const std::string& path, std::string* fingerprint = nullptr);

/// The figure with this name, arm and split, or null.
const Figure* find_figure(const std::vector<Figure>& figures, const std::string& name, const std::string& arm,
                          const std::string& split = "test");

}  // namespace daug
