#include "support/devtools.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <thread>

#include "support/browser.h"
#include "support/catch.h"

extern char** environ;

namespace daug::test {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{30};

/// A pipe whose ends are none of the numbers that the child's are moved to.
struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    read = ::fcntl(ends[0], F_DUPFD_CLOEXEC, 16);
    write = ::fcntl(ends[1], F_DUPFD_CLOEXEC, 16);
    ::close(ends[0]);
    ::close(ends[1]);
    REQUIRE((read >= 0 && write >= 0));
  }
};

/// A text as JavaScript writes it.
std::string quoted(const std::string& text) { return Json(text).dump(); }

}  // namespace

BrowserSession::BrowserSession() {
  constexpr int kCommands = 3, kReplies = 4;  // where the browser expects them
  std::signal(SIGPIPE, SIG_IGN);              // a browser that ends fails a call instead
  const Pipe commands, replies;
  std::vector<std::string> words = browser_command(scratch_.folder());
  words.insert(words.end(), {"--remote-debugging-pipe", "--window-size=1280,1600", "about:blank"});
  std::vector<std::string> variables = {"HOME=" + scratch_.folder()};
  for (char** variable = environ; *variable; ++variable)
    if (std::strncmp(*variable, "HOME=", 5) != 0) variables.emplace_back(*variable);
  const auto pointers = [](std::vector<std::string>& texts) {
    std::vector<char*> list;
    for (auto& text : texts) list.push_back(text.data());
    list.push_back(nullptr);
    return list;
  };
  const std::string messages = scratch_.path("messages");
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, 2, messages.c_str(), O_WRONLY | O_CREAT, 0600);
  ::posix_spawn_file_actions_adddup2(&files, commands.read, kCommands);
  ::posix_spawn_file_actions_adddup2(&files, replies.write, kReplies);
  posix_spawnattr_t group;  // of its own, so that all of its processes can be ended
  ::posix_spawnattr_init(&group);
  ::posix_spawnattr_setflags(&group, POSIX_SPAWN_SETPGROUP);
  ::posix_spawnattr_setpgroup(&group, 0);
  const int failed =
      ::posix_spawn(&process_, words[0].c_str(), &files, &group, pointers(words).data(), pointers(variables).data());
  ::posix_spawnattr_destroy(&group);
  ::posix_spawn_file_actions_destroy(&files);
  ::close(commands.read);
  ::close(replies.write);
  to_browser_ = commands.write;
  from_browser_ = replies.read;
  REQUIRE(failed == 0);
  const Json target = call("Target.createTarget", {{"url", "about:blank"}}, false);
  session_ = call("Target.attachToTarget", {{"targetId", target.at("targetId")}, {"flatten", true}}, false)
                 .at("sessionId")
                 .get<std::string>();
  for (const char* domain : {"Page.enable", "Runtime.enable", "Log.enable", "DOM.enable"}) call(domain, Json::object());
  call("Emulation.setFocusEmulationEnabled", {{"enabled", true}});  // keys and focus as in a window in front
}

BrowserSession::~BrowserSession() {
  if (to_browser_ >= 0) ::close(to_browser_);  // without anybody to listen to it ends by itself
  if (from_browser_ >= 0) ::close(from_browser_);
  if (process_ <= 0) return;
  const auto end = Clock::now() + std::chrono::seconds(10);
  while (::waitpid(process_, nullptr, WNOHANG) == 0) {
    if (Clock::now() > end) ::kill(-process_, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ::kill(-process_, SIGKILL);  // whatever processes it has left
}

Json BrowserSession::next_message() {
  const auto end = Clock::now() + kPatience;
  for (std::size_t zero = 0; (zero = received_.find('\0')) == std::string::npos;) {
    pollfd one{from_browser_, POLLIN, 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    INFO("the browser does not answer");
    REQUIRE(left > 0);
    if (::poll(&one, 1, static_cast<int>(left)) <= 0) continue;
    char buffer[1 << 14];
    const ssize_t count = ::read(from_browser_, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    REQUIRE(count > 0);
    received_.append(buffer, static_cast<std::size_t>(count));
  }
  const std::size_t zero = received_.find('\0');
  const Json message = Json::parse(received_.substr(0, zero));
  received_.erase(0, zero + 1);
  const std::string method = message.value("method", "");
  if (method == "Page.loadEventFired") ++loads_;
  const bool hint = method == "Log.entryAdded" && message.at("params").at("entry").at("level") == "verbose";
  if (!hint &&
      (method == "Runtime.consoleAPICalled" || method == "Runtime.exceptionThrown" || method == "Log.entryAdded"))
    console_.push_back(message.at("params").dump());
  return message;
}

Json BrowserSession::call(const std::string& method, const Json& parameters, bool of_page) {
  const int id = ++last_id_;
  Json message = {{"id", id}, {"method", method}, {"params", parameters}};
  if (of_page) message["sessionId"] = session_;
  const std::string bytes = message.dump() + '\0';
  for (std::size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = ::write(to_browser_, bytes.data() + sent, bytes.size() - sent);
    if (count < 0 && errno == EINTR) continue;
    REQUIRE(count > 0);
    sent += static_cast<std::size_t>(count);
  }
  for (;;) {
    const Json answer = next_message();
    if (answer.value("id", 0) != id) continue;
    INFO(method << ": " << answer.dump());
    REQUIRE(answer.contains("result"));
    return answer["result"];
  }
}

void BrowserSession::wait_for_load(int before) {
  while (loads_ <= before) next_message();
}

void BrowserSession::open(const std::string& url) {
  const int before = loads_;
  const Json result = call("Page.navigate", {{"url", url}});
  INFO(result.dump());
  REQUIRE_FALSE(result.contains("errorText"));
  wait_for_load(before);
}

void BrowserSession::show_as(int width, int height, bool dark, bool print) {
  call("Emulation.setDeviceMetricsOverride",
       {{"width", width}, {"height", height}, {"deviceScaleFactor", 1}, {"mobile", false}});
  const Json scheme = {{"name", "prefers-color-scheme"}, {"value", dark ? "dark" : "light"}};
  call("Emulation.setEmulatedMedia", {{"media", print ? "print" : "screen"}, {"features", Json::array({scheme})}});
  const std::string medium = print ? "print" : dark ? "screen and (prefers-color-scheme: dark)" : "screen";
  wait_for("innerWidth === " + std::to_string(width) + " && matchMedia('" + medium + "').matches");
}

Json BrowserSession::evaluate(const std::string& expression) {
  const Json result =
      call("Runtime.evaluate", {{"expression", expression}, {"returnByValue", true}, {"awaitPromise", true}});
  INFO(expression << ": " << result.dump());
  REQUIRE_FALSE(result.contains("exceptionDetails"));
  return result.at("result").value("value", Json());
}

void BrowserSession::wait_for(const std::string& condition) {
  INFO(condition);
  const Json came = evaluate("new Promise(done => { const look = left => (" + condition +
                             ") ? done(true) : left > 0 ? setTimeout(look, 20, left - 1) : done(false); look(250); })");
  REQUIRE(came.get<bool>());
}

std::string BrowserSession::property(const std::string& selector, const std::string& name) {
  return evaluate("document.querySelector(" + quoted(selector) + ")." + name).get<std::string>();
}

bool BrowserSession::visible(const std::string& selector) {
  return evaluate("document.querySelector(" + quoted(selector) + ").getClientRects().length > 0").get<bool>();
}

void BrowserSession::click(const std::string& selector) {
  const Json place = evaluate(
      "(() => { const element = document.querySelector(" + quoted(selector) +
      "); element.scrollIntoView({block: 'center', behavior: 'instant'}); const box = element.getClientRects()[0];"
      " return [box.left + box.width / 2, box.top + box.height / 2]; })()");
  for (const char* kind : {"mousePressed", "mouseReleased"})
    call("Input.dispatchMouseEvent",
         {{"type", kind}, {"x", place.at(0)}, {"y", place.at(1)}, {"button", "left"}, {"clickCount", 1}});
}

void BrowserSession::follow(const std::string& selector) {
  const int before = loads_;
  click(selector);
  wait_for_load(before);
}

void BrowserSession::press(const std::string& key, const std::string& text) {
  // What a key does beside typing goes by its number.
  static const std::map<std::string, int> kNumbers = {{"Tab", 9}, {"Enter", 13}, {"ArrowRight", 39}};
  Json event = {{"type", text.empty() ? "rawKeyDown" : "keyDown"}, {"key", key}};
  if (!text.empty()) event["text"] = text;
  if (const auto number = kNumbers.find(key); number != kNumbers.end()) event["windowsVirtualKeyCode"] = number->second;
  call("Input.dispatchKeyEvent", event);
  event["type"] = "keyUp";
  event.erase("text");
  call("Input.dispatchKeyEvent", event);
}

void BrowserSession::type(const std::string& selector, const std::string& text) {
  click(selector);
  for (const char letter : text) press(std::string(1, letter), std::string(1, letter));
}

void BrowserSession::enter(const std::string& selector, const std::string& text) {
  type(selector, text);
  const int before = loads_;
  press("Enter", "\r");
  wait_for_load(before);
}

void BrowserSession::choose(const std::string& selector, const std::string& option) {
  const Json chosen = evaluate("(() => { const list = document.querySelector(" + quoted(selector) + "); list.focus();" +
                               " list.value = [...list.options].find(one => one.text === " + quoted(option) +
                               ").value; list.dispatchEvent(new Event('change', {bubbles: true})); return "
                               "list.selectedOptions[0].text; })()");
  REQUIRE(chosen == option);
}

void BrowserSession::upload(const std::string& selector, const std::string& path) {
  const Json root = call("DOM.getDocument", Json::object());
  const Json found = call("DOM.querySelector", {{"nodeId", root.at("root").at("nodeId")}, {"selector", selector}});
  REQUIRE(found.at("nodeId").get<int>() != 0);
  call("DOM.setFileInputFiles", {{"files", Json::array({path})}, {"nodeId", found.at("nodeId")}});
}

}  // namespace daug::test
