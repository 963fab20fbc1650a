#include "daug/pipeline/compare_runs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "daug/core/error.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run_config.h"
#include "pipeline/evaluation/paired_tests.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/report/report_charts.h"

namespace daug {
namespace fs = std::filesystem;

namespace {

struct ComparedRun {
  std::string name, folder;
  RunConfig config;
  std::string evaluated;  ///< fingerprint
  std::vector<Figure> figures;
  std::optional<Predictions> predictions;
  std::string unpaired;  ///< why it has none; empty when it has
};

/// What a run's evaluation says of every test image, if it belongs to the figures.
void read_paired(ComparedRun& run) {
  const std::string path = run.folder + "/" + kPredictionsFile;
  if (!fs::exists(path)) {
    run.unpaired = "has no predictions";
    return;
  }
  run.predictions = read_predictions(path);
  if (run.predictions->fingerprint == run.evaluated) return;
  run.predictions.reset();
  run.unpaired = "has predictions of another evaluation than its figures";
}

/// What tells figures apart, in the order in which they first occur.
struct FigureKey {
  std::string name, arm, split;
  bool operator==(const FigureKey& other) const {
    return name == other.name && arm == other.arm && split == other.split;
  }
};

class Comparison {
 public:
  explicit Comparison(const std::vector<std::string>& folders)
      : page_(fmt::format("{} runs side by side", folders.size())) {
    std::set<std::string> names, seen;
    for (const auto& folder : folders) {
      fs::path place = fs::absolute(folder).lexically_normal();
      if (!place.has_filename()) place = place.parent_path();
      require(seen.insert(place.string()).second, "daug::compare_runs", "run_folders", "every folder once", folder);
      ComparedRun run;
      run.folder = folder;
      run.config = read_config(folder + "/config.json");
      run.figures = read_metrics(folder + "/metrics.json", &run.evaluated);
      read_paired(run);
      run.name = place.filename().string();
      if (names.count(run.name)) run.name = folder;
      if (names.count(run.name)) run.name = place.string();  // a folder "a" behind "b/a", whose name that is
      names.insert(run.name);
      runs_.push_back(std::move(run));
    }
    for (const auto& run : runs_)
      for (const auto& figure : run.figures) {
        const FigureKey key{figure.name, figure.arm, figure.split};
        if (std::find(keys_.begin(), keys_.end(), key) == keys_.end()) keys_.push_back(key);
      }
  }

  HtmlReport build() {
    runs();
    key_figures();
    paired_tests();
    for (const auto& [prefix, title] : {std::pair<const char*, const char*>{"map.", "Maps"},
                                        {"classification.", "Classification"},
                                        {"retrieval.", "Retrieval"},
                                        {"", "Data and time"}})
      figures(prefix, title);
    return std::move(page_);
  }

 private:
  std::vector<std::string> header(const std::string& first) const {
    std::vector<std::string> cells = {first};
    for (const auto& run : runs_) cells.push_back(run.name);
    return cells;
  }

  void runs() {
    page_.section("Runs");
    Table table;
    table.caption = "What was compared.";
    table.header = header("");
    const auto row = [&](const std::string& name, const auto& value_of) {
      std::vector<std::string> cells = {name};
      for (const auto& run : runs_) cells.push_back(value_of(run));
      table.rows.push_back(std::move(cells));
    };
    row("folder", [](const ComparedRun& run) { return run.folder; });
    row("cohort", [](const ComparedRun& run) { return run.config.data.empty() ? "phantoms" : run.config.data; });
    row("fingerprint of the evaluation", [](const ComparedRun& run) { return run.evaluated; });
    row("figures", [](const ComparedRun& run) { return std::to_string(run.figures.size()); });
    page_.table(table);

    Table differences;
    differences.caption = "Settings that differ.";
    differences.header = header("setting");
    std::vector<std::vector<Setting>> all;
    for (auto& run : runs_) all.push_back(settings(run.config));
    for (std::size_t s = 0; s < all[0].size(); ++s) {
      std::vector<std::string> cells = {all[0][s].name};
      for (const auto& list : all) cells.push_back(list[s].text());
      const bool same = std::all_of(cells.begin() + 2, cells.end(), [&](const auto& text) { return text == cells[1]; });
      if (!same && all[0][s].name != "out") differences.rows.push_back(std::move(cells));
    }
    if (differences.rows.empty())
      page_.paragraph("All settings are the same.");
    else
      page_.table(differences);
    std::string unlike;
    for (const auto& name : names_defined_differently()) unlike += (unlike.empty() ? "" : ", ") + name;
    if (!unlike.empty())
      page_.paragraph("Not the same thing in all runs, as their definitions differ: " + unlike + ".");
    page_.paragraph(
        "Every interval is a run's own 95 % bootstrap over patients. Whether two runs differ is a question for a "
        "paired test on the same images; intervals that overlap do not answer it.");
  }

  std::set<std::string> names_defined_differently() const {
    // By name and arm: those of one run's arms may differ.
    std::map<std::pair<std::string, std::string>, std::string> definitions;
    std::set<std::string> unlike;
    for (const auto& run : runs_)
      for (const auto& figure : run.figures) {
        const auto known = definitions.emplace(std::pair(figure.name, figure.arm), figure.definition).first;
        if (known->second != figure.definition) unlike.insert(figure.name);
      }
    return unlike;
  }

  void key_figures() {
    page_.section("Key figures");
    for (const auto& [name, title] : {std::pair<const char*, const char*>{"map.pixel_ap", "Pixel AP of maps"},
                                      {"map.image_auroc", "Image AUROC of maps"},
                                      {"classification.auroc_macro", "Macro AUROC"},
                                      {"retrieval.p_at_5", "P@5, image to image"},
                                      {"retrieval.map_at_10", "mAP@10, image to image"},
                                      {"retrieval.report_to_image.p_at_5", "P@5, report to image"}}) {
      IntervalPlot plot;
      plot.title = std::string(title) + ", test";
      plot.axis.label = title;
      for (const auto& key : keys_) {
        if (key.name != name || key.split != "test") continue;
        for (const auto& run : runs_) {
          const Figure* figure = find_figure(run.figures, key.name, key.arm);
          if (figure && figure->low && figure->high && std::isfinite(figure->value))
            plot.rows.push_back({key.arm + " | " + run.name, figure->value, *figure->low, *figure->high});
        }
      }
      if (!plot.rows.empty()) page_.intervals(plot);
    }
  }

  /// Every run against the first one, arm by arm, where both tell of the same test images.
  void paired_tests() {
    page_.section("Paired tests");
    const ComparedRun& base = runs_[0];
    std::vector<const ComparedRun*> others;
    std::string left_out;
    const auto leave_out = [&](const std::string& why) { left_out += (left_out.empty() ? "" : "; ") + why; };
    if (!base.predictions) leave_out(base.name + " " + base.unpaired);
    for (std::size_t r = 1; r < runs_.size(); ++r) {
      if (!runs_[r].predictions)
        leave_out(runs_[r].name + " " + runs_[r].unpaired);
      else if (base.predictions && !runs_[r].predictions->same_images(*base.predictions))
        leave_out(runs_[r].name + " has other test images or labels");
      else if (base.predictions)
        others.push_back(&runs_[r]);
    }
    std::vector<Figure> figures;
    for (const ComparedRun* other : others) add_finding_tests(*other, figures);
    for (const TableFigure& figure : kTableFigures) add_tests(figure, others, figures);
    const auto show = [&](const std::string& caption, bool of_findings) {
      const Table table = tests_table(caption, figures, of_findings);
      if (!table.rows.empty()) page_.table(table);
    };
    show("Every run less the first, '" + base.name +
             "', on the same test images: difference with its paired patient-bootstrap interval, p of a swap test by "
             "patient, and p by Holm's correction for all comparisons of the figure.",
         false);
    show(
        "AUROC by finding of the arm with maps: DeLong's test for patients with several images, and p by Holm's "
        "correction for all findings of a pair of runs.",
        true);
    if (!left_out.empty())
      page_.paragraph("Not tested against '" + base.name + "', as that takes the same test images: " + left_out + ".");
  }

  /// Of all other runs and arms: one family.
  void add_tests(const TableFigure& figure, const std::vector<const ComparedRun*>& others,
                 std::vector<Figure>& figures) const {
    const ComparedRun& base = runs_[0];
    std::vector<PairedTest> tests;
    for (const ComparedRun* other : others)
      for (const auto& arm : base.predictions->arms(figure.table)) {
        if (!other->predictions->has(arm, figure.table)) continue;
        auto test =
            paired_test(figure, *base.predictions, std::vector<TablePair>{tables(*other, arm, figure.table)},
                        static_cast<int>(base.config.evaluate.resamples), static_cast<std::uint64_t>(base.config.seed));
        if (!test) continue;
        test->figure = figure.name;
        test->arms = named(*other, arm);
        tests.push_back(std::move(*test));
      }
    correct_by_holm(tests.begin(), tests.end());
    for (const PairedTest& test : tests) append(test, figures);
  }

  void add_finding_tests(const ComparedRun& other, std::vector<Figure>& figures) const {
    const ComparedRun& base = runs_[0];
    const std::string arm = "image+" + base.config.encoder.maps;
    if (!base.predictions->has(arm, kProbabilities) || !other.predictions->has(arm, kProbabilities)) return;
    for (const PairedTest& test :
         delong_tests(*base.predictions, tables(other, arm, kProbabilities), named(other, arm)))
      append(test, figures);
  }

  TablePair tables(const ComparedRun& other, const std::string& arm, const char* table) const {
    return {&other.predictions->table(arm, table), &runs_[0].predictions->table(arm, table)};
  }
  std::string named(const ComparedRun& other, const std::string& arm) const {
    return arm + ": " + other.name + " less " + runs_[0].name;
  }
  void append(const PairedTest& test, std::vector<Figure>& figures) const {
    const auto n = static_cast<std::int64_t>(runs_[0].predictions->images());
    for (auto& figure : test_figures(test, n)) figures.push_back(std::move(figure));
  }

  /// Tables of the figures whose names begin like this (of all others for an empty prefix), one a split.
  void figures(const std::string& prefix, const std::string& title) {
    std::vector<Table> tables;
    for (const auto& key : keys_) {
      const bool named = key.name.rfind("map.", 0) == 0 || key.name.rfind("classification.", 0) == 0 ||
                         key.name.rfind("retrieval.", 0) == 0;
      if (prefix.empty() ? named : key.name.rfind(prefix, 0) != 0) continue;
      const std::string caption = title + ", " + key.split + ".";
      auto table = std::find_if(tables.begin(), tables.end(), [&](const Table& t) { return t.caption == caption; });
      if (table == tables.end()) {
        tables.push_back({caption, header("figure, arm"), {}, {}});
        table = tables.end() - 1;
      }
      std::vector<const Figure*> found;
      for (const auto& run : runs_) found.push_back(find_figure(run.figures, key.name, key.arm, key.split));
      const Figure* first = *std::find_if(found.begin(), found.end(), [](const Figure* f) { return f != nullptr; });
      const bool same_n =
          std::all_of(found.begin(), found.end(), [&](const Figure* f) { return !f || f->n == first->n; });
      std::vector<std::string> cells = {key.name.substr(prefix.size()) + ", " + key.arm};
      for (const Figure* figure : found)
        cells.push_back(!figure ? "-" : with_interval(figure) + (same_n ? "" : fmt::format(", n = {}", figure->n)));
      table->rows.push_back(std::move(cells));
    }
    if (tables.empty()) return;
    page_.section(title);
    for (const auto& table : tables) page_.table(table);
  }

  HtmlReport page_;
  std::vector<ComparedRun> runs_;
  std::vector<FigureKey> keys_;
};

}  // namespace

HtmlReport compare_runs(const std::vector<std::string>& run_folders) {
  require(run_folders.size() >= 2, "daug::compare_runs", "run_folders", "at least two", run_folders.size());
  return Comparison(run_folders).build();
}

}  // namespace daug
