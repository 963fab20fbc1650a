// Runs the whole pipeline: radiographs in; models, heatmaps, a searchable index and a report out.
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/run.h"

int main(int argc, char** argv) {
  return daug::run_program(
      argc, argv, "Runs the whole pipeline: radiographs in; models, heatmaps, a searchable index and a report out.",
      daug::all_stages());
}
