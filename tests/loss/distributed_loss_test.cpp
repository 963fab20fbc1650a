// The loss of a batch on several ranks against the loss of one process, with ranks as threads and as processes, on a
// device as well.

#include "daug/loss/distributed_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "loss/hand_over_group.h"
#include "loss/loss_inputs.h"
#include "loss/problems.h"
#include "loss/tile_math.h"
#include "support/device.h"
#include "support/ranks.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Leaves of one problem, in one process.
struct Leaves {
  at::Tensor image, text, prompts, scale, bias, class_bias;

  std::vector<at::Tensor> all() const { return {image, text, prompts, scale, bias, class_bias}; }
};

struct Variant {
  HybridLossOptions options;
  bool studies = false, class_bias = false;
  std::function<void(HybridLossInputs&)> change = [](HybridLossInputs&) {};  ///< of a whole problem
};

std::vector<Variant> variants() {
  std::vector<Variant> list;
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft}) {
      Variant variant;
      variant.options.clip_weight = 0.6, variant.options.label_softness = 0.4;
      variant.options.contrastive_form = form, variant.options.label_pairs = pairs;
      variant.studies = pairs == LabelPairs::kIgnored;
      list.push_back(variant);
      if (pairs == LabelPairs::kSoft || pairs == LabelPairs::kNegatives)
        variant.studies = true, list.push_back(variant);
    }
  // Options of the class term, and of what both terms share.
  const auto add = [&](const std::function<void(HybridLossInputs&)>& change) -> HybridLossOptions& {
    list.emplace_back();
    list.back().options.clip_weight = 0.6;
    list.back().change = change;
    return list.back().options;
  };
  const auto nothing = [](HybridLossInputs&) {};
  add([](HybridLossInputs& in) {  // two prompts of one finding
    in.labels = in.labels.narrow(1, 0, 1), in.label_mask = in.label_mask.narrow(1, 0, 1);
  })
      .class_form = ClassForm::kPaired;
  add([](HybridLossInputs& in) { in.positive_weights = at::tensor({3.0, 0.25}, at::kDouble); });
  list.back().class_bias = true;
  for (const double w : {0.0, 1.0}) {  // one term alone
    add(nothing).clip_weight = w;
    list.back().class_bias = w == 0;
  }
  add(nothing).normalise = false;
  add(nothing).max_logit_scale = 1;
  for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
    add([](HybridLossInputs& in) {  // extreme norms on some ranks
      at::Tensor factor = at::ones({11, 1}, in.image.options());
      factor[1] = std::ldexp(1.0, 40), factor[9] = std::ldexp(1.0, -40);
      in.image = in.image * factor, in.text = in.text * factor.flip(0);
    })
        .contrastive_form = form;
  for (const auto uncertain : {UncertainLabels::kMasked, UncertainLabels::kSmoothed})
    add([](HybridLossInputs& in) { in.labels[0][1] = -1, in.labels[9][0] = -1; }).uncertain = uncertain;
  // No report on the first of several ranks, whose 3 items take part in the class term alone; none on any.
  for (const std::int64_t without : {3, 11})
    for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kSoft})
      add([without](HybridLossInputs& in) { in.text_mask = at::arange(11) >= without; }).label_pairs = pairs;
  return list;
}

/// Items with some labels and studies in common, every third without a report, so that most ranks have both kinds, and
/// leaves like `where` for all that is learnt, with the same numbers, those of `rounded`, in every type that holds
/// them. All else lies on the CPU.
std::pair<HybridLossInputs, Leaves> problem(const Variant& variant = {},
                                            const at::TensorOptions& where = at::TensorOptions(at::kDouble),
                                            at::ScalarType rounded = at::kFloat) {
  constexpr std::int64_t kItems = 11, kFindings = 2, kWidth = 5;
  HybridLossInputs in;
  const auto leaf = [&](const at::Tensor& values) { return values.to(rounded).to(where).requires_grad_(true); };
  Leaves leaves{leaf(random_tensor({kItems, kWidth}, 1)),    leaf(random_tensor({kItems, kWidth}, 2)),
                leaf(random_tensor({kFindings, kWidth}, 3)), leaf(at::tensor({1.2}, at::kDouble)),
                leaf(at::tensor({-1.0}, at::kDouble)),       leaf(at::tensor({-2.0, 0.5}, at::kDouble))};
  in.image = leaves.image, in.text = leaves.text, in.class_prompts = leaves.prompts;
  in.labels = (random_tensor({kItems, kFindings}, 4) > 0).to(at::kLong);
  in.label_mask = random_tensor({kItems, kFindings}, 5) > -1;
  in.text_mask = at::arange(kItems, at::kLong).remainder(3) != 1;
  if (variant.studies) in.study = at::arange(kItems, at::kLong).remainder(4);
  in.logit_scale = leaves.scale, in.logit_bias = leaves.bias;
  if (variant.class_bias) in.class_bias = leaves.class_bias;
  variant.change(in);
  return {in, leaves};
}

/// The items [begin, end) of a problem.
HybridLossInputs part_of(const HybridLossInputs& all, std::int64_t begin, std::int64_t end) {
  HybridLossInputs part = all;
  for (auto member : {&HybridLossInputs::image, &HybridLossInputs::text, &HybridLossInputs::labels,
                      &HybridLossInputs::label_mask, &HybridLossInputs::text_mask, &HybridLossInputs::study})
    if ((all.*member).defined()) part.*member = (all.*member).slice(0, begin, end);
  return part;
}

/// Uneven shares of 11 items.
std::int64_t place(int rank, int ranks) {
  return rank == 0 ? 0 : rank == ranks ? 11 : 3 + (rank - 1) * 7 / (ranks - 1);
}

/// The largest differences of losses and of gradients.
struct Deviation {
  double losses = 0, gradients = 0;

  double largest() const { return std::max(losses, gradients); }
  void take(const Deviation& other) {
    losses = std::max(losses, other.losses), gradients = std::max(gradients, other.gradients);
  }
};

/// This rank's loss and gradients like `where` beside those of one process in float64 on the CPU: the largest
/// differences, relative to 1 and the largest number of each. The ranks' gradients of what all have are added up.
Deviation against_one_process(c10d::ProcessGroup& group, const Variant& variant, GradientReduction reduction,
                              const at::TensorOptions& where) {
  const int rank = group.getRank(), ranks = group.getSize();
  HybridLossOptions options = variant.options;
  options.execution = Execution::kReference;
  const at::ScalarType type = where.dtype().toScalarType();
  const at::ScalarType rounded = at::isReducedFloatingType(type) ? type : at::kFloat;
  const auto [whole, expected] = problem(variant, at::kDouble, rounded);
  const auto reference = hybrid_contrastive_loss(whole, options);
  reference.total.backward();

  const auto [all, leaves] = problem(variant, where, rounded);
  const auto begin = place(rank, ranks), end = place(rank + 1, ranks);
  const auto output = distributed_contrastive_loss(part_of(all, begin, end), variant.options, group, reduction);
  output.total.backward();
  const bool mean = reduction == GradientReduction::kMean;
  Deviation worst;
  const auto see = [](double& largest, const at::Tensor& actual, const at::Tensor& expected_one) {
    const at::Tensor right = expected_one.detach().cpu();
    const double error =
        value((actual.detach().to(at::kCPU, at::kDouble) - right).abs().max()) / (1 + value(right.abs().max()));
    // std::max would pass over what is not a number
    largest = std::max(largest, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
  };
  for (const auto term : {&HybridLossOutput::total, &HybridLossOutput::clip, &HybridLossOutput::class_term}) {
    const at::Tensor &actual = output.*term, &right = reference.*term;
    if (actual.defined() != right.defined())
      worst.losses = std::numeric_limits<double>::infinity();
    else if (right.defined())
      see(worst.losses, actual, right);
  }
  for (std::size_t i = 0; i < leaves.all().size(); ++i) {
    const at::Tensor leaf = leaves.all()[i], right = expected.all()[i].grad();
    at::Tensor mine = at::zeros_like(leaf, at::kDouble);
    if (leaf.grad().defined()) mine.copy_(leaf.grad());
    const bool mine_alone = i < 2;  // rows of this rank
    if (!mine_alone) {
      std::vector<at::Tensor> tensors = {mine};
      group.allreduce(tensors)->wait();
    }
    if (mean) mine /= ranks;
    const at::Tensor wanted = right.defined() ? right : at::zeros_like(leaf, at::kDouble);
    if (mine_alone)
      see(worst.gradients, mine.slice(0, begin, end), wanted.slice(0, begin, end));
    else
      see(worst.gradients, mine, wanted);
  }
  return worst;
}

/// The largest difference of any variant, in each type.
struct WorstOfRank {
  double wide = 0, narrow = 0;  ///< float64, whose tiles are ATen operations, and float32, whose tiles are kernels
};

WorstOfRank check_all(c10d::ProcessGroup& group) {
  WorstOfRank worst;
  for (const auto& variant : variants()) {
    for (const auto reduction : {GradientReduction::kMean, GradientReduction::kSum})
      worst.wide = std::max(worst.wide, against_one_process(group, variant, reduction, at::kDouble).largest());
    worst.narrow =
        std::max(worst.narrow, against_one_process(group, variant, GradientReduction::kMean, at::kFloat).largest());
  }
  return worst;
}

using Sent = std::map<at::ScalarType, std::int64_t>;

/// The largest differences of any of these variants on any of so many ranks, whose group takes what lies on the device
/// of `where` alone, in tiles of this kind if there is one; and how many numbers of each type they `sent`.
Deviation worst_by_hand(int ranks, const at::TensorOptions& where, Execution execution = Execution::kAuto,
                        const daug::detail::TileMath* math = nullptr, const std::vector<Variant>& cases = variants(),
                        Sent* sent = nullptr) {
  std::vector<Deviation> of_ranks(static_cast<std::size_t>(ranks));
  const auto body = [&](c10d::ProcessGroup& group) {
    std::optional<daug::detail::TileMathGuard> guard;
    if (math) guard.emplace(*math);
    for (Variant variant : cases) {
      variant.options.execution = execution;
      of_ranks[static_cast<std::size_t>(group.getRank())].take(
          against_one_process(group, variant, GradientReduction::kMean, where));
    }
  };
  for (const std::string& failure : hand_over(ranks, where.device().type(), body, sent)) CHECK(failure == "");
  Deviation worst;
  for (const Deviation& one : of_ranks) worst.take(one);
  return worst;
}

/// Ranks that multiply bfloat16 as it is have the losses and gradients of one process, and send images as such; twice
/// round the ring, forward and back.
void check_bfloat16_ranks(int ranks, const at::TensorOptions& where, Execution execution,
                          const daug::detail::TileMath* math) {
  const Deviation worst = worst_by_hand(ranks, where, execution, math);
  CHECK(worst.losses < 1e-3);
  CHECK(worst.gradients < 2e-2);
  Sent sent;
  worst_by_hand(ranks, where, execution, math, {Variant()}, &sent);
  constexpr std::int64_t kReported = 7, kWidth = 5;
  CHECK(sent[at::kBFloat16] == 2 * ranks * kReported * kWidth);
  CHECK(sent[at::kFloat] >= ranks * kReported * kWidth);  // gradients, and what is known of each image
}

/// What the loss says on each of two such ranks when `change` was made to the inputs of the second; empty: nothing.
std::vector<std::string> refusals(const at::TensorOptions& where,
                                  const std::function<void(HybridLossInputs&)>& change) {
  std::vector<std::string> messages(2);
  const auto failures = hand_over(2, where.device().type(), [&](c10d::ProcessGroup& group) {
    const int rank = group.getRank();
    const auto [all, leaves] = problem({}, where);
    HybridLossInputs mine = part_of(all, place(rank, 2), place(rank + 1, 2));
    if (rank == 1) change(mine);
    try {
      (void)distributed_contrastive_loss(mine, options_for(0.5), group);
    } catch (const Error& error) {
      messages[static_cast<std::size_t>(rank)] = error.what();
    }
  });
  for (const std::string& failure : failures) CHECK(failure == "");
  return messages;
}

/// A rank without images, which has no device to tell, is an error on all.
void check_without_images(const at::TensorOptions& where) {
  const auto messages = refusals(where, [](HybridLossInputs& mine) { mine.image = at::Tensor(); });
  CHECK(messages[1].find("image: expected") != std::string::npos);
  CHECK(messages[0].find("rank 1: expected") != std::string::npos);
}

/// How many ranks have both items with a report and items without.
int mixed_ranks(const at::Tensor& text_mask, int ranks) {
  int mixed = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const at::Tensor mine = text_mask.slice(0, place(rank, ranks), place(rank + 1, ranks));
    mixed += mine.any().item<bool>() && !mine.all().item<bool>() ? 1 : 0;
  }
  return mixed;
}

/// What the ranks of a group make of a golden case, the same on all: gradients [ranks, B, D], numbers [ranks].
struct Outcome {
  at::Tensor image_gradient, text_gradient, losses, scales, biases;
};

/// One golden case on this group's ranks; bias is null without one.
Outcome outcome_of(const at::Tensor& image, const at::Tensor& text, double scale, const double* bias,
                   const HybridLossOptions& options, GradientReduction reduction, c10d::ProcessGroup& group) {
  const std::int64_t rank = group.getRank();
  const auto of_all = [&](const at::Tensor& mine) {
    std::vector<std::int64_t> shape = mine.sizes().vec();
    shape.insert(shape.begin(), group.getSize());
    std::vector<at::Tensor> parts = {at::zeros(shape, mine.options())};
    parts[0][rank].copy_(mine);
    group.allreduce(parts)->wait();
    return parts[0];
  };
  HybridLossInputs mine;
  mine.image = image[rank].clone().requires_grad_(true), mine.text = text[rank].clone().requires_grad_(true);
  mine.logit_scale = at::scalar_tensor(scale, image.scalar_type()).requires_grad_(true);
  if (bias) mine.logit_bias = at::scalar_tensor(*bias, image.scalar_type()).requires_grad_(true);
  const auto output = distributed_contrastive_loss(mine, options, group, reduction);
  output.total.backward();
  return {of_all(mine.image.grad()), of_all(mine.text.grad()), of_all(output.total.detach().reshape({})),
          of_all(mine.logit_scale.grad()), bias ? of_all(mine.logit_bias.grad()) : at::Tensor()};
}

/// Runs a body on so many ranks, and waits for those that are here; false where there is no such group.
using RunRanks = std::function<bool(int ranks, const RankBody& body)>;

/// One golden case on so many ranks. The largest relative error. What is expected is there in float64 alone.
double compare_case(const GoldenSet& set, const std::string& name, int ranks, const HybridLossOptions& options,
                    double scale, const double* bias, const Precision& precision, const RunRanks& run) {
  // What a rank gets: kMean the gradients of "full loss, gathered with gradient", kSum those of one process.
  const auto given = [&](const char* tensor) { return to_tensor(set.at(name + tensor)).to(precision.type); };
  const at::Tensor image = given("image"), text = given("text");
  const std::string tolerance = set.settings.at("tolerance").at(precision.key);
  double worst = 0;
  for (const auto reduction : {GradientReduction::kMean, GradientReduction::kSum}) {
    const bool mean = reduction == GradientReduction::kMean;
    Outcome outcome;
    std::mutex mutex;
    const bool ran = run(ranks, [&](c10d::ProcessGroup& group) {
      const Outcome mine = outcome_of(image, text, scale, bias, options, reduction, group);
      const std::lock_guard<std::mutex> lock(mutex);
      outcome = mine;
    });
    if (!ran) return worst;
    const auto expected = [&](const std::string& tensor) {
      return to_tensor(set.at(name + "single." + tensor + ".f64"));
    };
    const auto check = [&](const at::Tensor& actual, const at::Tensor& right, const char* quantity = "gradients") {
      worst = std::max(worst, compare(actual, right, Tolerance(tolerance, quantity)));
    };
    const double factor = mean ? ranks : 1;
    check(outcome.image_gradient, factor * expected("grad_image"));
    check(outcome.text_gradient, factor * expected("grad_text"));
    for (int rank = 0; rank < ranks; ++rank) {
      const double shared = mean ? 1 : ranks;
      check(outcome.losses[rank], expected("loss"), "loss");
      check(outcome.scales[rank] * shared, expected("grad_logit_scale"));
      if (bias) check(outcome.biases[rank] * shared, expected("grad_logit_bias"));
    }
    // What the published code has on each rank before the average.
    for (const std::string way : {"local0_grad0.", "local0_grad1.", "local1_grad0.", "local1_grad1.", "bidir.",
                                  "shift.", "reduce.", "gather."}) {
      if (!set.file.contains(name + way + "loss.f64")) continue;
      const auto published = [&](const char* tensor) { return to_tensor(set.at(name + way + tensor + ".f64")); };
      // Through the exchange gradients are those of kMean; around it, where a loss is of all items, those of kSum.
      if (way.ends_with("grad0.") ? way == "local0_grad0." && !mean : mean) {
        check(outcome.image_gradient, published("grad_image"));
        check(outcome.text_gradient, published("grad_text"));
      }
      // A loss of a rank's own items, and so its derivatives by what all have, is that of all in the mean alone.
      const bool of_all = way.starts_with("local0");
      const auto check_numbers = [&](const at::Tensor& actual, const char* tensor, const char* quantity) {
        const at::Tensor right = published(tensor);
        check(of_all ? actual : actual.mean(), of_all ? right : right.mean(), quantity);
      };
      if (!mean) continue;
      check_numbers(outcome.losses, "loss", "loss");
      check_numbers(outcome.scales, "grad_logit_scale", "gradients");
      if (bias) check_numbers(outcome.biases, "grad_logit_bias", "gradients");
    }
  }
  return worst;
}

/// ln tau and the bias of a case of the sigmoid loss; 0 without one.
struct Scalars {
  double scale = 0, bias = 0;
  bool biased = false;

  static Scalars read(const nlohmann::json& config) {
    const bool known = has_number(config, "logit_bias");
    return {config.at("logit_scale").get<double>(), known ? config.at("logit_bias").get<double>() : 0.0, known};
  }
};

/// Those of a case on ranks that names none: of the set's other cases and what SigLIP starts from, those that give
/// the case's loss in one process. Nothing if none do.
std::optional<Scalars> scalars_of(const GoldenSet& set, const std::string& name, HybridLossOptions options) {
  std::vector<Scalars> candidates;
  for (const auto& one : set.settings.at("config").at("cases")) candidates.push_back(Scalars::read(one));
  candidates.push_back({std::log(10.0), -10.0, true});
  const double expected = value(to_tensor(set.at(name + "single.loss.f64")));
  HybridLossInputs whole;
  whole.image = to_tensor(set.at(name + "image")).flatten(0, 1);
  whole.text = to_tensor(set.at(name + "text")).flatten(0, 1);
  for (const Scalars& candidate : candidates) {
    options.logit_scale = candidate.scale, options.logit_bias = candidate.bias;
    if (std::abs(value(hybrid_contrastive_loss(whole, options).total) - expected) <= 1e-9 * std::abs(expected))
      return candidate;
  }
  return std::nullopt;
}

/// The cases of a set that lie on several ranks; what cannot be compared goes to `unread`.
double compare_on(const GoldenSet& set, const RunRanks& run, std::vector<Unread>& unread) {
  HybridLossOptions options;
  options.clip_weight = 1, options.normalise = false;
  const auto& config = set.settings.at("config");
  double worst = 0;
  const auto take = [&](const std::string& prefix, const nlohmann::json& one, double scale, const double* bias) {
    const std::string name = prefix + std::to_string(one.at("case").get<int>()) + ".";
    const int ranks = one.at("world_size").get<int>();
    for (const auto& precision : kPrecisions)
      worst = std::max(worst, compare_case(set, name, ranks, options, scale, bias, precision, run));
  };
  if (config.is_array()) {
    for (const auto& one : config) take("case", one, one.at("logit_scale").get<double>(), nullptr);
    return worst;
  }
  options.contrastive_form = ContrastiveForm::kSigmoid, options.logit_bias = 0;
  for (const auto& one : config.value("distributed", nlohmann::json::array())) {
    const std::string name = "dist" + std::to_string(one.at("case").get<int>()) + ".";
    const std::optional<Scalars> scalars =
        has_number(one, "logit_scale") ? Scalars::read(one) : scalars_of(set, name, options);
    if (scalars)
      take("dist", one, scalars->scale, scalars->biased ? &scalars->bias : nullptr);
    else
      unread.push_back({name + "*", "no temperature and bias that are known give its loss"});
  }
  return worst;
}

}  // namespace

double daug::test::compare_ranks(const GoldenSet& set, std::vector<Unread>& unread) {
  return compare_on(
      set,
      [](int ranks, const RankBody& body) {
        run_as_threads(ranks, body);
        return true;
      },
      unread);
}

TEST_CASE("rank of golden losses by processes", "[.rank]") {
  run_as_this_process([](c10d::ProcessGroup& group) {
    for (const char* name : {"loss_clip_gathered", "loss_siglip"})
      for_each_golden(name, [&](const GoldenSet& set) {
        int runs = 0;
        std::vector<Unread> unread;
        const double worst = compare_on(
            set,
            [&](int ranks, const RankBody& body) {
              if (ranks != group.getSize()) return false;
              body(group);
              ++runs;
              return true;
            },
            unread);
        if (runs == 0) throw Skip{"no case on " + std::to_string(group.getSize()) + " ranks"};
        CHECK(runs >= 4);  // two precisions, two reductions
        return worst;
      });
  });
}

TEST_CASE("golden contrastive and sigmoid losses on ranks that are processes", "[loss][golden][distributed]") {
  for (const int ranks : {2, 3, 4}) CHECK(run_as_processes(ranks, "rank of golden losses by processes") == ranks);
}

TEST_CASE("ranks as threads give the loss and the gradients of one process", "[loss][distributed]") {
  for (const int ranks : {1, 2, 3, 4}) {
    INFO("ranks " << ranks);
    CHECK(mixed_ranks(problem().first.text_mask, ranks) == std::min(ranks, 3));
    std::vector<WorstOfRank> worst(static_cast<std::size_t>(ranks));
    run_as_threads(
        ranks, [&](c10d::ProcessGroup& group) { worst[static_cast<std::size_t>(group.getRank())] = check_all(group); });
    for (const WorstOfRank& of_rank : worst) {
      CHECK(of_rank.wide < 1e-12);
      CHECK(of_rank.narrow < 1e-5);
    }
  }
}

TEST_CASE("rank of a group of processes", "[.rank]") {
  WorstOfRank worst;
  run_as_this_process([&](c10d::ProcessGroup& group) { worst = check_all(group); });
  CHECK(worst.wide < 1e-12);
  CHECK(worst.narrow < 1e-5);
}

TEST_CASE("ranks as processes give the loss and the gradients of one process", "[loss][distributed]") {
  for (const int ranks : {2, 3}) CHECK(run_as_processes(ranks, "rank of a group of processes") == ranks);
}

TEST_CASE("bare embeddings whose scores overflow between two ranks alone are refused on both", "[loss][distributed]") {
  HybridLossOptions options = options_for(1);
  options.normalise = false;
  const auto of_rank = [](int rank) {  // long images beside short reports, and the other way round
    const double length = rank == 0 ? 1e20 : 1e-20;
    HybridLossInputs inputs;
    inputs.image = (random_tensor({3, 5}, 1) * length).to(at::kFloat);
    inputs.text = (random_tensor({3, 5}, 2) / length).to(at::kFloat);
    return inputs;
  };
  for (const int rank : {0, 1}) CHECK(std::isfinite(value(hybrid_contrastive_loss(of_rank(rank), options).total)));
  std::vector<std::string> messages(2);
  run_as_threads(2, [&](c10d::ProcessGroup& group) {
    const int rank = group.getRank();
    try {
      (void)distributed_contrastive_loss(of_rank(rank), options, group);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kNumeric) messages[static_cast<std::size_t>(rank)] = error.what();
    }
  });
  for (const auto& message : messages) CHECK(message.find("image and text: expected") != std::string::npos);
}

TEST_CASE("an error on one rank is an error on all", "[loss][distributed]") {
  std::vector<std::string> messages(3);
  run_as_threads(3, [&](c10d::ProcessGroup& group) {
    const int rank = group.getRank();
    auto [all, leaves] = problem();
    HybridLossInputs mine = part_of(all, place(rank, 3), place(rank + 1, 3));
    if (rank == 1) mine.image = at::zeros_like(mine.image);
    try {
      (void)distributed_contrastive_loss(mine, options_for(0.5), group);
    } catch (const Error& error) {
      messages[static_cast<std::size_t>(rank)] = error.what();
    }
  });
  CHECK(messages[1].find("image row 0") != std::string::npos);
  for (const int rank : {0, 2}) CHECK(messages[static_cast<std::size_t>(rank)].find("rank 1") != std::string::npos);
  // A row is called by its number among the caller's, not among those that have a report.
  for (const bool image : {true, false}) {
    std::string message;
    run_as_threads(1, [&](c10d::ProcessGroup& group) {
      auto [all, leaves] = problem();
      all.text_mask = at::ones({all.image.size(0)}, at::kBool);
      all.text_mask[0] = false;
      at::Tensor& spoilt = image ? all.image : all.text;
      spoilt = spoilt.detach().clone();
      spoilt[2].zero_();
      try {
        (void)distributed_contrastive_loss(all, options_for(1), group);
      } catch (const Error& error) {
        message = error.what();
      }
    });
    INFO(message);
    CHECK(message.find(image ? "image row 2" : "text row 2") != std::string::npos);
  }
  // Embeddings of another width, and those of another type, even one that is computed with as theirs.
  int refused = 0;
  std::mutex mutex;
  run_as_threads(2, [&](c10d::ProcessGroup& group) {
    auto [all, leaves] = problem();
    const HybridLossOptions options = options_for(1);
    for (const bool half : {false, true}) {
      HybridLossInputs mine = all;
      const std::int64_t width = half ? 5 : 6;
      const at::ScalarType type = half ? at::kHalf : at::kDouble;
      if (half) mine.image = mine.image.to(at::kFloat), mine.text = mine.text.to(at::kFloat);
      if (group.getRank() == 1)
        mine.image = random_tensor({11, width}, 1).to(type), mine.text = random_tensor({11, width}, 2).to(type);
      try {
        (void)distributed_contrastive_loss(mine, options, group);
      } catch (const Error& error) {
        const std::lock_guard<std::mutex> lock(mutex);
        refused += error.code() == ErrorCode::kMismatch ? 1 : 0;
      }
    }
  });
  CHECK(refused == 4);
}

TEST_CASE("ranks exchange nothing but what NCCL takes", "[loss][distributed]") {
  for (const int ranks : {2, 3}) {
    INFO("ranks " << ranks);
    CHECK(worst_by_hand(ranks, at::TensorOptions(at::kDouble)).largest() < 1e-12);
    CHECK(worst_by_hand(ranks, at::TensorOptions(at::kFloat)).largest() < 1e-5);
  }
  check_without_images(at::TensorOptions(at::kDouble));
}

TEST_CASE("ranks send bfloat16 as it is where tiles multiply it, and float32 of 16 bits elsewhere",
          "[loss][distributed]") {
  const auto tiles = daug::detail::aten_tile_math(32, 48);
  for (const int ranks : {2, 3}) {
    INFO("ranks " << ranks);
    check_bfloat16_ranks(ranks, at::TensorOptions(at::kBFloat16), Execution::kAuto, tiles.get());
    for (const auto type : {at::kHalf, at::kBFloat16}) {  // the CPU's own tiles; gradients are rounded once
      INFO(type);
      Sent sent;
      const Deviation worst = worst_by_hand(ranks, type, Execution::kAuto, nullptr, {Variant()}, &sent);
      CHECK(worst.losses < 1e-5);
      CHECK(worst.gradients < 8e-3);
      CHECK(sent.count(type) == 0);
    }
  }
}

TEST_CASE("what ranks exchange of their items lies where the embeddings lie", "[loss][distributed]") {
  Variant studied;
  studied.studies = true;
  HybridLossInputs local = problem(studied).first;
  const daug::detail::Targets targets = daug::detail::read_targets(local, options_for(1));
  const auto parts = [&] {
    const daug::detail::ExchangedItems items = daug::detail::exchanged_items(local, targets);
    return std::vector<at::Tensor>{items.index, items.study, items.targets.labels, items.targets.known};
  };
  const std::vector<at::Tensor> here = parts();
  const at::Tensor reported = at::tensor({0, 2, 3, 5, 6, 8, 9}, at::kLong);
  CHECK(at::equal(here[0], reported));
  CHECK(at::equal(here[1], reported.remainder(4)));
  CHECK(at::equal(here[3], local.label_mask.index_select(0, reported)));
  CHECK(at::equal(here[2], (local.labels * local.label_mask).index_select(0, reported).to(at::kDouble)));
  local.image = local.image.detach().to(at::kMeta);  // a device that holds shapes alone: numbers are read on the CPU
  const std::vector<at::Tensor> there = parts();
  for (std::size_t i = 0; i < here.size(); ++i) {
    INFO("part " << i);
    CHECK(there[i].is_meta());
    CHECK(there[i].sizes() == here[i].sizes());
  }
}

TEST_CASE("on a device ranks take labels and masks and studies from the CPU and exchange nothing there", "[gpu]") {
  if (no_device()) return;
  const auto on = [](at::ScalarType type) { return at::TensorOptions(type).device(at::Device(at::kCUDA, 0)); };
  for (const int ranks : {2, 3}) {
    INFO("ranks " << ranks);
    CHECK(worst_by_hand(ranks, on(at::kDouble)).largest() < 1e-10);
    for (const auto execution : {Execution::kAuto, Execution::kFused}) {
      CHECK(worst_by_hand(ranks, on(at::kFloat), execution).largest() < 1e-5);
      check_bfloat16_ranks(ranks, on(at::kBFloat16), execution, nullptr);
    }
  }
}

TEST_CASE("a rank without images or with embeddings off the device is an error on all ranks on a device", "[gpu]") {
  if (no_device()) return;
  const auto where = at::TensorOptions(at::kFloat).device(at::Device(at::kCUDA, 0));
  check_without_images(where);
  const auto messages = refusals(where, [](HybridLossInputs& mine) {
    for (auto member : {&HybridLossInputs::image, &HybridLossInputs::text, &HybridLossInputs::class_prompts,
                        &HybridLossInputs::logit_scale, &HybridLossInputs::logit_bias})
      mine.*member = (mine.*member).cpu();
  });
  for (const std::string& message : messages) CHECK(message.find("rank 1: expected") != std::string::npos);
}
