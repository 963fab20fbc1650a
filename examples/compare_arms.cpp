// Compares the arms of the method, {image, image + maps} x {image-text, hybrid loss}, over several seeds and shares of
// the labels, with paired intervals of their differences. Stopped with Ctrl-C, the same command goes on.
//
//   compare_arms --out runs/arm_study --seeds 0,1,2,3,4 --labelled 10,25,50,100
//
// See --help for every setting; all programs of a run take the same ones.
#include "daug/pipeline/arm_study.h"

int main(int argc, char** argv) { return daug::arm_study_program(argc, argv); }
