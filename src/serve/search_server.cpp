#include "daug/serve/search_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "daug/core/error.h"

namespace daug {
namespace {

constexpr const char* kFunction = "daug::SearchServer";

WebRequest read_request(const httplib::Request& request) {
  WebRequest read;
  read.method = request.method;
  read.path = request.path;
  read.host = request.get_header_value("Host");
  read.origin = request.get_header_value("Origin");
  for (const auto& [name, value] : request.params) read.parameters.emplace(name, value);
  for (const auto& [name, part] : request.files)
    if (name == "picture")
      read.picture.assign(part.content.begin(), part.content.end());
    else
      read.parameters.emplace(name, part.content);
  return read;
}

/// The status of a form that is not to be read, else 0. The limit of length holds for what is announced and sent as it
/// is alone.
int refused_form(const httplib::Request& request) {
  if (request.path != "/") return 405;
  if (!request.is_multipart_form_data() || request.has_header("Content-Encoding")) return 415;
  return request.has_header("Content-Length") && !request.has_header("Transfer-Encoding") ? 0 : 411;
}

void write_reply(const WebReply& reply, httplib::Response& response) {
  response.status = reply.status;
  response.set_content(reply.body, reply.type);
  for (const auto& [name, value] : reply.headers) response.set_header(name, value);
}

/// A server that gives its port back also when it never ran, which the library's own leaves taken.
class Server : public httplib::Server {
 public:
  ~Server() override {
    const socket_t socket = svr_sock_.exchange(INVALID_SOCKET);
    if (socket != INVALID_SOCKET) ::close(socket);
  }
};

}  // namespace

void SearchServerOptions::validate() const {
  constexpr const char* kName = "daug::SearchServerOptions";
  require(!address.empty(), kName, "address", "an address of this machine", "none");
  require_range(port, 0, 65535, kName, "port");
  require_range(threads, 1, 64, kName, "threads");
  require_range(timeout, 1, 600, kName, "timeout");
  page.validate();
}

struct SearchServer::Impl {
  SearchServerOptions options;
  SearchPage page;
  Server server;
  int port = 0;

  Impl(const GallerySearch& search, const SearchServerOptions& options_)
      : options(options_), page(search, options_.page) {
    constexpr std::size_t kFormBytes = 64 << 10;  // of a form besides its file
    server.new_task_queue = [threads = options.threads] {
      return new httplib::ThreadPool(static_cast<std::size_t>(threads));
    };
    // One request a connection: whatever is wrong with it, the next one starts afresh.
    server.set_keep_alive_max_count(1);
    server.set_keep_alive_timeout(2);
    server.set_read_timeout(options.timeout);
    server.set_write_timeout(options.timeout);
    server.set_payload_max_length(options.page.max_picture + kFormBytes);
    // The default would let two servers share a port.
    server.set_socket_options([](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    // A form is answered once it is read, everything else at once.
    server.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      const int refused = request.method == "POST" ? refused_form(request) : 0;
      if (request.method == "POST" && refused == 0) return httplib::Server::HandlerResponse::Unhandled;
      write_reply(refused != 0 ? page.refusal(refused) : page.reply(read_request(request)), response);
      return httplib::Server::HandlerResponse::Handled;
    });
    server.Post("/", [this](const httplib::Request& request, httplib::Response& response) {
      write_reply(page.reply(read_request(request)), response);
    });
    server.set_error_handler([this](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty()) write_reply(page.refusal(response.status), response);
    });
    port = options.port == 0                                    ? server.bind_to_any_port(options.address)
           : server.bind_to_port(options.address, options.port) ? options.port
                                                                : -1;
    if (port < 0)
      fail(ErrorCode::kBusy, kFunction, "port",
           detail::concat("a free port of the address ", options.address, ", which is this machine's"),
           detail::concat(options.port, ", which is in use or not to be had; choose another"));
  }
};

SearchServer::SearchServer(const GallerySearch& search, const SearchServerOptions& options) {
  options.validate();
  impl_ = std::make_unique<Impl>(search, options);
}

SearchServer::~SearchServer() = default;

int SearchServer::port() const { return impl_->port; }

std::string SearchServer::url() const {
  const bool v6 = impl_->options.address.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}/", v6 ? "[" : "", impl_->options.address, v6 ? "]" : "", impl_->port);
}

void SearchServer::run(const StopToken& stop) {
  std::atomic<bool> ended{false};
  bool well = false;
  std::thread listener([&] {
    well = impl_->server.listen_after_bind();
    ended = true;
  });
  while (!ended && !stop.stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  // It cannot be stopped before it runs.
  while (!ended && !impl_->server.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  impl_->server.stop();
  listener.join();
  if (!well && !stop.stop_requested())
    fail(ErrorCode::kIo, kFunction, "run", "connections to be accepted", "an error of the system");
}

}  // namespace daug
