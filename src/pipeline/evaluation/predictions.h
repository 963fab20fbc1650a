#pragma once
// What the evaluation keeps of every test image, so that arms can be compared on the same images afterwards.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace daug {

/// Its file in the run folder.
inline constexpr const char* kPredictionsFile = "predictions.safetensors";

/// Tables of every arm: probability of each finding, and precision among the five nearest (NaN where the image lacks
/// the finding or nothing is relevant).
inline constexpr const char* kProbabilities = "probabilities";
inline constexpr const char* kPrecisionAt5 = "p_at_5";

/// The test images in their order, and tables [images, findings] of every arm.
struct Predictions {
  std::vector<std::int64_t> rows;             ///< image numbers in the cohort
  std::vector<std::int64_t> patients;         ///< patient of each
  std::vector<std::uint8_t> positive, known;  ///< [images, findings]
  std::size_t findings = 0;
  std::vector<std::string> names;  ///< [findings]; empty in files of earlier versions
  std::string studies;             ///< fingerprint of the images' ids; empty in files of earlier versions
  std::string fingerprint;         ///< of the evaluation that wrote them
  std::map<std::string, std::vector<double>> tables;  ///< under "arm/table"

  std::size_t images() const { return rows.size(); }
  void add(const std::string& arm, const char* table, std::vector<double> values) {
    tables[arm + "/" + table] = std::move(values);
  }
  /// Arms with such a table, ascending.
  std::vector<std::string> arms(const char* table) const;
  bool has(const std::string& arm, const char* table) const { return tables.count(arm + "/" + table) > 0; }
  std::string finding_name(std::size_t finding) const {
    return names.empty() ? "finding " + std::to_string(finding + 1) : names.at(finding);
  }
  /// Throws kNotFound.
  const std::vector<double>& table(const std::string& arm, const char* table) const;
  /// Whether images, labels and, as far as both files know them, findings and ids are the same.
  bool same_images(const Predictions& other) const {
    return rows == other.rows && patients == other.patients && positive == other.positive && known == other.known &&
           (names.empty() || other.names.empty() || names == other.names) &&
           (studies.empty() || other.studies.empty() || studies == other.studies);
  }
};

/// Throws kIo.
void write_predictions(const std::string& path, const Predictions& predictions);
/// Throws kNotFound, kIo, and kFormat for other contents.
Predictions read_predictions(const std::string& path);

}  // namespace daug
