// Writes report.html of a run.
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/run.h"

int main(int argc, char** argv) {
  return daug::run_program(argc, argv, "Writes report.html of a run.", {daug::Stage::kReport});
}
