#include "file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "error.h"

namespace moeflux {
namespace {

#ifdef O_DIRECT
constexpr int kDirectFlag = O_DIRECT;
#else
constexpr int kDirectFlag = 0;
#endif

// Holds for every file system in use; a multiple of all logical block sizes.
constexpr std::size_t kDirectAlignment = 4096;
constexpr std::size_t kStagingNbytes = std::size_t{1} << 20;
// Kernels transfer less than 2 GiB per call; macOS refuses to try more.
constexpr std::size_t kLargestRead = std::size_t{1} << 30;

std::int64_t read_once(int descriptor, std::uint64_t offset, std::span<std::byte> destination) {
  for (;;) {
    const ssize_t got =
        pread(descriptor, destination.data(), std::min(destination.size(), kLargestRead), static_cast<off_t>(offset));
    if (got >= 0) return got;
    if (errno != EINTR) return -errno;
  }
}

}  // namespace

FileDescriptor::FileDescriptor(const std::string& path, bool direct) {
  // Without O_NONBLOCK, opening a named pipe would wait for its writer.
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (direct ? kDirectFlag : 0);
  do {
    descriptor_ = open(path.c_str(), flags);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) throw FileError(path, errno);

  struct stat status{};
  int error_number = fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (error_number == 0 && S_ISDIR(status.st_mode)) error_number = EISDIR;
  if (error_number == 0 && !S_ISREG(status.st_mode)) error_number = EINVAL;
#ifdef F_NOCACHE
  if (error_number == 0 && direct && fcntl(descriptor_, F_NOCACHE, 1) != 0) error_number = errno;
#endif
  if (error_number != 0) {
    close(descriptor_);
    throw FileError(path, error_number);
  }
  nbytes_ = static_cast<std::uint64_t>(status.st_size);
}

FileDescriptor::~FileDescriptor() { close(descriptor_); }

std::span<std::byte> StagingBlock::bytes() {
  try {
    if (!pages_) pages_ = std::make_unique<Pages>(kStagingNbytes);
  } catch (const OutOfMemoryError&) {
    return {};
  }
  return {pages_->address(), kStagingNbytes};
}

File::File(std::string path, bool direct)
    : path_(std::move(path)), descriptor_(path_, direct), staged_(direct && kDirectFlag != 0) {}

ReadOutcome File::read(std::uint64_t offset, std::span<std::byte> destination, StagingBlock& staging) const {
  std::size_t filled = 0;
  while (filled < destination.size()) {
    const std::int64_t got = read_some(offset + filled, destination.subspan(filled), staging);
    if (got <= 0) return {filled, static_cast<int>(-got)};
    filled += static_cast<std::size_t>(got);
  }
  return {filled, 0};
}

std::int64_t File::read_some(std::uint64_t offset, std::span<std::byte> destination, StagingBlock& staging) const {
  if (!staged_) return read_once(descriptor_.get(), offset, destination);
  const bool aligned =
      offset % kDirectAlignment == 0 && reinterpret_cast<std::uintptr_t>(destination.data()) % kDirectAlignment == 0;
  if (!aligned || destination.size() < kDirectAlignment) return read_staged(offset, destination, staging);
  return read_once(descriptor_.get(), offset,
                   destination.first(destination.size() / kDirectAlignment * kDirectAlignment));
}

std::int64_t File::read_staged(std::uint64_t offset, std::span<std::byte> destination, StagingBlock& staging) const {
  const std::size_t before = offset % kDirectAlignment;
  const std::size_t wanted = std::min(kStagingNbytes, before + destination.size());
  std::span<std::byte> block = staging.bytes();
  if (block.empty()) return -ENOMEM;
  block = block.first((wanted + kDirectAlignment - 1) / kDirectAlignment * kDirectAlignment);
  const std::int64_t got = read_once(descriptor_.get(), offset - before, block);
  if (got < 0) return got;
  if (static_cast<std::size_t>(got) <= before) return 0;
  const std::size_t useful = std::min(static_cast<std::size_t>(got) - before, destination.size());
  std::memcpy(destination.data(), block.data() + before, useful);
  return static_cast<std::int64_t>(useful);
}

Mapping::Mapping(const std::string& path) {
  const FileDescriptor descriptor(path, false);
  if (descriptor.nbytes() == 0) throw std::invalid_argument(path + " is empty and cannot be mapped");
  void* mapped = mmap(nullptr, descriptor.nbytes(), PROT_READ, MAP_SHARED, descriptor.get(), 0);
  if (mapped == MAP_FAILED) throw FileError(path, errno);
  address_ = static_cast<std::byte*>(mapped);
  nbytes_ = descriptor.nbytes();
}

void Mapping::let_go(std::size_t offset, std::size_t nbytes) const {
  const std::size_t before = offset % page_size();
  // Only advice: pages that stay do no harm.
  madvise(address_ + offset - before, before + nbytes, MADV_DONTNEED);
}

Mapping::~Mapping() { munmap(address_, nbytes_); }

}  // namespace moeflux
