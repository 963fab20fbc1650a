// Measures maps, classification and retrieval of a run; writes metrics.json.
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/run.h"

int main(int argc, char** argv) {
  return daug::run_program(argc, argv, "Measures maps, classification and retrieval of a run; writes metrics.json.",
                           {daug::Stage::kEvaluate});
}
