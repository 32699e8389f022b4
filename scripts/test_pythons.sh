#!/usr/bin/env bash
# Runs the unit suites on every further CPython that pyproject.toml names and this machine has, each in its own environment.
set -euo pipefail
cd "$(dirname "$0")/.."
ours=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ran=
for version in $(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' pyproject.toml); do
  [ "$version" != "$ours" ] || continue
  if ! python=$(.venv/bin/uv python find --no-project --no-python-downloads "$version" 2>/dev/null); then
    echo "Python $version: not on this machine, skipped"
    continue
  fi
  echo "Python $version: $python"
  ran=yes
  export UV_PROJECT_ENVIRONMENT=".cache/python-$version"
  .venv/bin/uv sync --quiet --frozen --all-extras --compile-bytecode --python "$python"
  "$UV_PROJECT_ENVIRONMENT/bin/python" -m pytest --numprocesses "${PROCESSES:-2}" tests/unit
done
[ -n "$ran" ] || echo "No further Python that pyproject.toml names is on this machine: skipped"
