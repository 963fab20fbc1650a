// Compares ways of making maps on the test images of a run that has a translator and a guide.
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/run.h"

int main(int argc, char** argv) {
  return daug::run_program(argc, argv, "Compares ways of making maps on the test images of a run.", {},
                           [](daug::Run& run) { run.study_maps(); });
}
