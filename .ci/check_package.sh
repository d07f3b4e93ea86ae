#!/usr/bin/env bash
# Builds wheel and sdist, installs each into a fresh virtual environment, and runs the quick start
# with it, from outside of this folder.
#
#     .ci/check_package.sh PYTHON [CONSTRAINTS]
#
# PYTHON needs the package `build`. CONSTRAINTS is a file with the versions to install. SCRIPT, in the
# environment, is what to run instead of examples/quick_start.py.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath --no-symlinks "$1")
constraints=${2:+$(realpath "$2")}
script=$(realpath "${SCRIPT:-$here/examples/quick_start.py}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Only what git knows is built from: what happens to lie here must not mend a package with a hole.
mkdir "$work/source" "$work/elsewhere"
git -C "$here" ls-files -z --cached --others --exclude-standard |
    (cd "$here" && xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' -) |
    tar -C "$here" --null --files-from=- -cf - | tar -C "$work/source" -xf -
"$python" -m build --outdir "$work/dist" "$work/source" >"$work/build.log" 2>&1 ||
    { cat "$work/build.log"; exit 1; }

# The script lies alone, so that nothing beside it can be imported.
cp "$script" "$work/elsewhere/quick_start.py"
unset PYTHONPATH
export TMPDIR="$work"
"$python" -m venv "$work/venv"
installed="$work/venv/bin/python"
pip=("$installed" -m pip --quiet --disable-pip-version-check)

check() {
    cd "$work/elsewhere"
    "$installed" - "$here" "$work/venv" <<'PYTHON'
import importlib.metadata
import pathlib
import sys

import keras_branch_prune

here, venv = (pathlib.Path(path).resolve() for path in sys.argv[1:])
folder = pathlib.Path(keras_branch_prune.__file__).resolve().parent
assert venv in folder.parents, f"not the installed package: {folder}"
source = here / "keras_branch_prune"
missing = [
    str(path.relative_to(source))
    for path in [*source.rglob("*.py"), source / "py.typed"]
    if not (folder / path.relative_to(source)).is_file()
]
assert not missing, f"not in the package: {missing}"
print(f"keras_branch_prune {importlib.metadata.version('keras_branch_prune')}, as it is installed")
PYTHON
    "$installed" quick_start.py
    cd "$here"
}

echo "Installing the wheel …"
"${pip[@]}" install ${constraints:+--constraint "$constraints"} "$work"/dist/*.whl
check
echo "Installing the sdist …"
"${pip[@]}" uninstall --yes keras_branch_prune
"${pip[@]}" install --no-deps "$work"/dist/*.tar.gz
check
echo "Wheel and sdist are complete, and the quick start runs with both."
