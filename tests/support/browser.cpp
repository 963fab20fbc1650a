#include "support/browser.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "daug/io/file.h"
#include "io/scratch.h"
#include "support/catch.h"

namespace daug::test {
namespace {

namespace fs = std::filesystem;

std::string browser() {
  for (const char* path : {"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"})
    if (fs::exists(path)) return path;
  return "";
}

/// Addresses that a page asked for; what the browser asks for on its own has no initiator.
std::vector<std::string> requests_of(const std::string& net_log) {
  std::vector<std::string> addresses;
  for (const auto& event : nlohmann::json::parse(read_text_file(net_log)).at("events")) {
    const auto parameters = event.find("params");
    if (parameters == event.end() || !parameters->contains("url") || !parameters->contains("initiator")) continue;
    const std::string initiator = parameters->at("initiator"), url = parameters->at("url");
    if (initiator != "not an origin" && url.rfind("data:", 0) != 0) addresses.push_back(url);
  }
  return addresses;
}

}  // namespace

bool browser_installed() {
  static const bool installed = [] {
    const bool found = !browser().empty();
    if (!found) std::cout << "browser: skipped (no Chromium installed)\n";
    return found;
  }();
  return installed;
}

BrowserView open_in_browser(const std::string& url, const BrowserOptions& options) {
  const Scratch scratch;
  std::string command = fmt::format(
      "HOME={0} timeout 60 {1} --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
      "--disable-background-networking --disable-component-update --disable-sync --disable-extensions "
      "--hide-scrollbars "
      "--user-data-dir={0}/profile --log-net-log={0}/net.json --enable-logging=stderr --window-size={2},{3} "
      "--blink-settings=preferredColorScheme={4} --dump-dom",
      scratch.folder(), browser(), options.width, options.height, options.dark ? 0 : 1);
  if (!options.screenshot.empty()) command += " --screenshot='" + options.screenshot + "'";
  command += fmt::format(" '{}' >{}/dom 2>{}/messages", url, scratch.folder(), scratch.folder());
  const int status = std::system(command.c_str());
  const std::string messages = read_text_file(scratch.path("messages"));
  INFO(messages);
  REQUIRE(status == 0);
  BrowserView view;
  view.dom = read_text_file(scratch.path("dom"));
  std::istringstream lines(messages);
  for (std::string line; std::getline(lines, line);)
    if (line.find(":CONSOLE") != std::string::npos) view.console.push_back(line);
  view.requests = requests_of(scratch.path("net.json"));
  return view;
}

std::string artefact(const std::string& name) {
  const char* build = std::getenv("DAUG_TEST_BINARY_DIR");
  const fs::path folder = fs::path(build ? build : ".") / "screenshots";
  fs::create_directories(folder);
  return fs::absolute(folder / name).string();
}

}  // namespace daug::test
