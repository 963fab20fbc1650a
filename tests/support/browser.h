#pragma once
// A headless browser that opens a page, where one is installed.

#include <string>
#include <vector>

namespace daug::test {

struct BrowserView {
  std::string dom;                    ///< the page after loading
  std::vector<std::string> console;   ///< messages of the console
  std::vector<std::string> requests;  ///< addresses that the page made the browser ask for, data: left out
};

struct BrowserOptions {
  int width = 1280, height = 900;  ///< of the window, in pixels
  bool dark = false;               ///< what the reader prefers
  std::string screenshot;          ///< PNG file to write; empty: none
};

/// Whether there is a browser; says once that tests are skipped when there is none.
bool browser_installed();

/// Opens an address. Fails the test when the browser does not end well within a minute.
BrowserView open_in_browser(const std::string& url, const BrowserOptions& options = {});

/// A file for an artefact of a test, in the folder `screenshots` of the build.
std::string artefact(const std::string& name);

}  // namespace daug::test
