// Checks and a runner for the C++ tests. A file defines its tests with TEST(name) and ends with TEST_MAIN.
#pragma once
#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace moeflux::test {

struct Test {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Test>& tests() {
  static std::vector<Test> registered;
  return registered;
}

struct Registration {
  Registration(const char* name, std::function<void()> body) { tests().push_back({name, std::move(body)}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::ostringstream message;
  message << file << ":" << line << ": " << what;
  throw std::logic_error(message.str());
}

template <typename Left, typename Right>
void check_equal(const char* file, int line, const char* expression, const Left& left, const Right& right) {
  if (left == right) return;
  std::ostringstream message;
  message << expression << ": " << left << " != " << right;
  fail(file, line, message.str());
}

// The message of the Error that `body` throws.
template <typename Error>
std::string message_of(const char* file, int line, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  fail(file, line, "nothing was thrown");
}

// Runs every registered test, or those whose name contains the first argument.
inline int run(int argc, char** argv) {
  int n_failed = 0;
  for (const Test& test : tests()) {
    if (argc > 1 && std::string(test.name).find(argv[1]) == std::string::npos) continue;
    try {
      test.body();
      std::printf("ok      %s\n", test.name);
    } catch (const std::exception& error) {
      std::printf("FAILED  %s\n        %s\n", test.name, error.what());
      ++n_failed;
    }
    std::fflush(stdout);
  }
  return n_failed == 0 ? 0 : 1;
}

}  // namespace moeflux::test

#define TEST(name)                                                           \
  static void name();                                                        \
  static const moeflux::test::Registration name##_registration{#name, name}; \
  static void name()
#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (!(condition)) moeflux::test::fail(__FILE__, __LINE__, #condition " is false"); \
  } while (false)
#define CHECK_EQUAL(left, right) moeflux::test::check_equal(__FILE__, __LINE__, #left " == " #right, left, right)
// Gives the message, for a look at what it names.
#define CHECK_THROWS(error, ...) moeflux::test::message_of<error>(__FILE__, __LINE__, [&] { __VA_ARGS__; })
#define TEST_MAIN \
  int main(int argc, char** argv) { return moeflux::test::run(argc, argv); }
