#!/usr/bin/env bash
# Installs the package with its Metal backend, over the fake Metal, into the virtual environment DIR (made if missing).
#
#   tests/metal_on_linux/build.sh DIR [options]
#
#   --no-arc            csrc/metal without automatic reference counting (with it, as on macOS, otherwise)
#   --address           extension, fake and layer under AddressSanitizer; run with the variables that it prints
#   --coverage          count the lines of csrc/metal that run; see coverage.sh
#
# Needs clang-19, libgnustep-base-dev, libobjc-12-dev, libblocksruntime-dev and, for --address, libclang-rt-19-dev.
# Compiled shaders are kept in DIR/kernels. Settings of the fake are environment variables, e.g. FAKE_METAL_MODE=race,
# FAKE_METAL_ORDER=3, FAKE_METAL_WORKERS=1.
set -euo pipefail

usage() { sed -n '2,13s/^# \{0,1\}//p' "$0"; }

root=$(cd "$(dirname "$0")/../.." && pwd)
arc=ON address="" coverage=OFF folder=""
for argument in "$@"; do
  case "$argument" in
    --no-arc) arc=OFF ;;
    --address) address=address ;;
    --coverage) coverage=ON ;;
    -h | --help) usage && exit 0 ;;
    -*) echo "unknown option $argument" >&2 && usage >&2 && exit 2 ;;
    *) folder=$argument ;;
  esac
done
[ -n "$folder" ] || { usage >&2 && exit 2; }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ -x "$folder/bin/python" ] || python3 -m venv "$folder"
pip="$folder/bin/pip --disable-pip-version-check --quiet"
"$folder/bin/python" -c 'import cmake, ninja, pybind11, scikit_build_core' 2>/dev/null ||
  $pip install 'scikit-build-core>=0.11' 'pybind11>=3.0' 'cmake>=3.20' 'ninja>=1.11'

# The build folder stays, so that a second call compiles only what has changed.
PATH="$folder/bin:$PATH" CC=clang-19 CXX=clang++-19 OBJCXX=clang++-19 \
  $pip install --no-build-isolation "$root[test]" \
  --config-settings=build-dir="$folder/build" \
  --config-settings=cmake.define.MOEFLUX_METAL_BENCH=ON \
  --config-settings=cmake.define.MOEFLUX_WERROR=ON \
  --config-settings=cmake.define.MOEFLUX_SANITIZE="$address" \
  --config-settings=cmake.define.CMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF \
  --config-settings=cmake.define.MOEFLUX_BENCH_ARC="$arc" \
  --config-settings=cmake.define.MOEFLUX_BENCH_COVERAGE="$coverage" \
  --config-settings=cmake.define.MOEFLUX_BENCH_PYTHON="$folder/bin/python" \
  --config-settings=cmake.define.MOEFLUX_BENCH_CACHE="$folder/kernels" \
  --config-settings=install.strip=false \
  "--config-settings=build.tool-args=-j${MOEFLUX_BENCH_JOBS:-2}"

if [ -n "$address" ]; then
  echo "export LD_PRELOAD=$(clang++-19 -print-file-name=libclang_rt.asan-$(uname -m).so)"
  echo "export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 FAKE_METAL_MODE=address"
fi
