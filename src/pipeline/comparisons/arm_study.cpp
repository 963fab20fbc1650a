#include "daug/pipeline/arm_study.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/io/file.h"
#include "daug/metrics/bootstrap.h"
#include "daug/pipeline/run.h"
#include "daug/report/figure_files.h"
#include "pipeline/evaluation/paired_tests.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/programs/program.h"
#include "pipeline/run_cohort.h"

namespace daug {

namespace {

constexpr const char* kFunction = "daug::run_arm_study";

constexpr const char* kSources[] = {"difference", "evidence", "noise"};
constexpr const char* kTextLoss = ", image-text loss";

std::vector<std::string> compared_arms() {
  std::vector<std::string> arms = {std::string("image") + kTextLoss, "image"};
  for (const char* source : kSources)
    for (const char* loss : {kTextLoss, ""}) arms.push_back(std::string("image+") + source + loss);
  return arms;
}

/// One share of the labels: a run a seed, all on the same test images.
class Trials {
 public:
  Trials(const ArmStudyOptions& options, std::vector<Predictions> runs) : options_(options), runs_(std::move(runs)) {}

  ArmStudyMean mean(const TableFigure& figure, double labelled, const std::string& arm) const {
    ArmStudyMean result{figure.name, labelled, arm, 0, {}};
    for (const auto& run : runs_)
      result.by_seed.push_back(detail::or_nan(table_figure(figure, run, run.table(arm, figure.table))));
    for (const double one : result.by_seed) result.mean += one / static_cast<double>(runs_.size());
    return result;
  }

  ArmStudyDifference difference(const TableFigure& figure, double labelled, const std::string& first,
                                const std::string& second) const {
    ArmStudyDifference result;
    result.figure = figure.name;
    result.labelled = labelled;
    result.first = first;
    result.second = second;
    const ArmStudyMean a = mean(figure, labelled, first), b = mean(figure, labelled, second);
    for (std::size_t s = 0; s < runs_.size(); ++s) result.by_seed.push_back(a.by_seed[s] - b.by_seed[s]);
    result.value = a.mean - b.mean;
    std::vector<TablePair> pairs;
    for (const auto& run : runs_) pairs.push_back({&run.table(first, figure.table), &run.table(second, figure.table)});
    const auto test =
        paired_test(figure, runs_[0], pairs, static_cast<int>(options_.base.evaluate.resamples), /*seed=*/0);
    result.low = test ? test->low : std::nan("");
    result.high = test ? test->high : std::nan("");
    if (test) result.p = test->p;
    return result;
  }

 private:
  const ArmStudyOptions& options_;
  std::vector<Predictions> runs_;
};

const char* name_of(MapLabels labels) { return labels == MapLabels::kAll ? "all" : "encoders"; }

/// What all runs have in common, before any is made.
struct StudiedCohort {
  std::size_t train;  ///< images
  bool reports;       ///< whether it has any
};

StudiedCohort studied_cohort(const RunConfig& config) {
  if (config.data.empty()) return {static_cast<std::size_t>(config.phantom.train), true};
  const Cohort cohort = read_run_cohort(config.data, config);
  return {cohort.split_indices("train").size(), cohort.has_reports};
}

RunConfig run_config(const ArmStudyOptions& options, std::int64_t seed, double percent, std::size_t train) {
  RunConfig config = options.base;
  config.out = fmt::format("{}/seed{}_labels{:g}", options.base.out, seed, percent);
  config.force.clear();
  config.seed = seed;
  config.encoder.arms = "all";
  const std::int64_t images =
      percent == 100 ? 0 : std::max<std::int64_t>(1, std::llround(percent / 100 * static_cast<double>(train)));
  config.labelled = options.map_labels == MapLabels::kAll ? 0 : images;
  config.maps.train_images = options.map_labels == MapLabels::kAll ? images : 0;
  if (options.same_steps) {
    const auto all = static_cast<std::int64_t>(train), batch = config.encoder.batch;
    const std::int64_t given = options.base.maps.train_images, reference = given > 0 ? std::min(given, all) : all;
    const std::int64_t own = images > 0 ? images : all;
    const double steps = static_cast<double>(config.encoder.epochs) * static_cast<double>(reference) /
                         static_cast<double>(std::min(batch, reference));
    config.encoder.epochs = std::max<std::int64_t>(
        1, std::llround(steps * static_cast<double>(std::min(batch, own)) / static_cast<double>(own)));
  }
  return config;
}

/// Copies the networks of diffusion with their records from one run folder into another that has none. A run trains
/// them anew unless they were made of its own labels and settings.
void take_networks(const std::string& from, const std::string& to) try {
  namespace fs = std::filesystem;
  fs::create_directories(to + "/stages");
  for (const char* name : {"translator", "guide"})
    for (const std::string& file :
         {fmt::format("{}.safetensors", name), fmt::format("stages/{}_history.safetensors", name),
          fmt::format("stages/{}.json", name)})  // what says that it is finished comes last
      if (fs::exists(from + "/" + file) && !fs::exists(to + "/" + file))
        fs::copy_file(from + "/" + file, to + "/" + file);
} catch (const std::filesystem::filesystem_error& error) {
  fail(ErrorCode::kIo, kFunction, error.path1().string(), "a file or folder that can be made", error.code().message());
}

std::string json_text(const ArmStudyOptions& options, const ArmStudyResult& result) {
  using Json = nlohmann::ordered_json;
  const auto optional = [](const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); };
  Json file = {{"version", 1},
               {"seeds", result.seeds},
               {"labelled", options.labelled},
               {"cohort", result.cohort},
               {"texts", result.texts_from_labels ? "label-derived" : "reports"},
               {"preset", result.preset},
               {"map_labels", name_of(result.map_labels)},
               {"same_steps", result.same_steps},
               {"settings", command_line(options.base)},
               {"resamples", options.base.evaluate.resamples},
               {"images", result.images},
               {"patients", result.patients},
               {"evaluations", result.evaluations},
               {"means", Json::array()},
               {"differences", Json::array()}};
  for (const auto& one : result.means)
    file["means"].push_back({{"figure", one.figure},
                             {"labelled", one.labelled},
                             {"arm", one.arm},
                             {"mean", one.mean},
                             {"by_seed", one.by_seed}});
  for (const auto& one : result.differences)
    file["differences"].push_back({{"figure", one.figure},
                                   {"labelled", one.labelled},
                                   {"first", one.first},
                                   {"second", one.second},
                                   {"value", one.value},
                                   {"low", one.low},
                                   {"high", one.high},
                                   {"p", optional(one.p)},
                                   {"p_holm", optional(one.p_holm)},
                                   {"by_seed", one.by_seed}});
  return file.dump(1) + "\n";
}

std::string by_seed_cells(const std::vector<double>& values, const char* format) {
  std::string cells;
  for (const double value : values) cells += fmt::format(fmt::runtime(format), value);
  return cells;
}

}  // namespace

void ArmStudyOptions::validate() const {
  constexpr const char* kName = "daug::ArmStudyOptions";
  require(!seeds.empty() && std::set<std::int64_t>(seeds.begin(), seeds.end()).size() == seeds.size(), kName, "seeds",
          "at least one, each once", seeds.size());
  for (const auto seed : seeds) require(seed >= 0, kName, "seeds", "at least 0", seed);
  require(!labelled.empty() && std::set<double>(labelled.begin(), labelled.end()).size() == labelled.size(), kName,
          "labelled", "at least one, each once", labelled.size());
  for (const auto percent : labelled)
    require(percent > 0 && percent <= 100, kName, "labelled", "per cent in (0, 100]", percent);
}

ArmStudyResult run_arm_study(const ArmStudyOptions& options, const RunControl& control,
                             const std::function<void(const std::string&)>& say) {
  options.validate();
  options.base.validate();
  const StudiedCohort cohort = studied_cohort(options.base);
  ArmStudyResult result;
  result.cohort = options.base.data.empty() ? "phantoms" : options.base.data;
  result.texts_from_labels = !cohort.reports;
  result.preset = options.base.preset;
  result.map_labels = options.map_labels;
  result.same_steps = options.same_steps;
  result.seeds = options.seeds;
  std::optional<Predictions> known;  // whose test images all have to have
  for (const double percent : options.labelled) {
    std::vector<Predictions> runs;
    for (const std::int64_t seed : options.seeds) {
      const RunConfig config = run_config(options, seed, percent, cohort.train);
      if (options.map_labels == MapLabels::kAll)  // which makes them the same at every share
        take_networks(run_config(options, seed, options.labelled.front(), cohort.train).out, config.out);
      const std::string name = std::filesystem::path(config.out).filename().string();
      Run run(config, control, [&](const std::string& line) {
        if (say) say(name + ": " + line);
      });
      for (const Stage stage : all_stages())
        if (stage != Stage::kReport) run.execute(stage);
      const std::string file = config.out + "/" + kPredictionsFile;
      runs.push_back(read_predictions(file));
      result.evaluations.push_back(run.fingerprint(Stage::kEvaluate));
      if (runs.back().fingerprint != result.evaluations.back())
        fail(ErrorCode::kMismatch, kFunction, file, "fingerprint " + result.evaluations.back(),
             runs.back().fingerprint);
      if (!known) known = runs[0];
      if (!runs.back().same_images(*known))
        fail(ErrorCode::kMismatch, kFunction, config.out, "the test images of the other runs", "others");
    }
    const Trials trials(options, std::move(runs));
    for (const auto& figure : kTableFigures) {
      for (const auto& arm : compared_arms()) result.means.push_back(trials.mean(figure, percent, arm));
      const std::size_t begin = result.differences.size();
      for (const auto& [first, second] : arm_comparisons()) {
        control.stop.throw_if_stopped(kFunction);
        result.differences.push_back(trials.difference(figure, percent, first, second));
      }
      correct_by_holm(result.differences.begin() + static_cast<std::ptrdiff_t>(begin), result.differences.end());
    }
  }
  result.images = static_cast<std::int64_t>(known->images());
  result.patients = static_cast<std::int64_t>(PatientGroups(known->patients).size());
  write_file_atomically(options.base.out + "/arm_study.json", json_text(options, result));
  write_file_atomically(options.base.out + "/arm_study.md", arm_study_markdown(result));
  write_figures(options.base.out + "/figures", arm_study_charts(result), {});
  return result;
}

std::string arm_study_markdown(const ArmStudyResult& result) {
  std::string text = fmt::format(
      "# Arms of the encoder\n\nCohort: {}. {} Preset: {}. The diffusion model learns from {} labels (`map_labels`: "
      "{}). Every share of the labels trains the encoders for as many {}.\n\n",
      result.cohort,
      result.texts_from_labels
          ? "It has no reports: all texts are label-derived, so that the image-text loss says nothing about reports."
          : "Texts are its reports.",
      result.preset, result.map_labels == MapLabels::kAll ? "all" : "the encoders'", name_of(result.map_labels),
      result.same_steps ? "steps" : "epochs");
  text += fmt::format(
      "{} test images of {} patients, {} seeds. Intervals: 95 % patient bootstrap of the mean "
      "difference over seeds, the same resamples for both arms. p: swap test by patient, in brackets with Holm's "
      "correction within the table and share of labels.\n",
      result.images, result.patients, result.seeds.size());
  if (!result.evaluations.empty())
    text += fmt::format("\nFingerprints of the runs' evaluations, by share of labels, then seed: {}.\n",
                        fmt::join(result.evaluations, ", "));
  std::string seed_header, seed_rule;
  for (const auto seed : result.seeds) {
    seed_header += fmt::format(" seed {} |", seed);
    seed_rule += "---|";
  }
  for (const auto& figure : kTableFigures) {
    text += fmt::format("\n## {}\n\n| labels | arm | mean |{}\n|---|---|---|{}\n", figure.name, seed_header, seed_rule);
    for (const auto& one : result.means)
      if (one.figure == figure.name)
        text += fmt::format("| {:g} % | {} | {:.3f} |{}\n", one.labelled, one.arm, one.mean,
                            by_seed_cells(one.by_seed, " {:.3f} |"));
    text +=
        fmt::format("\n| labels | arm | against | difference | 95 % interval | p |{}\n|---|---|---|---|---|---|{}\n",
                    seed_header, seed_rule);
    for (const auto& one : result.differences) {
      if (one.figure != figure.name) continue;
      const std::string p = one.p ? fmt::format("{:.4f} ({:.4f})", *one.p, one.p_holm.value_or(*one.p)) : "-";
      text += fmt::format("| {:g} % | {} | {} | {:+.3f} | {:+.3f} to {:+.3f} | {} |{}\n", one.labelled, one.first,
                          one.second, one.value, one.low, one.high, p, by_seed_cells(one.by_seed, " {:+.3f} |"));
    }
  }
  return text;
}

std::vector<LineChart> arm_study_charts(const ArmStudyResult& result) {
  std::vector<LineChart> charts;
  for (const auto& figure : kTableFigures) {
    LineChart chart{std::string(figure.name) + " over labels",
                    {"labelled training images, per cent", 0, 100},
                    {std::string(figure.name) + ", mean over seeds"},
                    {}};
    std::size_t shares = 0;
    for (const auto& arm : compared_arms()) {
      std::map<double, double> by_share;
      for (const auto& one : result.means)
        if (one.figure == figure.name && one.arm == arm) by_share[one.labelled] = one.mean;
      shares = std::max(shares, by_share.size());
      Series series{arm, {}, {}};
      for (const auto& [share, mean] : by_share) series.x.push_back(share), series.y.push_back(mean);
      chart.series.push_back(std::move(series));
    }
    if (shares >= 2) charts.push_back(std::move(chart));
  }
  return charts;
}

int arm_study_program(int argc, const char* const* argv) {
  ArmStudyOptions options;
  std::string seeds = fmt::format("{}", fmt::join(options.seeds, ",")),
              labelled = fmt::format("{:g}", fmt::join(options.labelled, ",")),
              map_labels = name_of(options.map_labels);
  const CommandLine line = parse_command_line(
      argc, argv,
      "Compares the arms of the method over seeds and shares of the labels.\nTakes the settings of a run, of which it "
      "sets --seed and --encoder.arms itself.",
      {{"seeds", "runs of every share of the labels, comma-separated", &seeds},
       {"labelled", "labelled training images, per cent (not a number of images), comma-separated", &labelled},
       {"map-labels", "labels that the diffusion model learns from: encoders (theirs alone) or all", &map_labels},
       {"same-steps",
        "every share trains the encoders for as many steps: those of encoder.epochs passes over maps.train_images",
        &options.same_steps}});
  if (line.exit) return line.exit_code;
  try {
    options.seeds = parse_integers(seeds, "seeds");
    options.labelled = parse_numbers(labelled, "labelled");
    require(map_labels == name_of(MapLabels::kEncoders) || map_labels == name_of(MapLabels::kAll),
            "daug::ArmStudyOptions", "map-labels", "encoders or all", map_labels);
    options.map_labels = map_labels == name_of(MapLabels::kAll) ? MapLabels::kAll : MapLabels::kEncoders;
    options.validate();
  } catch (const Error& error) {
    std::cerr << error.what() << "\nRun with --help for more information.\n";
    return 2;
  }
  options.base = line.config;
  if (options.base.out == RunConfig{}.out) options.base.out = "runs/arm_study";
  return guarded_program(
      "Stopped; what was finished is kept in " + options.base.out + ". Run the same command again to resume.",
      [&](const RunControl& control, const Say& say) {
        run_arm_study(options, control, say);
        say(options.base.out + "/arm_study.md");
      });
}

}  // namespace daug
