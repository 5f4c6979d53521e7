#!/usr/bin/env bash
# What CI runs on a machine that promises a GPU: the CUDA projects' tests, none of which may be skipped for want of a device,
# compute-sanitizer where it is installed, and the benchmarks, which leave projects/*/results/<device>.json.
# One command, needs no network, ends within 8 minutes. What was left out is said at the end.
# `ci/gpu.sh more` measures what the other projects do with a GPU, in the same time: quantization, diffusion, a training run of two minutes.
#
# Where nox can install, each project runs in its own environment; where not, in the running Python (PYTHON=... to choose).
set -uo pipefail
cd "$(dirname "$0")/.."

BUDGET=470  # seconds, of the 480 allowed
PROJECTS=$(grep -l '^gpu = true' projects/*/pyproject.toml | xargs -n 1 dirname | xargs -n 1 basename)
python=${PYTHON:-$(command -v python3 || command -v python)}
failures=() not_run=()

# within SECONDS COMMAND...: run it for so long at most, and never past the budget.
within() {
    local left=$((BUDGET - SECONDS)) most=$1
    shift
    [ "$left" -gt 5 ] || { not_run+=("$* (no time left)"); return 0; }
    [ "$most" -lt "$left" ] || most=$left
    echo "+ $*"
    timeout --kill-after=5 "$most" "$@"
}

# must LABEL COMMAND...: count a failure, and go on.
must() {
    local label=$1
    shift
    "$@" || failures+=("$label (exit $?)")
}

# python_of PROJECT: the interpreter that has what the project needs.
python_of() { [ "$own" = yes ] && echo "$PWD/.nox/$1/bin/python" || echo "$python"; }

nvidia-smi || { echo "NOT RUN: no CUDA device on this machine"; exit 1; }
export REQUIRE_CUDA=1

own=no
if command -v nox >/dev/null && within 60 nox --install-only -s $PROJECTS >/dev/null 2>&1; then
    own=yes
fi
echo "python: $([ "$own" = yes ] && echo "an environment of nox for each project" || echo "$python")"

# finish: say what was left out and what failed, and end.
finish() {
    for text in "${not_run[@]+"${not_run[@]}"}"; do echo "NOT RUN: $text"; done
    for text in "${failures[@]+"${failures[@]}"}"; do echo "FAILED: $text"; done
    echo "$SECONDS s"
    [ "${#failures[@]}" -eq 0 ]
    exit
}

if [ "${1:-}" = more ]; then
    # more LABEL SECONDS PROJECT COMMAND...
    more() {
        local label=$1 most=$2
        cd "projects/$3"
        must "$label" within "$most" "${@:4}"
        cd ../..
    }
    runs=$(mktemp -d)
    more "benchmark of training_loop" 80 training_loop "$python" benchmark.py --gpu
    more "benchmark of quantization" 60 quantization "$python" benchmark.py --gpu
    more "training of diffusion_sampling" 130 diffusion_sampling "$python" train.py --gpu --checkpoint "$runs/train.pt" --out "$runs/digits.safetensors"
    # Longer than two minutes by itself: told to stop, it saves, says so and ends with 0.
    more "training_loop's preset gpu" 150 training_loop timeout --preserve-status 120 "$python" run.py --preset gpu --out "$runs/gpu"
    finish
fi

for project in $PROJECTS; do
    cd "projects/$project"
    # Not the mistakes: most of their diagnoses are the emulator's, and a wild address would end this process's context.
    further=$(ls -d tests/further 2>/dev/null || true)
    # shellcheck disable=SC2086  # nothing where there are no further tests
    must "tests of $project" within 70 "$(python_of "$project")" -m pytest -q tests/test_*.py $further README.md
    cd ../..
done

for project in $PROJECTS; do
    cd "projects/$project"
    must "benchmark of $project" within 55 "$(python_of "$project")" benchmark.py
    ls results
    cd ../..
done

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
for project in $PROJECTS; do
    if [ -z "$sanitizer" ]; then
        not_run+=("memcheck and racecheck of $project (no compute-sanitizer)")
        continue
    fi
    cd "projects/$project"
    ladder=$(ls tests/further/test_ladder.py tests/further/test_attention.py 2>/dev/null || true)
    for tool in memcheck racecheck; do
        # shellcheck disable=SC2086
        must "$tool of $project" within 25 "$sanitizer" --tool "$tool" --error-exitcode 1 --target-processes all \
            "$(python_of "$project")" -m pytest -q -p no:cacheprovider "tests/test_$project.py" $ladder -k "by_hand or every"
    done
    cd ../..
done

finish
