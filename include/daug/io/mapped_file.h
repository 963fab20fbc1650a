#pragma once
/// @file
/// A file as memory.

#include <string>
#include <string_view>

namespace daug {

/// A regular file mapped for reading. What is read must not be trusted more than any file. Replacing the file by a
/// rename (as write_file_atomically does) leaves the mapping as it is; cutting it short in place does not: reading
/// beyond the new end then ends the process (SIGBUS).
class MappedFile {
 public:
  /// Throws kNotFound, kIo.
  explicit MappedFile(const std::string& path);
  /// Ends the mapping: views of `bytes()` are invalid from here on.
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// All of the file as it was when it was opened; begins on a page.
  std::string_view bytes() const { return bytes_; }

 private:
  std::string_view bytes_;
};

}  // namespace daug
