#include "compiled_filter.h"

#include <algorithm>

namespace daug::detail {

using Kind = FilterNode::Kind;

CompiledFilter::CompiledFilter(const Filter& filter, const Chunk& chunk) : chunk_(&chunk) {
  if (filter.root()) root_ = compile(filter.root());
}

std::unique_ptr<CompiledFilter::Node> CompiledFilter::compile(const FilterNode* filter) const {
  if (!filter) return nullptr;
  auto node = std::make_unique<Node>(Node{filter});
  if (filter->kind == Kind::kValue || filter->kind == Kind::kHas) node->column = chunk_->table().column(filter->key);
  if (node->column && filter->only) {
    const auto found = node->column->code_of.find(*filter->only);
    if (found != node->column->code_of.end()) node->only = found->second;
  } else if (node->column) {
    const auto& values = node->column->values;
    node->passes.resize(values.size());
    for (std::size_t code = 1; code < values.size(); ++code)
      node->passes[code] = filter->kind == Kind::kHas || filter->test(values[code]);
  }
  if (filter->kind == Kind::kIds) node->rows = rows_of(*filter);
  node->a = compile(filter->a.get());
  node->b = compile(filter->b.get());
  return node;
}

std::vector<std::size_t> CompiledFilter::rows_of(const FilterNode& filter) const {
  constexpr std::size_t kCostOfFinding = 16;  // in rows looked at
  std::vector<std::size_t> rows;
  if (kCostOfFinding * filter.ids.size() > chunk_->rows()) {
    const auto* ids = chunk_->ids();
    for (std::size_t row = 0; row < chunk_->rows(); ++row)
      if (filter.ids.count(ids[row])) rows.push_back(row);
    return rows;
  }
  for (const auto id : filter.ids)
    if (const auto row = chunk_->find(id)) rows.push_back(*row);
  std::sort(rows.begin(), rows.end());
  return rows;
}

bool CompiledFilter::matches(const Node& node, std::size_t row) const {
  const auto child = [&](const std::unique_ptr<Node>& each) { return !each || matches(*each, row); };
  switch (node.source->kind) {
    case Kind::kValue:
    case Kind::kHas:
      if (!node.column || row >= node.column->codes.size()) return false;
      return node.source->only ? node.only != 0 && node.column->codes[row] == node.only
                               : node.passes[node.column->codes[row]] != 0;
    case Kind::kIds:
      return node.source->ids.count(chunk_->ids()[row]) != 0;
    case Kind::kPredicate:
      return node.source->predicate(chunk_->ids()[row], chunk_->table().get(row));
    case Kind::kAnd:
      return child(node.a) && child(node.b);
    case Kind::kOr:
      return child(node.a) || child(node.b);
    case Kind::kNot:
      return !child(node.a);
  }
  return false;
}

void CompiledFilter::evaluate(std::size_t first, std::size_t count, std::uint8_t* matches) const {
  evaluate(root_.get(), first, count, matches);
}

void CompiledFilter::evaluate(const Node* node, std::size_t first, std::size_t count, std::uint8_t* out) const {
  if (!node) {
    std::fill_n(out, count, std::uint8_t{1});
    return;
  }
  switch (node->source->kind) {
    case Kind::kValue:
    case Kind::kHas: {
      std::fill_n(out, count, std::uint8_t{0});
      if (!node->column || node->column->codes.size() <= first) return;
      const std::uint32_t* codes = node->column->codes.data() + first;
      const std::size_t known = std::min(count, node->column->codes.size() - first);
      if (node->source->only && node->only == 0) return;
      if (node->source->only)
        for (std::size_t i = 0; i < known; ++i) out[i] = codes[i] == node->only;
      else
        for (std::size_t i = 0; i < known; ++i) out[i] = node->passes[codes[i]];
      return;
    }
    case Kind::kIds:
      std::fill_n(out, count, std::uint8_t{0});
      for (auto row = std::lower_bound(node->rows.begin(), node->rows.end(), first);
           row != node->rows.end() && *row < first + count; ++row)
        out[*row - first] = 1;
      return;
    case Kind::kPredicate:
      for (std::size_t i = 0; i < count; ++i) out[i] = this->matches(*node, first + i);
      return;
    case Kind::kAnd:
    case Kind::kOr: {
      std::vector<std::uint8_t> other(count);
      evaluate(node->a.get(), first, count, out);
      evaluate(node->b.get(), first, count, other.data());
      const bool both = node->source->kind == Kind::kAnd;
      for (std::size_t i = 0; i < count; ++i)
        out[i] = both ? static_cast<std::uint8_t>(out[i] & other[i]) : static_cast<std::uint8_t>(out[i] | other[i]);
      return;
    }
    case Kind::kNot:
      evaluate(node->a.get(), first, count, out);
      for (std::size_t i = 0; i < count; ++i) out[i] ^= 1;
  }
}

}  // namespace daug::detail
