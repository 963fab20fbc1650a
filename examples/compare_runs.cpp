// Writes a page with the figures of several finished runs side by side, with their intervals.
//
//   compare_runs RUN_FOLDER RUN_FOLDER... [--out FOLDER]
#include "daug/pipeline/compare_runs.h"

int main(int argc, char** argv) { return daug::compare_program(argc, argv); }
