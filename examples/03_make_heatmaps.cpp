// Makes difference, evidence and score-difference maps with a run's diffusion model.
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/run.h"

int main(int argc, char** argv) {
  return daug::run_program(argc, argv,
                           "Makes difference, evidence and score-difference maps with a run's diffusion model.",
                           {daug::Stage::kHeatmaps});
}
