// Files for positioned reads and for mapping. Knows no buffers, tickets or threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "pages.h"

namespace moeflux {

// An open file descriptor of a regular file.
class FileDescriptor {
 public:
  FileDescriptor(const std::string& path, bool direct);
  ~FileDescriptor();
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int get() const { return descriptor_; }
  std::uint64_t nbytes() const { return nbytes_; }

 private:
  int descriptor_ = -1;
  std::uint64_t nbytes_ = 0;
};

// How a positioned read ended: the bytes that arrived, and errno if it failed. Fewer bytes without errno: end of file.
struct ReadOutcome {
  std::uint64_t got;
  int error_number;
};

// Aligned memory through which unaligned parts of direct reads pass; one per reading thread, made when first needed.
class StagingBlock {
 public:
  // Empty if there is no memory.
  std::span<std::byte> bytes();

 private:
  std::unique_ptr<Pages> pages_;
};

// A file opened for positioned reads; `direct` reads bypass the page cache.
class File {
 public:
  // Throws FileError.
  File(std::string path, bool direct);

  const std::string& path() const { return path_; }
  // The size when it was opened.
  std::uint64_t nbytes() const { return descriptor_.nbytes(); }

  // Fills `destination` from `offset` on. Any alignment will do, direct or not.
  ReadOutcome read(std::uint64_t offset, std::span<std::byte> destination, StagingBlock& staging) const;

 private:
  // Both give the bytes read, 0 at the end of the file, or -errno.
  std::int64_t read_some(std::uint64_t offset, std::span<std::byte> destination, StagingBlock& staging) const;
  std::int64_t read_staged(std::uint64_t offset, std::span<std::byte> destination, StagingBlock& staging) const;

  std::string path_;
  FileDescriptor descriptor_;
  bool staged_;  // direct reads need aligned offsets, lengths and addresses
};

// A file mapped read-only.
class Mapping {
 public:
  // Throws FileError, or std::invalid_argument for an empty file.
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* address() const { return address_; }
  std::size_t nbytes() const { return nbytes_; }
  // Takes a range out of the process's memory until it is next touched. Changes no byte.
  void let_go(std::size_t offset, std::size_t nbytes) const;

 private:
  std::byte* address_ = nullptr;
  std::size_t nbytes_ = 0;
};

}  // namespace moeflux
