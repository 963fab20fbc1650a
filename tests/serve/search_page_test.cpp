// The page without a network: from requests to replies.

#include "daug/serve/search_page.h"

#include <set>
#include <stdexcept>
#include <string>

#include "daug/report/html_parts.h"
#include "support/catch.h"
#include "support/html.h"
#include "toy_gallery.h"

using namespace daug;
using namespace daug::test;

namespace {

WebRequest ask(std::map<std::string, std::string> parameters) {
  WebRequest request;
  request.host = "127.0.0.1:8080";
  request.parameters = std::move(parameters);
  return request;
}

WebRequest at_path(const std::string& path) {
  WebRequest request = ask({});
  request.path = path;
  return request;
}

/// The studies found, in order.
std::vector<std::string> found(const WebReply& reply) { return matches(reply.body, "<p><b>[0-9]+\\. ([^<]*)</b>"); }

int status_of(const SearchPage& page, const WebRequest& request) { return page.reply(request).status; }

}  // namespace

TEST_CASE("the form stands on a page that a screen reader can use", "[serve]") {
  const ToyGallery gallery(7);
  const WebReply reply = SearchPage(gallery).reply(ask({}));
  const std::string& html = reply.body;
  CHECK(reply.status == 200);
  CHECK(structure_error(html) == "");
  for (const char* once : {"<header>", "<nav aria-label=", "<main id=", "<html lang=\"en\">", "name=\"viewport\"",
                           "<h1>", "role=\"search\"", "class=\"skip\" href=\"#Content\""})
    CHECK(count(html, once) == 1);
  // Everything to fill in has a label of its own or stands in one.
  std::set<std::string> labelled;
  for (const auto& id : matches(html, "<label for=\"([^\"]*)\"")) labelled.insert(id);
  for (const auto& id :
       {"text", "study", "picture", "finding", "view", "split", "site", "from", "to", "patient", "count"})
    CHECK(labelled.count(id) == 1);
  const auto ids = matches(html, " id=\"([^\"]*)\"");
  CHECK(std::set<std::string>(ids.begin(), ids.end()).size() == ids.size());
  CHECK(count(html, "<legend>") == 2);
  CHECK(count(html, "checked") == 2 + 3);  // the first way and "other patients"; three times in the style sheet
  CHECK(gallery.asked().empty());
}

TEST_CASE("a page carries its own style and lets nothing else in", "[serve]") {
  const ToyGallery gallery(7);
  const SearchPage page(gallery);
  std::set<std::string> nonces;
  for (int i = 0; i < 3; ++i) {
    const WebReply reply = page.reply(ask({{"by", "study"}, {"study", "s3"}}));
    const std::string policy = reply.headers.at("Content-Security-Policy");
    const auto nonce = matches(policy, "style-src 'nonce-([^']*)'").at(0);
    CHECK(nonce.size() == 24);
    CHECK(nonces.insert(nonce).second);
    CHECK(matches(reply.body, "<style nonce=\"([^\"]*)\"") == std::vector<std::string>{nonce});
    CHECK(policy.find("default-src 'none'") == 0);
    CHECK(policy.find("script") == std::string::npos);  // so the default holds: none
    CHECK(policy.find("frame-ancestors 'none'") != std::string::npos);
    CHECK(count(reply.body, "<script") == 0);
    CHECK(count(reply.body, " style=") == 0);
    CHECK(count(reply.body, "://") == 0);
    CHECK(count(reply.body, "<img") == count(reply.body, " alt=\""));
    CHECK(reply.headers.at("X-Content-Type-Options") == "nosniff");
    CHECK(reply.headers.at("Cache-Control") == "no-store");
  }
}

TEST_CASE("hits come in order, with distance, findings and what the query shares", "[serve]") {
  const ToyGallery gallery(9);
  const SearchPage page(gallery);
  // By angle from s4, its own patient (s4, s5) left out: s3, s6, s2, s7, ... at 1, 2, 2, 3 degrees.
  const WebReply reply = page.reply(ask({{"by", "study"}, {"study", "s4"}, {"others", "1"}, {"count", "3"}}));
  CHECK(reply.status == 200);
  CHECK(structure_error(reply.body) == "");
  const auto studies = found(reply);
  REQUIRE(studies.size() == 3);
  CHECK(studies[0] == "s3");
  CHECK(std::set<std::string>(studies.begin() + 1, studies.end()) == std::set<std::string>{"s2", "s6"});
  CHECK(matches(reply.body, "distance ([0-9.]+), cosine").at(2) == "0.001");  // 1 - cos 2 degrees = 0.000609
  CHECK(reply.body.find("Query: study s4") != std::string::npos);
  // s4 and s7 have Edema, s2 and s5 Nodule, s3 and s6 nothing.
  CHECK(count(reply.body, "shared: ") == 0);
  const WebReply wider = page.reply(ask({{"by", "study"}, {"study", "s4"}, {"count", "9"}}));
  CHECK(found(wider).front() == "s4");
  CHECK(found(wider).size() == 9);
  CHECK(count(wider.body, "shared: Edema") == 3);
  CHECK(wider.body.find("href=\"/?by=study&amp;study=s5&amp;count=9#Results\"") != std::string::npos);
  // Form and filters stay.
  const WebReply filtered = page.reply(ask({{"by", "text"}, {"text", "abc"}, {"finding", "Nodule"}, {"view", "PA"}}));
  CHECK(found(filtered) == std::vector<std::string>{"s5"});
  CHECK(filtered.body.find("<option selected>Nodule</option>") != std::string::npos);
  CHECK(filtered.body.find("\nabc</textarea>") != std::string::npos);
  CHECK(found(page.reply(ask({{"by", "text"}, {"text", "abc"}, {"finding", "no finding"}}))).size() == 3);
  const WebReply none = page.reply(ask({{"by", "text"}, {"text", "abc"}, {"patient", "p99"}}));
  CHECK(none.status == 200);
  CHECK(none.body.find("No image matches") != std::string::npos);
  const GalleryQuery last = gallery.asked().back();
  CHECK(last.text == "abc");
  CHECK(last.filter.patient == "p99");
  CHECK_FALSE(last.filter.other_patients);
  CHECK(last.count == 12);
}

TEST_CASE("a search keeps to a site and to days, where there are any", "[serve]") {
  ToyGallery gallery(9);
  const SearchPage page(gallery);
  const auto reply_to = [&](std::map<std::string, std::string> parameters) {
    parameters["by"] = "text";
    parameters["text"] = "abc";  // 3 degrees
    return page.reply(ask(std::move(parameters)));
  };
  CHECK(found(reply_to({{"site", "South"}})) == std::vector<std::string>{"s4", "s5", "s6", "s7"});
  CHECK(found(reply_to({{"from", "2020-01-08"}})) == std::vector<std::string>{"s7", "s8"});
  CHECK(found(reply_to({{"to", "2020-01-02"}})) == std::vector<std::string>{"s1", "s0"});
  CHECK(found(reply_to({{"from", "2020-01-04"}, {"to", "2020-01-05"}, {"site", "South"}})) ==
        std::vector<std::string>{"s4"});
  // Form and links keep them.
  const std::string html = reply_to({{"site", "South"}, {"from", "2020-01-04"}, {"to", "2020-02-01"}}).body;
  CHECK(html.find("<option selected>South</option>") != std::string::npos);
  CHECK(html.find("min=\"2020-01-01\" max=\"2020-01-09\" value=\"2020-01-04\"") != std::string::npos);
  CHECK(html.find("&amp;site=South&amp;from=2020-01-04&amp;to=2020-02-01") != std::string::npos);
  for (const auto& parameters : {std::map<std::string, std::string>{{"site", "East"}},
                                 {{"from", "2020-02-30"}},
                                 {{"to", "tomorrow"}},
                                 {{"from", "2020-01-05"}, {"to", "2020-01-04"}}})
    CHECK(reply_to(parameters).status == 400);

  gallery.forget_sites_and_days();
  for (const char* field : {"\"site\"", "\"from\"", "\"to\""})
    CHECK(page.reply(ask({})).body.find(field) == std::string::npos);
  const std::size_t asked = gallery.asked().size();
  for (const char* field : {"site", "from", "to"}) CHECK(reply_to({{field, "2020-01-04"}}).status == 400);
  CHECK(gallery.asked().size() == asked);
}

TEST_CASE("an image file is handed on byte by byte and shown as it was seen", "[serve]") {
  const ToyGallery gallery(5);
  WebRequest request = ask({{"by", "picture"}});
  request.method = "POST";
  request.origin = "http://127.0.0.1:8080";
  request.picture = encode_png(GrayImage::filled(8, 6, 0.5F));
  const WebReply reply = SearchPage(gallery).reply(request);
  CHECK(reply.status == 200);
  CHECK(gallery.asked().back().picture == request.picture);
  CHECK(reply.body.find("data:image/png;base64," + report::base64(request.picture)) != std::string::npos);
  CHECK(found(reply).front() == "s0");
  request.picture = {1, 2, 3};
  const WebReply refused = SearchPage(gallery).reply(request);
  CHECK(refused.status == 400);
  CHECK(refused.body.find("role=\"alert\"") != std::string::npos);
}

TEST_CASE("texts of the cohort and of the request are escaped everywhere", "[serve]") {
  const std::string hostile = "\"'><script>alert(1)</script><img src=x onerror=y>&amp;</textarea>";
  const ToyGallery gallery(5, hostile);
  const SearchPage page(gallery);
  std::vector<WebRequest> requests = {ask({}), at_path("/images"), at_path("/" + hostile)};
  requests.push_back(ask({{"by", "study"}, {"study", "s1" + hostile}, {"view", "PA" + hostile}}));
  requests.push_back(ask({{"by", "study"}, {"study", hostile}}));
  requests.push_back(ask({{"by", "text"}, {"text", hostile}, {"patient", hostile}}));
  requests.push_back(ask({{"by", "text"}, {"text", "a"}, {"finding", hostile}}));
  requests.push_back(ask({{"by", hostile}, {"count", "1"}}));
  requests.push_back(ask({{"by", "text"}, {"text", "a"}, {"count", hostile}}));
  for (const auto& request : requests) {
    const std::string html = page.reply(request).body;
    CHECK(structure_error(html) == "");
    CHECK(count(html, "<script") == 0);
    CHECK(count(html, "onerror=y>") == 0);
    CHECK(count(html, "<textarea") <= 1);
    CHECK(html.find(report::escape(hostile)) != std::string::npos);
  }
  // The link to an image with such an id leads back to it.
  const WebReply reply = page.reply(at_path("/images"));
  CHECK(reply.body.find("study=s1%22%27%3E%3Cscript%3E") != std::string::npos);
}

TEST_CASE("there are three kinds of address, and no paths", "[serve]") {
  const ToyGallery gallery(5);
  const SearchPage page(gallery);
  const WebReply image = page.reply(at_path("/image/4.png"));
  CHECK(image.status == 200);
  CHECK(image.type == "image/png");
  const auto png = gallery.thumbnail(4);
  CHECK(image.body == std::string(png.begin(), png.end()));
  for (const char* path : {"/image/5.png",
                           "/image/-1.png",
                           "/image/+1.png",
                           "/image/1.PNG",
                           "/image/1",
                           "/image/.png",
                           "/image/",
                           "/image",
                           "/image/1.png/",
                           "/image/0x1.png",
                           "/image/1e0.png",
                           "/image/ 1.png",
                           "/image/18446744073709551616.png",
                           "/image/../../../etc/passwd",
                           "/image/1/../2.png",
                           "/../etc/passwd",
                           "//etc/passwd",
                           "/etc/passwd",
                           "/index.html",
                           "",
                           "*",
                           "/.",
                           "/images/",
                           "/image/1\0.png"})
    CHECK(status_of(page, at_path(path)) == 404);
  for (const char* method : {"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", ""}) {
    WebRequest request = ask({});
    request.method = method;
    CHECK(status_of(page, request) == 405);
  }
  WebRequest posted = at_path("/images");
  posted.method = "POST";
  CHECK(status_of(page, posted) == 405);
  posted.path = "/";
  posted.method = "HEAD";
  CHECK(status_of(page, posted) == 200);
}

TEST_CASE("names that somebody else may own are refused, and so are others' forms", "[serve]") {
  const ToyGallery gallery(5);
  const SearchPage page(gallery);
  for (const char* host :
       {"127.0.0.1:8080", "localhost:8080", "LocalHost", "127.0.0.1", "[::1]:8080", "[::1]", "10.0.0.7:1"}) {
    WebRequest request = ask({});
    request.host = host;
    INFO(host);
    CHECK(status_of(page, request) == 200);
  }
  for (const char* host : {"", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
                           "evil.127.0.0.1", "localhost:", "localhost:80x", "localhost:99999", "[evil]", "[::1", "::1",
                           "127.0.0.1:8080@evil.example", "1.2.3.4.5", "127.0.0.1 ", "a.b.c.d"}) {
    WebRequest request = ask({{"by", "study"}, {"study", "s1"}});
    request.host = host;
    INFO(host);
    const WebReply reply = page.reply(request);
    CHECK(reply.status == 403);
    CHECK(reply.body.find("gallery") == std::string::npos);  // nothing to read for whoever owns the name
  }
  CHECK(gallery.asked().empty());
  WebRequest form = ask({{"by", "study"}, {"study", "s1"}});
  form.method = "POST";
  for (const char* origin : {"http://evil.example", "null", "https://127.0.0.1:8080", "http://127.0.0.1:8081"}) {
    form.origin = origin;
    CHECK(status_of(page, form) == 403);
  }
  CHECK(gallery.asked().empty());
  form.origin = "http://127.0.0.1:8080";
  CHECK(status_of(page, form) == 200);
}

TEST_CASE("what is too much or makes no sense is refused with the form to try again", "[serve]") {
  const ToyGallery gallery(5);
  SearchPageOptions options;
  options.max_text = 10;
  options.max_picture = 50;
  options.max_hits = 4;
  const SearchPage page(gallery, options);
  const auto refused = [&](std::map<std::string, std::string> parameters, int status, std::size_t picture = 0) {
    WebRequest request = ask(std::move(parameters));
    request.picture.resize(picture);
    const WebReply reply = page.reply(request);
    CHECK(reply.status == status);
    CHECK(count(reply.body, "role=\"alert\"") == 1);
    CHECK(count(reply.body, "<form") == 1);
  };
  refused({{"by", "text"}, {"text", " \n"}}, 400);
  refused({{"by", "text"}, {"text", "12345678901"}}, 413);
  refused({{"by", "study"}}, 400);
  refused({{"by", "study"}, {"study", "s77"}}, 404);
  refused({{"by", "picture"}}, 400);
  refused({{"by", "picture"}}, 413, 51);
  refused({{"by", "magic"}}, 400);
  for (const char* field : {"text", "study", "patient", "finding", "from"}) {  // nor said again
    const std::string much(1 << 20, 'x');
    refused({{"by", "study"}, {field, much}}, 413);
    CHECK(page.reply(ask({{"by", "study"}, {field, much}})).body.size() < much.size() / 2);
  }
  for (const char* number : {"0", "5", "-1", "1.5", "many", "99999999999999999999"})
    refused({{"by", "text"}, {"text", "a"}, {"count", number}}, 400);
  for (const char* field : {"finding", "view", "split"})
    refused({{"by", "text"}, {"text", "a"}, {field, "something else"}}, 400);
  CHECK(gallery.asked().empty());
  for (auto change :
       {+[](SearchPageOptions& o) { o.searches_per_second = 0; }, +[](SearchPageOptions& o) { o.max_hits = 0; },
        +[](SearchPageOptions& o) { o.images_a_page = 0; }}) {
    SearchPageOptions bad;
    change(bad);
    CHECK_THROWS_AS(SearchPage(gallery, bad), Error);
  }
}

TEST_CASE("searches beyond the limit of their rate are turned away", "[serve]") {
  const ToyGallery gallery(5);
  SearchPageOptions options;
  options.searches_per_second = 1e-6;
  options.searches_at_once = 3;
  const SearchPage page(gallery, options);
  const WebRequest search = ask({{"by", "study"}, {"study", "s1"}});
  for (int i = 0; i < 3; ++i) CHECK(status_of(page, search) == 200);
  const WebReply reply = page.reply(search);
  CHECK(reply.status == 429);
  CHECK(reply.headers.count("Retry-After") == 1);
  CHECK(gallery.asked().size() == 3);
  CHECK(status_of(page, ask({})) == 200);  // only searches count
}

TEST_CASE("all images are listed, page by page", "[serve]") {
  const ToyGallery gallery(25);
  SearchPageOptions options;
  options.images_a_page = 10;
  const SearchPage page(gallery, options);
  std::vector<std::string> studies;
  for (const char* number : {"1", "2", "3"}) {
    WebRequest request = at_path("/images");
    request.parameters["page"] = number;
    const WebReply reply = page.reply(request);
    CHECK(reply.status == 200);
    CHECK(structure_error(reply.body) == "");
    for (const auto& study : matches(reply.body, "<b>(s[0-9]+)</b>")) studies.push_back(study);
  }
  REQUIRE(studies.size() == 25);
  for (std::size_t i = 0; i < 25; ++i) CHECK(studies[i] == "s" + std::to_string(i));
  for (const char* number : {"0", "4", "-1", "x", ""}) {
    WebRequest request = at_path("/images");
    request.parameters["page"] = number;
    CHECK(status_of(page, request) == 404);
  }
  CHECK(status_of(SearchPage(ToyGallery(0)), at_path("/images")) == 200);
}

TEST_CASE("a fault of the gallery's is no fault of the query's, and its files are not named", "[serve]") {
  ToyGallery gallery(5);
  std::vector<std::string> told;
  SearchPageOptions options;
  options.searches_at_once = 20;
  options.on_failure = [&](const std::string& message) { told.push_back(message); };
  const SearchPage page(gallery, options);
  const WebRequest search = ask({{"by", "study"}, {"study", "s1"}});
  const std::string secret = "/home/somebody/run/index/image.daugindex: block 3: expected its checksum";
  int faults = 0;
  for (const ErrorCode code : {ErrorCode::kFormat, ErrorCode::kIo, ErrorCode::kUnsupported, ErrorCode::kNumeric,
                               ErrorCode::kMismatch, ErrorCode::kBusy, ErrorCode::kOutOfMemory, ErrorCode::kDevice}) {
    gallery.fail_by([&] { throw Error(code, secret); });
    const WebReply reply = page.reply(search);
    CHECK(reply.status == 500);
    CHECK(reply.body.find("somebody") == std::string::npos);
    CHECK(count(reply.body, "role=\"alert\"") == 1);
    CHECK(static_cast<int>(told.size()) == ++faults);
    CHECK(told.back() == secret);
  }
  gallery.fail_by([&] { throw std::runtime_error(secret); });
  CHECK(status_of(page, search) == 500);
  CHECK(told.size() == 9);
  // What the query is to blame for is said to whoever asked.
  for (const auto& [code, status] :
       {std::pair<ErrorCode, int>{ErrorCode::kInvalidArgument, 400}, {ErrorCode::kNotFound, 404}}) {
    gallery.fail_by([&, code = code] { throw Error(code, "your query"); });
    const WebReply reply = page.reply(search);
    CHECK(reply.status == status);
    CHECK(reply.body.find("your query") != std::string::npos);
  }
  gallery.fail_by([&] { throw PictureError(Error(ErrorCode::kFormat, "your picture")); });
  CHECK(status_of(page, search) == 400);
  CHECK(told.size() == 9);
}
