#!/usr/bin/env bash
# Installs lorad's dependencies from the distribution's packages (Debian 12 or newer).
#   deploy/install_packages.sh build   what configuring and compiling needs
#   deploy/install_packages.sh demo    the same, and what deploy/quickstart.sh prints with
#   deploy/install_packages.sh test    the same, and what tests/run.sh needs
# Runs as root or through sudo. Asks apt for nothing when everything is there.
set -euo pipefail

build_packages=(
  g++ cmake ninja-build pkg-config ccache ca-certificates
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  nlohmann-json3-dev libpcre2-dev libutf8proc-dev libopenblas-dev libhwy-dev libnlopt-dev
  libspdlog-dev libssl-dev libsqlite3-dev prometheus-cpp-dev libcpp-httplib-dev
)
demo_packages=(jq curl)
test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev clang-format gnuplot-nox
  prometheus python3 python3-venv python3-grpcio python3-protobuf python3-yaml
)

case "${1:-}" in
  build) packages=("${build_packages[@]}") ;;
  demo) packages=("${build_packages[@]}" "${demo_packages[@]}") ;;
  test) packages=("${build_packages[@]}" "${demo_packages[@]}" "${test_packages[@]}") ;;
  *) echo "usage: $0 build|demo|test" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "error: installing ${missing[*]} needs root: run this as root, or install sudo" >&2
    exit 1
  }
  sudo=(sudo)
fi
echo "installing ${#missing[@]} packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# A package's own service must not start: the tests run their own Prometheus on a free port.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod +x "$policy"
  trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
