#!/usr/bin/env bash
# Runs the Metal layer's tests in DIR, which build.sh has made with --coverage, and prints which lines of
# csrc/metal/*.mm ran. Fails below 90 %.
#
#   tests/metal_on_linux/coverage.sh DIR
set -euo pipefail

least=90
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(cd "${1:?the folder that build.sh was given}" && pwd)
counts=$folder/coverage
rm -rf "$counts"
mkdir -p "$counts"

cd "$root"
LLVM_PROFILE_FILE="$counts/%p.profraw" "$folder/bin/python" -m pytest -q -m metal_bench tests/metal_on_linux/device
llvm-profdata-19 merge --sparse --output="$counts/merged" "$counts"/*.profraw
# The extension is stripped; the object files still have the map from counts to lines.
objects=("$folder"/build/CMakeFiles/moeflux_metal.dir/csrc/metal/*.o)
others=("${objects[@]:1}")
llvm-cov-19 report "${objects[0]}" "${others[@]/#/--object=}" --instr-profile="$counts/merged" \
  --show-region-summary=false --show-branch-summary=false --sources "$root"/csrc/metal/*.mm | tee "$counts/report.txt"
awk -v least="$least" '$1 == "TOTAL" { percent = $NF; sub("%", "", percent); exit percent < least }' "$counts/report.txt"
