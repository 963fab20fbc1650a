#pragma once
// A server that runs as long as the object lives.

#include <thread>

#include "daug/serve/search_server.h"

namespace daug::test {

class Served {
 public:
  explicit Served(const GallerySearch& search, SearchServerOptions options = test_options())
      : server_(search, options), thread_([this] { server_.run(stop_.token()); }) {}
  ~Served() {
    stop_.request_stop();
    thread_.join();
  }
  Served(const Served&) = delete;
  Served& operator=(const Served&) = delete;

  int port() const { return server_.port(); }
  std::string url() const { return server_.url(); }

  /// Any free port, small forms, and no limit of the rate.
  static SearchServerOptions test_options() {
    SearchServerOptions options;
    options.port = 0;
    options.page.max_picture = 100000;
    options.page.searches_at_once = 1000;
    return options;
  }

 private:
  StopSource stop_;
  SearchServer server_;
  std::thread thread_;
};

}  // namespace daug::test
