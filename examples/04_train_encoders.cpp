// Trains the image and text encoders of every arm of a run.
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/run.h"

int main(int argc, char** argv) {
  return daug::run_program(argc, argv, "Trains the image and text encoders of every arm of a run.",
                           {daug::Stage::kEncoders});
}
