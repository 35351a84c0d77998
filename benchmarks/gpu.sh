#!/usr/bin/env bash
# Everything that needs a GPU, in one go and under eight minutes: builds the operators, runs the
# tests marked cuda, compute-sanitizer on small cases, and the benchmarks, whose table goes to
# benchmarks/results/. Uses the Python that is there (PYTHON=python3.12 names another) and no network: torch,
# the packages of pyproject.toml, pytest, pytest-benchmark and torchvision must be installed; timm's
# and kornia's rows need them.
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
# ninja compiles side by side; it may lie beside Python and not on the PATH.
export PATH="$(dirname "$(command -v "$PYTHON")"):$PATH"
readonly DEADLINE=470
failed=()

step() { # step NAME SECONDS COMMAND…: runs it, keeps its output, goes on when it fails
  local name=$1 limit=$2 start=$SECONDS left=$((DEADLINE - SECONDS))
  shift 2
  [ "$limit" -le "$left" ] || limit=$left
  echo "== $name"
  [ "$limit" -gt 0 ] || { echo "== $name: no time left"; failed+=("$name"); return 1; }
  timeout "$limit" "$@" 2>&1 | tee "$LOGS/$name.log" | tail -n 40
  local code=${PIPESTATUS[0]}
  echo "== $name: exit $code after $((SECONDS - start)) s"
  [ "$code" -eq 0 ] || { failed+=("$name"); return 1; }
}

"$PYTHON" - <<'CHECK' || exit 1
import importlib.util, sys
import torch
needed = ("setuptools", "ninja", "pydantic", "pluggy", "typer", "pandas", "pyarrow", "sklearn",
          "filelock", "tomli_w", "rich", "scipy", "safetensors", "pytest", "pytest_benchmark", "torchvision")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"gpu.sh: this Python lacks {', '.join(missing)}")
if not torch.cuda.is_available():
    sys.exit("gpu.sh: torch sees no GPU here")
CHECK
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# egg_info is what tells ftbench's entry points to a Python where it is not installed.
step build 180 "$PYTHON" setup.py --quiet egg_info build_ext --inplace
step doctor 60 "$PYTHON" -m ftbench doctor
step tests 150 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider tests/ops/test_on_gpu.py tests/test_cuda.py
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
# Kernels of torch's own are not watched, but by initcheck, which must see what they write; nor are
# the driver calls that torch tries and expects to fail.
for tool in memcheck racecheck initcheck; do
  only=(--kernel-name kns=ftbench)
  [ "$tool" != initcheck ] || only=()
  [ "$tool" != memcheck ] || only+=(--report-api-errors no)
  step "$tool" 60 "$sanitizer" --tool "$tool" "${only[@]}" --error-exitcode 9 \
    "$PYTHON" -m benchmarks.small_case
done
# Last, with all the time that is left: a table is written when everything has been measured.
marker=$(mktemp)
step bench "$DEADLINE" "$PYTHON" -m benchmarks --device cuda --write
if [ -n "${RESULTS:-}" ]; then
  find benchmarks/results -name '*.md' -newer "$marker" -exec cp {} "$RESULTS"/ \;
fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "gpu.sh: failed: ${failed[*]} (logs in $LOGS)" >&2
  exit 1
fi
echo "gpu.sh: all steps passed in $SECONDS s"
