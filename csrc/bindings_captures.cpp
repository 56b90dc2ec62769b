// GPU traces for Python.
#include <pybind11/native_enum.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>

#include "bindings.h"

namespace moeflux::bindings {
namespace {

using release_gil = py::call_guard<py::gil_scoped_release>;

}  // namespace

void bind_captures(py::module_& module, py::class_<Device, std::shared_ptr<Device>>& device) {
  py::native_enum<CaptureTarget>(module, "CaptureTarget", "enum.Enum", "What a GPU trace records.")
      .value("DEVICE", CaptureTarget::device)
      .value("QUEUE", CaptureTarget::queue)
      .value("SCOPE", CaptureTarget::scope)
      .finalize();

  device.def_property_readonly("supports_capture", &Device::supports_capture, "Whether start_capture can work.")
      .def_property_readonly("is_capturing", &Device::is_capturing, "Whether this process captures a GPU trace.")
      .def(
          "start_capture",
          [](Device& self, const std::filesystem::path& path, CaptureTarget target) {
            self.start_capture(path.native(), target);
          },
          py::arg("path"), py::arg("target") = CaptureTarget::queue, release_gil(),
          "Trace what is committed from here to stop_capture.")
      .def("stop_capture", &Device::stop_capture, release_gil(), "Wait for committed work, then write the trace.")
      .def("begin_scope", &Device::begin_scope, "Begin what CaptureTarget.SCOPE records.")
      .def("end_scope", &Device::end_scope, "End what CaptureTarget.SCOPE records.");
}

}  // namespace moeflux::bindings
