# Fails if an object compiled for one instruction set defines a function that the linker may merge into portable code.
# Called with -DNM=<nm> and -DOBJECTS=<list of object files>.
list(FILTER OBJECTS INCLUDE REGEX "_(avx2|avxvnni|avx512|amx|neon)\\.cpp\\.o(bj)?$")
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --defined-only -C ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(symbols MATCHES "[0-9a-f]+ [WVu] [^\n]*")
    message(FATAL_ERROR "${object} defines ${CMAKE_MATCH_0}: put it into an unnamed namespace")
  endif()
endforeach()
