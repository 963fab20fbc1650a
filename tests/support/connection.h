#pragma once
// A client's end of a connection, as low as tests of a server need it.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace daug::test {

/// A connection to a port of this machine.
class Connection {
 public:
  explicit Connection(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval most{60, 0};  // a server that never answers fails a test and does not hang it
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    open_ = ::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  ~Connection() { ::close(socket_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool open() const { return open_; }

  /// Sends bytes; false when the other side takes none.
  bool send(const std::string& bytes) const {
    for (std::size_t sent = 0; sent < bytes.size();) {
      const auto n = ::send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return false;
      sent += static_cast<std::size_t>(n);
    }
    return true;
  }

  /// Whether the other side has closed; what it sent until then is read.
  bool ended() const {
    char buffer[4096];
    ssize_t n = 0;
    while ((n = ::recv(socket_, buffer, sizeof buffer, MSG_DONTWAIT)) > 0) {
    }
    return n == 0 || errno != EAGAIN;
  }

  /// Sends bytes and returns all that comes back until the other side closes; `all`: says that nothing will follow.
  std::string talk(const std::string& bytes, bool all = false) const {
    send(bytes);
    if (all) ::shutdown(socket_, SHUT_WR);
    std::string reply;
    char buffer[4096];
    for (ssize_t n; (n = ::recv(socket_, buffer, sizeof buffer, 0)) > 0;)
      reply.append(buffer, static_cast<std::size_t>(n));
    return reply;
  }

 private:
  int socket_;
  bool open_;
};

}  // namespace daug::test
