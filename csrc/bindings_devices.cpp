// Devices, buffers and mappings for Python.
#include <pybind11/stl/filesystem.h>

#include <filesystem>

#include "backends.h"
#include "bindings.h"
#include "file.h"
#include "read_pool.h"

namespace moeflux::bindings {
namespace {

using SharedDevice = std::shared_ptr<Device>;
using release_gil = py::call_guard<py::gil_scoped_release>;

// The view keeps `self`, and so the bytes, alive.
int fill_buffer_view(PyObject* self, Py_buffer* view, int flags) {
  const Buffer& buffer = py::handle(self).cast<const Buffer&>();
  if (!buffer.allocation->host()) {
    PyErr_SetString(PyExc_BufferError,
                    "the host has no access to this buffer: it was not made with host=True; Device.download copies it");
    return -1;
  }
  return PyBuffer_FillInfo(view, self, buffer.address(), static_cast<Py_ssize_t>(buffer.nbytes), 0, flags);
}

int fill_mapping_view(PyObject* self, Py_buffer* view, int flags) {
  const Mapping& mapping = py::handle(self).cast<const Mapping&>();
  return PyBuffer_FillInfo(view, self, mapping.address(), static_cast<Py_ssize_t>(mapping.nbytes()), 1, flags);
}

py::custom_type_setup supports_buffer(getbufferproc fill) {
  return py::custom_type_setup([fill](PyHeapTypeObject* type) {
    type->as_buffer.bf_getbuffer = fill;
    type->ht_type.tp_as_buffer = &type->as_buffer;
  });
}

// The C-contiguous bytes of a Python object, held until destroyed.
class ContiguousView {
 public:
  explicit ContiguousView(const py::buffer& data) {
    if (PyObject_GetBuffer(data.ptr(), &view_, PyBUF_C_CONTIGUOUS) != 0) throw py::error_already_set();
  }
  ~ContiguousView() { PyBuffer_Release(&view_); }
  ContiguousView(const ContiguousView&) = delete;
  ContiguousView& operator=(const ContiguousView&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_;
};

Buffer upload(const SharedDevice& device, const py::buffer& data) {
  const ContiguousView view(data);
  const py::gil_scoped_release release;
  return device->upload(view.bytes());
}

py::bytes download(const SharedDevice& device, const Buffer& buffer) {
  py::bytes copy(nullptr, buffer.nbytes);
  const std::span<std::byte> destination(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(copy.ptr())), buffer.nbytes);
  const py::gil_scoped_release release;
  device->download(buffer, destination);
  return copy;
}

std::shared_ptr<Pipeline> pipeline(const SharedDevice& device, const std::string& kernel, const py::kwargs& keywords) {
  Constants constants;
  for (const auto& [name, value] : keywords) {
    const auto key = name.cast<std::string>();
    constants[key] = unsigned32_of(value.cast<std::int64_t>(), key.c_str());
  }
  const py::gil_scoped_release release;
  return device->pipeline(kernel, constants);
}

std::shared_ptr<ReadPool> read_pool(const Device&, std::int64_t n_workers) {
  return std::make_shared<ReadPool>(unsigned32_of(n_workers, "n_workers"));
}

}  // namespace

py::class_<Device, std::shared_ptr<Device>> bind_devices(py::module_& module) {
  py::class_<Buffer>(module, "Buffer", "Device bytes; supports the buffer protocol if made with host=True.",
                     py::is_final(), py::release_gil_before_calling_cpp_dtor(), supports_buffer(fill_buffer_view))
      .def_readonly("nbytes", &Buffer::nbytes)
      .def_property_readonly("host", [](const Buffer& buffer) { return buffer.allocation->host(); })
      .def(
          "populate", [](const Buffer& buffer) { buffer.allocation->populate(); },
          "Start to put memory behind every page, in the background.")
      .def(
          "view",
          [](const Buffer& buffer, std::int64_t offset, std::int64_t nbytes) {
            return buffer.view(unsigned_of(offset, "offset"), unsigned_of(nbytes, "nbytes"));
          },
          py::arg("offset"), py::arg("nbytes"), "A range of this buffer sharing its bytes.");

  py::class_<Mapping, std::shared_ptr<Mapping>>(module, "Mapping", "A file mapped read-only.", py::is_final(),
                                                py::release_gil_before_calling_cpp_dtor(),
                                                supports_buffer(fill_mapping_view))
      .def(py::init([](const std::filesystem::path& path) { return std::make_shared<Mapping>(path.native()); }),
           py::arg("path"))
      .def_property_readonly("nbytes", &Mapping::nbytes);

  py::class_<Pipeline, std::shared_ptr<Pipeline>>(module, "Pipeline", "A kernel specialised by its constants.",
                                                  py::is_final())
      .def_property_readonly("kernel", &Pipeline::kernel)
      .def_property_readonly("constants", &Pipeline::constants);

  py::class_<Device, SharedDevice> device_class(module, "Device", "A backend: memory, kernels and queues.",
                                                py::is_final(), py::release_gil_before_calling_cpp_dtor());
  device_class.def_property_readonly("name", &Device::name)
      .def_property_readonly("description", &Device::description)
      .def(
          "buffer",
          [](Device& device, std::int64_t nbytes, bool host) {
            return device.buffer(unsigned_of(nbytes, "nbytes"), host);
          },
          py::arg("nbytes"), py::arg("host") = false, release_gil(), "A zeroed buffer.")
      .def(
          "record_memory",
          [](Device& device, std::int64_t nbytes) { return device.record_memory(unsigned_of(nbytes, "nbytes")); },
          py::arg("nbytes"), release_gil(), "Memory of the host for copies to the device, page-locked where it can be.")
      .def("wrap", &Device::wrap, py::arg("mapping"), "The whole mapping as a buffer.")
      .def("upload", &upload, py::arg("data"), "A new buffer with a copy of `data` (C-contiguous).")
      .def("download", &download, py::arg("buffer"), "A copy of the buffer's bytes.")
      .def("pipeline", &pipeline, py::arg("kernel"), "The kernel specialised by its constants, compiled once.")
      .def("read_pool", &read_pool, py::arg("n_workers") = 8, release_gil(), "Workers that read files into buffers.")
      .def("kernels", &Device::kernels, "Names of all kernels.")
      .def("warm_all", &Device::warm_all, release_gil(), "Compile what was asked for so far.")
      .def_property_readonly("n_compiled", &Device::n_compiled, "Compiled variants of kernels.")
      .def_property_readonly("tokens_at_once", &Device::tokens_at_once, "Tokens of a prompt that keep it busy.")
      .def("memory", &Device::memory, "Bytes by name; empty where the device cannot tell.");

  const cuda::Options defaults;
  py::class_<cuda::Options>(module, "CudaOptions", "Where CUDA is found, and how long its work may take.",
                            py::is_final())
      .def(py::init<std::string, std::vector<std::string>, std::string, double>(), py::arg("driver") = defaults.driver,
           py::arg("compilers") = defaults.compilers, py::arg("kernel_folder") = defaults.kernel_folder,
           py::arg("longest_wait_seconds") = defaults.longest_wait_seconds);

  module.def("device_names", &device_names, py::arg("cuda") = defaults, release_gil(),
             "Backends that this build has and this machine can run, best first.");
  module.def(
      "open_device",
      [](const std::string& name, std::int64_t n_threads, const std::string& instruction_set,
         const std::string& activations, const cuda::Options& cuda) {
        return open_device(name, {unsigned32_of(n_threads, "n_threads"), instruction_set, activations, cuda});
      },
      py::arg("name"), py::arg("n_threads") = 0, py::arg("instruction_set") = "", py::arg("activations") = "float32",
      py::arg("cuda") = defaults, release_gil(), "Open a backend by name.");
  return device_class;
}

}  // namespace moeflux::bindings
