#!/usr/bin/env bash
# Finds what qst-mpi needs, or says exactly what is missing. Run it, or source it where modules must be loaded:
#
#     source ./env.sh          on a cluster: loads the modules, then checks
#     ./env.sh                 on Debian or Ubuntu: installs what is missing, if it may
#     ./env.sh --dev           also what the checks in .ci/run and the benchmarks need
#     ./env.sh --check         only says what is missing
#
# A site names its modules in QST_MODULES, either in the environment or in the file $QST_SITE (default:
# ~/.config/qst-mpi/site.sh), which may set any variable of the Makefile as well (export them), for example
#
#     QST_MODULES="gcc/13 openmpi/4.1 hdf5/1.14-mpi"
#     export OTHER_LIBS="-L/opt/site/lib -ljansson -lpcre2-8 -lutf8proc -lxxhash"

# One need a line: what it is | how to see that it is there | its Debian package.
qst_needs() {
  cat <<'NEEDS'
C compiler and make|command -v cc && command -v make && qst_compiles stdio.h|build-essential
pkg-config|command -v pkg-config|pkg-config
MPI 3 or newer: mpicc, mpirun|command -v mpicc && command -v mpirun|libopenmpi-dev openmpi-bin
HDF5|qst_has_library hdf5-openmpi hdf5 H5Fcreate|libhdf5-openmpi-dev
PCRE2|qst_has_library libpcre2-8 - pcre2_compile_8|libpcre2-dev
Jansson|qst_has_library jansson - json_loads|libjansson-dev
xxHash|qst_has_library libxxhash - XXH3_128bits|libxxhash-dev
utf8proc|qst_has_library libutf8proc - utf8proc_version|libutf8proc-dev
gnuplot (pictures of reports)|command -v gnuplot|gnuplot-nox
curl or wget (the model of make demo)|command -v curl || command -v wget|ca-certificates curl
unzip (the model of make demo)|command -v unzip || command -v bsdtar || command -v python3|unzip
pkill (make test)|command -v pkill|procps
NEEDS
  if [[ ${1:-} == dev ]]; then
    cat <<'NEEDS'
oneDNN (benchmarks compare with it)|qst_compiles oneapi/dnnl/dnnl.h|libdnnl-dev
clang with its sanitizers and libFuzzer|command -v clang && qst_has_fuzzer|clang libclang-rt-dev
OpenMP of clang|echo 'int main(void){return 0;}' | clang -fopenmp -xc -o /dev/null -|libomp-dev
clang-format|command -v clang-format|clang-format
clang-tidy|command -v clang-tidy|clang-tidy
shellcheck|command -v shellcheck|shellcheck
h5dump|command -v h5dump|hdf5-tools
Slurm (its tests run one of two nodes)|command -v slurmctld && command -v slurmd|slurm-wlm
munge (for that Slurm)|command -v munged|munge
ip and tc (tests over a narrow network)|command -v ip && command -v tc|iproute2
NEEDS
  fi
}

qst_compiles() { # HEADER, with the flags of OTHER_CFLAGS
  # shellcheck disable=SC2086
  printf '#include <%s>\nint main(void) { return 0; }\n' "$1" | cc ${OTHER_CFLAGS:-} -xc -fsyntax-only -
}

# pkg-config knows one of the two names, or a program links with the site's own flags.
# shellcheck disable=SC2086
qst_has_library() { # NAME OTHER-NAME SYMBOL
  pkg-config --exists "$1" || pkg-config --exists "$2" ||
    printf 'char %s(void); int main(void) { return %s(); }\n' "$3" "$3" |
    cc -xc -o /dev/null - ${HDF5_LIBS:-} ${OTHER_LIBS:-}
}

qst_has_fuzzer() {
  echo 'int LLVMFuzzerTestOneInput(const char *a, long b) { return a && b < 0; }' |
    clang -fsanitize=fuzzer,address -xc -o /dev/null -
}

# Prints the needs that are not met.
qst_missing() { # [dev]
  local what probe package
  qst_needs "${1:-}" | while IFS= read -r line; do
    what=${line%%|*} package=${line##*|} probe=${line#*|}
    probe=${probe%|*}
    eval "$probe" >/dev/null 2>&1 </dev/null || printf '%s|%s\n' "$what" "$package"
  done
}

qst_load_modules() {
  local site=${QST_SITE:-$HOME/.config/qst-mpi/site.sh} name
  # shellcheck disable=SC1090
  if [[ -r $site ]]; then source "$site"; fi
  if [[ -z ${QST_MODULES:-} ]]; then return 0; fi
  if ! type module >/dev/null 2>&1; then
    echo "env.sh: QST_MODULES is set, but there is no 'module' command here" >&2
    return 1
  fi
  for name in $QST_MODULES; do
    module load "$name" || { echo "env.sh: module load $name failed" >&2 && return 1; }
  done
}

# How Slurm's PMIx lets ranks wait for each other. In its ring, which srun takes by default, a rank may leave MPI_Init while
# another is still in it and crashes on the first message (slurm/README.md, the usual troubles).
qst_slurm() {
  export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-tree}
}

# Prints how to run apt-get here: as root, through sudo without a password, or (fails) not at all.
qst_apt() {
  command -v apt-get >/dev/null || return 1
  if ((EUID == 0)); then
    echo "env DEBIAN_FRONTEND=noninteractive apt-get"
  elif sudo -n true 2>/dev/null; then
    echo "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get"
  else
    return 1
  fi
}

qst_install() { # PACKAGES
  local apt log
  apt=$(qst_apt) || return 1
  log=$(mktemp) || return 1
  echo "env.sh: installing $*" >&2
  # shellcheck disable=SC2086
  if { $apt update && $apt install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
    rm -f "$log"
    return 0
  fi
  tail -n 15 "$log" >&2
  rm -f "$log"
  return 1
}

qst_explain() { # the lines of qst_missing
  local what package
  echo "env.sh: these are missing:" >&2
  while IFS='|' read -r what package; do echo "  $what    (Debian: $package)" >&2; done <<<"$1"
  echo "On Debian: sudo apt-get install $(cut -d'|' -f2 <<<"$1" | tr '\n' ' ')" >&2
  echo "On a cluster: name the modules in QST_MODULES (see the first lines of env.sh) and 'source ./env.sh'." >&2
}

qst_env() {
  local kind='' missing packages may_install=1 word
  for word in "$@"; do
    case $word in
      --dev) kind=dev ;;
      --check) may_install=0 ;;
      *) echo "env.sh: $word: unknown; --dev and --check are known" >&2 && return 2 ;;
    esac
  done
  qst_load_modules || return 1
  qst_slurm
  missing=$(qst_missing "$kind")
  if [[ -n $missing ]] && ((may_install)) && qst_apt >/dev/null; then
    mapfile -t packages < <(cut -d'|' -f2 <<<"$missing" | tr ' ' '\n')
    qst_install "${packages[@]}" && missing=$(qst_missing "$kind")
  fi
  if [[ -z $missing ]]; then return 0; fi
  qst_explain "$missing"
  return 1
}

# Sourced, "$@" would be the words of the shell that sources.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then qst_env "$@"; else qst_env; fi
