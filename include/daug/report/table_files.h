#pragma once
/// @file
/// Tables of a report as files: CSV and JSON for other programs, LaTeX for a paper.

#include <string>
#include <vector>

#include "daug/report/html_report.h"

namespace daug {

/// A `table` environment with rules of the booktabs package: first column to the left, the others to the right,
/// highlighted rows in bold, every special character escaped, bytes that are not UTF-8 replaced by U+FFFD. Throws
/// kMismatch for a row of another width.
std::string latex_table(const Table& table);

/// Writes each table into a folder (made if need be) as `NN-caption.csv`, `.tex` and `.json` ({"caption", "header",
/// "rows"}, every cell a text), NN counted from 01 and the caption cut to 48 characters of lower-case letters, digits
/// and hyphens; bytes that are not UTF-8 replaced by U+FFFD. Throws kIo, and what latex_table and write_csv throw.
void write_tables(const std::string& folder, const std::vector<Table>& tables);

}  // namespace daug
