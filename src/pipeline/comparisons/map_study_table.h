#pragma once
// What each of several ways of making maps costs and finds, on the same test images.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/evaluation/localisation.h"
#include "pipeline/evaluation/measurements.h"

namespace daug {

/// What a way of making maps makes of some images.
struct MadeMaps {
  at::Tensor maps;      ///< [B, maps, S, S]
  at::Tensor images;    ///< [B, maps, S, S], the translated images; undefined where there are none
  at::Tensor residual;  ///< [B], of the round trip; undefined where that was not made
  /// Makes the images [B, 1, S, S] of the round trip without a target, which no map needs; empty where there is none.
  std::function<at::Tensor()> round_trip = {};
};

/// A row a way, and what is told beside them: in JSON and Markdown.
class MapStudyTable {
 public:
  /// For study.images of the run's test images. Throws kInvalidArgument where none of them has a mask or a box.
  explicit MapStudyTable(Run::Impl& run);

  /// The images and their patients.
  const std::vector<std::size_t>& rows() const { return rows_; }
  const std::vector<std::int64_t>& patients() const { return patients_; }
  const MapTruth& truth() const { return truth_; }
  /// image_only_classifier; empty where the run has no encoders.
  const std::function<at::Tensor(const at::Tensor&)>& judge() const { return judge_; }

  /// Adds the row of a way that makes `made` of the images, with its network calls and seconds an image; `further`
  /// denoiser calls beside those on average over the images, `of_boxes` as in localise.
  void add(const std::string& name, const NetworkCalls& calls, double seconds, const MadeMaps& made,
           const std::vector<at::Tensor>& of_boxes = {}, double further = 0);
  /// Adds the share of some images that the student's gate admits.
  void add_gate(const std::string& images, double admitted);
  /// Adds how much of maps is chance: mean deviation over mean size, over all draws, seeds, levels and scales.
  void add_spread(const std::string& maps, double all, double seeds, double levels, double scales);

  nlohmann::ordered_json result() const;
  std::string markdown() const;

 private:
  /// What the study is made from: the maps' stage for maps.*, the encoders where they judge.
  std::vector<Stage> stages() const;
  /// Adds a row's figures against one kind of regions, on all images and on every slice with some.
  void add_regions(nlohmann::ordered_json& row, const std::string& of, const LocalisationTables& tables);
  /// Value, low and high of the macro mean over maps, by patient bootstrap; null when undefined.
  nlohmann::json interval(const RetrievalValues& table, const Slice& slice) const;

  Run::Impl& run_;
  const RunData& data_;
  std::vector<std::size_t> rows_;
  std::vector<std::int64_t> patients_;
  std::vector<Slice> slices_;
  MapTruth truth_;
  std::function<at::Tensor(const at::Tensor&)> judge_;
  at::Tensor judged_;  ///< [images, findings], what the judge says of the images
  nlohmann::ordered_json rows_json_ = nlohmann::ordered_json::array(), gate_, spread_;
  std::string table_;  ///< rows
  std::string region_table_ =
      "| method | regions | split | images | pixel AUROC | pixel AP | pointing | IoU of the upper half |\n"
      "|---|---|---|---|---|---|---|---|\n";
  std::string gate_table_ = "| images | share that the student's gate admits |\n|---|---|\n";
  std::string spread_table_ =
      "| maps, mean deviation over mean size | over all | over seeds | over levels | over scales "
      "|\n|---|---|---|---|---|\n";
};

}  // namespace daug
