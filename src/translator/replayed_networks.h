#pragma once
// Networks whose calls are captured and replayed by the graphs that they are given.

#include <memory>
#include <string>
#include <vector>

#include "backend/graph_cache.h"
#include "daug/translator/guidance.h"
#include "daug/translator/noise_predictor.h"

namespace daug::detail {

/// make_noise_predictor of the network as it is. `graphs`: for its parameters; null: none. `embeddings`: whether
/// `embedded` computes rows ahead; kAuto: on a CUDA device; kFused: on the CPU, too, for tests; kReference: never.
std::shared_ptr<const NoisePredictor> replayed_predictor(const DenoiserUNet& network, const NoiseSchedule& schedule,
                                                         Prediction kind, const StateClasses& classes,
                                                         std::unique_ptr<backend::GraphCache> graphs,
                                                         Execution embeddings = Execution::kAuto);

/// make_guidance_classifier of the network as it is, with names that fit. `graphs` likewise.
std::shared_ptr<const GuidanceClassifier> replayed_guide(const NoiseAwareClassifier& network,
                                                         const NoiseSchedule& schedule, GuidanceHead head,
                                                         std::vector<std::string> findings,
                                                         std::unique_ptr<backend::GraphCache> graphs);

}  // namespace daug::detail
