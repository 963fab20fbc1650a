// What the page is made from: the data and their checks, training, methods, settings and provenance.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/run_config.h"
#include "pipeline/evaluation/duplicates.h"
#include "pipeline/provenance.h"
#include "report_charts.h"
#include "report_methods.h"
#include "report_page.h"

namespace daug {

namespace {

void add_duplicates(const ReportPage& report, std::vector<std::pair<std::string, std::string>>& facts) {
  const auto value = [&](const char* name) {
    const Figure* found = report.figure(name, "data", "all");
    return found ? std::optional<std::string>(number(found->value, 0)) : std::nullopt;
  };
  const auto copies = value("data.identical_images"), across = value("data.identical_across_splits");
  if (!copies || !across) return;  // measured by an earlier version
  facts.emplace_back("identical images",
                     fmt::format("{} that are there already, {} pictures in several splits", *copies, *across));
  const auto pairs = value("data.alike_pairs"), alike_across = value("data.alike_across_splits");
  if (pairs && alike_across)
    facts.emplace_back("nearly identical images",
                       fmt::format("{} pairs whose correlation is {} or more, {} of them in different splits", *pairs,
                                   kAlike, *alike_across));
  else
    facts.emplace_back("nearly identical images",
                       fmt::format("not looked for among more than {} images", kMostCompared));
}

/// Which images these are, those in several splits first.
Table duplicates_table(const ReportPage& report) {
  constexpr std::size_t kShown = 20;
  Table table;
  if (!report.details.contains("duplicates")) return table;
  table.header = {"images", "alike", "splits", "patients"};
  const auto row = [&](const std::vector<std::size_t>& images, const std::string& how) {
    const auto joined = [&](const auto& text_of) {
      std::string text;
      std::set<std::string> seen;
      for (const std::size_t image : images)
        if (const std::string one = text_of(report.data.study(image)); seen.insert(one).second)
          text += (text.empty() ? "" : ", ") + one;
      return text;
    };
    return std::vector<std::string>{joined([](const Study& study) { return study.id; }), how,
                                    joined([](const Study& study) { return study.split; }),
                                    joined([](const Study& study) { return study.patient_id; })};
  };
  for (const auto& images : report.details["duplicates"]["identical"])
    table.rows.push_back(row(images.get<std::vector<std::size_t>>(), "identical"));
  for (const auto& pair : report.details["duplicates"]["alike"])
    table.rows.push_back(row({pair[0].get<std::size_t>(), pair[1].get<std::size_t>()},
                             fmt::format("correlation {:.4f}", pair[2].get<double>())));
  std::stable_partition(table.rows.begin(), table.rows.end(),
                        [](const auto& cells) { return cells[2].find(',') != std::string::npos; });
  table.caption = fmt::format("Images that are there more than once{}.",
                              table.rows.size() > kShown ? fmt::format(", {} of {}", kShown, table.rows.size()) : "");
  table.rows.resize(std::min(kShown, table.rows.size()));
  return table;
}

}  // namespace

void add_data(ReportPage& report) {
  const RunData& data = report.data;
  report.page.section("Data");
  const CohortSummary summary = summarise(data.cohort);
  Table table;
  table.caption = "Images with each finding, positive / negative / uncertain / not mentioned.";
  table.header = {"finding", "train", "val", "test"};
  for (std::size_t f = 0; f < data.findings(); ++f) {
    std::vector<std::string> cells = {data.cohort.findings[f]};
    for (const auto& split : summary.splits) {
      const auto& states = split.finding_states[f];
      cells.push_back(fmt::format("{} / {} / {} / {}", states[0], states[1], states[2], states[3]));
    }
    table.rows.push_back(cells);
  }
  report.page.table(table);
  std::vector<std::pair<std::string, std::string>> facts;
  for (const auto& split : summary.splits)
    facts.emplace_back(split.split, fmt::format("{} images of {} patients, {} with a report, {} without a finding",
                                                split.images, split.patients, split.reports, split.no_finding));
  const auto leaks = leak_check(data.cohort);
  facts.emplace_back("leak check", leaks.empty() ? "no patient and no image file is in two splits"
                                                 : fmt::format("{} leaks, first: {}", leaks.size(), leaks[0].what));
  add_duplicates(report, facts);
  facts.emplace_back("labels used", fmt::format("{} of {} training images; {} of them train the encoders",
                                                data.labelled.size(), data.train.size(), data.encoder_train.size()));
  facts.emplace_back("No Finding beside a positive finding", std::to_string(summary.no_finding_conflicts));
  facts.emplace_back("unreadable images left out", std::to_string(data.failures.size()));
  facts.emplace_back("text",
                     data.cohort.has_reports ? "reports of the cohort" : "label-derived (the cohort has no reports)");
  report.page.key_values("Splits and checks", facts);
  const Table duplicates = duplicates_table(report);
  if (!duplicates.rows.empty()) report.page.table(duplicates);
}

void add_training(ReportPage& report) {
  report.page.section("Training");
  std::vector<LineChart> charts;
  std::vector<std::string> without;  // what is said in place of a curve
  const auto curve = [&](Stage stage, const std::string& file, const std::string& title) {
    const std::string path = report.run.path(file);
    std::vector<double> loss;
    try {
      const SafetensorsFile history = read_safetensors(path);
      require_metadata(history.metadata, path, "fingerprint", report.run.fingerprint(stage));
      loss = history.at("loss").to_double();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kMismatch) throw;  // another training's curve is none of this one
      without.push_back(fmt::format("{}: no curve, as {} cannot be read ({}).", title, file, error.what()));
      return;
    }
    LineChart chart;
    chart.title = stage == Stage::kEncoders ? report.noted(title) : title;
    chart.x.label = "step";
    chart.y.label = "loss";
    Series series;
    series.name = "mean over a hundredth of the steps";
    const std::size_t bin = std::max<std::size_t>(1, loss.size() / 100);
    for (std::size_t begin = 0; begin < loss.size(); begin += bin) {
      double sum = 0;
      std::size_t count = 0;
      for (std::size_t i = begin; i < std::min(loss.size(), begin + bin); ++i)
        if (std::isfinite(loss[i])) sum += loss[i], ++count;
      if (count == 0) continue;
      series.x.push_back(static_cast<double>(begin));
      series.y.push_back(sum / static_cast<double>(count));
    }
    chart.series.push_back(series);
    charts.push_back(chart);
  };
  curve(Stage::kTranslator, "stages/translator_history.safetensors", "Diffusion model");
  curve(Stage::kGuide, "stages/guide_history.safetensors", "Noise-aware classifier");
  for (const auto& arm : report.run.paper_arms())
    curve(Stage::kEncoders, arm.file() + ".history", "Encoder: " + arm.name);
  if (!charts.empty()) report.page.charts(charts);
  for (const auto& sentence : without) report.page.paragraph(sentence);
}

void add_methods(ReportPage& report) {
  report.page.section("Methods");
  RunConfig trained = report.run.config;  // for as long as --budget allowed
  const auto allow = [&](std::int64_t& length, const char* name, Stage stage) {
    if (trained.budget > 0) length = report.run.recalled(name, report.run.fingerprint(stage)).value_or(length);
  };
  allow(trained.diffusion.steps, "translator_steps", Stage::kTranslator);
  allow(trained.encoder.epochs, "encoder_epochs", Stage::kEncoders);
  for (const auto& paragraph : methods_text(trained, report.data)) report.page.paragraph(paragraph);
  report.page.preformatted("The references as BibTeX.", methods_bibtex(report.run.config));
}

void add_provenance(ReportPage& report) {
  report.page.section("Settings and provenance");
  std::vector<std::pair<std::string, std::string>> times, prints, all;
  for (const auto& [stage, seconds] : report.run.seconds_) times.emplace_back(stage, fmt::format("{:.1f} s", seconds));
  prints = {{"data: labels, reports, images", report.run.data_fingerprint()},
            {"masks and counterfactuals", report.run.truth_fingerprint()}};
  try {
    prints.emplace_back("tokenizer", report.run.tokenizer_fingerprint());
  } catch (const Error& error) {  // of its files the page needs nothing else
    prints.emplace_back("tokenizer", fmt::format("none ({})", error.what()));
  }
  if (report.run.has_checkpoint())
    prints.emplace_back("checkpoint that encoders start from", report.run.checkpoint_fingerprint());
  for (Stage stage : all_stages()) prints.emplace_back(stage_name(stage), report.run.fingerprint(stage));
  RunConfig config = report.run.config;
  all.emplace_back("preset", config.preset);
  for (const auto& setting : settings(config)) all.emplace_back(setting.name, setting.text());
  report.page.key_values("What made this page", provenance_facts(report.run.config));
  std::vector<std::pair<std::string, std::string>> commands;
  for (const Stage stage : all_stages()) {
    const auto found = report.run.commands_.find(stage_name(stage));
    const std::string command = stage == Stage::kReport               ? process_command()
                                : found == report.run.commands_.end() ? ""
                                                                      : found->second;
    if (!command.empty()) commands.emplace_back(stage_name(stage), command);
  }
  report.page.key_values("Command lines that made the stages, as they were given", commands);
  report.page.key_values("Time of each stage", times);
  report.page.key_values("Fingerprints: of files, and a stage's of its data, settings and earlier stages", prints);
  report.page.key_values("Settings", all);
  report.page.table(definitions_table(report.figures));
}

}  // namespace daug
