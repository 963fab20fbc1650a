#include "daug/serve/search_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
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

using Clock = std::chrono::steady_clock;

/// A client's end of a connection, with a time for each piece and one for all that it sends, and again for all that it
/// receives: the library's own bounds pieces alone, so that one byte now and then holds a thread for as long as it
/// likes.
class TimedStream final : public httplib::Stream {
 public:
  TimedStream(socket_t connection, std::chrono::seconds piece, std::chrono::seconds whole)
      : socket_(connection), piece_(piece), whole_(whole), read_by_(Clock::now() + whole) {}

  /// Whether the client says something within this time.
  bool begins(std::chrono::seconds time) const { return ready(POLLIN, std::min(Clock::now() + time, read_by_)); }

  bool is_readable() const override { return read_ < filled_ || ready(POLLIN, read_by_); }
  bool is_writable() const override { return ready(POLLOUT, write_by()); }

  ssize_t read(char* bytes, std::size_t size) override {
    if (read_ == filled_) {  // the library asks for headers byte by byte
      if (!ready(POLLIN, read_by_)) return -1;
      const ssize_t received = ::recv(socket_, buffer_.data(), buffer_.size(), 0);
      if (received <= 0) return received;
      read_ = 0;
      filled_ = static_cast<std::size_t>(received);
    }
    const std::size_t count = std::min(size, filled_ - read_);
    std::copy_n(buffer_.begin() + static_cast<std::ptrdiff_t>(read_), count, bytes);
    read_ += count;
    return static_cast<ssize_t>(count);
  }

  ssize_t write(const char* bytes, std::size_t size) override {
    for (std::size_t sent = 0; sent < size;) {
      if (!ready(POLLOUT, write_by())) return -1;
      const ssize_t count = ::send(socket_, bytes + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count < 0 && errno != EAGAIN && errno != EINTR) return -1;
      sent += count > 0 ? static_cast<std::size_t>(count) : 0;
    }
    return static_cast<ssize_t>(size);
  }

  // Nobody asks who it is.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  /// What is to be received counts from its first piece.
  Clock::time_point write_by() const {
    if (write_by_ == Clock::time_point()) write_by_ = Clock::now() + whole_;
    return write_by_;
  }

  bool ready(short event, Clock::time_point by) const {
    pollfd one{socket_, event, 0};
    by = std::min(by, Clock::now() + piece_);
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(by - Clock::now()).count();
      if (left < 0) return false;
      const int found = ::poll(&one, 1, static_cast<int>(left));
      if (found >= 0 || errno != EINTR) return found > 0;
    }
  }

  socket_t socket_;
  std::chrono::seconds piece_, whole_;
  Clock::time_point read_by_;
  mutable Clock::time_point write_by_;
  std::array<char, 4096> buffer_{};
  std::size_t read_ = 0, filled_ = 0;  ///< of the buffer
};

/// A server that ends what takes too long, and gives its port back also when it never ran, which the library's own
/// leaves taken.
class Server : public httplib::Server {
 public:
  Server(int piece, int whole) : piece_(piece), whole_(whole) {}
  ~Server() override {
    const socket_t socket = svr_sock_.exchange(INVALID_SOCKET);
    if (socket != INVALID_SOCKET) ::close(socket);
  }

 private:
  /// One request a connection: whatever is wrong with it, the next one starts afresh.
  bool process_and_close_socket(socket_t socket) override {
    constexpr std::chrono::seconds kSilent{2};  // browsers open connections that they may not need
    // Replies are sent whole: the library would cut the body out once for each range, however many there are.
    const auto whole_reply = [](httplib::Request& request) { request.ranges.clear(); };
    bool answered = false;
    {
      TimedStream stream(socket, piece_, whole_);
      bool closed = false;
      if (stream.begins(kSilent)) answered = process_request(stream, /*close_connection=*/true, closed, whole_reply);
    }
    ::shutdown(socket, SHUT_RDWR);
    ::close(socket);
    return answered;
  }

  std::chrono::seconds piece_, whole_;
};

}  // namespace

void SearchServerOptions::validate() const {
  constexpr const char* kName = "daug::SearchServerOptions";
  require(!address.empty(), kName, "address", "an address of this machine", "none");
  require_range(port, 0, 65535, kName, "port");
  require_range(threads, 1, 64, kName, "threads");
  require_range(timeout, 1, 600, kName, "timeout");
  require_range(deadline, timeout, 3600, kName, "deadline");
  page.validate();
}

struct SearchServer::Impl {
  SearchServerOptions options;
  SearchPage page;
  Server server;
  int port = 0;

  Impl(const GallerySearch& search, const SearchServerOptions& options_)
      : options(options_), page(search, options_.page), server(options_.timeout, options_.deadline) {
    constexpr std::size_t kFormBytes = 64 << 10;  // of a form besides its file
    server.new_task_queue = [threads = options.threads] {
      return new httplib::ThreadPool(static_cast<std::size_t>(threads));
    };
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
      if (!response.body.empty()) return;
      WebReply refusal = page.refusal(response.status);
      if (response.status == 416) refusal.body.clear();  // it would be sent once for each range before the bad one
      write_reply(refusal, response);
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
