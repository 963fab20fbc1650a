#include "support/browser.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "daug/io/file.h"
#include "support/catch.h"
#include "support/scratch.h"

namespace daug::test {
namespace {

namespace fs = std::filesystem;

std::string browser() {
  for (const char* path : {"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"})
    if (fs::exists(path)) return path;
  return "";
}

}  // namespace

std::vector<std::string> browser_command(const std::string& folder) {
  return {browser(),
          "--headless",
          "--no-sandbox",
          "--disable-gpu",
          "--disable-dev-shm-usage",
          "--no-first-run",
          "--disable-background-networking",
          "--disable-component-update",
          "--disable-sync",
          "--disable-extensions",
          "--hide-scrollbars",
          "--user-data-dir=" + folder + "/profile",
          "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"};
}

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
  std::string command = fmt::format("HOME={} timeout 60", scratch.folder());
  for (const auto& word : browser_command(scratch.folder())) command += " '" + word + "'";
  command +=
      fmt::format(" --enable-logging=stderr --window-size={},{} --blink-settings=preferredColorScheme={} --dump-dom",
                  options.width, options.height, options.dark ? 0 : 1);
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
  return view;
}

std::string artefact(const std::string& name) {
  const char* build = std::getenv("DAUG_TEST_BINARY_DIR");
  const fs::path folder = fs::path(build ? build : ".") / "screenshots";
  fs::create_directories(folder);
  return fs::absolute(folder / name).string();
}

}  // namespace daug::test
