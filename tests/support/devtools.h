#pragma once
// A person at a headless browser: typing, clicking, choosing files. Over the browser's own debugging protocol (Chrome
// DevTools Protocol), whose messages go through two pipes.

#include <sys/types.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/scratch.h"

namespace daug::test {

/// A browser with one page. Every member fails the test when the browser does not answer within half a minute or finds
/// no such element; selectors are CSS.
class BrowserSession {
 public:
  /// Needs an installed browser, see browser_installed.
  BrowserSession();
  ~BrowserSession();
  BrowserSession(const BrowserSession&) = delete;
  BrowserSession& operator=(const BrowserSession&) = delete;

  /// Opens an address and waits until it is loaded.
  void open(const std::string& url);
  /// Shows the page in a window of that size to a reader who prefers dark or light, or as it is printed; until the next
  /// call.
  void show_as(int width, int height, bool dark = false, bool print = false);
  /// Presses and releases the mouse in the middle of an element.
  void click(const std::string& selector);
  /// The same, and waits until the page that this leads to is loaded.
  void follow(const std::string& selector);
  /// Types text into an element, key by key, behind what it holds.
  void type(const std::string& selector, const std::string& text);
  /// Types text as above and the return key, and waits for the page that this leads to.
  void enter(const std::string& selector, const std::string& text);
  /// Picks an option of a select element by its text.
  void choose(const std::string& selector, const std::string& option);
  /// Puts a file into an input element as a file dialogue does.
  void upload(const std::string& selector, const std::string& path);
  /// Presses and releases a key where the focus is, by its name ("Tab", "Enter", "ArrowRight") and what it types.
  void press(const std::string& key, const std::string& text = "");

  /// What a JavaScript expression is on the page, or becomes if it is a promise.
  nlohmann::json evaluate(const std::string& expression);
  /// Waits until such an expression is true; fails the test after five seconds.
  void wait_for(const std::string& condition);
  std::string text(const std::string& selector) { return property(selector, "textContent"); }
  std::string value(const std::string& selector) { return property(selector, "value"); }
  /// Whether the element takes any room on the page.
  bool visible(const std::string& selector);

  /// Messages of the console and of refused requests so far.
  const std::vector<std::string>& console() const { return console_; }

 private:
  std::string property(const std::string& selector, const std::string& name);
  nlohmann::json call(const std::string& method, const nlohmann::json& parameters, bool of_page = true);
  void wait_for_load(int before);
  /// Takes one message: an event is noted, an answer returned.
  nlohmann::json next_message();

  Scratch scratch_;
  pid_t process_ = -1;
  int to_browser_ = -1, from_browser_ = -1;
  std::string received_, session_;
  int last_id_ = 0, loads_ = 0;
  std::vector<std::string> console_;
};

}  // namespace daug::test
