// Files, read pools and tickets for Python.
#include <pybind11/stl/filesystem.h>

#include <filesystem>

#include "bindings.h"
#include "read_pool.h"

namespace moeflux::bindings {
namespace {

using release_gil = py::call_guard<py::gil_scoped_release>;
using Range = std::tuple<std::shared_ptr<File>, std::int64_t, std::int64_t, std::int64_t>;

ReadRange read_range(const Range& range) {
  const auto& [file, offset, nbytes, buffer_offset] = range;
  return ReadRange{file, unsigned_of(offset, "offset"), unsigned_of(nbytes, "nbytes"),
                   unsigned_of(buffer_offset, "buffer_offset")};
}

std::shared_ptr<ReadRanges> read_ranges(const std::vector<Range>& ranges) {
  std::vector<ReadRange> native;
  native.reserve(ranges.size());
  for (const Range& range : ranges) native.push_back(read_range(range));
  return std::make_shared<ReadRanges>(std::move(native));
}

std::shared_ptr<ReadTicket> submit_ranges(ReadPool& pool, std::shared_ptr<ReadRanges> ranges, const Buffer& buffer,
                                          bool urgent, std::optional<std::uint32_t> checksum,
                                          const std::optional<Buffer>& record, bool filled) {
  std::optional<HostRecord> through;
  if (record) through = HostRecord{*record, filled};
  return pool.submit(std::move(ranges), buffer, urgent, checksum, std::move(through));
}

std::shared_ptr<ReadTicket> submit(ReadPool& pool, const std::shared_ptr<File>& file, std::int64_t offset,
                                   std::int64_t nbytes, const Buffer& buffer, bool urgent) {
  return submit_ranges(pool, read_ranges({Range{file, offset, nbytes, 0}}), buffer, urgent, {}, {}, false);
}

}  // namespace

void bind_reads(py::module_& module) {
  py::class_<File, std::shared_ptr<File>>(module, "File", "A file opened for positioned reads.", py::is_final(),
                                          py::release_gil_before_calling_cpp_dtor())
      .def(py::init([](const std::filesystem::path& path, bool direct) {
             return std::make_shared<File>(path.native(), direct);
           }),
           py::arg("path"), py::arg("direct") = false, release_gil())
      .def_property_readonly("path", [](const File& file) { return text_of(file.path()); })
      .def_property_readonly("nbytes", &File::nbytes);

  py::class_<ReadRanges, std::shared_ptr<ReadRanges>>(module, "ReadRanges", "What is read together.", py::is_final(),
                                                      py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&read_ranges), py::arg("ranges"), "Ranges (file, file offset, nbytes, buffer offset), in order.")
      .def("__len__", &ReadRanges::size)
      .def_property_readonly("nbytes", &ReadRanges::nbytes);

  py::class_<ReadTicket, std::shared_ptr<ReadTicket>>(module, "ReadTicket", "A read that was submitted.",
                                                      py::is_final(), py::release_gil_before_calling_cpp_dtor())
      .def_property_readonly("done", &ReadTicket::done, "No worker will touch the destination any more.")
      .def_property_readonly("cancelled", &ReadTicket::cancelled)
      .def_property_readonly("nbytes", &ReadTicket::nbytes)
      .def_property_readonly("seconds", &ReadTicket::seconds, "From submit to done.")
      .def("wait", &ReadTicket::wait, py::arg("timeout") = py::none(), release_gil(), "Block until done.")
      .def("promote", &ReadTicket::promote, release_gil(), "Make a queued read urgent.")
      .def("cancel", &ReadTicket::cancel, release_gil(),
           "Drop what has not started. True if the ticket will not deliver all bytes.");

  py::class_<ReadPool, std::shared_ptr<ReadPool>>(module, "ReadPool", "Workers that read file ranges into buffers.",
                                                  py::is_final(), py::release_gil_before_calling_cpp_dtor())
      .def_property_readonly("n_workers", &ReadPool::n_workers)
      .def("submit", &submit, py::arg("file"), py::arg("offset"), py::arg("nbytes"), py::arg("buffer"),
           py::arg("urgent") = true, release_gil(), "Read nbytes at offset into the start of buffer.")
      .def("submit_ranges", &submit_ranges, py::arg("ranges"), py::arg("buffer"), py::arg("urgent") = true,
           py::arg("checksum") = py::none(), py::arg("record") = py::none(), py::arg("filled") = false, release_gil(),
           "One ticket for several ranges. checksum: CRC32C of their bytes, one after the other; other bytes make the "
           "ticket fail. record: memory of the host, laid out as buffer, that the bytes go through; from one that is "
           "filled with them they are copied, and nothing is read.")
      .def("drain", &ReadPool::drain, release_gil(), "Block until no read is queued or running.")
      .def("close", &ReadPool::close, release_gil(), "Cancel queued reads, wait for running ones, stop the workers.");
}

}  // namespace moeflux::bindings
