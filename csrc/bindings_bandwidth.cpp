// Memory bandwidth for Python.
#include "bandwidth.h"
#include "bindings.h"

namespace moeflux::bindings {

void bind_bandwidth(py::module_& module) {
  module.def(
      "measure_read_bandwidth",
      [](std::int64_t nbytes, std::int64_t n_threads) {
        const std::uint64_t size = unsigned_of(nbytes, "nbytes");
        const std::uint32_t threads = unsigned32_of(n_threads, "n_threads");
        const py::gil_scoped_release release;
        return measure_read_bandwidth(size, threads);
      },
      py::arg("nbytes"), py::arg("n_threads") = 0,
      "Bytes per second at which n_threads (0: one per core) together read nbytes of memory, the best of a few "
      "passes.");
}

}  // namespace moeflux::bindings
