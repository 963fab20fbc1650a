#include "daug/data/baselines.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "cohort_index.h"

namespace daug {
namespace {

Eigen::ArrayXd sigmoid(const Eigen::ArrayXd& logits) { return 1 / (1 + (-logits).exp()); }

/// log(1 + exp(z)) without overflow.
Eigen::ArrayXd softplus(const Eigen::ArrayXd& z) { return z.max(0) + (-z.abs()).exp().log1p(); }

/// Newton's method with step halving on one finding; the last parameter is the intercept.
Eigen::VectorXd newton_logistic(const FeatureMatrix& rows, const Eigen::ArrayXd& y, const Eigen::ArrayXd& w,
                                double l2) {
  const Eigen::Index n = rows.cols();
  Eigen::VectorXd parameters = Eigen::VectorXd::Zero(n + 1);
  // The start at the log odds leaves the intercept almost right; one pseudo-case a class keeps it finite.
  const double positives = (w * y).sum(), total = w.sum();
  parameters[n] = std::log((positives + 0.5) / (total - positives + 0.5));
  if (positives == 0 || positives == total) return parameters;

  const auto logits = [&](const Eigen::VectorXd& p) -> Eigen::ArrayXd { return (rows * p.head(n)).array() + p[n]; };
  const auto loss = [&](const Eigen::VectorXd& p) {
    const Eigen::ArrayXd z = logits(p);
    return (w * (softplus(z) - y * z)).sum() + 0.5 * l2 * p.head(n).squaredNorm();
  };
  double current = loss(parameters);
  for (int iteration = 0; iteration < 100; ++iteration) {
    const Eigen::ArrayXd p = sigmoid(logits(parameters));
    const Eigen::VectorXd residual = (w * (p - y)).matrix();
    Eigen::VectorXd gradient(n + 1);
    gradient << rows.transpose() * residual + l2 * parameters.head(n), residual.sum();
    if (gradient.cwiseAbs().maxCoeff() < 1e-8) break;

    const Eigen::VectorXd curvature = (w * p * (1 - p)).matrix();
    Eigen::MatrixXd hessian(n + 1, n + 1);
    hessian.topLeftCorner(n, n) = rows.transpose() * curvature.asDiagonal() * rows;
    hessian.diagonal().head(n).array() += l2;
    hessian.topRightCorner(n, 1) = rows.transpose() * curvature;
    hessian.bottomLeftCorner(1, n) = hessian.topRightCorner(n, 1).transpose();
    hessian(n, n) = curvature.sum() + 1e-12;
    const Eigen::VectorXd step = hessian.ldlt().solve(gradient);

    double scale = 1;
    Eigen::VectorXd trial = parameters - step;
    double next = loss(trial);
    while (!(next <= current) && scale > 1e-10) {
      scale *= 0.5;
      trial = parameters - scale * step;
      next = loss(trial);
    }
    if (!(next <= current)) break;  // rounding is all that is left
    parameters = trial;
    current = next;
  }
  return parameters;
}

std::optional<double> number_of(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

/// A view is what labels.csv says, whatever meta.csv says of it.
const std::string& feature_value(const Study& study, const std::string& column) {
  return column == "view" ? study.view : study.meta_value(column);
}

}  // namespace

Pca fit_pca(const FeatureMatrix& rows, int components) {
  require(rows.rows() >= 2, "fit_pca", "rows", "at least 2", rows.rows());
  require_range(components, 1, std::min(rows.rows() - 1, rows.cols()), "fit_pca", "components");
  Pca pca;
  pca.mean = rows.colwise().mean();
  const FeatureMatrix centred = rows.rowwise() - pca.mean;
  const double scale = 1.0 / static_cast<double>(rows.rows() - 1);
  const bool wide = centred.cols() > centred.rows();
  Eigen::MatrixXd gram;
  if (wide)
    gram = scale * (centred * centred.transpose());
  else
    gram = scale * (centred.transpose() * centred);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);
  const Eigen::VectorXd& values = solver.eigenvalues();  // ascending
  const Eigen::Index last = values.size() - 1;
  const double floor = 1e-10 * std::max(values[last], 0.0);

  Eigen::Index kept = 0;
  while (kept < components && values[last - kept] > floor) ++kept;
  pca.directions.resize(centred.cols(), kept);
  for (Eigen::Index k = 0; k < kept; ++k) {
    Eigen::VectorXd direction = solver.eigenvectors().col(last - k);
    if (wide) direction = (centred.transpose() * direction).normalized().eval();
    Eigen::Index largest = 0;
    direction.cwiseAbs().maxCoeff(&largest);
    if (direction[largest] < 0) direction = -direction;
    pca.directions.col(k) = direction / std::sqrt(values[last - k]);
  }
  return pca;
}

FeatureMatrix LogisticModel::predict(const FeatureMatrix& rows) const {
  FeatureMatrix scores = (rows * weights).rowwise() + intercepts;
  return (1 / (1 + (-scores.array()).exp())).matrix();
}

LogisticModel fit_logistic(const FeatureMatrix& rows, const BaselineTargets& targets, double l2) {
  constexpr const char* kFunction = "fit_logistic";
  require(l2 > 0, kFunction, "l2", "a value > 0", l2);
  require(targets.target.rows() == rows.rows(), kFunction, "targets", detail::concat(rows.rows(), " rows"),
          targets.target.rows());
  require(targets.weight.rows() == targets.target.rows() && targets.weight.cols() == targets.target.cols(), kFunction,
          "weight", "the shape of target", detail::concat(targets.weight.rows(), " x ", targets.weight.cols()));
  LogisticModel model;
  model.weights.resize(rows.cols(), targets.target.cols());
  model.intercepts.resize(targets.target.cols());
  for (Eigen::Index f = 0; f < targets.target.cols(); ++f) {
    const Eigen::VectorXd fitted =
        newton_logistic(rows, targets.target.col(f).array(), targets.weight.col(f).array(), l2);
    model.weights.col(f) = fitted.head(rows.cols());
    model.intercepts[f] = fitted[rows.cols()];
  }
  return model;
}

void PcaLogisticOptions::validate() const {
  require(components >= 1, "PcaLogisticOptions", "components", "at least 1", components);
  require(l2 > 0, "PcaLogisticOptions", "l2", "a value > 0", l2);
}

FeatureMatrix pca_logistic(const FeatureMatrix& train, const BaselineTargets& targets, const FeatureMatrix& test,
                           const PcaLogisticOptions& options) {
  options.validate();
  require(test.cols() == train.cols(), "pca_logistic", "test", detail::concat(train.cols(), " columns"), test.cols());
  const auto limit = std::min(train.rows() - 1, train.cols());
  const Pca pca = fit_pca(train, static_cast<int>(std::min<Eigen::Index>(options.components, limit)));
  return fit_logistic(pca.project(train), targets, options.l2).predict(pca.project(test));
}

FeatureMatrix image_matrix(const ImageSet& images, const std::vector<std::size_t>& rows) {
  const auto width = static_cast<Eigen::Index>(images.pixels_per_image());
  FeatureMatrix matrix(static_cast<Eigen::Index>(rows.size()), width);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    require(rows[r] < images.count(), "image_matrix", "rows", "indices of the image set", rows[r]);
    matrix.row(static_cast<Eigen::Index>(r)) =
        Eigen::Map<const Eigen::RowVectorXf>(images.image(rows[r]), width).cast<double>();
  }
  return matrix;
}

std::vector<float> mean_mask(const Cohort& cohort, const ImageSet& images, const std::vector<std::size_t>& rows,
                             std::size_t finding, const PreprocessOptions& options) {
  constexpr const char* kFunction = "mean_mask";
  const std::string& name = detail::finding_at(cohort, finding, kFunction);
  require(images.original.size() == images.count(), kFunction, "images.original",
          detail::concat(images.count(), " sizes, one an image"), images.original.size());
  std::vector<double> sum(static_cast<std::size_t>(options.size) * static_cast<std::size_t>(options.size));
  std::size_t count = 0;
  for (std::size_t row : rows) {
    require(row < images.count(), kFunction, "rows", "indices of the image set", row);
    const auto region = finding_region(cohort, images.study[row], finding, images.original[row], options);
    if (!region) continue;
    ++count;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += (*region)[i];
  }
  if (count == 0) fail(ErrorCode::kNotFound, kFunction, name, "at least one image with a mask or box", "none");
  std::vector<float> mean(sum.size());
  std::transform(sum.begin(), sum.end(), mean.begin(),
                 [count](double value) { return static_cast<float>(value / static_cast<double>(count)); });
  return mean;
}

MetadataEncoder::MetadataEncoder(const Cohort& cohort, const std::vector<std::size_t>& train,
                                 std::vector<std::string> columns, std::size_t max_categories) {
  for (auto& name : columns) {
    Column column;
    column.name = std::move(name);
    std::set<std::string> values;
    std::vector<double> numbers;
    bool numeric = true;
    for (std::size_t study : train) {
      const std::string& value =
          feature_value(detail::study_at(cohort, study, "MetadataEncoder", "train"), column.name);
      if (value.empty()) continue;
      values.insert(value);
      const auto number = number_of(value);
      numeric = numeric && number;
      if (number) numbers.push_back(*number);
    }
    column.numeric = numeric && values.size() > max_categories;
    if (column.numeric) {
      const Eigen::Map<const Eigen::ArrayXd> data(numbers.data(), static_cast<Eigen::Index>(numbers.size()));
      column.mean = data.mean();
      column.deviation = std::max(std::sqrt((data - column.mean).square().mean()), 1e-12);
      names_.push_back(column.name);
    } else {
      column.values.assign(values.begin(), values.end());
      for (const auto& value : column.values) names_.push_back(column.name + "=" + value);
    }
    names_.push_back(column.name + " unknown");
    columns_.push_back(std::move(column));
  }
}

FeatureMatrix MetadataEncoder::encode(const Cohort& cohort, const std::vector<std::size_t>& studies) const {
  FeatureMatrix features =
      FeatureMatrix::Zero(static_cast<Eigen::Index>(studies.size()), static_cast<Eigen::Index>(names_.size()));
  for (std::size_t r = 0; r < studies.size(); ++r) {
    const Study& study = detail::study_at(cohort, studies[r], "MetadataEncoder::encode", "studies");
    Eigen::Index at = 0;
    for (const auto& column : columns_) {
      const std::string& value = feature_value(study, column.name);
      const Eigen::Index width = column.numeric ? 1 : static_cast<Eigen::Index>(column.values.size());
      const auto row = static_cast<Eigen::Index>(r);
      if (column.numeric) {
        const auto number = number_of(value);
        features(row, number ? at : at + 1) = number ? (*number - column.mean) / column.deviation : 1;
      } else {
        const auto found = std::find(column.values.begin(), column.values.end(), value);
        features(row, at + (found - column.values.begin())) = 1;  // one past the values: unknown
      }
      at += width + 1;
    }
  }
  return features;
}

BaselineTargets baseline_targets(const Cohort& cohort, const std::vector<std::size_t>& studies,
                                 const LabelPolicies& policies) {
  std::vector<std::vector<LabelState>> rows;
  for (std::size_t study : studies)
    rows.push_back(detail::study_at(cohort, study, "baseline_targets", "studies").labels);
  const LabelTargets targets = make_targets(rows, cohort.findings, policies);
  using FloatMap = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
  const auto n = static_cast<Eigen::Index>(rows.size()), f = static_cast<Eigen::Index>(cohort.findings.size());
  return {FloatMap(targets.target.data(), n, f).cast<double>(), FloatMap(targets.mask.data(), n, f).cast<double>()};
}

}  // namespace daug
