#pragma once
/// @file
/// A search page for browsers on this machine.

#include <memory>
#include <string>

#include "daug/core/progress.h"
#include "daug/serve/search_page.h"

namespace daug {

/// Where a server listens and what it bears.
struct SearchServerOptions {
  std::string address = "127.0.0.1";  ///< of this machine; another than the loopback address lets others search as well
  int port = 8080;                    ///< in [0, 65535]; 0: any that is free
  int threads = 8;                    ///< requests answered at a time, in [1, 64]
  int timeout = 5;                    ///< seconds that a client may take to send or receive a piece, in [1, 600]
  int deadline = 30;  ///< seconds that it may take to send a request, and again to receive a reply, in [timeout, 3600]
  SearchPageOptions page;  ///< what is let be asked

  /// Throws kInvalidArgument.
  void validate() const;
};

/// Serves a SearchPage over HTTP/1.1, one request a connection. Forms longer than page.max_picture and 64 KB are
/// refused and not kept, and so are those whose length is not announced.
class SearchServer {
 public:
  /// Takes the port; connections wait until `run`. `search` must outlive the server. Throws kInvalidArgument, and kBusy
  /// when the port is in use or not to be had.
  SearchServer(const GallerySearch& search, const SearchServerOptions& options);
  /// Gives the port back.
  ~SearchServer();

  /// The port that is listened on.
  int port() const;
  /// "http://ADDRESS:PORT/".
  std::string url() const;

  /// Serves until a stop is requested, then lets the requests under way end (`deadline`
  /// bounds what their clients may take). Can be called once.
  /// Throws kIo when the system ends it.
  void run(const StopToken& stop);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace daug
