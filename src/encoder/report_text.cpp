#include "daug/encoder/report_text.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "daug/core/error.h"
#include "daug/encoder/prompts.h"

namespace daug {
namespace {

// What a heading says of the text under it, a bit each. Text under one without the first two is dropped; behind the
// end of a report a summary is a code, too ("SUMMARY:2-ABNORMAL").
enum Section : unsigned { kDropped = 0, kFindings = 1, kImpression = 2, kEnd = 4 };

struct Heading {
  std::string_view name;  // or its plural
  unsigned section;
  bool anywhere;  // in capitals; others are tails of longer headings ("PA AND LATERAL VIEWS:") and plain words
};

// Headings usual in MIMIC-CXR's, Indiana University's and CheXpert's reports.
constexpr Heading kHeadings[] = {
    {"FINDING", kFindings, true},
    {"IMPRESSION", kImpression, true},
    {"FINAL IMPRESSION", kImpression, true},
    {"CONCLUSION", kImpression, true},
    {"INTERPRETATION", kImpression, true},
    {"SUMMARY", kImpression, false},
    {"ADDENDUM", kDropped, true},
    {"CLINICAL HISTORY", kDropped, true},
    {"CLINICAL INDICATION", kDropped, true},
    {"CLINICAL INFORMATION", kDropped, true},
    {"COMPARISON", kDropped, true},
    {"COMPARISON EXAM", kDropped, true},
    {"COMPARISON EXAMINATION", kDropped, true},
    {"COMPARISON FILM", kDropped, true},
    {"COMPARISON STUDY", kDropped, true},
    {"END OF IMPRESSION", kEnd, true},
    {"END OF REPORT", kEnd, true},
    {"EXAM", kDropped, true},
    {"EXAMINATION", kDropped, true},
    {"FINAL REPORT", kDropped, true},
    {"HISTORY", kDropped, true},
    {"INDICATION", kDropped, true},
    {"NOTIFICATION", kDropped, true},
    {"PATIENT HISTORY", kDropped, true},
    {"PRELIMINARY REPORT", kDropped, true},
    {"PROCEDURE", kDropped, false},
    {"REASON FOR EXAM", kDropped, true},
    {"REASON FOR EXAMINATION", kDropped, true},
    {"REASON FOR STUDY", kDropped, true},
    {"REASON FOR THE EXAM", kDropped, true},
    {"REASON FOR THE EXAMINATION", kDropped, true},
    {"REASON FOR THIS EXAM", kDropped, true},
    {"REASON FOR THIS EXAMINATION", kDropped, true},
    {"RECOMMENDATION", kDropped, true},
    {"REFERENCE EXAM", kDropped, true},
    {"STUDY", kDropped, false},
    {"TECHNIQUE", kDropped, true},
    {"TYPE OF EXAM", kDropped, true},
    {"TYPE OF EXAMINATION", kDropped, true},
    {"VIEW", kDropped, false},
    {"WET READ", kDropped, true},
    {"WETREAD", kDropped, true},
};

// A list of any length would be read again from each of its names.
constexpr int kMostJoined = 4;

// Where a heading may stand, the likeliest last; a paragraph's start follows a blank line.
enum class Place { kWord, kSentence, kLine, kParagraph };

bool describes(unsigned section) { return (section & (kFindings | kImpression)) != 0; }

// The section that a heading would end.
struct OpenSection {
  unsigned section = kDropped;
  bool empty = true;  // but for blanks
};

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_capital(char c) { return c >= 'A' && c <= 'Z'; }
bool is_small(char c) { return c >= 'a' && c <= 'z'; }
char upper(char c) { return is_small(c) ? static_cast<char>(c - 'a' + 'A') : c; }

// The part of `text` behind `capitals`, which it begins with in any case; nothing when it does not.
std::optional<std::string_view> behind(std::string_view text, std::string_view capitals) {
  if (text.size() < capitals.size()) return std::nullopt;
  for (std::size_t i = 0; i < capitals.size(); ++i)
    if (upper(text[i]) != capitals[i]) return std::nullopt;
  return text.substr(capitals.size());
}

std::string_view without_blanks(std::string_view text) {
  while (!text.empty() && (text[0] == ' ' || text[0] == '\t')) text.remove_prefix(1);
  return text;
}

struct FoundHeading {
  unsigned section;
  std::size_t length;  // up to and with its colon
};

// The heading at the start of `text`, one name or a few joined ("FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION").
std::optional<FoundHeading> heading_at(std::string_view text, Place place, const OpenSection& open) {
  FoundHeading found{kDropped, 0};
  std::string_view rest = text;
  bool anywhere = true, more = true;
  for (int names = 0; more; ++names) {
    if (names == kMostJoined) return std::nullopt;
    // The longest name: others begin with some.
    const Heading* named = nullptr;
    for (const Heading& heading : kHeadings)
      if (behind(rest, heading.name) && (!named || heading.name.size() > named->name.size())) named = &heading;
    if (!named) return std::nullopt;
    found.section |= named->section;
    anywhere = anywhere && named->anywhere;
    rest.remove_prefix(named->name.size());
    for (std::string_view plural : {"(S)", "S"}) {
      if (const auto after = behind(rest, plural)) {
        rest = *after;
        break;
      }
    }
    const std::string_view next = without_blanks(rest);
    more = false;
    for (std::string_view joint : {"/", "&", "+", ",", "AND "}) {
      const auto after = behind(next, joint);
      if (!after || (joint == "AND " && next.size() == rest.size())) continue;
      rest = without_blanks(*after);
      more = true;
      break;
    }
  }
  if (open.section == kEnd && !anywhere) return std::nullopt;
  const std::string_view name = text.substr(0, text.size() - rest.size());
  const std::string_view next = without_blanks(rest);
  found.length = text.size() - next.size();
  // What follows would be lost: a stray sentence is better, so the form has to be surer, and surest ahead of any text.
  const bool loses = describes(open.section) && !describes(found.section);
  if (loses && open.empty) place = std::min(place, Place::kSentence);
  const bool capital = is_capital(name[0]);
  if (next.empty() || next[0] != ':') {
    const bool own_line = place >= Place::kLine && !next.empty() && (next[0] == '\n' || next[0] == '\r');
    return own_line && capital ? std::optional(found) : std::nullopt;
  }
  ++found.length;
  const bool capitals = std::none_of(name.begin(), name.end(), is_small);
  bool sure = anywhere && capitals;
  if (place == Place::kSentence) sure = sure || (capital && !loses);
  // Running text, too, has lines that begin with "study:" or, behind a full stop, with "Study:".
  if (place == Place::kLine) sure = capitals || (anywhere ? capital || !loses : capital && !loses);
  if (place == Place::kParagraph) sure = anywhere || capital;
  return sure ? std::optional(found) : std::nullopt;
}

// Appends with white space collapsed and none at the ends.
void append_collapsed(std::string& out, std::string_view text) {
  bool space = !out.empty();
  for (char c : text) {
    if (is_blank(c)) {
      space = !out.empty();
      continue;
    }
    if (space) out += ' ';
    space = false;
    out += c;
  }
}

// "a", "a and b", "a, b and c"
std::string join(const std::vector<std::string>& items, std::string_view last) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " " + std::string(last) + " " : ", ";
    text += items[i];
  }
  return text;
}

}  // namespace

std::string ReportSections::text() const {
  // Only what is said already is left out: either part may have been edited.
  const bool said = shared <= std::min(findings.size(), impression.size()) &&
                    findings.compare(findings.size() - shared, shared, impression, 0, shared) == 0;
  std::string whole = findings;
  append_collapsed(whole, std::string_view(impression).substr(said ? shared : 0));
  return whole;
}

ReportSections split_sections(std::string_view report) {
  std::string findings, impression, both;
  OpenSection open;
  std::size_t begin = 0;
  const auto close = [&](std::size_t end) {
    if (!describes(open.section)) return;
    std::string& out = open.section == kFindings ? findings : open.section == kImpression ? impression : both;
    append_collapsed(out, report.substr(begin, end - begin));
  };
  Place place = Place::kParagraph;  // of the next word
  for (std::size_t i = 0; i < report.size();) {
    const char c = report[i];
    const bool word_start = i == 0 || is_blank(report[i - 1]);
    const auto heading = word_start ? heading_at(report.substr(i), place, open) : std::nullopt;
    if (heading) {
      close(i);
      open = {heading->section, true};
      i += heading->length;
      begin = i;
      place = Place::kSentence;
      continue;
    }
    if (c == '\n' || c == '\r') {
      const bool same_break = c == '\n' && i > 0 && report[i - 1] == '\r';
      if (!same_break) place = place < Place::kLine ? Place::kLine : Place::kParagraph;
    } else if (!is_blank(c)) {
      place = c == '.' ? Place::kSentence : Place::kWord;
      open.empty = false;
    }
    ++i;
  }
  close(report.size());
  if (findings.empty() && impression.empty() && both.empty()) append_collapsed(findings, report);
  ReportSections sections{findings, both, both.size()};
  append_collapsed(sections.findings, both);
  append_collapsed(sections.impression, impression);
  return sections;
}

StudyText label_derived_text(const std::vector<std::string>& findings, const std::vector<LabelState>& states,
                             bool mention_negatives) {
  if (findings.size() != states.size())
    fail(ErrorCode::kMismatch, "label_derived_text", "states", detail::concat(findings.size(), " states"),
         states.size());
  std::vector<std::string> positive, uncertain, negative;
  bool nothing_found = false;
  for (std::size_t f = 0; f < findings.size(); ++f) {
    if (is_no_finding(findings[f])) {
      nothing_found = nothing_found || states[f] == LabelState::kPositive;
    } else if (states[f] == LabelState::kPositive) {
      positive.push_back(finding_phrase(findings[f]));
    } else if (states[f] == LabelState::kUncertain) {
      uncertain.push_back(finding_phrase(findings[f]));
    } else if (states[f] == LabelState::kNegative) {
      negative.push_back(finding_phrase(findings[f]));
    }
  }
  StudyText study{"", true};
  const auto add = [&](const std::string& sentence) { study.text += (study.text.empty() ? "" : " ") + sentence; };
  if (!positive.empty()) add("There is " + join(positive, "and") + ".");
  if (!uncertain.empty()) add("Possible " + join(uncertain, "or") + ".");
  if (study.text.empty() && (nothing_found || !negative.empty())) add("No abnormality.");
  if (!negative.empty() && mention_negatives) add("No " + join(negative, "or") + ".");
  return study;
}

}  // namespace daug
