#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/io/weights.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/diffusion_translator.h"
#include "support/catch.h"
#include "support/golden_device.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Rows of a set that walk together: all of them, or, where the network is told a class each, one after the other.
struct Rows {
  std::int64_t begin = 0, count = 0;
  StateClasses classes = {};

  at::Tensor of(const at::Tensor& all, std::int64_t dim = 0) const { return all.narrow(dim, begin, count); }
};

/// Whatever is known of `findings` findings, and whether an image is encoded or decoded, upstream tells the network the
/// set's class.
std::vector<Rows> rows_of(const GoldenSet& set, const GoldenSet& unet, std::size_t findings) {
  const at::Tensor labels = golden_class_labels(set, unet);
  if (!labels.defined()) return {Rows{0, set.at("x").shape.at(0)}};
  std::vector<Rows> rows;
  for (std::int64_t i = 0; i < labels.size(0); ++i) {
    const auto label = labels[i].item<std::int64_t>();
    rows.push_back({i, 1, {std::vector<std::int64_t>(findings, label), label, label}});
  }
  return rows;
}

/// The ways of guidance of which a set has chains.
struct Kind {
  const char* name;
  std::optional<GuidanceHead> head;
};
const std::vector<Kind> kKinds = {
    {"plain", std::nullopt}, {"log_sigmoid", GuidanceHead::kSigmoid}, {"log_softmax", GuidanceHead::kSoftmax}};

/// A set's outputs of guidance of other kinds.
std::vector<Unread> other_kinds(const GoldenSet& set) {
  std::vector<Unread> others;
  for (const auto& [name, array] : set.file.tensors) {
    if (name.rfind("decode_", 0) != 0) continue;
    const std::string kind = name.substr(7);
    if (std::any_of(kKinds.begin(), kKinds.end(), [&](const Kind& known) { return kind == known.name; })) continue;
    for (const char* pattern : {"decode_", "heat_"}) others.push_back({pattern + kind, "another kind of guidance"});
    others.push_back({"final_" + kind + "_f64", "another kind of guidance"});
  }
  return others;
}

/// The tolerances of sets are wide enough for sums in another order, those of a device.
void check_chain_sets(const at::Device& device) {
  for_each_golden("diffusion_chain", [&device](const GoldenSet& set) {
    const auto& config = set.settings.at("config");
    const bool clips = config.value("clip_denoised", false);
    const std::int64_t levels = config.at("levels");
    const auto schedule = golden_schedule(config);
    const double timestep_scale = golden_timestep_scale(config);
    const GoldenSet unet = load_golden(config.at("unet"));
    const auto& tolerance = set.settings.at("tolerance");
    double worst = 0;
    const auto close = [&](const at::Tensor& actual, const at::Tensor& expected, double largest,
                           const std::string& what) {
      worst = std::max(worst, check_close(actual, expected, largest, what));
    };
    const auto predictor_of = [&](const Rows& rows, at::ScalarType type) {
      const auto network = moved(golden_unet(unet, type, Execution::kAuto, timestep_scale), device);
      const auto predictor = make_noise_predictor(network, schedule, Prediction::kEps, rows.classes);
      return clips ? make_clipping_predictor(predictor, schedule) : predictor;
    };

    if (set.file.contains("encode_exact")) {
      const std::vector<std::string> findings = {"finding"};
      const at::Tensor all = to_tensor(set.at("encode_exact")).to(device);
      const auto parts = rows_of(set, unet, findings.size());
      for (const Rows& rows : parts)
        for (const auto type : {at::kFloat, at::kDouble}) {
          const auto stepper = predictor_of(rows, type);
          const at::Tensor states = rows.of(all, 1), typed = states.to(type);
          for (std::int64_t n = 0; n < levels; ++n)
            close(transition(schedule, typed[n + 1], stepper->noise(typed[n + 1], n + 1, {}), n + 1, n), states[n],
                  tolerance.at(type == at::kFloat ? "float32" : "float64"), "exact step " + std::to_string(n));
        }
      // One image is enough for the whole way: rows do not see each other, and this costs most of the test's time.
      auto exact = path_options(levels, levels);
      exact.solver = std::make_shared<DdimSolver>(DdimSolverOptions{100, 1e-9});  // far below what is asked
      const DiffusionTranslator translator(predictor_of(parts[0], at::kDouble), schedule, findings, exact);
      const at::Tensor latent = translator.encode(to_tensor(set.at("x")).narrow(0, 0, 1).to(device));
      close(latent, all[levels].narrow(0, 0, 1), tolerance.at("float64"), "exact latent");
      close(translator.reconstruct(latent), to_tensor(set.at("decoded")).narrow(0, 0, 1), tolerance.at("float64"),
            "decoded");
      check_outputs_read(set);
      return worst;
    }

    const double single = tolerance.at("single_step"), whole = tolerance.at("whole_chain");
    std::vector<std::string> findings = {"finding 0"};
    std::optional<GoldenSet> classifier;
    if (set.file.contains("decode_log_sigmoid") || set.file.contains("decode_log_softmax")) {
      classifier = load_golden(config.at("classifier"));
      const std::int64_t logits = classifier->settings.at("config").at("model").at("out_channels");
      for (std::int64_t f = 1; f < logits; ++f) findings.push_back("finding " + std::to_string(f));
    }
    std::vector<Target> targets;
    at::Tensor states;
    auto options = path_options(levels, levels);
    if (classifier) {
      const auto labels = set.at("y").to_int64();
      states = at::zeros({static_cast<std::int64_t>(labels.size()), static_cast<std::int64_t>(findings.size())});
      for (std::size_t i = 0; i < labels.size(); ++i) {
        targets.push_back(toward(findings.at(static_cast<std::size_t>(labels[i]))));
        states[static_cast<std::int64_t>(i)][labels[i]] = 1;
      }
      options.guidance.kind = GuidanceKind::kClassifier;
      options.guidance.classifier_scale = config.at("scale");
      require_known_scale(options.guidance.classifier_scale);
    }
    const double scale = options.guidance.classifier_scale;

    for (const auto type : {at::kFloat, at::kDouble})
      for (const Rows& rows : rows_of(set, unet, findings.size())) {
        const auto stored = [&](const std::string& name, std::int64_t dim) {
          return rows.of(to_tensor(set.at(name)).to(device, type), dim);
        };
        const auto predictor = predictor_of(rows, type);
        const DiffusionTranslator unguided(predictor, schedule, findings, path_options(levels, levels));
        const at::Tensor x = stored("x", 0), encode = stored("encode", 1);
        const bool narrow = type == at::kFloat;
        for (std::int64_t n = 0; narrow && n < levels; ++n)
          close(transition(schedule, encode[n], predictor->noise(encode[n], n, {}), n, n + 1), encode[n + 1], single,
                "encode step " + std::to_string(n));
        const at::Tensor latent = unguided.encode(x);
        close(latent, encode[levels], whole, "latent");
        for (const Kind& way : kKinds) {
          const std::string kind = way.name;
          if (!set.file.contains("decode_" + kind)) continue;
          const at::Tensor decode = stored("decode_" + kind, 1);
          std::shared_ptr<const GuidanceClassifier> guide;
          if (way.head)
            guide = make_guidance_classifier(moved(golden_classifier(*classifier, type, timestep_scale), device),
                                             schedule, *way.head);
          for (std::int64_t i = 0; narrow && i < levels; ++i) {
            const std::int64_t level = levels - i;
            at::Tensor noise = predictor->noise(decode[i], level, {});
            if (guide)
              noise = noise - scale * schedule.noise(level) * guide->gradient(decode[i], level, rows.of(states));
            close(transition(schedule, decode[i], noise, level, level - 1), decode[i + 1], single,
                  "decode step " + kind + " at level " + std::to_string(level));
          }
          at::Tensor image;
          if (guide && scale > 0) {
            const DiffusionTranslator translator(predictor, schedule, findings, options, guide);
            std::vector<at::Tensor> images;  // each towards its own target alone
            for (std::int64_t i = 0; i < rows.count; ++i)
              images.push_back(
                  translator.decode(latent.narrow(0, i, 1), {targets[static_cast<std::size_t>(rows.begin + i)]})
                      .squeeze(1));
            image = at::cat(images);
          } else {
            image = unguided.reconstruct(latent);
          }
          close(image, decode[levels], whole, "final " + kind);
          close(image, rows.of(to_tensor(set.at("final_" + kind + "_f64"))), whole, "final in double " + kind);
          close(difference_map(x, image.unsqueeze(1)).squeeze(1), rows.of(to_tensor(set.at("heat_" + kind))), whole,
                "heat " + kind);
        }
      }
    check_outputs_read(set, other_kinds(set));
    return worst;
  });
}

}  // namespace

TEST_CASE("golden: chains there and back", "[translator][golden]") { check_chain_sets(at::kCPU); }

TEST_CASE("golden chains there and back on a device", "[gpu]") {
  if (!no_golden_on_device()) check_chain_sets(at::Device(at::kCUDA, 0));
}
