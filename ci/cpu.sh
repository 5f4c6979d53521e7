#!/usr/bin/env bash
# What CI runs on a machine without a GPU: the README's own command lines, from a clean clone, with nothing installed.
set -euo pipefail
cd "$(dirname "$0")/.."

# The two command lines of the README are taken from it, so that they are what is tested.
readme_command() { sed -n "s/^\(python3 -m venv .*bin\/nox$1\)\$/\1/p" README.md | head -n 1; }
test_command=$(readme_command "")
tour_command=$(readme_command " -s tour")
[ -n "$test_command" ] && [ -n "$tour_command" ] || { echo "README.md: no command line found"; exit 1; }

echo "+ $test_command"
bash -c "$test_command"
echo "+ $tour_command"
bash -c "$tour_command"

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi >/dev/null 2>&1; then
    echo "NOT RUN: ci/gpu.sh (no CUDA device on this machine)"
fi
