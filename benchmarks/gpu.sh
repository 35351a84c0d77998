#!/usr/bin/env bash
# Everything that needs a GPU, in one go and under eight minutes: builds the operators, runs the
# tests marked cuda, compute-sanitizer on small cases and the benchmarks, whose table goes to
# benchmarks/results/. Uses the Python that is there (PYTHON=python3.12 names another) and no network:
# torch, the packages of pyproject.toml and pytest must be installed.
#
#   bash benchmarks/gpu.sh            # all steps
#   RESULTS=/some/folder bash benchmarks/gpu.sh   # a copy of the table and the logs there as well
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LOGS=${RESULTS:-$(mktemp -d)}
mkdir -p "$LOGS"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" FTBENCH_CUDA=1 FTBENCH_OPS=compiled
export MAX_JOBS=${MAX_JOBS:-$(nproc)}
failed=()

step() { # step NAME SECONDS COMMAND…: runs it, keeps its output, goes on when it fails
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name"
  timeout "$limit" "$@" 2>&1 | tee "$LOGS/$name.log" | tail -n 40
  local code=${PIPESTATUS[0]}
  echo "== $name: exit $code after $((SECONDS - start)) s"
  [ "$code" -eq 0 ] || failed+=("$name")
}

"$PYTHON" -c 'import sys, torch
sys.exit(0 if torch.cuda.is_available() else "gpu.sh: torch sees no GPU here")' || exit 1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# egg_info is what tells ftbench's entry points to a Python where it is not installed.
step build 180 "$PYTHON" setup.py --quiet egg_info build_ext --inplace
step doctor 60 "$PYTHON" -m ftbench doctor
step tests 150 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider tests/ops/test_on_gpu.py tests/test_cuda.py
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
for tool in memcheck racecheck initcheck; do
  step "$tool" 60 "$sanitizer" --tool "$tool" --error-exitcode 9 "$PYTHON" -m benchmarks.small_case
done
step bench 200 "$PYTHON" -m benchmarks --device cuda --write
if [ -n "${RESULTS:-}" ]; then cp benchmarks/results/*.md "$RESULTS"/; fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "gpu.sh: failed: ${failed[*]} (logs in $LOGS)" >&2
  exit 1
fi
echo "gpu.sh: all steps passed in $SECONDS s"
