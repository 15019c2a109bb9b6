# sh millrace/build.sh SOURCE KIND OUTPUT: makes a core module that carries its interface (component_type.c); the host takes
# it as it is. CC: any clang with a WASI sysroot; else zig's, from PATH or from PyPI (`ziglang`).
set -eu
if [ "$2" != aggregation ]; then
  echo "the helper for C knows aggregations only" >&2
  exit 1
fi
here=$(dirname "$0")
mkdir -p "$(dirname "$3")"
if [ -z "${CC:-}" ]; then
  if command -v zig >/dev/null; then
    CC="zig cc"
  elif python3 -c 'import ziglang' 2>/dev/null; then
    CC="python3 -m ziglang cc"
  else
    [ -d .venv ] || python3 -m venv .venv
    .venv/bin/python -c 'import ziglang' 2>/dev/null ||
      .venv/bin/pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    CC=".venv/bin/python -m ziglang cc"
  fi
fi
$CC -target wasm32-wasi -mexec-model=reactor -O2 -s -Wall -Wextra -Wl,-z,stack-size=262144 -I. "$1" "$here"/*.c -o "$3"
