// What the programs take on the command line. Here alone, as CLI11 is compiled into every file that uses it; with
// heatmap_store_program.cpp, which is compiled with this one.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "daug/core/error.h"
#include "daug/pipeline/compare_runs.h"
#include "daug/pipeline/run.h"
#include "daug/pipeline/run_config.h"
#include "daug/pipeline/run_search.h"
#include "daug/report/figure_files.h"
#include "daug/report/table_files.h"
#include "daug/serve/search_server.h"
#include "program.h"

namespace daug {

namespace {
/// A setting's name on the command line. Flags are also known by the name that config.json has.
std::string option_name(const Setting& setting) {
  std::string name = "--" + setting.name;
  if (std::holds_alternative<bool*>(setting.value)) std::replace(name.begin(), name.end(), '_', '-');
  return name;
}
}  // namespace

std::vector<std::string> command_line(const RunConfig& config) {
  RunConfig given = config, base;
  apply_preset(base, config.preset);
  std::vector<std::string> words = {"--preset", config.preset};
  const auto wanted = settings(given), defaults = settings(base);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i].text() == defaults[i].text()) continue;
    words.push_back(option_name(wanted[i]));
    if (!std::holds_alternative<bool*>(wanted[i].value)) words.push_back(wanted[i].text());
  }
  return words;
}

CommandLine parse_command_line(int argc, const char* const* argv, const std::string& description,
                               const std::vector<Setting>& own) {
  CommandLine result;
  RunConfig& config = result.config;
  CLI::App app(description + "\nNot a medical device.");
  app.option_defaults()->always_capture_default();
  std::string preset = "tiny";
  app.add_option("--preset", preset, "starting point of all settings: tiny, small or reference");
  app.add_option("--force", config.force,
                 "stages to redo from their beginning although nothing changed: translator, guide, heatmaps, "
                 "encoders, index, evaluate, report");
  // The preset's values must be in place before the other options overwrite them.
  for (int i = 1; i + 1 < argc; ++i)
    if (std::string(argv[i]) == "--preset") preset = argv[i + 1];
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]).rfind("--preset=", 0) == 0) preset = std::string(argv[i]).substr(9);
  try {
    apply_preset(config, preset);
    std::vector<Setting> taken = own;
    for (const auto& setting : settings(config))
      if (std::none_of(own.begin(), own.end(), [&](const Setting& one) { return one.name == setting.name; }))
        taken.push_back(setting);
    for (const auto& setting : taken) {
      const std::string name = option_name(setting);
      std::visit(
          [&](auto* value) {
            if constexpr (std::is_same_v<decltype(value), bool*>)
              app.add_flag(name == "--" + setting.name ? name : name + ",--" + setting.name, *value,
                           setting.description());
            else
              app.add_option(name, *value, setting.description());
          },
          setting.value);
    }
    app.parse(argc, argv);
    config.validate();
    for (const auto& stage : config.force) parse_stage(stage);
  } catch (const CLI::ParseError& error) {
    result.exit = true;
    result.exit_code = app.exit(error) == 0 ? 0 : 2;
  } catch (const Error& error) {
    std::cerr << error.what() << "\nRun with --help for more information.\n";
    result.exit = true;
    result.exit_code = 2;
  }
  return result;
}

int compare_program(int argc, const char* const* argv) {
  CLI::App app("Writes a page with the figures of several runs side by side.\nNot a medical device.");
  app.option_defaults()->always_capture_default();
  std::vector<std::string> folders;
  std::string out = "comparison";
  app.add_option("RUN", folders, "run folders, at least two")->required();
  app.add_option("--out", out, "folder for comparison.html, tables/ and figures/");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return guarded_program("Stopped.", [&](const RunControl&, const Say& say) {
    const HtmlReport page = compare_runs(folders);
    write_tables(out + "/tables", page.tables());
    write_figures(out + "/figures", page.line_charts(), page.interval_plots());
    page.write(out + "/comparison.html");
    say(out + "/comparison.html");
  });
}

int search_program(int argc, const char* const* argv) {
  CLI::App app(
      "Serves a page on this machine to search the gallery of a finished run by reports and images.\nNot a medical "
      "device.");
  app.option_defaults()->always_capture_default();
  std::string folder, arm;
  SearchServerOptions options;
  app.add_option("RUN", folder, "run folder")->required();
  app.add_option("--arm", arm, "encoder to search with, as metrics.json names it; empty: the run's own with maps");
  app.add_option("--port", options.port, "port to listen on; 0: any that is free")->check(CLI::Range(0, 65535));
  app.add_option("--address", options.address,
                 "address to listen on; with another than 127.0.0.1 others can see the cohort's images");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return guarded_program("Stopped.", [&](const RunControl& control, const Say& say) {
    options.page.on_failure = [&](const std::string& message) { say("a search failed: " + message); };
    say("opening " + folder);
    const RunSearch search(folder, arm, control, say);
    SearchServer server(search, options);
    say(search.facts().title + ": " + search.facts().about + "\n" + server.url() + " (Ctrl-C ends it)");
    server.run(control.stop);
    control.stop.throw_if_stopped("daug_search");
  });
}

}  // namespace daug
