#pragma once
/// @file
/// A page to search a gallery with: from requests to replies, without a network.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daug/serve/gallery_search.h"

namespace daug {

/// A request, as much of it as matters.
struct WebRequest {
  std::string method = "GET";                     ///< upper case
  std::string path = "/";                         ///< decoded, without query
  std::string host;                               ///< the header of this name
  std::string origin;                             ///< the header of this name; empty: none was sent
  std::map<std::string, std::string> parameters;  ///< decoded fields of the query or of a form
  std::vector<std::uint8_t> picture;              ///< contents of an uploaded file
};

/// What is sent back.
struct WebReply {
  int status = 200;                               ///< of HTTP
  std::string type = "text/html; charset=utf-8";  ///< Content-Type
  std::string body;                               ///< text or bytes
  std::map<std::string, std::string> headers;     ///< besides Content-Type
};

/// How much a page lets be asked.
struct SearchPageOptions {
  double searches_per_second = 5;       ///< in the long run, > 0
  int searches_at_once = 10;            ///< before that limit counts, >= 1
  std::size_t max_text = 4000;          ///< bytes of a report, >= 1
  std::int64_t max_hits = 60;           ///< of one search, >= 1
  std::size_t images_a_page = 48;       ///< of the list to pick from, >= 1
  std::size_t max_picture = 16u << 20;  ///< bytes of an uploaded file, >= 1

  /// Told why a search failed by a fault of the gallery's, which a reply of status 500 keeps to itself (it may name
  /// files of this machine); called from the thread of the request. May be empty.
  std::function<void(const std::string& message)> on_failure;

  /// Throws kInvalidArgument.
  void validate() const;
};

/// Replies to requests for a search form with its hits ("/"), a list of images to pick from ("/images") and single
/// images ("/image/NUMBER.png"); everything else is refused. Pages need no script and no other resource than these
/// images; texts of the cohort are escaped, and a security policy forbids everything else.
///
/// Nothing that a request says becomes a path or changes anything. Hosts are refused unless they are `localhost` or a
/// numeric address, so that no name of somebody else's can be made to mean this machine (DNS rebinding), and so are
/// forms that another origin sends.
class SearchPage {
 public:
  /// `search` must outlive the page. Throws kInvalidArgument.
  explicit SearchPage(const GallerySearch& search, const SearchPageOptions& options = {});
  /// Leaves `search` as it is.
  ~SearchPage();

  /// Never throws for what a request holds: errors are replies of status 400, 403, 404, 405, 413, 429 (too many
  /// searches) and 500. May be called from several threads.
  WebReply reply(const WebRequest& request) const;

  /// The reply to a request that could not be read, of the given status.
  WebReply refusal(int status) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace daug
