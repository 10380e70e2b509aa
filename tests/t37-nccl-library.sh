#!/usr/bin/env bash
# NCCL as it is loaded: one that is too old or lacks a function is refused with a line that says so. The libraries are made
# here.
set -euo pipefail
work=$TMPDIR

cat >"$work/main.c" <<'END'
#include <stdio.h>
#include "base/error.h"
#include "comm/nccl/library.h"
int main(void) {
  nccl_load();
  int status = nccl_load();
  puts(status == OK ? nccl_version() : fail_message());
  return status;
}
END
cc -std=c11 -D_GNU_SOURCE -I. -Isrc -Itests/host/include -o "$work/main" "$work/main.c" comm/nccl/library.c \
  comm/nccl/version.c src/base/library.c src/base/error.c -ldl

# load VERSION FUNCTION...: what becomes of a library of that version with these functions, into `said` and `status`
load() {
  local version=$1 name
  shift
  {
    echo "int ncclGetVersion(int *version) { *version = $version; return 0; }"
    for name in "$@"; do echo "int $name(void) { return 0; }"; done
  } >"$work/nccl.c"
  cc -shared -fPIC -o "$work/libnccl.so.2" "$work/nccl.c"
  status=0
  said=$(LD_LIBRARY_PATH=$work "$work/main") || status=$?
}

mapfile -t functions < <(grep -oE 'X\([^,]*, nccl[A-Za-z]+' comm/nccl/library.c | grep -oE 'nccl[A-Z][A-Za-z]+$' | grep -v GetVersion)
load 21304
[[ $status == 3 && $said == "nccl: NCCL 2.13.4 was found, 2.14.0 or later is needed: "* ]] || { echo "2.13.4: $said" && exit 1; }
load 21400 "${functions[@]:1}"
[[ $status == 3 && $said == *"undefined symbol: ${functions[0]}"* ]] || { echo "${functions[0]} is missing: $said" && exit 1; }
load 21400 "${functions[@]}"
[[ $status == 0 && $said == 2.14.0 ]] || { echo "2.14.0: $said" && exit 1; }
