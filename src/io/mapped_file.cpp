#include "daug/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "descriptor.h"

namespace daug {

MappedFile::MappedFile(const std::string& path) {
  const Descriptor file = open_regular_file("MappedFile", path, O_RDONLY);
  const auto size = static_cast<std::size_t>(file_status(file.get(), "MappedFile", path).st_size);
  if (size == 0) return;
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) fail_errno("MappedFile", path, "a file that can be mapped", errno);
  bytes_ = {static_cast<const char*>(memory), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<char*>(bytes_.data()), bytes_.size());
}

}  // namespace daug
