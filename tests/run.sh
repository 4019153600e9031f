#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests. Ends with "N passed, N failed[, N skipped]".
#   tests/run.sh              every CPU test
#   --interop                 also against the real transformers and PEFT, in a virtual environment
#   --slow                    also the long ones
#   --gpu                     the CUDA build and its tests; fails if there is no GPU
#   --asan, --tsan            under the sanitizers (unit and integration tests)
#   -R REGEX                  only tests whose name matches
set -euo pipefail
cd "$(dirname "$0")/.."

preset=cpu interop=0 slow=0 only=()
while [ $# -gt 0 ]; do
  case "$1" in
    --interop) interop=1 ;;
    --slow) slow=1 ;;
    --gpu) preset=cuda ;;
    --asan) preset=asan ;;
    --tsan) preset=tsan ;;
    -R) only=(-R "${2:?-R needs a regular expression}"); shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown option $1; see $0 --help" >&2; exit 2 ;;
  esac
  shift
done

./deploy/install_packages.sh test

configure=(-DLORAD_BUILD_TESTS=ON)
if [ "$preset" = cuda ] && command -v nvidia-smi >/dev/null; then
  # For this machine's GPUs alone, which halves the compile time. Not "native": CMake looks for GPUs
  # only when it first configures a folder, which .ci/run does where there may be none.
  found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
    tr -d '. ' | sort -u | sed 's/^90$/90a/' | paste -sd ';') || true
  [[ ! "$found" =~ ^[0-9]+a?(\;[0-9]+a?)*$ ]] || configure+=("-DCMAKE_CUDA_ARCHITECTURES=$found")
fi

echo "building the preset $preset"
# The quickstart may have configured the same folder without tests.
cmake --preset "$preset" "${configure[@]}" >"build-$preset.log" 2>&1 || { cat "build-$preset.log" >&2; exit 1; }
rm -f "build-$preset.log"
cmake --build --preset "$preset" -j"$(nproc)" | tail -n 3

exclude='gpu'
[ "$slow" = 1 ] || exclude+='|slow'
[ "$interop" = 1 ] || exclude+='|interop'
selection=(-LE "$exclude")
case "$preset" in
  cuda) selection=(-L gpu); export LORAD_REQUIRE_GPU=1 ;;
  asan | tsan) selection=(-LE "$exclude|e2e") ;;
esac
case "$preset" in
  # Tests ask for more memory than there is, and want an error for it.
  asan) export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}" ;;
esac
if [ "$interop" = 1 ]; then
  # Where the packages cannot be had, the tests that need them skip, and the last line counts them.
  tests/interop/make_venv.sh build/interop-venv || echo "NOTE: interop packages cannot be installed here"
  [ ! -x build/interop-venv/bin/python ] || export LORAD_INTEROP_PYTHON="$PWD/build/interop-venv/bin/python"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Tests that time things or start daemons carry RUN_SERIAL; the rest share the cores.
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j"$(nproc)" \
  "${selection[@]}" "${only[@]}" 2>&1 | tee "$log" || true

passed=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$log" || true)
skipped=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*Skipped ' "$log" || true)
total=$(sed -nE 's/.*tests failed out of ([0-9]+).*/\1/p' "$log" | tail -n 1)
[ -n "$total" ] || { echo "error: ctest printed no summary" >&2; exit 1; }
failed=$((total - passed - skipped))
[ "$skipped" = 0 ] || grep -E '\*\*\*Skipped' "$log"
line="$passed passed, $failed failed"
[ "$skipped" = 0 ] || line+=", $skipped skipped"
echo "$line"
[ "$failed" = 0 ]
