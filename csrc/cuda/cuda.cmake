# The CUDA backend: no CUDA is needed to build it. The shaders are translated and kept as text, which NVRTC compiles.
set(kernel_sources ${CMAKE_CURRENT_BINARY_DIR}/kernel_sources.cpp)
file(GLOB shaders RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} CONFIGURE_DEPENDS shaders/*.metal)
file(GLOB shader_parts CONFIGURE_DEPENDS shaders/*.h csrc/msl/*.py csrc/msl/*.h)
add_custom_command(
  OUTPUT ${kernel_sources}
  COMMAND ${Python_EXECUTABLE} csrc/cuda/embed_kernels.py ${kernel_sources} ${shaders}
  DEPENDS csrc/cuda/embed_kernels.py ${shaders} ${shader_parts}
  WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
  VERBATIM)
target_sources(moeflux_core PRIVATE ${kernel_sources})
target_link_libraries(moeflux_core PUBLIC ${CMAKE_DL_LIBS})
