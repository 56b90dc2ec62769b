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

// The most derived classes come first: a catch clause takes all that derive from its type.
void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const OutOfMemoryError& error) {
    raise_python("OutOfMemoryError", text_of(error.what()), error.nbytes);
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
