#pragma once
/// @file
/// Text of a study: sections of a written report, or sentences made from labels where there is no report.

#include <string>
#include <string_view>
#include <vector>

#include "daug/data/labels.h"

namespace daug {

/// The parts of a report that describe the image. White space is collapsed.
struct ReportSections {
  std::string findings;    ///< what is seen; may be empty
  std::string impression;  ///< what it means; may be empty

  /// Findings and impression, one space between: what the text encoder reads.
  std::string text() const;
};

/// Finds sections by their headings ("FINDINGS:", "IMPRESSION:" or "CONCLUSION:", any case at the start of a line,
/// upper case anywhere). Other known headings (indication, history, technique, comparison, ...) end a section and their
/// text is dropped, as is text before the first heading; a section that occurs twice is joined. A report without a
/// findings or impression heading is all findings.
ReportSections split_sections(std::string_view report);

/// Text and where it came from; figures that need real reports leave label-derived text out.
struct StudyText {
  std::string text;            ///< may be empty
  bool label_derived = false;  ///< true: written by label_derived_text, not by a reader
};

/// Sentences for labels: "There is cardiomegaly and effusion. Possible nodule. No edema or pneumothorax."
///
/// Findings keep their order; positive, uncertain, negative in that order, so that truncation loses negatives first.
/// "No abnormality." comes first when no finding is positive or uncertain and one is negative or a no-finding label
/// is positive. Findings not mentioned stay out; with nothing to say the text is empty (treat it as missing). Always
/// marked label-derived. Without `mention_negatives` the sentence of negative findings is left out. Throws kMismatch
/// when the two lists differ in length.
StudyText label_derived_text(const std::vector<std::string>& findings, const std::vector<LabelState>& states,
                             bool mention_negatives = true);

}  // namespace daug
