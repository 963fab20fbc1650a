#pragma once
// A headless browser that opens a page, where one is installed.

#include <string>
#include <vector>

namespace daug::test {

struct BrowserView {
  std::string dom;                   ///< the page after loading
  std::vector<std::string> console;  ///< messages of the console; whatever cannot be loaded leaves one
};

struct BrowserOptions {
  int width = 1280, height = 900;  ///< of the window, in pixels
  bool dark = false;               ///< what the reader prefers
  std::string screenshot;          ///< PNG file to write; empty: none
};

/// Whether there is a browser; says once that tests are skipped when there is none, which ctest shows for the tests
/// tagged [browser].
bool browser_installed();

/// The browser and its arguments, keeping to a folder of the caller's; other machines than this one are not found.
std::vector<std::string> browser_command(const std::string& folder);

/// Opens an address. Other machines than this one are not found. Fails the test when the browser does not end well
/// within a minute.
BrowserView open_in_browser(const std::string& url, const BrowserOptions& options = {});

/// A file for an artefact of a test, in the folder `screenshots` of the build.
std::string artefact(const std::string& name);

}  // namespace daug::test
