#!/usr/bin/env bash
# Expected: `mkdocs build --strict` fails on a broken link whatever is printed; --quiet only silences the output.
# What happens: with --quiet beside --strict the same broken link and anchor pass: exit code 0, and a site with dead links is written. --quiet raises the logger's level to ERROR, and --strict counts what that logger lets through.
# Versions: mkdocs 1.6.1, Python 3.11.
# Why it matters: a CI job that says "be strict, but keep the log short" checks no link at all and is green.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mkdocs==1.6.1 2>/dev/null
mkdir "$folder/docs"
cat > "$folder/mkdocs.yml" <<'YAML'
site_name: two links
validation: { links: { anchors: warn } }
YAML
printf '# A page\n\n[no such page](gone.md) and [no such anchor](#gone)\n' > "$folder/docs/index.md"
cd "$folder"
venv/bin/mkdocs --version | sed 's/ from .*//'
code() { set +e; "$@" > log 2>&1; echo $?; set -e; }
strict=$(code venv/bin/mkdocs build --strict)
grep WARNING log
quiet=$(code venv/bin/mkdocs build --strict --quiet)
printf 'exit code with --strict: %s, with --strict --quiet: %s\n' "$strict" "$quiet"
[ "$strict" = 1 ] && [ "$quiet" = 0 ]
