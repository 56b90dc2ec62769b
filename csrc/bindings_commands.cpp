// Queues, command buffers and recordings for Python.
#include "bindings.h"

namespace moeflux::bindings {
namespace {

using release_gil = py::call_guard<py::gil_scoped_release>;

// What dispatches go into, together with the device that Python asks it for.
struct EncoderHandle {
  std::shared_ptr<Device> device;
  std::shared_ptr<Encoder> encoder;

  void dispatch(std::shared_ptr<Pipeline> pipeline, const std::vector<Buffer>& buffers, const py::bytes& params) const {
    const std::string_view bytes = params;
    encoder->dispatch(std::move(pipeline), buffers, std::as_bytes(std::span(bytes)));
  }
  void copy(const Buffer& source, const Buffer& destination) const { encoder->copy(source, destination); }
  void zero(const Buffer& destination) const { encoder->zero(destination); }
};

struct RecordingHandle : EncoderHandle {
  explicit RecordingHandle(const std::shared_ptr<Device>& device) : RecordingHandle(device, device->record()) {}
  RecordingHandle(const std::shared_ptr<Device>& device, const std::shared_ptr<Recording>& recording)
      : EncoderHandle{device, recording}, recording(recording) {}

  std::shared_ptr<Recording> recording;
};

struct CommandBufferHandle : EncoderHandle {
  CommandBufferHandle(const std::shared_ptr<Device>& device, const std::shared_ptr<CommandBuffer>& commands)
      : EncoderHandle{device, commands}, commands(commands) {}

  void replay(const RecordingHandle& recording) const { commands->replay(recording.recording); }
  void commit() const { commands->commit(); }
  void wait() const { commands->wait(); }
  const std::string& label() const { return commands->label(); }
  bool done() const { return commands->done(); }
  double gpu_seconds() const { return commands->gpu_seconds(); }
  void keep_timings() const { commands->keep_timings(); }
  std::vector<std::tuple<std::string, double, double>> timings() const {
    std::vector<std::tuple<std::string, double, double>> rows;
    for (const KernelTiming& timing : commands->timings()) rows.emplace_back(timing.kernel, timing.begin, timing.end);
    return rows;
  }

  std::shared_ptr<CommandBuffer> commands;
};

struct QueueHandle {
  explicit QueueHandle(const std::shared_ptr<Device>& device) : device(device), queue(device->queue()) {}

  CommandBufferHandle command_buffer(Step step, std::string label) const {
    return {device, queue->command_buffer(step, std::move(label))};
  }

  std::shared_ptr<Device> device;
  std::shared_ptr<Queue> queue;
};

Step make_step(std::int64_t position, std::int64_t n_tokens, bool prefill) {
  return Step{unsigned32_of(position, "position"), unsigned32_of(n_tokens, "n_tokens"), prefill ? 1u : 0u};
}

}  // namespace

void bind_commands(py::module_& module, py::class_<Device, std::shared_ptr<Device>>& device) {
  py::class_<Step>(module, "Step", "Position of the first token, number of tokens, and whether they are a prompt's.",
                   py::is_final())
      .def(py::init(&make_step), py::arg("position"), py::arg("n_tokens"), py::arg("prefill") = false)
      .def_readonly("position", &Step::position)
      .def_readonly("n_tokens", &Step::n_tokens)
      .def_property_readonly("prefill", [](const Step& self) { return self.prefill != 0; });

  py::class_<EncoderHandle>(module, "Encoder", "What ops dispatch into: a CommandBuffer or a Recording.")
      .def_readonly("device", &EncoderHandle::device)
      .def("dispatch", &EncoderHandle::dispatch, py::arg("pipeline"), py::arg("buffers"), py::arg("params"),
           "Append a dispatch.")
      .def("copy", &EncoderHandle::copy, py::arg("source"), py::arg("destination"),
           "Copy bytes between buffers of equal nbytes, in order with the dispatches.")
      .def("zero", &EncoderHandle::zero, py::arg("destination"), "Clear a buffer, in order with the dispatches.");

  py::class_<RecordingHandle, EncoderHandle>(module, "Recording", "Dispatches bound once; immutable once replayed.",
                                             py::is_final(), py::release_gil_before_calling_cpp_dtor())
      .def("__len__", [](const RecordingHandle& self) { return self.recording->size(); });

  py::class_<CommandBufferHandle, EncoderHandle>(module, "CommandBuffer", "Work submitted in one piece.",
                                                 py::is_final(), py::release_gil_before_calling_cpp_dtor())
      .def_property_readonly("label", &CommandBufferHandle::label)
      .def("replay", &CommandBufferHandle::replay, py::arg("recording"), "Append all that a recording holds.")
      .def("commit", &CommandBufferHandle::commit, release_gil(), "Submit.")
      .def("wait", &CommandBufferHandle::wait, release_gil(), "Block until finished.")
      .def_property_readonly("done", &CommandBufferHandle::done)
      .def_property_readonly("gpu_seconds", &CommandBufferHandle::gpu_seconds,
                             "Time the device spent on this command buffer.")
      .def("keep_timings", &CommandBufferHandle::keep_timings, "Note when each kernel runs.")
      .def_property_readonly("timings", &CommandBufferHandle::timings,
                             "Kernel, begin and end in seconds since the commit.");

  py::class_<QueueHandle>(module, "Queue", "Runs command buffers in the order of their commits.", py::is_final(),
                          py::release_gil_before_calling_cpp_dtor())
      .def("command_buffer", &QueueHandle::command_buffer, py::arg("step"), py::arg("label") = "",
           "An empty command buffer.");

  device.def("queue", [](const std::shared_ptr<Device>& self) { return QueueHandle(self); }, "A new queue.");
  device.def(
      "record", [](const std::shared_ptr<Device>& self) { return RecordingHandle(self); }, "An empty recording.");
}

}  // namespace moeflux::bindings
