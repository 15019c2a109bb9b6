# sh millrace/build.sh SOURCE KIND OUTPUT: makes a component of a JavaScript module. componentize-js is taken from where
# Node finds it (this folder or one above), or installed here.
set -eu
node --input-type=module -e 'import.meta.resolve("@bytecodealliance/componentize-js")' 2>/dev/null ||
  npm install --no-audit --no-fund --loglevel=error
node "$(dirname "$0")/build.mjs" "$@"
