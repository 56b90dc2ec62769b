// Checksums for Python.
#include "bindings.h"
#include "checksum.h"

namespace moeflux::bindings {
namespace {

std::uint32_t checksum(const py::buffer& data, std::int64_t initial) {
  const std::uint32_t before = unsigned32_of(initial, "initial");
  Py_buffer view;
  if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_C_CONTIGUOUS) != 0) throw py::error_already_set();
  const std::unique_ptr<Py_buffer, decltype(&PyBuffer_Release)> held(&view, &PyBuffer_Release);
  const py::gil_scoped_release release;
  return crc32c(static_cast<const std::byte*>(view.buf), static_cast<std::size_t>(view.len), before);
}

}  // namespace

void bind_checksum(py::module_& module) {
  module.def("crc32c", &checksum, py::arg("data"), py::arg("initial") = 0,
             "CRC32C of C-contiguous bytes, or of bytes that follow those whose checksum is `initial`.");
}

}  // namespace moeflux::bindings
