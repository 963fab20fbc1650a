#include "map_study_table.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "daug/metrics/bootstrap.h"
#include "pipeline/evaluation/flip_rate.h"
#include "pipeline/stages/trained_encoders.h"

namespace daug {

namespace {

std::string shown_interval(const nlohmann::ordered_json& figures, const char* key) {
  if (!figures.contains(key) || figures[key].is_null()) return "–";
  const auto& found = figures[key];
  return fmt::format("{:.3f} [{:.3f}, {:.3f}]", found[0].get<double>(), found[1].get<double>(), found[2].get<double>());
}

}  // namespace

MapStudyTable::MapStudyTable(Run::Impl& run) : run_(run), data_(run.data()) {
  rows_ = marked_first(run_, data_.test, static_cast<std::size_t>(run_.config.study.images));
  for (const std::size_t row : rows_) patients_.push_back(data_.patient[row]);
  slices_ = slices_of(run_, rows_);
  truth_ = map_truth(run_, rows_);
  require(truth_.any(), "daug::Run::study_maps", "data", "masks or boxes on the test images", "none");
  if (!run_.is_done(Stage::kEncoders)) return;
  judge_ = image_only_classifier(run_);
  judged_ = judge_(run_.images(rows_));
}

void MapStudyTable::add(const std::string& name, const NetworkCalls& calls, double seconds, const MadeMaps& made,
                        const std::vector<at::Tensor>& of_boxes, double further) {
  const double denoiser = static_cast<double>(calls.denoiser) + further;
  const LocalisedMaps found = localise(made.maps.to(at::kFloat), truth_, of_boxes);
  nlohmann::ordered_json row = {{"method", name},
                                {"denoiser_calls", denoiser},
                                {"classifier_gradients", calls.classifier_gradients},
                                {"seconds_per_image", seconds}};
  const auto put = [&](const char* key, const RetrievalValues& table) { row[key] = interval(table, slices_[0]); };
  if (found.findings)
    found.findings->each([&](const char* key, const char*, const RetrievalValues& table) { put(key, table); });
  row["regions"] = nlohmann::ordered_json::array();
  if (found.findings) add_regions(row, "findings", *found.findings);
  for (const auto& [group, tables] : found.boxes) add_regions(row, "boxes named " + group, tables);
  if (made.residual.defined()) row["residual"] = made.residual.mean().item<double>();
  if (made.images.defined()) {
    const std::size_t area = data_.images.pixels_per_image();
    const auto audit = audit_counterfactuals(run_, rows_, truth_.regions, [&](std::size_t n, std::size_t map) {
      return made.images.const_data_ptr<float>() + (n * data_.maps() + map) * area;
    });
    put("in_mask_ratio", audit.in_mask_ratio);
    put("outside_change", audit.outside_change);
    put("outside_distance", audit.outside_distance);
    if (judge_)
      put("flip_rate", flips(data_, rows_, judged_, [&](std::int64_t map) {
            return judge_(made.images.select(1, map).unsqueeze(1).contiguous());
          }));
  }
  rows_json_.push_back(row);
  const auto shown = [&](const char* key) { return shown_interval(row, key); };
  const std::string residual = row.contains("residual") ? fmt::format("{:.2g}", row["residual"].get<double>()) : "–";
  const std::string cost = calls.denoiser == 0 ? "–"
                           : calls.classifier_gradients == 0
                               ? fmt::format("{:.6g}", denoiser)
                               : fmt::format("{:.6g} + {} g", denoiser, calls.classifier_gradients);
  table_ += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", name, cost,
                        seconds > 0 ? fmt::format("{:.3f}", seconds) : "–", residual, shown("pixel_auroc"),
                        shown("pixel_ap"), shown("pointing"), shown("best_dice"), shown("in_mask_ratio"),
                        shown("outside_change"), shown("outside_distance"), shown("flip_rate"));
  run_.log(
      fmt::format("{}: AP {}, pointing {}, {:.3f} s an image", name, shown("pixel_ap"), shown("pointing"), seconds));
}

void MapStudyTable::add_regions(nlohmann::ordered_json& row, const std::string& of, const LocalisationTables& tables) {
  for (const Slice& slice : slices_) {
    const std::int64_t n = std::count_if(slice.rows.begin(), slice.rows.end(), [&](std::size_t i) {
      const auto begin = tables.pointing.values.begin() + static_cast<std::ptrdiff_t>(i * tables.pointing.columns);
      return std::any_of(begin, begin + static_cast<std::ptrdiff_t>(tables.pointing.columns),
                         [](double value) { return !std::isnan(value); });
    });
    if (n == 0) continue;
    nlohmann::ordered_json figures = {{"of", of}, {"split", slice.name}, {"images", n}};
    tables.each(
        [&](const char* key, const char*, const RetrievalValues& table) { figures[key] = interval(table, slice); });
    const auto shown = [&](const char* key) { return shown_interval(figures, key); };
    region_table_ +=
        fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", row["method"].get<std::string>(), of, slice.name, n,
                    shown("pixel_auroc"), shown("pixel_ap"), shown("pointing"), shown("iou"));
    row["regions"].push_back(std::move(figures));
  }
}

nlohmann::json MapStudyTable::interval(const RetrievalValues& table, const Slice& slice) const {
  BootstrapOptions options;
  options.resamples = static_cast<int>(run_.config.evaluate.resamples);
  options.seed = static_cast<std::uint64_t>(run_.config.seed);
  const auto found = bootstrap_values(table, patients_, options, ArrayView<std::size_t>(slice.rows)).macro;
  if (!found) return nullptr;
  return nlohmann::json::array({found->value, found->low, found->high});
}

void MapStudyTable::add_gate(const std::string& images, double admitted) {
  gate_[images] = admitted;
  gate_table_ += fmt::format("| {} | {:.3f} |\n", images, admitted);
}

void MapStudyTable::add_spread(const std::string& maps, double all, double seeds, double levels, double scales) {
  spread_[maps] = {{"all", all}, {"seeds", seeds}, {"levels", levels}, {"scales", scales}};
  spread_table_ += fmt::format("| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} |\n", maps, all, seeds, levels, scales);
}

std::vector<Stage> MapStudyTable::stages() const {
  std::vector<Stage> all = {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps};
  if (judge_) all.push_back(Stage::kEncoders);
  return all;
}

nlohmann::ordered_json MapStudyTable::result() const {
  nlohmann::ordered_json studies = nlohmann::ordered_json::array();
  for (const std::size_t row : rows_) studies.push_back(data_.study(row).id);
  nlohmann::ordered_json all = {
      {"images", rows_.size()}, {"studies", studies}, {"rows", rows_json_}, {"gate", gate_}, {"spread", spread_}};
  for (const Stage stage : stages()) all["fingerprints"][stage_name(stage)] = run_.fingerprint(stage);
  all["settings"] = command_line(run_.config);
  if (judge_) all["flip_rate"] = flip_rate_definition(data_);
  return all;
}

std::string MapStudyTable::markdown() const {
  std::vector<std::string> prints;
  for (const Stage stage : stages()) prints.push_back(fmt::format("{} {}", stage_name(stage), run_.fingerprint(stage)));
  std::string text = fmt::format("Fingerprints of what these tables are from: {}.\n\n", fmt::join(prints, ", "));
  std::string flip_rate = "flip rate";
  if (judge_) {
    text += fmt::format("Flip rate: {}.\n\n", flip_rate_definition(data_));
    flip_rate += fmt::format(" of the image-only encoder{}", data_.cohort.has_reports ? "" : ", label-derived");
  }
  text += fmt::format(
      "| method | network calls an image | s an image | round trip | pixel AUROC | pixel AP | pointing | best Dice | "
      "left in the mask | change outside | distance outside | {} "
      "|\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
      flip_rate);
  return text + table_ + "\n" + region_table_ + "\n" + gate_table_ + "\n" + spread_table_;
}

}  // namespace daug
