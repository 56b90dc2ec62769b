// What the binding files share: one function per topic, and conversions that Python's types need.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "device.h"

namespace moeflux::bindings {

namespace py = pybind11;

void bind_bandwidth(py::module_& module);
void bind_captures(py::module_& module, py::class_<Device, std::shared_ptr<Device>>& device);
void bind_checksum(py::module_& module);
void bind_errors(py::module_& module);
py::class_<Device, std::shared_ptr<Device>> bind_devices(py::module_& module);
void bind_commands(py::module_& module, py::class_<Device, std::shared_ptr<Device>>& device);
void bind_reads(py::module_& module);

// A size or an offset that Python gives; throws ValueError for negative ones.
inline std::uint64_t unsigned_of(std::int64_t value, const char* name) {
  if (value < 0) throw std::invalid_argument(std::string(name) + " must not be negative, got " + std::to_string(value));
  return static_cast<std::uint64_t>(value);
}

inline std::uint32_t unsigned32_of(std::int64_t value, const char* name) {
  if (value < 0 || value > UINT32_MAX) {
    throw std::invalid_argument(std::string(name) + " must be between 0 and 2^32 - 1, got " + std::to_string(value));
  }
  return static_cast<std::uint32_t>(value);
}

// Native text, which may hold a path of any encoding, as Python decodes its file names.
inline py::str text_of(const std::string& text) {
  const auto size = static_cast<Py_ssize_t>(text.size());
  return py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefaultAndSize(text.data(), size));
}

}  // namespace moeflux::bindings
