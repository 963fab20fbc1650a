#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "daug/heatmap/maps.h"
#include "daug/io/weights.h"
#include "daug/translator/ddim_solver.h"
#include "daug/translator/diffusion_translator.h"
#include "support/catch.h"
#include "support/golden.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("golden: chains there and back", "[translator][golden]") {
  for_each_golden("diffusion_chain", [](const GoldenSet& set) {
    const auto& config = set.settings.at("config");
    const bool clips = config.value("clip_denoised", false);
    const std::int64_t levels = config.at("levels");
    const auto schedule = golden_schedule(config);
    const GoldenSet unet = load_golden(config.at("unet")), classifier = load_golden(config.at("classifier"));
    const auto& tolerance = set.settings.at("tolerance");
    double worst = 0;
    const auto close = [&](const at::Tensor& actual, const at::Tensor& expected, double largest,
                           const std::string& what) {
      worst = std::max(worst, check_close(actual, expected, largest, what));
    };
    const auto predictor_in = [&](at::ScalarType type) {
      const auto predictor = make_noise_predictor(golden_unet(unet, type), schedule, Prediction::kEps);
      return clips ? make_clipping_predictor(predictor, schedule) : predictor;
    };

    if (set.file.contains("encode_exact")) {
      const at::Tensor states = to_tensor(set.at("encode_exact"));
      const auto predictor = predictor_in(at::kDouble);
      for (const auto type : {at::kFloat, at::kDouble}) {
        const auto stepper = predictor_in(type);
        const at::Tensor typed = states.to(type);
        for (std::int64_t n = 0; n < levels; ++n)
          close(transition(schedule, typed[n + 1], stepper->noise(typed[n + 1], n + 1, {}), n + 1, n), states[n],
                tolerance.at(type == at::kFloat ? "float32" : "float64"), "exact step " + std::to_string(n));
      }
      // One image is enough for the whole way: rows do not see each other, and this costs most of the test's time.
      auto exact = path_options(levels, levels);
      exact.solver = std::make_shared<DdimSolver>(DdimSolverOptions{100, 1e-9});  // far below what is asked
      const DiffusionTranslator translator(predictor, schedule, {}, exact);
      const at::Tensor latent = translator.encode(to_tensor(set.at("x")).narrow(0, 0, 1));
      close(latent, states[levels].narrow(0, 0, 1), tolerance.at("float64"), "exact latent");
      close(translator.reconstruct(latent), to_tensor(set.at("decoded")).narrow(0, 0, 1), tolerance.at("float64"),
            "decoded");
      check_outputs_read(set);
      return worst;
    }

    const double single = tolerance.at("single_step"), whole = tolerance.at("whole_chain");
    const double scale = config.at("scale");
    const auto labels = set.at("y").to_int64();
    const std::int64_t logits = classifier.settings.at("config").at("model").at("out_channels");
    std::vector<std::string> findings;
    for (std::int64_t f = 0; f < logits; ++f) findings.push_back("finding " + std::to_string(f));
    std::vector<Target> targets;
    at::Tensor condition = at::zeros({static_cast<std::int64_t>(labels.size()), logits});
    for (std::size_t i = 0; i < labels.size(); ++i) {
      targets.push_back(toward(findings[static_cast<std::size_t>(labels[i])]));
      condition[static_cast<std::int64_t>(i)][labels[i]] = 1;
    }
    auto options = path_options(levels, levels);
    options.guidance.kind = GuidanceKind::kClassifier;
    options.guidance.classifier_scale = scale;

    for (const auto type : {at::kFloat, at::kDouble}) {
      const auto predictor = predictor_in(type);
      const DiffusionTranslator unguided(predictor, schedule, findings, path_options(levels, levels));
      const at::Tensor x = to_tensor(set.at("x")).to(type);
      const at::Tensor encode = to_tensor(set.at("encode")).to(type);
      const bool narrow = type == at::kFloat;
      if (narrow)
        for (std::int64_t n = 0; n < levels; ++n)
          close(transition(schedule, encode[n], predictor->noise(encode[n], n, {}), n, n + 1), encode[n + 1], single,
                "encode step " + std::to_string(n));
      const at::Tensor latent = unguided.encode(x);
      close(latent, encode[levels], whole, "latent");
      for (const std::string kind : {"plain", "log_sigmoid", "log_softmax"}) {
        const bool with_guidance = kind != "plain";
        if (!set.file.contains("decode_" + kind)) continue;
        const at::Tensor decode = to_tensor(set.at("decode_" + kind)).to(type);
        const auto guide =
            make_guidance_classifier(golden_classifier(classifier, type), schedule,
                                     kind == "log_softmax" ? GuidanceHead::kSoftmax : GuidanceHead::kSigmoid);
        const DiffusionTranslator translator(predictor, schedule, findings, options, guide);
        for (std::int64_t i = 0; narrow && i < levels; ++i) {
          const std::int64_t level = levels - i;
          at::Tensor noise = predictor->noise(decode[i], level, {});
          if (with_guidance)
            noise = noise - scale * schedule.noise(level) * guide->gradient(decode[i], level, condition);
          close(transition(schedule, decode[i], noise, level, level - 1), decode[i + 1], single,
                "decode step " + kind + " at level " + std::to_string(level));
        }
        at::Tensor image = translator.reconstruct(latent);
        if (with_guidance) {
          std::vector<at::Tensor> images;  // each towards its own target alone
          for (std::size_t i = 0; i < targets.size(); ++i)
            images.push_back(
                translator.decode(latent.narrow(0, static_cast<std::int64_t>(i), 1), {targets[i]}).squeeze(1));
          image = at::cat(images);
        }
        close(image, decode[levels], whole, "final " + kind);
        close(image, to_tensor(set.at("final_" + kind + "_f64")), whole, "final in double " + kind);
        close(difference_map(x, image.unsqueeze(1)).squeeze(1), to_tensor(set.at("heat_" + kind)), whole,
              "heat " + kind);
      }
    }
    check_outputs_read(set);
    return worst;
  });
}
