// What a run's index holds of an image, and what a query of the evaluation gets from it.

#include "pipeline/stages/index_stage.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"
#include "support/caught.h"

using namespace daug;

TEST_CASE("a query of the evaluation never gets its own patient's images, though they lie nearest", "[pipeline]") {
  constexpr std::int64_t kItems = 40, kQueries = 15, kSize = 4;
  RandomStream random(3, 0, "index stage test");
  at::Tensor items = at::empty({kItems, kSize}), queries = at::empty({kQueries, kSize});
  for (at::Tensor* tensor : {&items, &queries})
    std::generate_n(tensor->data_ptr<float>(), tensor->numel(), [&] { return static_cast<float>(random.normal()); });
  std::vector<std::string> patients;  // of the queries; each owns the items next to its query, some own none
  RetrievalIndex index(kSize, Metric::kCosine, "encoder a");
  std::vector<std::string> owner(kItems, "nobody's");
  for (std::int64_t q = 0; q < kQueries; ++q) {
    patients.push_back("p" + std::to_string(q));
    if (q % 3 == 0) continue;
    for (const std::int64_t item : {2 * q, 2 * q + 1}) {
      items[item].mul_(0.01).add_(queries[q], 2);
      owner[static_cast<std::size_t>(item)] = patients.back();
    }
  }
  for (std::int64_t i = 0; i < kItems; ++i) {
    RowMatrix row(1, kSize);
    for (std::int64_t d = 0; d < kSize; ++d) row(0, d) = items[i][d].item<float>();
    index.add({i}, row, {{{"patient", owner[static_cast<std::size_t>(i)]}}});
  }
  const auto other = test::caught([&] { search_positions(index, queries, patients, "encoder b", at::kCPU); });
  CHECK(other.code() == ErrorCode::kMismatch);
  const auto found = search_positions(index, queries, patients, "encoder a", at::kCPU);
  REQUIRE(found.size() == kQueries);
  const at::Tensor exact = items.to(at::kDouble), units = exact / exact.norm(2, 1, true);
  for (std::int64_t q = 0; q < kQueries; ++q) {
    // Brute force over everybody else's items.
    const at::Tensor scores = units.mv(queries[q].to(at::kDouble));
    std::vector<std::int64_t> others;
    for (std::int64_t i = 0; i < kItems; ++i)
      if (owner[static_cast<std::size_t>(i)] != patients[static_cast<std::size_t>(q)]) others.push_back(i);
    std::sort(others.begin(), others.end(),
              [&](std::int64_t a, std::int64_t b) { return scores[a].item<double>() > scores[b].item<double>(); });
    others.resize(10);
    CHECK(found[static_cast<std::size_t>(q)] == others);
  }
}

TEST_CASE("items of a run's index can be filtered by whatever the cohort says of them", "[pipeline]") {
  RunData data;
  data.cohort.findings = {"Edema", "Nodule", "Effusion"};
  Study study;
  study.id = "s1";
  study.patient_id = "p1";
  study.view = "PA";
  study.split = "val";
  study.source = "hospital A";
  study.labels = {LabelState::kPositive, LabelState::kUncertain, LabelState::kPositive};
  study.meta = {{"date", "2019-04-30"}, {"site", "2"}, {"patient", "a column of this name"}};
  data.cohort.studies = {Study(), study};
  data.images.study = {1};
  const Metadata item = item_metadata(data, 0);
  CHECK(item == Metadata{{"date", "2019-04-30"},
                         {"findings", "Edema|Effusion"},
                         {"patient", "p1"},
                         {"site", "2"},
                         {"source", "hospital A"},
                         {"split", "val"},
                         {"study", "s1"},
                         {"view", "PA"}});
  CHECK(Filter::dates("date", "2019-01-01", "2019-12-31").matches(0, item));
  CHECK_FALSE(Filter::equals("site", "1").matches(0, item));
}
