// Native exceptions as the Python classes of moeflux.errors.
#include "bindings.h"
#include "error.h"

namespace moeflux::bindings {
namespace {

template <typename... Arguments>
void raise_python(const char* name, const Arguments&... arguments) {
  const py::object type = py::module_::import("moeflux.errors").attr(name);
  const py::object error = type(arguments...);
  PyErr_SetObject(type.ptr(), error.ptr());
}

const char* class_name(CommandFailure failure) {
  switch (failure) {
    case CommandFailure::out_of_memory:
      return "CommandOutOfMemoryError";
    case CommandFailure::timeout:
      return "CommandTimeoutError";
    case CommandFailure::page_fault:
      return "PageFaultError";
    case CommandFailure::access_revoked:
      return "AccessRevokedError";
    case CommandFailure::invalid_resource:
      return "InvalidResourceError";
    case CommandFailure::device_removed:
      return "DeviceRemovedError";
    case CommandFailure::other:
      return "CommandBufferError";
  }
  return "CommandBufferError";
}

const char* class_name(CaptureFailure failure) {
  switch (failure) {
    case CaptureFailure::unsupported:
      return "CaptureUnsupportedError";
    case CaptureFailure::already_capturing:
      return "AlreadyCapturingError";
    case CaptureFailure::other:
      return "CaptureError";
  }
  return "CaptureError";
}

py::list encoder_list(const std::vector<EncoderState>& encoders) {
  py::list list;
  for (const EncoderState& encoder : encoders) list.append(py::make_tuple(encoder.label, encoder.state));
  return list;
}

// The most derived classes come first: a catch clause takes all that derive from its type.
void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const OutOfMemoryError& error) {
    raise_python("OutOfMemoryError", text_of(error.what()), error.nbytes);
  } catch (const NoDeviceError& error) {
    raise_python("NoDeviceError", text_of(error.what()));
  } catch (const CompileError& error) {
    raise_python("CompileError", text_of(error.what()), text_of(error.source), text_of(error.log));
  } catch (const KernelNotFoundError& error) {
    raise_python("KernelNotFoundError", text_of(error.what()), error.kernel, error.available);
  } catch (const PipelineError& error) {
    raise_python("PipelineError", text_of(error.what()), error.kernel);
  } catch (const CommandBufferError& error) {
    raise_python(class_name(error.failure), text_of(error.what()), text_of(error.label), text_of(error.domain),
                 error.code, encoder_list(error.encoders));
  } catch (const CaptureError& error) {
    raise_python(class_name(error.failure), text_of(error.what()));
  } catch (const DeviceError& error) {
    raise_python("DeviceError", text_of(error.what()));
  } catch (const ReadTimeoutError& error) {
    raise_python("ReadTimeoutError", text_of(error.what()), text_of(error.path), error.offset, error.wanted, error.got,
                 error.error_number);
  } catch (const ChecksumError& error) {
    raise_python("ChecksumError", text_of(error.what()), text_of(error.path), error.offset, error.wanted,
                 error.wanted_checksum, error.got_checksum);
  } catch (const ReadError& error) {
    raise_python("ReadError", text_of(error.what()), text_of(error.path), error.offset, error.wanted, error.got,
                 error.error_number);
  } catch (const ReadCancelled& error) {
    raise_python("ReadCancelled", text_of(error.what()));
  } catch (const FileError& error) {
    // OSError chooses its subclass by the number.
    const py::object type = py::reinterpret_borrow<py::object>(PyExc_OSError);
    const py::object python_error = type(error.error_number, error.reason, text_of(error.path));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(python_error.ptr())), python_error.ptr());
  }
}

}  // namespace

void bind_errors(py::module_&) { py::register_local_exception_translator(translate); }

}  // namespace moeflux::bindings
