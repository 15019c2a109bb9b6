# sh millrace/build.sh MODULE KIND OUTPUT: makes a component of a Python module. componentize-py is taken from PATH, or
# installed into .venv.
set -eu
if ! command -v componentize-py >/dev/null; then
  [ -d .venv ] || python3 -m venv .venv
  [ -x .venv/bin/componentize-py ] || .venv/bin/pip install --quiet --disable-pip-version-check -r "$(dirname "$0")/requirements.txt"
  PATH="$PWD/.venv/bin:$PATH"
fi
python3 "$(dirname "$0")/build.py" "$@"
