#!/usr/bin/env bash
# What CI runs on a machine that promises a GPU: every test that needs one runs, and none may be skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

nvidia-smi
export REQUIRE_CUDA=1
nox -t gpu
