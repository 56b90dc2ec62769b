// Command buffers and queues of a GPU backend, over its submissions: lists that grow until they are committed.
//
// Submissions says what it takes (List) and gives (Submission), and has submit, wait, finished and settle.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "error.h"

namespace moeflux::gpu {

template <typename Submissions>
class GpuCommandBuffer final : public CommandBuffer {
 public:
  GpuCommandBuffer(std::shared_ptr<Submissions> submissions, Step step, std::string label)
      : submissions_(std::move(submissions)), step_(step), label_(std::move(label)) {}

  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                std::span<const std::byte> params) override {
    open_list("dispatch").dispatch(std::move(pipeline), buffers, params);
  }
  void copy(const Buffer& source, const Buffer& destination) override { open_list("copy").copy(source, destination); }
  void zero(const Buffer& destination) override { open_list("zero").zero(destination); }
  void replay(std::shared_ptr<Recording> recording) override { open_list("replay").replay(std::move(recording)); }
  const std::string& label() const override { return label_; }

  void commit() override {
    if (submission_) throw DeviceError(name() + " is already committed");
    submission_ = submissions_->submit(list_, step_, label_, timed_);
  }

  void wait() override {
    if (!submission_) throw DeviceError("wait for " + name() + ", which is not committed");
    submissions_->wait(submission_);
  }

  bool done() const override { return submission_ && submissions_->finished(*submission_); }
  double gpu_seconds() const override { return finished("gpu_seconds").seconds(); }

  void keep_timings() override {
    if (submission_) throw DeviceError("keep_timings after commit of " + name());
    timed_ = true;
  }

  std::vector<KernelTiming> timings() const override { return finished("timings").timings(); }

 private:
  using List = typename Submissions::List;
  using Submission = typename Submissions::Submission;

  // The commands while they may still grow; throws DeviceError once committed.
  List& open_list(const char* what) {
    if (submission_) throw DeviceError(std::string(what) + " after commit of " + name());
    return list_;
  }

  // The finished work; throws DeviceError before that.
  const Submission& finished(const char* what) const {
    if (!done()) throw DeviceError(std::string(what) + " of " + name() + ", which is not done");
    submissions_->settle(*submission_);
    return *submission_;
  }

  std::string name() const { return "command buffer '" + label_ + "'"; }

  std::shared_ptr<Submissions> submissions_;
  Step step_;
  std::string label_;
  List list_;
  bool timed_ = false;
  std::shared_ptr<Submission> submission_;
};

template <typename Submissions>
class GpuQueue final : public Queue {
 public:
  explicit GpuQueue(std::shared_ptr<Submissions> submissions) : submissions_(std::move(submissions)) {}
  std::shared_ptr<CommandBuffer> command_buffer(Step step, std::string label) override {
    return std::make_shared<GpuCommandBuffer<Submissions>>(submissions_, step, std::move(label));
  }

 private:
  std::shared_ptr<Submissions> submissions_;
};

}  // namespace moeflux::gpu
