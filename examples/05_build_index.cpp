// Embeds the gallery of a run and builds one searchable index an arm.
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/run.h"

int main(int argc, char** argv) {
  return daug::run_program(argc, argv, "Embeds the gallery of a run and builds one searchable index an arm.",
                           {daug::Stage::kIndex});
}
