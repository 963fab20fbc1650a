// The stage that makes the galleries searchable.

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>

#include "encoder_stages.h"
#include "evaluation.h"
#include "run_impl.h"

namespace daug {

namespace {

RowMatrixRef as_matrix(const at::Tensor& embeddings) {
  return Eigen::Map<const RowMatrix>(embeddings.data_ptr<float>(), embeddings.size(0), embeddings.size(1));
}

}  // namespace

std::vector<std::size_t> gallery_rows(const RunData& data) {
  std::vector<std::size_t> rows = data.encoder_train;
  rows.insert(rows.end(), data.val.begin(), data.val.end());
  return rows;
}

std::string index_file(const Arm& arm) {
  return "index/" + std::filesystem::path(arm.file()).stem().string() + ".daugindex";
}

void Run::Impl::build_indexes() {
  const std::string made_by = fingerprint(Stage::kIndex);
  const RunData& d = data();
  std::filesystem::create_directories(path("index"));
  const auto rows = gallery_rows(d);
  std::vector<std::int64_t> ids;
  std::vector<Metadata> metadata;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Study& study = d.study(rows[i]);
    std::string findings;
    for (std::size_t f = 0; f < d.findings(); ++f)
      if (study.labels[f] == LabelState::kPositive) findings += (findings.empty() ? "" : "|") + d.cohort.findings[f];
    ids.push_back(static_cast<std::int64_t>(i));
    metadata.push_back({{"study", study.id},
                        {"patient", study.patient_id},
                        {"view", study.view},
                        {"split", study.split},
                        {"findings", findings}});
  }
  const auto list = arms();
  maps();  // read once, before the threads share it
  for_each_parallel(list.size(), config.threads, [&](std::size_t i) {
    control.stop.throw_if_stopped("index");
    const at::Tensor embeddings = embed_rows(*this, list[i], load_encoders(*this, list[i]), rows).contiguous();
    RetrievalIndex index(embeddings.size(1), Metric::kCosine, made_by + " " + list[i].name);
    index.add(ids, as_matrix(embeddings), metadata);
    index.save(path(index_file(list[i])));
  });
}

RetrievalIndex load_index(Run::Impl& run, const Arm& arm) {
  RetrievalIndex index = RetrievalIndex::load(run.path(index_file(arm)));
  index.require_fingerprint(run.fingerprint(Stage::kIndex) + " " + arm.name);
  return index;
}

std::vector<std::vector<std::int64_t>> search_positions(const RetrievalIndex& index, const at::Tensor& queries) {
  constexpr std::int64_t kDeepest = 10;
  const at::Tensor flat = queries.contiguous();
  std::vector<std::vector<std::int64_t>> rankings;
  for (const Hits& hits : index.search(as_matrix(flat), std::min(kDeepest, index.size()))) {
    rankings.emplace_back();
    for (const Hit& hit : hits) rankings.back().push_back(hit.id);
  }
  return rankings;
}

}  // namespace daug
