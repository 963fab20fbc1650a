#include "daug/train/classify.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <string>

#include "daug/core/error.h"

namespace daug {

namespace {

/// Embeddings [N, D] at unit length, in double.
FeatureMatrix unit_rows(const at::Tensor& embeddings, std::int64_t width, const char* function) {
  constexpr const char* kArgument = "embeddings";
  const bool fits = embeddings.defined() && embeddings.dim() == 2 && embeddings.size(1) >= 1 &&
                    (width < 0 || embeddings.size(1) == width);
  require(fits, function, kArgument,
          width < 0 ? std::string("shape [N, D] with D >= 1") : detail::concat("shape [N, ", width, "]"),
          embeddings.defined() ? embeddings.sizes() : at::IntArrayRef{});
  const at::Tensor values = embeddings.detach().to(at::kCPU, at::kDouble).contiguous();
  FeatureMatrix rows = Eigen::Map<const FeatureMatrix>(values.const_data_ptr<double>(), values.size(0), values.size(1));
  for (Eigen::Index i = 0; i < rows.rows(); ++i) {
    const double length = rows.row(i).norm();
    require(std::isfinite(length) && length > 0, function, kArgument, "finite rows that are not zero",
            detail::concat("row ", i, " of length ", length));
    rows.row(i) /= length;
  }
  return rows;
}

FeatureMatrix cells(const at::Tensor& tensor, std::int64_t rows, const char* function, const char* argument) {
  require(tensor.defined() && tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) >= 1, function, argument,
          detail::concat("shape [", rows, ", K]"), tensor.defined() ? tensor.sizes() : at::IntArrayRef{});
  const at::Tensor values = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
  return Eigen::Map<const FeatureMatrix>(values.const_data_ptr<double>(), values.size(0), values.size(1));
}

}  // namespace

at::Tensor embed_class_prompts(const TextEncoder& text, const Tokenizer& tokenizer,
                               const std::vector<ClassPrompts>& wordings, ClassForm form, std::int64_t context_length) {
  constexpr const char* kFunction = "daug::embed_class_prompts";
  require(!wordings.empty() && !wordings[0].positive.empty(), kFunction, "wordings", "at least one class", "none");
  const auto& options = text->options();
  require_range(context_length, 2, options.context_length, kFunction, "context_length");
  require_vocabulary(text, tokenizer, kFunction);
  c10::InferenceMode inference;
  const auto unit = [](const at::Tensor& rows) { return rows / rows.norm(2, {1}, /*keepdim=*/true); };
  at::Tensor sum;
  for (const auto& wording : wordings) {
    const std::vector<std::string> prompts = form == ClassForm::kBce ? wording.positive : wording.paired();
    require(wording.positive.size() == wordings[0].positive.size(), kFunction, "wordings",
            detail::concat(wordings[0].positive.size(), " classes in each"), wording.positive.size());
    const TokenBatch batch = tokenizer.encode_batch_longest(prompts, context_length);
    const auto count = static_cast<std::int64_t>(prompts.size());
    const at::Tensor rows = unit(const_cast<TextEncoder&>(text)->forward(
        at::tensor(batch.ids, at::kLong).view({count, -1}), at::tensor(batch.lengths, at::kLong) - 1));
    sum = sum.defined() ? sum + rows : rows;
  }
  sum = sum.to(at::kCPU);
  // Below, rounding decides where the mean points.
  constexpr double kLeast = 1e-4;
  const at::Tensor length = sum.norm(2, {1}, /*keepdim=*/false) / static_cast<double>(wordings.size());
  const at::Tensor good = at::isfinite(length) & (length > kLeast);
  if (!good.all().item<bool>()) {
    const auto row = good.to(at::kByte).argmin(0).item<std::int64_t>();
    const auto finding = static_cast<std::size_t>(form == ClassForm::kBce ? row : row / 2);
    fail(ErrorCode::kNumeric, kFunction, "wordings: the class of '" + wordings[0].positive[finding] + "'",
         detail::concat("embeddings at unit length with a mean longer than ", kLeast), length[row].item<double>());
  }
  return unit(sum);
}

LinearProbe LinearProbe::fit(const at::Tensor& embeddings, const at::Tensor& labels, const at::Tensor& label_mask,
                             double l2) {
  constexpr const char* kFunction = "daug::LinearProbe::fit";
  FeatureMatrix rows = unit_rows(embeddings, -1, kFunction);
  require(rows.rows() >= 2, kFunction, "embeddings", "at least two rows", rows.rows());
  const BaselineTargets targets{cells(labels, rows.rows(), kFunction, "labels"),
                                cells(label_mask, rows.rows(), kFunction, "label_mask")};
  require(targets.weight.cols() == targets.target.cols(), kFunction, "label_mask",
          detail::concat(targets.target.cols(), " columns"), targets.weight.cols());
  for (Eigen::Index i = 0; i < targets.target.size(); ++i) {
    const double target = targets.target.data()[i], weight = targets.weight.data()[i];
    require(target == 0 || target == 1, kFunction, "labels", "0 or 1", target);
    require(weight >= 0 && std::isfinite(weight), kFunction, "label_mask", "finite weights, at least 0", weight);
  }
  LinearProbe probe;
  probe.mean_ = rows.colwise().mean();
  rows.rowwise() -= probe.mean_;
  probe.deviation_ = (rows.colwise().squaredNorm() / static_cast<double>(rows.rows())).cwiseSqrt();
  for (double& deviation : probe.deviation_)
    if (deviation == 0) deviation = 1;  // a constant feature says nothing
  rows.array().rowwise() /= probe.deviation_.array();
  probe.model_ = fit_logistic(rows, targets, l2);
  return probe;
}

at::Tensor LinearProbe::predict(const at::Tensor& embeddings) const {
  FeatureMatrix rows = unit_rows(embeddings, mean_.size(), "daug::LinearProbe::predict");
  rows.rowwise() -= mean_;
  rows.array().rowwise() /= deviation_.array();
  FeatureMatrix probabilities = model_.predict(rows);
  return at::from_blob(probabilities.data(), {probabilities.rows(), probabilities.cols()}, at::kDouble).clone();
}

}  // namespace daug
