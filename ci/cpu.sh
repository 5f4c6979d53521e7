#!/usr/bin/env bash
# What CI runs on a machine without a GPU: the README's own command lines, from a clean clone, with nothing installed.
# Two sessions run at a time, one per core.
set -euo pipefail
cd "$(dirname "$0")/.."

# The two command lines of the README are taken from it, so that they are what is tested.
readme_command() { sed -n "s/^\(python3 -m venv .*bin\/nox$1\)\$/\1/p" README.md | head -n 1; }
test_command=$(readme_command "")
tour_command=$(readme_command " -s tour")
[ -n "$test_command" ] && [ -n "$tour_command" ] || { echo "README.md: no command line found"; exit 1; }

# The page of the tour is tested in a browser.
has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
if ! has_browser && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true
fi
has_browser || echo "NOT RUN: the tour's page in a browser (chromium could not be installed)"

echo "+ $test_command"
bash -c "$test_command -l" >/dev/null
nox=${test_command##* }
# Those of the sessions that need no GPU: their names, as the workflow on GitHub reads them too.
sessions() {
    $nox -l --json | python3 -c "
import json, sys
for session in json.load(sys.stdin):
    if {'cpu', 'checks'} & set(session['tags']):
        print(session['session'])"
}
all=$(sessions)
[ -n "$all" ] || { echo "nox -l --json shows no sessions"; exit 1; }
# The slow ones come first: else one core might end with a long session while the other has none left.
slow='training_loop|cuda_emulator|diffusion_.*|token_world_model|quantization|cuda_softmax|shared|types'
ordered=$({ grep -xE "$slow" <<<"$all"; echo "$all"; } | awk '!seen[$0]++')

# Every mistake meets all tests that can see it here, in their order, not only the one that is known to catch it.
export GROUNDWORK_JUDGE=full
# Each is a pytest session of its own: they share the tests' bytecode.
unset PYTHONDONTWRITEBYTECODE
failed=0
# Run one session and print what it said in one piece.
export nox
one_session() {
    local status=0 log
    log=$(mktemp)
    $nox -s "$1" >"$log" 2>&1 || status=1
    flock ci/cpu.sh cat "$log"  # not in the middle of what another one says
    return $status
}
export -f one_session
xargs -n 1 -P 2 bash -c 'one_session "$0"' <<<"$ordered" || failed=1

echo "+ $tour_command"
bash -c "$tour_command" || failed=1
.nox/tour/bin/python -m shared.tour.browser build/tour/index.html || failed=1

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi >/dev/null 2>&1; then
    echo "NOT RUN: ci/gpu.sh (no CUDA device on this machine)"
fi
exit $failed
