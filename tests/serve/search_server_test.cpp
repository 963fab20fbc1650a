// The server over real sockets of the loopback address.

#include "daug/serve/search_server.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <string>
#include <string_view>
#include <thread>

#include "serve/served.h"
#include "support/catch.h"
#include "support/connection.h"
#include "toy_gallery.h"

using namespace daug;
using namespace daug::test;

namespace {

std::string get(int port, const std::string& target, const std::string& host = "127.0.0.1") {
  return Connection(port).talk(fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target, host));
}

int status_of(const std::string& reply) {
  return reply.size() > 12 && reply.rfind("HTTP/1.1 ", 0) == 0 ? std::stoi(reply.substr(9, 3)) : 0;
}

std::string body_of(const std::string& reply) {
  const auto end = reply.find("\r\n\r\n");
  return end == std::string::npos ? "" : reply.substr(end + 4);
}

std::string form(const std::string& fields, const std::string& headers = "") {
  const std::string body = fields + "--edge--\r\n";
  return fmt::format(
      "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=edge\r\nContent-Length: "
      "{}\r\n{}\r\n{}",
      body.size(), headers, body);
}

std::string part(const std::string& name, const std::string& content, const std::string& file = "") {
  return fmt::format("--edge\r\nContent-Disposition: form-data; name=\"{}\"{}\r\n\r\n{}\r\n", name,
                     file.empty() ? "" : "; filename=\"" + file + "\"", content);
}

}  // namespace

TEST_CASE("a server answers over the loopback address", "[serve]") {
  const ToyGallery gallery(9);
  const Served served(gallery);
  const int port = served.port();

  CHECK(status_of(get(port, "/")) == 200);
  const std::string found = get(port, "/?by=study&study=s4&count=2&others=1");
  CHECK(found.find("<b>1. s3</b>") != std::string::npos);
  CHECK(found.find("\r\nContent-Security-Policy: default-src 'none'; img-src 'self'") != std::string::npos);
  CHECK(found.find("\r\nX-Content-Type-Options: nosniff") != std::string::npos);
  const auto png = gallery.thumbnail(3);
  CHECK(body_of(get(port, "/image/3.png")) == std::string(png.begin(), png.end()));

  // A form with a file, byte by byte.
  std::string bytes;
  for (const std::uint8_t byte : encode_png(GrayImage::filled(8, 6, 0.5F))) bytes += static_cast<char>(byte);
  const std::string uploaded =
      Connection(port).talk(form(part("by", "picture") + part("count", "1") + part("picture", bytes, "../../a.png")));
  CHECK(status_of(uploaded) == 200);
  CHECK(uploaded.find("<b>1. s0</b>") != std::string::npos);
  const auto received = gallery.asked().back().picture;
  CHECK(std::string(received.begin(), received.end()) == bytes);
  CHECK(status_of(Connection(port).talk(form(part("by", "text") + part("text", "abc")))) == 200);
  CHECK(gallery.asked().back().text == "abc");

  SECTION("other names, methods, paths and forms are refused") {
    CHECK(status_of(get(port, "/", "evil.example")) == 403);
    CHECK(status_of(Connection(port).talk("GET / HTTP/1.1\r\n\r\n")) == 403);
    for (const char* target : {"/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/image/..%2f..%2fetc%2fpasswd",
                               "/image/%2e%2e/1.png", "/image/1.png%00", "//etc/passwd", "/etc/passwd"}) {
      const std::string reply = get(port, target);
      INFO(target);
      CHECK(status_of(reply) == 404);
      CHECK(reply.find("root:") == std::string::npos);
    }
    for (const char* method : {"PUT", "DELETE", "PATCH", "OPTIONS"})
      CHECK(status_of(Connection(port).talk(
                fmt::format("{} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", method))) == 405);
    CHECK(status_of(Connection(port).talk(form(part("by", "text"), "Origin: http://evil.example\r\n"))) == 403);
    CHECK(status_of(Connection(port).talk("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                          "text/plain\r\nContent-Length: 1\r\n\r\na")) == 415);
    CHECK(status_of(Connection(port).talk("POST /images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")) ==
          405);
    CHECK(status_of(Connection(port).talk(
              "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
              "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")) == 411);
    CHECK(status_of(Connection(port).talk(form(part("by", "text"), "Content-Encoding: gzip\r\n"))) == 415);
    CHECK(status_of(get(port, "/?text=" + std::string(20000, 'a'))) == 414);
    const std::string large = Connection(port).talk(form(part("by", "text") + part("text", std::string(300000, 'a'))));
    CHECK(status_of(large) == 413);
    CHECK(status_of(Connection(port).talk("nonsense\r\n\r\n")) == 400);
    CHECK(status_of(get(port, "/")) == 200);
  }

  SECTION("connections that say nothing keep nobody from being answered") {
    const Connection idle(port), half(port);
    CHECK(idle.open());
    CHECK(status_of(get(port, "/")) == 200);
  }

  SECTION("many at once") {
    std::vector<std::thread> clients;
    std::atomic<int> well{0};
    for (int i = 0; i < 6; ++i)
      clients.emplace_back([&, i] {
        for (int k = 0; k < 10; ++k)
          if (status_of(get(port, fmt::format("/image/{}.png", i))) == 200) ++well;
      });
    for (auto& client : clients) client.join();
    CHECK(well == 60);
  }
}

TEST_CASE("a reply is sent whole, whatever ranges are asked for", "[serve]") {
  const ToyGallery gallery(9);
  const Served served(gallery);
  const auto ask = [&](const std::string& target, const std::string& ranges) {
    return Connection(served.port())
        .talk(fmt::format("GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes={}\r\n\r\n", target, ranges));
  };
  const auto repeated = [](const std::string& range, int times) {
    std::string ranges = range;
    for (int i = 1; i < times; ++i) ranges += "," + range;
    return ranges;
  };
  const auto without_nonce = [](std::string reply) {  // a new one for each page: in a header and in the page's style
    static constexpr std::string_view kNonce = "nonce-";
    const size_t header = reply.find(kNonce);
    if (header == std::string::npos) return reply;
    const size_t start = header + kNonce.size();
    const std::string nonce = reply.substr(start, reply.find('\'', start) - start);
    for (size_t at = start; at != std::string::npos; at = reply.find(nonce, at)) reply.erase(at, nonce.size());
    return reply;
  };
  for (const char* target : {"/", "/image/3.png", "/nowhere"}) {
    const std::string plain = without_nonce(get(served.port(), target));
    CHECK(body_of(plain).size() > 10);
    for (const std::string& ranges : {std::string("0-3"), std::string("-5"), std::string("2-3,5-7"),
                                      repeated("0-", 1000), repeated("-", 4000)}) {  // about as long as a header may be
      INFO(target << " " << ranges.substr(0, 20));
      CHECK(without_nonce(ask(target, ranges)) == plain);  // status, headers and body
    }
  }
  // Ranges that are none: a refusal of one size, however many good ones stand before.
  for (const std::string& ranges : {std::string("3-0"), repeated("0-", 1000) + ",3-0", std::string(30, '9') + "-"}) {
    const std::string refused = ask("/", ranges);
    INFO(ranges.substr(0, 20));
    CHECK(status_of(refused) == 416);
    CHECK(body_of(refused).empty());
    CHECK(refused.size() < 1000);
  }
  CHECK(status_of(get(served.port(), "/")) == 200);
}

TEST_CASE("a client that sends a byte now and then is ended in time", "[serve]") {
  const ToyGallery gallery(9);
  SearchServerOptions options = Served::test_options();
  options.threads = 2;
  options.timeout = 1;
  options.deadline = 2;
  const Served served(gallery, options);
  const int port = served.port();
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  const Connection first(port), second(port);  // as many as there are threads
  while ((!first.ended() || !second.ended()) && seconds() < 30) {
    for (const Connection* slow : {&first, &second}) slow->send("G");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  CHECK(seconds() >= 1.5);  // not at once: they were waited for
  CHECK(seconds() < 15);
  CHECK(status_of(get(port, "/")) == 200);

  // One that is slow but gets there is answered.
  const Connection steady(port);
  steady.send("GET / HTTP/1.1\r\nHo");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(status_of(steady.talk("st: 127.0.0.1\r\n\r\n")) == 200);
  options.deadline = 0;  // shorter than for a piece
  CHECK_THROWS_AS(SearchServer(gallery, options), Error);
}

TEST_CASE("a port has one server, until it stops", "[serve]") {
  const ToyGallery gallery(3);
  SearchServerOptions options;
  {
    const Served first(gallery);
    options.port = first.port();
    try {
      SearchServer second(gallery, options);
      FAIL("the port was taken twice");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kBusy);
      CHECK_THAT(error.what(), contains_text(std::to_string(options.port)));
    }
  }
  CHECK_FALSE(Connection(options.port).open());
  { const SearchServer never_run(gallery, options); }
  SearchServer again(gallery, options);
  CHECK(again.port() == options.port);
  CHECK(again.url() == fmt::format("http://127.0.0.1:{}/", options.port));
  options.address = "198.51.100.1";  // RFC 5737: nobody's
  options.port = 0;
  CHECK_THROWS_AS(SearchServer(gallery, options), Error);
  options.port = 65536;
  CHECK_THROWS_AS(SearchServer(gallery, options), Error);
}

TEST_CASE("a stop that is asked for before a server runs ends it at once", "[serve]") {
  const ToyGallery gallery(3);
  SearchServerOptions options;
  options.port = 0;
  SearchServer server(gallery, options);
  StopSource stop;
  stop.request_stop();
  server.run(stop.token());
  CHECK_FALSE(Connection(server.port()).open());
}
