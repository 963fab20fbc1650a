#include "ranks.h"

#include <ATen/ATen.h>

#include <exception>

#include "daug/core/error.h"
#include "daug/io/fingerprint.h"

namespace daug::detail {

std::vector<double> Ranks::of_all(const char* function, const std::function<double()>& mine) const {
  if (!ring_) return {mine()};
  const at::Tensor table = at::zeros({2, size()}, at::kDouble);  // values, and who failed
  double* const values = table.mutable_data_ptr<double>();
  double* const failed = values + size();
  std::exception_ptr error;
  try {
    values[rank()] = mine();
  } catch (...) {
    error = std::current_exception();
    failed[rank()] = 1;
  }
  ring_->add_up_numbers(table, table.device());
  if (error) std::rethrow_exception(error);
  for (std::int64_t of = 0; of < size(); ++of)
    if (failed[of] != 0)
      fail(ErrorCode::kMismatch, function, concat("rank ", of), "what this rank did without an error",
           "an error there");
  return std::vector<double>(values, failed);
}

void Ranks::require_same(const char* function, const char* argument, const std::string& text) const {
  constexpr int kExact = 11;  // a float64 holds the other 53 bits of the hash
  const std::vector<double> hashes =
      of_all(function, [&] { return static_cast<double>(checksum64(text.data(), text.size()) >> kExact); });
  for (std::size_t of = 1; of < hashes.size(); ++of)
    if (hashes[of] != hashes[0])
      fail(ErrorCode::kMismatch, function, argument, "those of rank 0", concat("others on rank ", of));
}

void Ranks::take_first(const at::Tensor& tensor) const {
  if (rank() != 0) tensor.zero_();  // not a product with 0, which a NaN would survive
  add_up(tensor);
}

}  // namespace daug::detail
