#include "backend/large_pages.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

/// What Linux says of the mapping that an address lies in; empty where it says nothing.
std::string flags_of(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  bool found = false;
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::uintptr_t begin = 0, end = 0;
    char dash = 0;
    if (words >> std::hex >> begin >> dash >> end && dash == '-')
      found = begin <= wanted && wanted < end;
    else if (found && line.rfind("VmFlags:", 0) == 0)
      return line + " ";
  }
  return {};
}

}  // namespace

TEST_CASE("large new tensors are asked for in large pages", "[backend]") {
  const at::Tensor x = float_tensor({1, 16, 2, 2}, 1);
  const at::Tensor large = empty_in_large_pages(x, {1, 64, 512, 512}, at::MemoryFormat::ChannelsLast);
  CHECK(large.is_contiguous(at::MemoryFormat::ChannelsLast));
  CHECK(large.sizes() == at::IntArrayRef({1, 64, 512, 512}));
  large.fill_(3);
  CHECK(large.sum().item<double>() == 3.0 * 64 * 512 * 512);
  CHECK(empty_in_large_pages(x, {0, 4, 2, 2}, at::MemoryFormat::Contiguous).numel() == 0);

  const std::string flags = flags_of(large.const_data_ptr<float>() + large.numel() / 2);
  if (flags.empty() || !std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) {
    WARN("skipped: no large pages here, or nothing that tells");
    return;
  }
  CHECK_THAT(flags, Catch::Contains(" hg "));
}

TEST_CASE("asking for large pages changes no byte", "[backend]") {
  std::vector<unsigned char> bytes((std::size_t{5} << 20) + 3);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 7);
  for (const std::size_t skipped : {std::size_t{0}, std::size_t{1}, std::size_t{4097}})
    prefer_large_pages(bytes.data() + skipped, bytes.size() - skipped);
  prefer_large_pages(bytes.data(), 0);
  prefer_large_pages(nullptr, 0);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) wrong += bytes[i] != static_cast<unsigned char>(i * 7);
  CHECK(wrong == 0);
}
