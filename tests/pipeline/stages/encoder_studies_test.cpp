// Images of one study in the training of a run's encoders.

#include <ATen/ATen.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "pipeline/stages/encoder_data.h"
#include "support/catch.h"

using namespace daug;
using namespace daug::test;

namespace {

RunData patients_with_studies() {
  RunData data;
  struct Row {
    const char *patient, *study;
  };
  // Study names are a patient's own, so both have an "a".
  for (const auto& [patient, study] :
       std::vector<Row>{{"p", "a"}, {"p", "b"}, {"q", "a"}, {"p", "a"}, {"q", ""}, {"q", ""}, {"q", "a"}}) {
    Study one;
    one.patient_id = patient;
    if (*study) one.meta["study_id"] = study;
    one.meta["age"] = "50";
    data.cohort.studies.push_back(one);
    data.images.study.push_back(data.images.study.size());
  }
  return data;
}

/// Which places of a list hold the same number.
std::vector<std::vector<std::int64_t>> places(const at::Tensor& numbers) {
  REQUIRE(numbers.scalar_type() == at::kLong);
  std::map<std::int64_t, std::vector<std::int64_t>> by_number;
  for (std::int64_t i = 0; i < numbers.size(0); ++i) by_number[numbers[i].item<std::int64_t>()].push_back(i);
  std::set<std::vector<std::int64_t>> sorted;
  for (const auto& entry : by_number) sorted.insert(entry.second);
  return {sorted.begin(), sorted.end()};
}

}  // namespace

TEST_CASE("studies are a patient's images with the same text in a column", "[pipeline]") {
  const RunData data = patients_with_studies();
  using Places = std::vector<std::vector<std::int64_t>>;
  const std::vector<std::size_t> all = {0, 1, 2, 3, 4, 5, 6};
  CHECK_FALSE(study_numbers(data, all, "").defined());
  CHECK(places(study_numbers(data, all, "study_id")) == Places{{0, 3}, {1}, {2, 6}, {4}, {5}});
  CHECK(places(study_numbers(data, all, "patient_id")) == Places{{0, 1, 3}, {2, 4, 5, 6}});
  CHECK(places(study_numbers(data, {6, 1, 2}, "study_id")) == Places{{0, 2}, {1}});
  try {
    study_numbers(data, all, "study");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kNotFound);
    for (const char* part : {"encoder.study", "age, patient_id, study_id", "got study"})
      CHECK_THAT(std::string(error.what()), contains_text(part));
  }
}

TEST_CASE("a run's studies reach the image-text term of its encoders", "[pipeline]") {
  const auto folder = std::filesystem::temp_directory_path() / ("daug_encoder_studies_" + std::to_string(::getpid()));
  std::filesystem::remove_all(folder);
  RunConfig config = smallest((folder / "run").string());
  config.maps.train_images = 0;  // all of them: one patient in five has several
  config.encoder.batch = config.phantom.train;
  config.encoder.epochs = 1;  // one step over all images
  config.encoder.study = "no_such_column";
  try {
    Run(config, {}).execute(Stage::kTranslator);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kNotFound);
  }
  CHECK(std::filesystem::is_empty(config.out + "/stages"));

  const auto first_losses = [&](const std::string& study) {
    config.encoder.study = study;
    Run run(config, {});
    for (Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps, Stage::kEncoders}) run.execute(stage);
    return read_safetensors(config.out + "/encoders/image.safetensors.history").at("loss").to_double();
  };
  const std::vector<double> published = first_losses(""), grouped = first_losses("patient_id");
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  std::set<std::string> patients;
  for (const std::size_t row : cohort.split_indices("train")) patients.insert(cohort.studies[row].patient_id);
  REQUIRE(patients.size() < cohort.split_indices("train").size());
  REQUIRE(published.size() == 1);
  REQUIRE(grouped.size() == 1);
  CHECK(std::abs(grouped[0] - published[0]) > 1e-4);
  std::filesystem::remove_all(folder);
}
