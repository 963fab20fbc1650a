#include "daug/data/baselines.h"

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <vector>

#include "daug/core/random.h"
#include "daug/data/phantom.h"
#include "daug/metrics/classification.h"
#include "daug/metrics/localization.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden.h"
#include "support/scratch.h"

using namespace daug;
using test::Scratch;

namespace {

FeatureMatrix random_matrix(int rows, int columns, std::uint64_t item) {
  RandomStream random(11, item, "baseline test");
  FeatureMatrix matrix(rows, columns);
  for (Eigen::Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = random.normal();
  return matrix;
}

/// Singular values, descending: rows or columns, whichever are fewer, are rotated in pairs until they are orthogonal
/// (one-sided Jacobi); their lengths are left. Eigen's decompositions take ten seconds to compile.
std::vector<double> singular_values(const FeatureMatrix& matrix) {
  const bool wide = matrix.cols() > matrix.rows();
  const Eigen::Index count = std::min(matrix.rows(), matrix.cols()), length = std::max(matrix.rows(), matrix.cols());
  std::vector<std::vector<double>> vectors(static_cast<std::size_t>(count));
  for (Eigen::Index v = 0; v < count; ++v)
    for (Eigen::Index i = 0; i < length; ++i)
      vectors[static_cast<std::size_t>(v)].push_back(wide ? matrix(v, i) : matrix(i, v));
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  for (int sweep = 0; sweep < 30; ++sweep)
    for (std::size_t p = 0; p < vectors.size(); ++p)
      for (std::size_t q = p + 1; q < vectors.size(); ++q) {
        const double pp = dot(vectors[p], vectors[p]), qq = dot(vectors[q], vectors[q]),
                     pq = dot(vectors[p], vectors[q]);
        if (std::abs(pq) <= 1e-15 * std::sqrt(pp * qq)) continue;
        const double slope = (qq - pp) / (2 * pq);
        const double tangent = std::copysign(1 / (std::abs(slope) + std::sqrt(1 + slope * slope)), slope);
        const double cosine = 1 / std::sqrt(1 + tangent * tangent), sine = cosine * tangent;
        for (std::size_t i = 0; i < vectors[p].size(); ++i) {
          const double a = vectors[p][i], b = vectors[q][i];
          vectors[p][i] = cosine * a - sine * b;
          vectors[q][i] = sine * a + cosine * b;
        }
      }
  std::vector<double> lengths;
  for (const auto& vector : vectors) lengths.push_back(std::sqrt(dot(vector, vector)));
  std::sort(lengths.rbegin(), lengths.rend());
  return lengths;
}

/// Figures of the trivial baselines on a cohort's test split, at 32 pixels.
struct Triviality {
  double mean_pixel = 0, pca_logistic = 0;             // macro AUROC
  double pixel_auroc = 0, pixel_ap = 0, pointing = 0;  // mean training mask, mean over findings
};

double macro_auroc(const FeatureMatrix& scores, const BaselineTargets& truth) {
  const std::vector<std::uint8_t> labels(truth.target.data(), truth.target.data() + truth.target.size());
  const auto rows = static_cast<std::size_t>(scores.rows()), findings = static_cast<std::size_t>(scores.cols());
  MultiLabelData data;
  data.scores = {{scores.data(), rows * findings}, rows, findings};
  data.labels = {labels, rows, findings};
  return auroc_by_finding(data).macro.value();
}

Triviality measure(const std::string& folder) {
  const Cohort cohort = read_cohort(folder);
  LoadOptions options;
  options.preprocess.size = 32;
  const ImageSet images = load_images(cohort, options).images;  // row i is study i: nothing is skipped
  const auto train = cohort.split_indices("train"), test = cohort.split_indices("test");
  const FeatureMatrix x = image_matrix(images, train), z = image_matrix(images, test);
  const BaselineTargets targets = baseline_targets(cohort, train), truth = baseline_targets(cohort, test);

  Triviality figures;
  figures.mean_pixel = macro_auroc(fit_logistic(x.rowwise().mean(), targets).predict(z.rowwise().mean()), truth);
  figures.pca_logistic = macro_auroc(pca_logistic(x, targets, z), truth);
  const auto findings = static_cast<double>(cohort.findings.size());
  for (std::size_t f = 0; f < cohort.findings.size(); ++f) {
    const auto map = mean_mask(cohort, images, train, f, options.preprocess);
    std::array<double, 3> sums{};
    double count = 0;
    for (std::size_t row : test) {
      const auto mask = finding_region(cohort, row, f, images.original[row], options.preprocess);
      if (!mask) continue;
      ++count;
      sums[0] += pixel_auroc(map, *mask).value();
      sums[1] += pixel_average_precision(map, *mask).value();
      sums[2] += pointing_game(map, *mask).value();
    }
    figures.pixel_auroc += sums[0] / count / findings;
    figures.pixel_ap += sums[1] / count / findings;
    figures.pointing += sums[2] / count / findings;
  }
  std::cout << "baselines of " << std::filesystem::path(folder).filename().string() << ": mean pixel "
            << figures.mean_pixel << ", PCA-logistic " << figures.pca_logistic << ", mean mask: pixel AUROC "
            << figures.pixel_auroc << ", AP " << figures.pixel_ap << ", pointing " << figures.pointing << "\n";
  return figures;
}

}  // namespace

TEST_CASE("principal components are orthogonal, ordered and white", "[data]") {
  for (const auto& [rows, columns] : {std::pair{60, 9}, std::pair{12, 40}}) {
    FeatureMatrix data = random_matrix(rows, columns, 1);
    for (int c = 0; c < columns; ++c) data.col(c) *= 1 + c % 5;
    const Pca pca = fit_pca(data, 6);
    const FeatureMatrix scores = pca.project(data);
    REQUIRE(scores.cols() == 6);
    const Eigen::MatrixXd covariance = scores.transpose() * scores / (rows - 1);
    CHECK((covariance - Eigen::MatrixXd::Identity(6, 6)).norm() < 1e-9);
    // Column lengths are 1 / standard deviation, so the first is the shortest; against an SVD of the centred data.
    const std::vector<double> singular = singular_values(data.rowwise() - data.colwise().mean());
    for (int k = 0; k < 6; ++k)
      CHECK(pca.directions.col(k).norm() ==
            Approx(std::sqrt(rows - 1.0) / singular[static_cast<std::size_t>(k)]).epsilon(1e-9));
  }
}

TEST_CASE("directions without variance are left out", "[data]") {
  FeatureMatrix data = random_matrix(20, 2, 2) * random_matrix(2, 7, 3);
  CHECK(fit_pca(data, 5).directions.cols() == 2);
  CHECK_THROWS_AS(fit_pca(data, 8), Error);
  CHECK_THROWS_AS(fit_pca(data.topRows(1), 1), Error);
}

TEST_CASE("logistic regression against a closed form", "[data]") {
  // One binary feature and next to no penalty: the fitted probabilities are the group frequencies 1/4 and 2/3.
  FeatureMatrix x(7, 1);
  x << 0, 0, 0, 0, 1, 1, 1;
  BaselineTargets targets{FeatureMatrix(7, 1), FeatureMatrix::Ones(7, 1)};
  targets.target << 1, 0, 0, 0, 1, 1, 0;
  const LogisticModel model = fit_logistic(x, targets, 1e-9);
  const FeatureMatrix p = model.predict(x);
  CHECK(p(0, 0) == Approx(0.25).epsilon(1e-6));
  CHECK(p(6, 0) == Approx(2.0 / 3).epsilon(1e-6));

  // A weight of zero is the same as leaving the row out.
  FeatureMatrix longer(8, 1);
  longer << x, 5;
  BaselineTargets masked{FeatureMatrix(8, 1), FeatureMatrix::Ones(8, 1)};
  masked.target << targets.target, 1;
  masked.weight(7, 0) = 0;
  CHECK(fit_logistic(longer, masked, 0.5).weights.isApprox(fit_logistic(x, targets, 0.5).weights, 1e-9));
}

TEST_CASE("the fit is stationary, also for separable classes", "[data]") {
  const FeatureMatrix x = random_matrix(80, 5, 4);
  BaselineTargets targets{FeatureMatrix(80, 3), FeatureMatrix::Ones(80, 3)};
  RandomStream random(12, 0, "labels");
  for (int i = 0; i < 80; ++i) {
    targets.target(i, 0) = x(i, 0) - x(i, 2) + random.normal() > 0;
    targets.target(i, 1) = x(i, 1) > 0;  // separable
    targets.target(i, 2) = 0;            // one class only
  }
  const double l2 = 0.3;
  const LogisticModel model = fit_logistic(x, targets, l2);
  const FeatureMatrix residual = model.predict(x) - targets.target;
  for (int f = 0; f < 2; ++f) {
    const Eigen::VectorXd gradient = x.transpose() * residual.col(f) + l2 * model.weights.col(f);
    CHECK(gradient.cwiseAbs().maxCoeff() < 1e-6);
    CHECK(std::abs(residual.col(f).sum()) < 1e-6);
  }
  CHECK(model.weights.col(2).norm() == 0);
  CHECK(model.predict(x)(0, 2) < 0.05);
  CHECK_THROWS_AS(fit_logistic(x, targets, 0), Error);
  CHECK_THROWS_AS(fit_logistic(x.topRows(10), targets, 1), Error);
}

TEST_CASE("the PCA-logistic baseline finds a linear signal", "[data]") {
  const FeatureMatrix x = random_matrix(400, 30, 5);
  BaselineTargets targets{FeatureMatrix(400, 1), FeatureMatrix::Ones(400, 1)};
  for (int i = 0; i < 400; ++i) targets.target(i, 0) = x.row(i).head(3).sum() > 0;
  BaselineTargets train{targets.target.topRows(300), targets.weight.topRows(300)};
  PcaLogisticOptions options;
  options.components = 200;  // more than there are features
  const FeatureMatrix scores = pca_logistic(x.topRows(300), train, x.bottomRows(100), options);
  int right = 0;
  for (int i = 0; i < 100; ++i) right += (scores(i, 0) > 0.5) == (targets.target(300 + i, 0) > 0.5);
  CHECK(right > 85);
  CHECK(pca_logistic(x.topRows(300), train, x.bottomRows(100), options) == scores);
  options.components = 0;
  CHECK_THROWS_AS(pca_logistic(x, targets, x, options), Error);
}

TEST_CASE("metadata become features", "[data]") {
  Cohort cohort;
  cohort.findings = {"A"};
  const auto add = [&](const char* view, std::map<std::string, std::string> meta) {
    Study study;
    study.view = view, study.meta = std::move(meta), study.labels = {LabelState::kUncertain};
    cohort.studies.push_back(study);
  };
  add("PA", {{"age", "10"}, {"sex", "F"}});
  add("AP", {{"age", "30"}});
  add("PA", {{"age", "20"}, {"sex", "M"}});
  add("LL", {{"sex", "F"}});
  const MetadataEncoder encoder(cohort, {0, 1, 2}, {"view", "age", "sex"}, 2);
  CHECK(encoder.feature_names() == std::vector<std::string>{"view=AP", "view=PA", "view unknown", "age", "age unknown",
                                                            "sex=F", "sex=M", "sex unknown"});
  const FeatureMatrix features = encoder.encode(cohort, {0, 3, 1});
  FeatureMatrix expected(3, 8);
  const double unit = 10 / std::sqrt(200.0 / 3);
  expected << 0, 1, 0, -unit, 0, 1, 0, 0,  //
      0, 0, 1, 0, 1, 1, 0, 0,              //
      1, 0, 0, unit, 0, 0, 0, 1;
  CHECK(features.isApprox(expected, 1e-12));

  LabelPolicies policies;
  policies.common.uncertain = StatePolicy::kIgnore;
  const BaselineTargets targets = baseline_targets(cohort, {0, 1}, policies);
  CHECK(targets.weight.sum() == 0);
  CHECK(baseline_targets(cohort, {0, 1}).weight.sum() == 2);

  const auto refused = [](const char* argument, const auto& call) {
    CHECK(test::mentions(test::error_text(ErrorCode::kInvalidArgument, call), argument, "4 studies", "got 4"));
  };
  refused("MetadataEncoder: train", [&] { MetadataEncoder(cohort, {0, 4}, {"age"}); });
  refused("MetadataEncoder::encode: studies", [&] { encoder.encode(cohort, {4}); });
  refused("baseline_targets: studies", [&] { baseline_targets(cohort, {4}); });
}

TEST_CASE("the mean mask averages the regions there are", "[data]") {
  Cohort cohort;
  cohort.findings = {"A", "B"};
  ImageSet images;
  images.size = 2;
  for (int n = 0; n < 3; ++n) {
    cohort.studies.emplace_back();
    images.study.push_back(static_cast<std::size_t>(n));
    images.original.push_back({2, 2});
    images.pixels.insert(images.pixels.end(), 4, static_cast<float>(n));
  }
  cohort.studies[0].boxes = {{"A", {0, 0, 1, 1}, ""}};
  cohort.studies[2].boxes = {{"A", {0, 0, 2, 1}, ""}};
  PreprocessOptions options;
  options.size = 2;
  CHECK(mean_mask(cohort, images, {0, 1, 2}, 0, options) == std::vector<float>{1, 0.5, 0, 0});
  CHECK(mean_mask(cohort, images, {0, 1}, 0, options) == std::vector<float>{1, 0, 0, 0});
  const auto refused = [&](ErrorCode code, const char* part, const std::vector<std::size_t>& rows,
                           std::size_t finding) {
    CHECK(test::mentions(test::error_text(code, [&] { mean_mask(cohort, images, rows, finding, options); }), part));
  };
  refused(ErrorCode::kNotFound, "mean_mask: B", {0, 1, 2}, 1);
  refused(ErrorCode::kInvalidArgument, "mean_mask: rows", {0, 3}, 0);
  refused(ErrorCode::kInvalidArgument, "mean_mask: finding", {0}, 2);
  refused(ErrorCode::kInvalidArgument, "mean_mask: finding", {}, 2);
  images.study[1] = 3;  // of another cohort
  refused(ErrorCode::kInvalidArgument, "finding_region: study", {0, 1}, 0);
  images.study[1] = 1;
  images.original.pop_back();
  refused(ErrorCode::kInvalidArgument, "images.original", {0, 1}, 0);

  const FeatureMatrix rows = image_matrix(images, {2, 0});
  CHECK(rows(0, 3) == 2);
  CHECK(rows(1, 0) == 0);
  CHECK_THROWS_AS(image_matrix(images, {3}), Error);
}

// The figures of docs/phantom.md for seed 0 and the reference.
TEST_CASE("phantoms are no easier than the reference phantoms", "[data][golden][statistics]") {
  const auto shared = test::shared_data();
  const std::string folder = shared.value_or("") + "/data/phantom-ref";
  if (!shared || !std::filesystem::exists(folder + "/labels.csv")) {
    std::cout << "golden phantom baselines: skipped (" << test::absent_data(shared, "phantom-ref") << ")\n";
    return;
  }
  const Triviality reference = measure(folder);
  Scratch own;
  write_phantom_cohort(own.path("phantoms"), {});
  const Triviality ours = measure(own.path("phantoms"));
  CHECK(ours.pca_logistic <= reference.pca_logistic);
  CHECK(ours.pixel_auroc <= reference.pixel_auroc);
  CHECK(ours.pixel_ap <= reference.pixel_ap);
  CHECK(ours.pointing <= reference.pointing);
  CHECK(ours.mean_pixel < 0.6);
  CHECK(ours.pca_logistic > 0.6);  // hard, but not hopeless
  std::cout << "golden phantom baselines: ok\n";
}
