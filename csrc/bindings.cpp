// pybind11 module moeflux._core: names, docstrings and GIL release; no logic.
#include "bindings.h"

PYBIND11_MODULE(_core, module) {
  namespace bindings = moeflux::bindings;
  module.doc() = "Native core: devices, buffers, command buffers and reads. Knows bytes and kernels, no model.";
  module.attr("__version__") = MOEFLUX_VERSION;
  bindings::bind_checksum(module);
  bindings::bind_errors(module);
  auto device = bindings::bind_devices(module);
  bindings::bind_captures(module, device);
  bindings::bind_commands(module, device);
  bindings::bind_reads(module);
  bindings::bind_bandwidth(module);
}
