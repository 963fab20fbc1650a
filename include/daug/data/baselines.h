#pragma once
/// @file
/// Baselines that look at little or nothing of the image. A method that does not beat them has shown nothing.

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/data/dataset.h"

namespace daug {

/// Row-major matrix of doubles: a row is an image.
using FeatureMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Targets and loss weights, both [rows, findings]: targets in {0, 1}, weights >= 0 (0: ignore this label).
struct BaselineTargets {
  FeatureMatrix target;  ///< [rows, findings], 0 or 1
  FeatureMatrix weight;  ///< [rows, findings], >= 0
};

/// Principal directions of the training rows.
struct Pca {
  Eigen::RowVectorXd mean;   ///< [features]
  FeatureMatrix directions;  ///< [features, components], columns scaled so that training scores have variance 1
  /// Scores [rows, components] of rows [rows, features].
  FeatureMatrix project(const FeatureMatrix& rows) const { return (rows.rowwise() - mean) * directions; }
};

/// Exact PCA with whitening, from the smaller of the two Gram matrices of at least two rows. `components` in
/// [1, min(rows - 1, features)] (kInvalidArgument); directions without variance are left out. The sign of a direction
/// is fixed (largest entry positive).
Pca fit_pca(const FeatureMatrix& rows, int components);

/// One logistic regression a column of `targets`, with intercept, by Newton's method to a gradient of 1e-8.
struct LogisticModel {
  FeatureMatrix weights;          ///< [features, findings]
  Eigen::RowVectorXd intercepts;  ///< [findings]

  /// Probabilities [rows, findings] in (0, 1).
  FeatureMatrix predict(const FeatureMatrix& rows) const;
};

/// Minimises sum_i w_i log-loss_i + l2 / 2 |weights|^2 (intercept not penalised). l2 > 0, so the minimum is unique. A
/// finding with one class only gets the weights 0 and its (smoothed) frequency. Deterministic. Throws kInvalidArgument
/// for shapes that do not agree.
LogisticModel fit_logistic(const FeatureMatrix& rows, const BaselineTargets& targets, double l2 = 1);

/// Settings of the PCA-logistic baseline.
struct PcaLogisticOptions {
  int components = 96;  ///< principal components, >= 1; fewer are used where there are fewer
  double l2 = 1;        ///< penalty on the weights of the whitened components, > 0

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Scores [test rows, findings], in (0, 1), of logistic regressions on whitened principal components of the pixels.
/// Deterministic. Throws kInvalidArgument for options or shapes.
FeatureMatrix pca_logistic(const FeatureMatrix& train, const BaselineTargets& targets, const FeatureMatrix& test,
                           const PcaLogisticOptions& options = {});

/// Pixels as matrix rows [rows, size * size]; `rows` selects images of the set (kInvalidArgument for one it lacks).
FeatureMatrix image_matrix(const ImageSet& images, const std::vector<std::size_t>& rows);

/// Mean of the masks of a finding's training images, [size * size] in [0, 1]: a map that is the same for every image.
/// Images without a region of that finding (see finding_region) do not count; throws kNotFound when none has one,
/// kInvalidArgument for a row or finding that there is not, and as finding_region.
std::vector<float> mean_mask(const Cohort& cohort, const ImageSet& images, const std::vector<std::size_t>& rows,
                             std::size_t finding, const PreprocessOptions& options);

/// Columns of metadata as features: numeric ones standardised, others one-hot over the values seen in training, blanks
/// and unseen values all zero with a column that says so.
class MetadataEncoder {
 public:
  /// Learns values, means and deviations from the studies at `train`. `columns` are keys of Study::meta, or "view".
  /// A column counts as numeric when every value in training that is not blank is a number and there are more than
  /// `max_categories` different ones. Throws kInvalidArgument for a study that the cohort does not have.
  MetadataEncoder(const Cohort& cohort, const std::vector<std::size_t>& train, std::vector<std::string> columns,
                  std::size_t max_categories = 12);

  /// [studies, features]. Throws kInvalidArgument for a study that the cohort does not have.
  FeatureMatrix encode(const Cohort& cohort, const std::vector<std::size_t>& studies) const;
  /// [features]: the column, "column=value" or "column unknown".
  const std::vector<std::string>& feature_names() const noexcept { return names_; }

 private:
  struct Column {
    std::string name;
    bool numeric = false;
    double mean = 0, deviation = 1;
    std::vector<std::string> values;
  };
  std::vector<Column> columns_;
  std::vector<std::string> names_;
};

/// Targets of some studies under label policies. Throws kInvalidArgument for a study that the cohort does not have, and
/// as make_targets.
BaselineTargets baseline_targets(const Cohort& cohort, const std::vector<std::size_t>& studies,
                                 const LabelPolicies& policies = {});

}  // namespace daug
