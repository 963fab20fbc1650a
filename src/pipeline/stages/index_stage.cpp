// The stage that makes the galleries searchable, and searches of what it made.

#include "index_stage.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>

#include "backend/device_kernels.h"
#include "daug/index/device_search.h"
#include "pipeline/run_impl.h"
#include "pipeline/settings/stage_options.h"
#include "trained_encoders.h"

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

Metadata item_metadata(const RunData& data, std::size_t row) {
  const Study& study = data.study(row);
  Metadata item = study.meta;
  if (!study.source.empty()) item["source"] = study.source;
  item["study"] = study.id;
  item["patient"] = study.patient_id;
  item["view"] = study.view;
  item["split"] = study.split;
  std::string& findings = item["findings"] = "";
  for (std::size_t f = 0; f < data.findings(); ++f)
    if (study.labels[f] == LabelState::kPositive) findings += (findings.empty() ? "" : "|") + data.cohort.findings[f];
  return item;
}

std::string index_file(const Arm& arm) {
  return "index/" + std::filesystem::path(arm.file()).stem().string() + ".daugindex";
}

void Run::Impl::build_indexes() {
  const RunData& d = data();
  std::filesystem::create_directories(path("index"));
  const auto rows = gallery_rows(d);
  std::vector<std::int64_t> ids;
  std::vector<Metadata> metadata;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ids.push_back(static_cast<std::int64_t>(i));
    metadata.push_back(item_metadata(d, rows[i]));
  }
  const auto list = arms();
  maps();  // read once, before the threads share it
  for_each_parallel(list.size(), network_threads(config), [&](std::size_t i) {
    control.stop.throw_if_stopped("index");
    const at::Tensor embeddings = embed_rows(*this, list[i], load_encoders(*this, list[i]), rows).contiguous();
    RetrievalIndex index(embeddings.size(1), Metric::kCosine, index_fingerprint(*this, list[i]));
    index.add(ids, as_matrix(embeddings), metadata);
    index.save(path(index_file(list[i])));
  });
}

std::string index_fingerprint(Run::Impl& run, const Arm& arm) {
  return run.fingerprint(Stage::kIndex) + " " + arm.name;
}

RetrievalIndex load_index(Run::Impl& run, const Arm& arm) {
  RetrievalIndex index = RetrievalIndex::load(run.path(index_file(arm)));
  index.require_fingerprint(index_fingerprint(run, arm));
  return index;
}

at::Tensor stored_embeddings(const RetrievalIndex& index, std::size_t begin, std::size_t end) {
  const std::int64_t width = index.dimension();
  const at::Tensor rows = at::empty({static_cast<std::int64_t>(end - begin), width});
  float* row = rows.data_ptr<float>();
  for (std::size_t i = begin; i < end; ++i, row += width) {
    const Eigen::RowVectorXf vector = index.vector(static_cast<std::int64_t>(i));
    std::copy_n(vector.data(), width, row);
  }
  return rows;
}

std::vector<std::vector<std::int64_t>> search_positions(const RetrievalIndex& index, const at::Tensor& queries,
                                                        const std::vector<std::string>& patients,
                                                        const std::string& made_by, const c10::Device& device) {
  constexpr std::int64_t kDeepest = 10;
  const at::Tensor flat = queries.contiguous();
  std::vector<Filter> others;
  for (const auto& patient : patients) others.push_back(Filter::exclude_patient(patient));
  SearchOptions options;
  options.fingerprint = made_by;
  const std::int64_t k = std::min(kDeepest, index.size());
  const bool there = device.is_cuda() && backend::ran_on_a_device("search_select");
  std::vector<std::vector<std::int64_t>> rankings;
  for (const Hits& hits : there ? DeviceSearch(index, device).search(as_matrix(flat), k, others, options)
                                : index.search(as_matrix(flat), k, others, options)) {
    rankings.emplace_back();
    for (const Hit& hit : hits) rankings.back().push_back(hit.id);
  }
  return rankings;
}

}  // namespace daug
