// Serves a page on this machine to search the gallery of a finished run: type a report or pick an image, see what is
// found. Reads the run folder alone.
//
//   daug_search RUN_FOLDER [--port 8080] [--arm NAME]
//
// Ctrl-C ends it.
#include "daug/pipeline/run_search.h"

int main(int argc, char** argv) { return daug::search_program(argc, argv); }
