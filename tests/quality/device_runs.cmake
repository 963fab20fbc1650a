# Which rows cmake/DeviceRuns.cmake takes, what it makes of them, and which it refuses.
#
#   cmake -DSOURCE=<daug> -DSCRATCH=<folder> -P device_runs.cmake
cmake_minimum_required(VERSION 3.24)
file(MAKE_DIRECTORY "${SCRATCH}")
set(table "${SCRATCH}/device_runs.csv")
file(WRITE "${SCRATCH}/ask.cmake" "cmake_minimum_required(VERSION 3.24)\n"
     "include(\"${SOURCE}/cmake/DeviceRuns.cmake\")\ndaug_device_runs(\"${table}\" runs adamw search_select cuda_graph)\nmessage(\"runs \${runs};\")\n")

# check(<expected text> <rows>): of a table with these rows.
function(check expected rows)
  file(WRITE "${table}" "${rows}")
  execute_process(COMMAND "${CMAKE_COMMAND}" -P "${SCRATCH}/ask.cmake" OUTPUT_VARIABLE said ERROR_VARIABLE said)
  string(REGEX REPLACE "[ \n]+" " " said "${said}")  # messages are broken into lines
  string(FIND "${said}" "${expected}" at)
  if(at EQUAL -1)
    message(SEND_ERROR "of '${rows}': expected '${expected}', got '${said}'")
  endif()
endfunction()

set(header "kernel, device, date, result\n")
check("runs ,;" "${header}")
check("runs ,adamw,;" "${header}adamw,NVIDIA H200,2026-01-31,passed\n")
check("runs ,search_select,cuda_graph,;"
      "${header}search_select,NVIDIA H200,2026-01-31,passed\ncuda_graph,NVIDIA A100-SXM4-80GB,2026-02-01,passed\n")
foreach(row "adamw,NVIDIA H200,2026-01-31,failed" "adamw,NVIDIA H200,2026-01-31" "adamw,NVIDIA H200,31.1.2026,passed"
            "adamw,,2026-01-31,passed" ",NVIDIA H200,2026-01-31,passed" "adamw, NVIDIA H200, 2026-01-31, passed"
            "adamw,NVIDIA H200,2026-01-31,passed " "Adamw,NVIDIA H200,2026-01-31,passed")
  check("got '${row}'" "${header}adamw,NVIDIA H200,2026-01-31,passed\n${row}\n")
endforeach()
check("'adam' is none of" "${header}adam,NVIDIA H200,2026-01-31,passed\n")
check("first line" "adamw,NVIDIA H200,2026-01-31,passed\n")
check("first line" "")
