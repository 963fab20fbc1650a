// Arms compared on the same images: by hand, by brute force, and by DeLong's formulas written out.

#include "pipeline/evaluation/paired_tests.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/random.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"

using namespace daug;

namespace {

/// Images of one finding, `each` a patient.
Predictions images_of(const std::vector<std::uint8_t>& positive, std::int64_t each = 1) {
  Predictions images;
  images.findings = 1;
  images.names = {"Edema"};
  images.positive = positive;
  images.known.assign(positive.size(), 1);
  for (std::size_t i = 0; i < positive.size(); ++i) {
    images.rows.push_back(static_cast<std::int64_t>(i));
    images.patients.push_back(static_cast<std::int64_t>(i) / each);
  }
  return images;
}

double psi(double a, double b) { return a > b ? 1 : a == b ? 0.5 : 0; }

struct Comparison {
  double difference = 0, z = 0;
};

/// DeLong et al., equations for images of as many patients: placements, their covariances, the test.
Comparison delong_by_definition(const std::vector<double>& a, const std::vector<double>& b,
                                const std::vector<std::uint8_t>& labels) {
  std::vector<std::size_t> sick, well;
  for (std::size_t i = 0; i < labels.size(); ++i) (labels[i] ? sick : well).push_back(i);
  const double m = static_cast<double>(sick.size()), n = static_cast<double>(well.size());
  std::vector<double> of_sick, of_well;  // placements of the first scores less those of the second
  for (const std::size_t i : sick) {
    double sum = 0;
    for (const std::size_t j : well) sum += psi(a[i], a[j]) - psi(b[i], b[j]);
    of_sick.push_back(sum / n);
  }
  for (const std::size_t j : well) {
    double sum = 0;
    for (const std::size_t i : sick) sum += psi(a[i], a[j]) - psi(b[i], b[j]);
    of_well.push_back(sum / m);
  }
  const auto mean = [](const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum / static_cast<double>(values.size());
  };
  const auto variance = [&](const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += (value - mean(values)) * (value - mean(values));
    return sum / static_cast<double>(values.size() - 1);
  };
  Comparison result;
  result.difference = mean(of_sick);
  result.z = result.difference / std::sqrt(variance(of_sick) / m + variance(of_well) / n);
  return result;
}

}  // namespace

TEST_CASE("the swap test of a mean counts every exchange of patients", "[pipeline]") {
  // Precision of 10 images of 5 patients; the mean difference of the first to the second arm by brute force.
  const Predictions images = images_of(std::vector<std::uint8_t>(10, 1), 2);
  const std::vector<double> first = {1, 0.8, 0.6, 0.8, 0.4, 1, 0.2, 0.4, 1, 0.6};
  const std::vector<double> second = {0.8, 0.8, 0.2, 0.6, 0.6, 0.6, 0.2, 0.2, 0.8, 0.8};
  const auto test = paired_test(kTableFigures[1], images, {TablePair{&first, &second}}, 1000, 7);
  REQUIRE(test);
  double difference = 0;
  std::vector<double> of_patient(5, 0);
  for (std::size_t i = 0; i < 10; ++i) {
    difference += (first[i] - second[i]) / 10;
    of_patient[i / 2] += (first[i] - second[i]) / 10;
  }
  int as_large = 0;
  for (int pattern = 0; pattern < 32; ++pattern) {
    double sum = 0;
    for (int g = 0; g < 5; ++g) sum += ((pattern >> g) & 1 ? -1 : 1) * of_patient[static_cast<std::size_t>(g)];
    as_large += std::abs(sum) >= std::abs(difference) - 1e-9 ? 1 : 0;
  }
  CHECK(test->value == Approx(difference));
  REQUIRE(test->p);
  CHECK(*test->p == Approx(as_large / 32.0));
  // The interval is that of resampled patients: within their range, around the value.
  CHECK(test->low <= test->value);
  CHECK(test->high >= test->value);
  CHECK(test->low >= 5 * *std::min_element(of_patient.begin(), of_patient.end()) - 1e-9);
  CHECK(test->high <= 5 * *std::max_element(of_patient.begin(), of_patient.end()) + 1e-9);
  // Two seeds: the difference of the means over both.
  const auto both =
      paired_test(kTableFigures[1], images, {TablePair{&first, &second}, TablePair{&second, &second}}, 50, 7);
  REQUIRE(both);
  CHECK(both->value == Approx(difference / 2));
  // An arm against itself.
  const auto none = paired_test(kTableFigures[1], images, {TablePair{&first, &first}}, 50, 7);
  REQUIRE(none);
  CHECK(none->value == 0);
  CHECK(none->low == 0);
  CHECK(none->high == 0);
  CHECK(*none->p == 1);
  // Nothing is defined by one class alone.
  CHECK_FALSE(paired_test(kTableFigures[0], images, {TablePair{&first, &second}}, 50, 7));
}

TEST_CASE("the swap test of macro AUROCs counts every exchange of patients", "[pipeline]") {
  // Nine patients of two images, two findings of which some labels are unknown, scores with ties, two seeds.
  constexpr std::size_t kImages = 18, kFindings = 2;
  RandomStream random(3, 0, "swapped tables");
  Predictions images = images_of(std::vector<std::uint8_t>(kImages, 1), 2);
  images.findings = kFindings;
  images.names = {"Edema", "Nodule"};
  images.positive.clear();
  images.known.clear();
  std::vector<double> tables[4];
  for (std::size_t k = 0; k < kImages * kFindings; ++k) {
    images.positive.push_back(k % 3 == 0 || random.below(4) == 0 ? 1 : 0);
    images.known.push_back(k % 7 == 5 ? 0 : 1);
    for (std::size_t t = 0; t < 4; ++t)
      tables[t].push_back(std::round(5 * (random.uniform() + (t % 2 == 0 ? 0.5 : 0.1) * images.positive.back())) / 5);
  }
  const auto difference = [&](int pattern) {
    double sum = 0;
    for (std::size_t seed = 0; seed < 2; ++seed) {
      std::vector<double> first = tables[2 * seed], second = tables[2 * seed + 1];
      for (std::size_t k = 0; k < first.size(); ++k)
        if (pattern >> (k / kFindings / 2) & 1) std::swap(first[k], second[k]);
      double macro = 0;
      for (std::size_t f = 0; f < kFindings; ++f) {
        double won = 0, pairs = 0;
        for (std::size_t i = 0; i < kImages; ++i)
          for (std::size_t j = 0; j < kImages; ++j) {
            const std::size_t a = i * kFindings + f, b = j * kFindings + f;
            if (!images.known[a] || !images.known[b] || !images.positive[a] || images.positive[b]) continue;
            won += psi(first[a], first[b]) - psi(second[a], second[b]);
            ++pairs;
          }
        REQUIRE(pairs > 0);
        macro += won / pairs / kFindings;
      }
      sum += macro / 2;
    }
    return sum;
  };
  int as_large = 0;
  for (int pattern = 0; pattern < 512; ++pattern)
    as_large += std::abs(difference(pattern)) >= std::abs(difference(0)) - 1e-9 ? 1 : 0;
  const auto test = paired_test(kTableFigures[0], images,
                                {TablePair{&tables[0], &tables[1]}, TablePair{&tables[2], &tables[3]}}, 600, 7);
  REQUIRE(test);
  CHECK(test->value == Approx(difference(0)).margin(1e-12));
  REQUIRE(test->p);
  CHECK(*test->p == Approx(as_large / 512.0));
}

TEST_CASE("DeLong's test by finding leaves unknown labels out and follows the definition", "[pipeline]") {
  constexpr std::size_t kImages = 60, kFindings = 2;
  Predictions images;
  images.findings = kFindings;
  images.names = {"Edema", "Nodule"};
  std::vector<double> first, second;
  RandomStream random(2, 0, "paired tests");
  for (std::size_t i = 0; i < kImages; ++i) {
    images.rows.push_back(static_cast<std::int64_t>(i));
    images.patients.push_back(static_cast<std::int64_t>(i));
    for (std::size_t f = 0; f < kFindings; ++f) {
      const bool positive = random.below(3) == 0;
      images.positive.push_back(positive ? 1 : 0);
      images.known.push_back(random.below(5) == 0 ? 0 : 1);
      const double shared = random.normal();
      first.push_back(shared + (positive ? 1.2 : 0) + 0.5 * random.normal());
      second.push_back(std::round(2 * (shared + (positive ? 0.4 : 0))) / 2);  // with ties
    }
  }
  const auto tests = delong_tests(images, {&first, &second}, "a less b");
  REQUIRE(tests.size() == kFindings);
  for (std::size_t f = 0; f < kFindings; ++f) {
    std::vector<double> a, b;
    std::vector<std::uint8_t> labels;
    for (std::size_t i = 0; i < kImages; ++i) {
      const std::size_t k = i * kFindings + f;
      if (!images.known[k]) continue;
      a.push_back(first[k]);
      b.push_back(second[k]);
      labels.push_back(images.positive[k]);
    }
    const Comparison expected = delong_by_definition(a, b, labels);
    CHECK(tests[f].finding == images.names[f]);
    CHECK(tests[f].arms == "a less b");
    CHECK(tests[f].value == Approx(expected.difference));
    REQUIRE(tests[f].p);
    CHECK(*tests[f].p == Approx(std::erfc(std::abs(expected.z) / std::sqrt(2.0))).epsilon(1e-6));
    CHECK(*tests[f].p_holm >= *tests[f].p);
  }
  const double least = std::min(*tests[0].p, *tests[1].p);
  CHECK(std::min(*tests[0].p_holm, *tests[1].p_holm) == Approx(std::min(1.0, 2 * least)));
}

TEST_CASE("the p-value of a gap agrees with the gap's interval", "[pipeline]") {
  BootstrapOptions options;
  options.resamples = 400;
  int significant = 0;
  for (std::uint64_t item = 0; item < 40; ++item) {
    RandomStream random(4, item, "gaps");
    std::vector<std::int64_t> patients;
    std::vector<std::uint8_t> inside;
    std::vector<double> values;
    for (std::int64_t i = 0; i < 60; ++i) {
      patients.push_back(i / 2);
      inside.push_back(i / 2 % 3 == 0 ? 1 : 0);
      values.push_back(random.normal() + (inside.back() ? 0.04 * static_cast<double>(item) : 0));
    }
    const auto mean = [&](const std::vector<std::size_t>& rows) {
      double sum = 0;
      for (const std::size_t row : rows) sum += values[row];
      return std::optional<double>(sum / static_cast<double>(rows.size()));
    };
    const auto interval = bootstrap(
        patients,
        [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
          std::vector<std::size_t> in, out;
          for (const std::size_t row : rows) (inside[row] ? in : out).push_back(row);
          if (in.empty() || out.empty()) return std::nullopt;
          return *mean(in) - *mean(out);
        },
        options);
    REQUIRE(interval);
    const auto p = gap_p(patients, inside, mean, options);
    REQUIRE(p);
    INFO(item << ": " << interval->low << " to " << interval->high << ", p " << *p);
    // Percentiles interpolate and p counts the data once: apart from p so near 0.05 the two agree.
    if (*p < 0.04 || *p > 0.06) CHECK((*p < 0.05) == (interval->low > 0 || interval->high < 0));
    significant += *p < 0.04 ? 1 : 0;
  }
  CHECK(significant > 5);
  CHECK(significant < 35);
  // As far apart as can be: every resample lies on one side.
  const std::vector<std::int64_t> patients = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<std::uint8_t> inside = {1, 1, 1, 1, 0, 0, 0, 0};
  const auto size = [](const std::vector<std::size_t>& rows) { return std::optional<double>(rows[0] < 4 ? 1 : 0); };
  std::size_t defined = 0;
  bootstrap(
      patients,
      [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
        const auto in = std::count_if(rows.begin(), rows.end(), [](std::size_t row) { return row < 4; });
        defined += in > 0 && in < 8 ? 1 : 0;
        return 0.0;
      },
      options);
  CHECK(*gap_p(patients, inside, size, options) == Approx(2.0 / static_cast<double>(defined)));
  // A group that is everybody has no gap.
  CHECK_FALSE(gap_p(patients, std::vector<std::uint8_t>(8, 1), size, options));
}

TEST_CASE("Holm's correction is over the tests that have a p-value", "[pipeline]") {
  std::vector<PairedTest> tests(4);
  tests[0].p = 0.01;
  tests[1].p = 0.04;
  tests[3].p = 0.03;
  correct_by_holm(tests.begin(), tests.end());
  CHECK(*tests[0].p_holm == Approx(0.03));
  CHECK(*tests[1].p_holm == Approx(0.06));
  CHECK_FALSE(tests[2].p_holm);
  CHECK(*tests[3].p_holm == Approx(0.06));
}

TEST_CASE("tests are figures, and figures a table", "[pipeline]") {
  PairedTest of_all, of_finding;
  of_all.figure = "classification.auroc_macro";
  of_all.arms = "image+evidence less image";
  of_all.value = 0.125;
  of_all.low = 0.1;
  of_all.high = 0.2;
  of_all.p = 0.00001;
  of_all.p_holm = 0.002;
  of_finding.figure = "classification.auroc";
  of_finding.finding = "Edema";
  of_finding.arms = "a less b";
  of_finding.value = -0.5;
  of_finding.low = -0.75;
  of_finding.high = 0.25;
  std::vector<Figure> figures = {{"classification.auroc_macro", "image", "test", 0.5, {}, {}, 9, "AUROC"}};
  for (const PairedTest& test : {of_all, of_finding})
    for (const Figure& figure : test_figures(test, 9)) {
      CHECK_FALSE(figure.definition.empty());
      CHECK(figure.n == 9);
      figures.push_back(figure);
    }
  REQUIRE(figures.size() == 1 + 3 + 1);
  CHECK(find_figure(figures, "classification.auroc_macro_difference_p_holm", of_all.arms)->value == 0.002);
  CHECK(find_figure(figures, "classification.auroc_difference[Edema]", "a less b")->value == -0.5);
  using Rows = std::vector<std::vector<std::string>>;
  CHECK(tests_table("c", figures, false).rows ==
        Rows{{"classification.auroc_macro", of_all.arms, "0.125 (0.100 to 0.200)", "<0.001", "0.002"}});
  CHECK(tests_table("c", figures, true).rows ==
        Rows{{"classification.auroc[Edema]", "a less b", "-0.500 (-0.750 to 0.250)", "-", "-"}});
}

TEST_CASE("predictions come back from their file, and others' images are told apart", "[pipeline]") {
  const test::Scratch scratch;
  Predictions written = images_of({1, 0, 1, 0});
  written.studies = "ids";
  written.fingerprint = "made by";
  written.add("image", kProbabilities, {0.25, 0.5, 0.75, 1});
  written.add("image", kPrecisionAt5, {0.2, std::nan(""), 0.4, std::nan("")});
  written.add("image+noise", kProbabilities, {1, 1, 1, 1});
  write_predictions(scratch.path("p.safetensors"), written);
  const Predictions read = read_predictions(scratch.path("p.safetensors"));
  CHECK(read.same_images(written));
  CHECK(read.fingerprint == "made by");
  CHECK(read.finding_name(0) == "Edema");
  CHECK(read.table("image", kProbabilities) == written.table("image", kProbabilities));
  CHECK(read.arms(kProbabilities) == std::vector<std::string>{"image", "image+noise"});
  CHECK(read.arms(kPrecisionAt5) == std::vector<std::string>{"image"});
  CHECK_FALSE(read.has("image+noise", kPrecisionAt5));
  Predictions other = read;
  other.studies = "other ids";
  CHECK_FALSE(other.same_images(read));
  other.studies.clear();  // a file of an earlier version does not know
  CHECK(other.same_images(read));
  other.positive[0] = 0;
  CHECK_FALSE(other.same_images(read));
}
