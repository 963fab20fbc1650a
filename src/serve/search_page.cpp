#include "daug/serve/search_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <mutex>
#include <random>

#include "daug/core/error.h"
#include "daug/report/html_parts.h"

namespace daug {
namespace {

using report::escape;

constexpr const char* kFunction = "daug::SearchPage";

// Beside the report's style sheet.
constexpr std::string_view kPageStyle = R"css(
main { max-width: 84rem; margin: 0 auto; padding: 0 clamp(0.9rem, 3vw, 2.5rem) 4rem; }
form { display: grid; gap: 1rem; margin: 1rem 0; }
nav { position: static; margin: 1rem 0 0; padding: 0; }
nav ul { flex-direction: row; gap: 1.2rem; border: 0; padding: 0.5rem 0; }
fieldset { border: 1px solid var(--line); border-radius: 8px; background: var(--panel); margin: 0; padding: 0.7rem 0.9rem 0.9rem;
  min-width: 0; }
legend { font-weight: 600; padding: 0 0.3rem; }
.ways { display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; margin-bottom: 0.6rem; }
.ways label, .check { display: flex; gap: 0.45rem; align-items: center; min-height: 1.9rem; }
.way { display: grid; gap: 0.3rem; max-width: 46rem; }
fieldset:has(#by-text:checked) .way:not(.of-text), fieldset:has(#by-study:checked) .way:not(.of-study),
fieldset:has(#by-picture:checked) .way:not(.of-picture) { display: none; }
.filters { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr)); gap: 0.7rem 1rem; align-items: end; }
.filters legend + * { grid-column: auto; }
.field { display: grid; gap: 0.2rem; min-width: 0; }
.check { grid-column: 1 / -1; }
select, .field input { height: 2.4rem; }
textarea, select, input:not([type=radio]):not([type=checkbox]), button { font: inherit; color: inherit; width: 100%;
  background: var(--page); border: 1px solid var(--muted); border-radius: 6px; padding: 0.4rem 0.55rem; min-width: 0; }
textarea { resize: vertical; }
button { width: auto; justify-self: start; cursor: pointer; background: var(--accent); border-color: var(--accent); color: var(--panel);
  font-weight: 600; padding: 0.5rem 1.6rem; }
.hint { color: var(--muted); font-size: 0.9rem; margin: 0; }
.error { border-left: 4px solid var(--warn); background: var(--warn-soft); color: var(--warn); padding: 0.6rem 0.9rem; max-width: none; }
.found { list-style: none; margin: 1rem 0; padding: 0; display: grid; gap: 0.9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(10rem, 46%), 1fr)); }
.found > li { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 0.6rem; min-width: 0; font-size: 0.9rem; }
.found p { margin: 0.3rem 0 0; overflow-wrap: anywhere; }
.found .number { color: var(--muted); }
.query { display: flex; gap: 0.9rem; align-items: flex-start; max-width: 46rem; margin: 0.8rem 0; }
.query .stack { flex: 0 0 8.5rem; }
.query > div:last-child { min-width: 0; overflow-wrap: anywhere; }
.pages { display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; list-style: none; padding: 0; }
.pages [aria-current] { font-weight: 700; }
@media print {
  form, .more { display: none; }
  main { padding: 0; }
  .found > li, .query { break-inside: avoid; } }
)css";

/// Refuses what comes too fast: a bucket that fills at a steady rate.
class RateLimit {
 public:
  RateLimit(double a_second, int at_once) : rate_(a_second), most_(at_once), left_(at_once) {}

  bool take() {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    left_ = std::min<double>(most_, left_ + rate_ * std::chrono::duration<double>(now - last_).count());
    last_ = now;
    if (left_ < 1) return false;
    left_ -= 1;
    return true;
  }

 private:
  const double rate_;
  const int most_;
  double left_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
};

/// Ends a request: the status and what the page says.
struct Refusal {
  int status;
  std::string message;
};

/// The whole text as a number; nothing for anything else.
template <class Integer>
std::optional<Integer> integer(std::string_view text) {
  Integer value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional<Integer>(value) : std::nullopt;
}

/// `localhost` or a numeric address, with or without a port.
bool is_local_name(const std::string& host) {
  std::string name = host;
  if (const std::size_t colon = name.rfind(':'); colon != std::string::npos && name.back() != ']') {
    if (!integer<std::uint16_t>(std::string_view(name).substr(colon + 1))) return false;
    name.resize(colon);
  }
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); });
  if (name == "localhost") return true;
  if (name.size() > 2 && name.front() == '[' && name.back() == ']')
    return name.find_first_not_of("0123456789abcdef:.", 1) == name.size() - 1;
  // Four numbers: a name of somebody else's may have digits, but its last label is no number.
  return std::count(name.begin(), name.end(), '.') == 3 && name.find_first_not_of("0123456789.") == std::string::npos;
}

std::string nonce() {
  std::random_device random;
  std::vector<std::uint8_t> bytes;
  for (int i = 0; i < 4; ++i)
    for (std::uint32_t word = random(), k = 0; k < 4; ++k, word >>= 8) bytes.push_back(static_cast<std::uint8_t>(word));
  return report::base64(bytes);
}

/// RFC 3986: everything but unreserved characters as %XX.
std::string encode_component(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '.' || c == '_' || c == '~')
      out += c;
    else
      out += fmt::format("%{:02X}", byte);
  }
  return out;
}

/// What the form holds.
struct Form {
  std::string by, text, study;
  GalleryFilter filter;
  std::int64_t count = 12;
};

std::string options_html(const std::vector<std::string>& values, const std::string& chosen) {
  std::string html = fmt::format("<option value=\"\"{}>any</option>", chosen.empty() ? " selected" : "");
  for (const auto& value : values)
    if (!value.empty()) html += fmt::format("<option{}>{}</option>", value == chosen ? " selected" : "", escape(value));
  return html;
}

std::string select_html(const std::string& name, const std::string& label, const std::vector<std::string>& values,
                        const std::string& chosen) {
  return fmt::format(
      "<div class=\"field\"><label for=\"{0}\">{1}</label><select id=\"{0}\" name=\"{0}\">{2}</select></div>\n", name,
      label, options_html(values, chosen));
}

/// A field for a day, where images have some.
std::string day_html(const char* name, const char* label, const GalleryFacts& facts, const std::string& chosen) {
  if (facts.first_day.empty()) return "";
  return fmt::format(
      "<div class=\"field\"><label for=\"{0}\">{1}</label><input id=\"{0}\" name=\"{0}\" type=\"date\" min=\"{2}\" "
      "max=\"{3}\" value=\"{4}\"></div>\n",
      name, label, escape(facts.first_day), escape(facts.last_day), escape(chosen));
}

std::string badges_html(const std::vector<std::string>& findings, const std::vector<std::string>& of_query) {
  std::string html = "<p class=\"badges\">";
  for (const auto& finding : findings) {
    const bool shared = std::find(of_query.begin(), of_query.end(), finding) != of_query.end();
    html += fmt::format("<span class=\"badge{}\">{}{}</span> ", shared ? " shared" : "", shared ? "shared: " : "",
                        escape(finding));
  }
  if (findings.empty()) html += "<span class=\"badge\">no finding</span>";
  return html + "</p>";
}

std::string list_of(const std::vector<std::string>& findings) {
  std::string text;
  for (const auto& finding : findings) text += (text.empty() ? "" : ", ") + finding;
  return text.empty() ? "no finding" : text;
}

/// "patient p7, PA, train"
std::string facts_text(const GalleryImage& image) {
  std::string text = "patient " + image.patient;
  for (const auto* part : {&image.view, &image.split})
    if (!part->empty()) text += ", " + *part;
  return text;
}

std::string thumbnail_html(std::size_t number, const GalleryImage& image) {
  return fmt::format(
      "<div class=\"stack\"><img class=\"small\" src=\"/image/{}.png\" width=\"128\" height=\"128\" loading=\"lazy\" "
      "alt=\"Radiograph {}: {}\"></div>",
      number, escape(image.study), escape(list_of(image.findings)));
}

/// A reply that tells nothing of the gallery.
WebReply plain(int status) {
  WebReply reply;
  reply.status = status;
  reply.type = "text/plain; charset=utf-8";
  reply.body = status == 403   ? "This page is served to localhost and numeric addresses, and to its own forms.\n"
               : status == 413 ? "The request is too large.\n"
               : status == 414 ? "The address is too long.\n"
                               : "This request cannot be answered.\n";
  reply.headers["Content-Security-Policy"] = "default-src 'none'";
  reply.headers["X-Content-Type-Options"] = "nosniff";
  return reply;
}

}  // namespace

void SearchPageOptions::validate() const {
  constexpr const char* kName = "daug::SearchPageOptions";
  require(searches_per_second > 0, kName, "searches_per_second", "above 0", searches_per_second);
  require(searches_at_once >= 1, kName, "searches_at_once", "at least 1", searches_at_once);
  require(max_text >= 1, kName, "max_text", "at least 1", max_text);
  require(max_hits >= 1, kName, "max_hits", "at least 1", max_hits);
  require(images_a_page >= 1, kName, "images_a_page", "at least 1", images_a_page);
  require(max_picture >= 1, kName, "max_picture", "at least 1", max_picture);
}

struct SearchPage::Impl {
  const GallerySearch& search;
  SearchPageOptions options;
  mutable RateLimit limit;

  Impl(const GallerySearch& search_, const SearchPageOptions& options_)
      : search(search_), options(options_), limit(options.searches_per_second, options.searches_at_once) {}

  // --- pages ---

  WebReply page(int status, const std::string& title, const std::string& content) const {
    const GalleryFacts& facts = search.facts();
    const std::string once = nonce();
    WebReply reply;
    reply.status = status;
    reply.headers["Content-Security-Policy"] = fmt::format(
        "default-src 'none'; img-src 'self' data:; style-src 'nonce-{}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
        once);
    reply.body = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{0}{1}</title>\n"
        "<link rel=\"icon\" href=\"data:,\">\n"
        "<style nonce=\"{2}\">{3}{4}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#Content\">Skip to "
        "content</a>\n"
        "<header>\n<h1>{1}</h1>\n<p class=\"subtitle\">{5}</p>\n"
        "<p class=\"notice\" role=\"note\">Research software. Not a medical device: not for diagnosis or "
        "treatment.</p>\n"
        "<nav aria-label=\"Pages\"><ul><li><a href=\"/\">Search</a></li><li><a "
        "href=\"/images\">Images</a></li></ul></nav>\n"
        "</header>\n<main id=\"Content\">\n{6}</main>\n</body>\n</html>\n",
        escape(title.empty() ? "" : title + " - "), escape(facts.title), once, report::kStyle, kPageStyle,
        escape(facts.about), content);
    return reply;
  }

  std::string form_html(const Form& form) const {
    const GalleryFacts& facts = search.facts();
    const std::string by = form.by.empty() ? "text" : form.by;
    std::string html =
        "<form role=\"search\" aria-label=\"Search the gallery\" method=\"post\" action=\"/#Results\" "
        "enctype=\"multipart/form-data\">\n<fieldset><legend>Search by</legend>\n<div class=\"ways\">";
    for (const auto& [name, label] : {std::pair<const char*, const char*>{"text", "a report"},
                                      {"study", "an image of the cohort"},
                                      {"picture", "an image file"}})
      html += fmt::format("<label><input type=\"radio\" name=\"by\" id=\"by-{0}\" value=\"{0}\"{2}>{1}</label>\n", name,
                          label, by == name ? " checked" : "");
    html += fmt::format(
        "</div>\n<div class=\"way of-text\"><label for=\"text\">Text of the report</label>"
        "<textarea id=\"text\" name=\"text\" rows=\"3\" maxlength=\"{}\">\n{}</textarea></div>\n"
        "<div class=\"way of-study\"><label for=\"study\">Study id</label>"
        "<input id=\"study\" name=\"study\" value=\"{}\" autocomplete=\"off\" spellcheck=\"false\">"
        "<p class=\"hint\"><a href=\"/images\">Pick one from the images</a></p></div>\n"
        "<div class=\"way of-picture\"><label for=\"picture\">PNG, JPEG or PGM file, at most {} MB</label>"
        "<input id=\"picture\" name=\"picture\" type=\"file\" "
        "accept=\"image/png,image/jpeg,.pgm\"></div>\n</fieldset>\n",
        options.max_text, escape(form.text), escape(form.study), options.max_picture >> 20);
    std::vector<std::string> findings = facts.findings;
    findings.emplace_back(GalleryFacts::kNoFinding);
    html +=
        "<fieldset class=\"filters\"><legend>Only images</legend>\n" +
        select_html("finding", "with", findings, form.filter.finding) +
        select_html("view", "of the view", facts.views, form.filter.view) +
        select_html("split", "of the split", facts.splits, form.filter.split) +
        (facts.sites.empty() ? "" : select_html("site", "of the site", facts.sites, form.filter.site)) +
        day_html("from", "from the day", facts, form.filter.from) +
        day_html("to", "to the day", facts, form.filter.to) +
        fmt::format(
            "<div class=\"field\"><label for=\"patient\">of the patient</label><input id=\"patient\" "
            "name=\"patient\" value=\"{}\" placeholder=\"any\" autocomplete=\"off\" spellcheck=\"false\"></div>\n"
            "<div class=\"field\"><label for=\"count\">at most</label><input id=\"count\" name=\"count\" "
            "type=\"number\" min=\"1\" max=\"{}\" value=\"{}\"></div>\n"
            "<label class=\"check\"><input type=\"checkbox\" name=\"others\" value=\"1\"{}>not of the query's own "
            "patient</label>\n</fieldset>\n<button>Search</button>\n</form>\n",
            escape(form.filter.patient), options.max_hits, form.count, form.filter.other_patients ? " checked" : "");
    return html;
  }

  WebReply error_page(int status, const std::string& message, const Form& form = {}) const {
    return page(status, "Error",
                fmt::format("<p class=\"error\" role=\"alert\">{}</p>\n", escape(message)) + form_html(form));
  }

  WebReply failure_page(const std::exception& error, const Form& form) const {
    if (options.on_failure) options.on_failure(error.what());
    return error_page(500, "The search failed by a fault of this gallery.", form);
  }

  /// The link that searches by an image of the cohort.
  static std::string search_link(const GalleryImage& image, const Form& form) {
    const auto& f = form.filter;
    std::string link = fmt::format("/?by=study&study={}&count={}", encode_component(image.study), form.count);
    for (const auto& [name, value] : {std::pair<const char*, const std::string*>{"finding", &f.finding},
                                      {"view", &f.view},
                                      {"split", &f.split},
                                      {"site", &f.site},
                                      {"from", &f.from},
                                      {"to", &f.to},
                                      {"patient", &f.patient}})
      if (!value->empty()) link += fmt::format("&{}={}", name, encode_component(*value));
    return escape(link + (f.other_patients ? "&others=1#Results" : "#Results"));
  }

  // --- requests ---

  Form read_form(const WebRequest& request) const {
    // A form may be as long as a file, and the page says its fields again.
    const std::size_t longest = std::max<std::size_t>(options.max_text, 64 << 10);
    const auto field = [&](const char* name) {
      const auto found = request.parameters.find(name);
      if (found == request.parameters.end()) return std::string();
      if (found->second.size() > longest)
        throw Refusal{413, fmt::format("A field of the form is longer than {} bytes.", longest)};
      return found->second;
    };
    Form form;
    form.count = std::min(form.count, options.max_hits);
    form.by = field("by"), form.text = field("text"), form.study = field("study");
    form.filter.finding = field("finding"), form.filter.view = field("view"), form.filter.split = field("split");
    form.filter.patient = field("patient"), form.filter.site = field("site");
    form.filter.from = field("from"), form.filter.to = field("to");
    form.filter.other_patients = form.by.empty() || !field("others").empty();
    if (const std::string count = field("count"); !count.empty()) {
      const auto number = integer<std::int64_t>(count);
      require(number && *number >= 1 && *number <= options.max_hits, kFunction, "count",
              detail::concat("a whole number in [1, ", options.max_hits, "]"), "'" + count.substr(0, 40) + "'");
      form.count = *number;
    }
    return form;
  }

  void require_known(const GalleryFilter& filter) const {
    const GalleryFacts& facts = search.facts();
    const auto known = [](const std::string& value, const std::vector<std::string>& values, const char* name) {
      require(value.empty() || std::find(values.begin(), values.end(), value) != values.end(), kFunction, name,
              "one of those of the form", "'" + value.substr(0, 80) + "'");
    };
    if (filter.finding != GalleryFacts::kNoFinding) known(filter.finding, facts.findings, "finding");
    known(filter.view, facts.views, "view");
    known(filter.split, facts.splits, "split");
    known(filter.site, facts.sites, "site");
    if (facts.first_day.empty()) known(filter.from + filter.to, {}, "day");
  }

  GalleryQuery read_query(const WebRequest& request, const Form& form) const {
    GalleryQuery query;
    query.filter = form.filter;
    query.count = form.count;
    if (form.by == "text") {
      if (form.text.find_first_not_of(" \t\r\n") == std::string::npos) throw Refusal{400, "Type the text of a report."};
      if (form.text.size() > options.max_text)
        throw Refusal{413, fmt::format("The text is longer than {} bytes.", options.max_text)};
      query.text = form.text;
    } else if (form.by == "study") {
      if (form.study.empty()) throw Refusal{400, "Name a study, or pick one from the images."};
      query.image = search.find(form.study);
      if (!query.image) throw Refusal{404, "There is no study '" + form.study.substr(0, 80) + "'."};
    } else if (form.by == "picture") {
      if (request.picture.empty()) throw Refusal{400, "Choose an image file."};
      if (request.picture.size() > options.max_picture)
        throw Refusal{413, fmt::format("The file is larger than {} MB.", options.max_picture >> 20)};
      query.picture = request.picture;
    } else {
      throw Refusal{400, "Search by a report, an image of the cohort or an image file."};
    }
    return query;
  }

  WebReply results(const WebRequest& request, const Form& form) const {
    require_known(form.filter);
    const GalleryQuery query = read_query(request, form);
    if (!limit.take()) throw Refusal{429, "Too many searches at once: wait a second and search again."};
    const GalleryAnswer answer = search.search(query);
    const std::vector<std::string> of_query =
        query.image ? search.image(*query.image).findings : std::vector<std::string>();
    const std::string found = answer.hits.empty()
                                  ? "No image matches"
                                  : fmt::format("{} image{}", answer.hits.size(), answer.hits.size() == 1 ? "" : "s");
    std::string html = form_html(form);
    html += fmt::format("<section id=\"Results\" aria-labelledby=\"T-Results\"><h2 id=\"T-Results\">{}</h2>\n", found);
    if (query.image) {
      const GalleryImage image = search.image(*query.image);
      html += fmt::format("<div class=\"query\">{}<div><p><b>Query: study {}</b></p><p>{}</p>{}</div></div>\n",
                          thumbnail_html(*query.image, image), escape(image.study), escape(facts_text(image)),
                          badges_html(image.findings, {}));
    } else if (!answer.seen_png.empty()) {
      html += fmt::format(
          "<div class=\"query\"><div class=\"stack\"><img class=\"small\" width=\"128\" height=\"128\" alt=\"The image "
          "file as the network sees it\" src=\"data:image/png;base64,{}\"></div><div><p><b>Query: the image file</b>, "
          "as the network sees it</p></div></div>\n",
          report::base64(answer.seen_png));
    }
    if (answer.hits.empty())
      html += "<p>Fewer filters may find some.</p>\n";
    else
      html +=
          "<p class=\"hint\">Nearest first. Distance is 1 - cosine of the embeddings: 0 is the same direction.</p>\n";
    html += "<ol class=\"found\">\n";
    for (std::size_t rank = 0; rank < answer.hits.size(); ++rank) {
      const GalleryHit& hit = answer.hits[rank];
      const GalleryImage image = search.image(hit.image);
      html += fmt::format(
          "<li>{}<p><b>{}. {}</b></p><p class=\"number\">distance {:.3f}, cosine {:.3f}</p>{}<p>{}</p><p "
          "class=\"more\"><a href=\"{}\">Search by this image<span class=\"skip\"> {}</span></a></p></li>\n",
          thumbnail_html(hit.image, image), rank + 1, escape(image.study), 1 - hit.cosine, hit.cosine,
          badges_html(image.findings, of_query), escape(facts_text(image)), search_link(image, form),
          escape(image.study));
    }
    return page(200, found, html + "</ol></section>\n");
  }

  WebReply list(const WebRequest& request) const {
    const std::size_t count = search.facts().images;
    const std::size_t pages = std::max<std::size_t>(1, (count + options.images_a_page - 1) / options.images_a_page);
    std::size_t number = 1;
    if (const auto found = request.parameters.find("page"); found != request.parameters.end()) {
      const auto wanted = integer<std::size_t>(found->second);
      if (!wanted || *wanted < 1 || *wanted > pages) throw Refusal{404, "There is no such page of images."};
      number = *wanted;
    }
    std::string html =
        fmt::format("<h2>Images, page {} of {}</h2>\n<p>An image searches for others like it.</p>\n", number, pages);
    std::string links;
    const auto link = [&](std::size_t to, const char* label) {
      if (to >= 1 && to <= pages && to != number)
        links += fmt::format("<li><a href=\"/images?page={}\">{}</a></li>", to, label);
    };
    link(number > 1 ? 1 : number, "First"), link(number - 1, "Previous"), link(number + 1, "Next"), link(pages, "Last");
    const std::string navigation =
        links.empty() ? "" : "<nav aria-label=\"Pages of images\"><ul class=\"pages\">" + links + "</ul></nav>\n";
    html += navigation + "<ol class=\"found\">\n";
    const std::size_t end = std::min(count, number * options.images_a_page);
    for (std::size_t i = (number - 1) * options.images_a_page; i < end; ++i) {
      const GalleryImage image = search.image(i);
      html += fmt::format("<li>{}<p><a href=\"{}\"><b>{}</b></a></p>{}<p>{}</p></li>\n", thumbnail_html(i, image),
                          search_link(image, {}), escape(image.study), badges_html(image.findings, {}),
                          escape(facts_text(image)));
    }
    return page(200, fmt::format("Images, page {}", number), html + "</ol>\n" + navigation);
  }

  WebReply picture(const std::string& path) const {
    constexpr std::string_view kFolder = "/image/", kEnding = ".png";
    const std::string_view name = std::string_view(path).substr(kFolder.size());
    const auto number = name.size() > kEnding.size() && name.substr(name.size() - kEnding.size()) == kEnding
                            ? integer<std::size_t>(name.substr(0, name.size() - kEnding.size()))
                            : std::nullopt;
    if (!number || *number >= search.facts().images) throw Refusal{404, "There is no such image."};
    const auto png = search.thumbnail(*number);
    WebReply reply;
    reply.type = "image/png";
    reply.body.assign(png.begin(), png.end());
    reply.headers["Content-Security-Policy"] = "default-src 'none'";
    return reply;
  }

  WebReply route(const WebRequest& request, Form& form) const {
    if (!is_local_name(request.host)) return plain(403);
    const bool post = request.method == "POST";
    if (!post && request.method != "GET" && request.method != "HEAD")
      throw Refusal{405, "This page can be read and searched; nothing else."};
    if (post && !request.origin.empty() && request.origin != "http://" + request.host) return plain(403);
    if (request.path == "/") {
      form = read_form(request);
      return form.by.empty() ? page(200, "", form_html(form)) : results(request, form);
    }
    if (request.path != "/images" && request.path.rfind("/image/", 0) != 0)
      throw Refusal{404, "There is nothing at this address."};
    if (post) throw Refusal{405, "Nothing can be sent to this address."};
    return request.path == "/images" ? list(request) : picture(request.path);
  }
};

SearchPage::SearchPage(const GallerySearch& search, const SearchPageOptions& options) {
  options.validate();
  impl_ = std::make_unique<Impl>(search, options);
}

SearchPage::~SearchPage() = default;

WebReply SearchPage::reply(const WebRequest& request) const {
  WebReply reply;
  Form form;
  try {
    reply = impl_->route(request, form);
  } catch (const Refusal& refusal) {
    reply = impl_->error_page(refusal.status, refusal.message, form);
    if (refusal.status == 405) reply.headers["Allow"] = "GET, HEAD, POST";
    if (refusal.status == 429) reply.headers["Retry-After"] = "1";
  } catch (const PictureError& error) {
    reply = impl_->error_page(400, error.what(), form);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInvalidArgument || error.code() == ErrorCode::kNotFound)
      reply = impl_->error_page(error.code() == ErrorCode::kNotFound ? 404 : 400, error.what(), form);
    else
      reply = impl_->failure_page(error, form);
  } catch (const std::exception& error) {
    reply = impl_->failure_page(error, form);
  }
  // Nothing of a cohort stays in the browser or is handed to another page.
  reply.headers["Cache-Control"] = "no-store";
  reply.headers["X-Content-Type-Options"] = "nosniff";
  reply.headers["Referrer-Policy"] = "same-origin";
  reply.headers["Cross-Origin-Resource-Policy"] = "same-origin";
  reply.headers["Cross-Origin-Opener-Policy"] = "same-origin";
  return reply;
}

WebReply SearchPage::refusal(int status) const { return plain(status); }

}  // namespace daug
