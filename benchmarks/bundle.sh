#!/usr/bin/env bash
# Packs the programs of gpu-check with the libraries they need into FOLDER and FOLDER.tar.xz, which run on a machine without
# compilers or MPI: bundle.sh BUILD FOLDER (`make bundle`). There, in the root of the repository:
#
#     tar xf build/bundle.tar.xz -C build && BUILD=build/bundle benchmarks/gpu_check.sh
#
# Taken from that machine: the C library, the C++ library, the NVIDIA driver, and cuBLASLt, which is too large to carry:
# environment.sh looks for it where the toolkit or PyTorch put it. MPI comes along for one rank and for mpirun.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=${1:?folder of the build} folder=${2:?folder to make}
programs=("$build/qst-mpi" "$build/random-backbone" "$build/gpu/bench-kernels" "$build"/gpu/tests/t*[!.od])

# Libraries that another machine has in a version of its own.
belongs_to_the_system='/(ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libstdc\+\+|libgcc_s)[-.]'

rm -rf "$folder"
mkdir -p "$folder/lib" "$folder/gpu/tests" "$folder/tests"

pack() { # PROGRAM FOLDER
  [[ -x $1 && -f $1 ]] || return 0
  strip -o "$2/$(basename "$1")" "$1"
}

libraries_of() { # FILES...
  ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | grep -vE "$belongs_to_the_system" | sort -u
}

pack_libraries() { # FILES...
  local library
  while read -r library; do
    if [[ ! -e $folder/lib/$(basename "$library") ]]; then
      strip -o "$folder/lib/$(basename "$library")" "$library" 2>/dev/null || cp -L "$library" "$folder/lib/"
    fi
  done < <(libraries_of "$@")
}

for program in "${programs[@]}"; do
  case $program in
    "$build"/gpu/tests/*) pack "$program" "$folder/gpu/tests" ;;
    "$build"/gpu/*) pack "$program" "$folder/gpu" ;;
    *) pack "$program" "$folder" ;;
  esac
done
ln -f "$folder/qst-mpi" "$folder/gpu/qst-mpi"
pack_libraries "${programs[@]}"

# Open MPI with its plug-ins and texts, and PMIx's, which its launcher speaks.
mkdir -p "$folder/openmpi/bin"
plugins=$(ompi_info --path pkglibdir --parsable | sed 's/.*://')
texts=$(ompi_info --path pkgdatadir --parsable | sed 's/.*://')
cp -rL "$plugins" "$folder/openmpi/plugins"
cp -rL "$texts" "$folder/openmpi/texts"
rm -f "$folder"/openmpi/plugins/*{ofi,ucx,psm,usnic,openib,portals,oshmem,spml,sshmem,scoll,memheap,atomic}* # networks
cp -L "$(command -v orterun)" "$(command -v orted)" "$folder/openmpi/bin/"
ln -sf orterun "$folder/openmpi/bin/mpirun"
pack_libraries "$folder"/openmpi/plugins/*.so "$folder"/openmpi/bin/orte*
pmix=$(libraries_of "$folder"/openmpi/plugins/*.so | grep /libpmix | head -n 1)
if [[ $pmix && -d ${pmix%/*}/pmix ]]; then cp -rL "${pmix%/*}/pmix" "$folder/openmpi/pmix"; fi

git rev-parse --short HEAD >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"
cat >"$folder/environment.sh" <<'ENVIRONMENT'
# Sourced by gpu_check.sh with BUILD set to this folder: where the bundle's libraries are, and cuBLASLt.
bundle=$(cd "$BUILD" && pwd)
find_cublaslt() {
  local folder compiler
  compiler=$(readlink -f "$(command -v nvcc)" 2>/dev/null)
  for folder in ${CUDA_HOME:+"$CUDA_HOME/lib64"} /usr/local/cuda/lib64 ${compiler:+"${compiler%/bin/nvcc}/lib64"} \
    /usr/lib/x86_64-linux-gnu \
    $(python3 -c 'import glob, site, sys
for root in set(site.getsitepackages() + sys.path):
    print(*glob.glob(root + "/nvidia/*/lib"), sep="\n")' 2>/dev/null); do
    if compgen -G "$folder/libcublasLt.so.*" >/dev/null; then printf ':%s' "$folder"; fi
  done
}
export LD_LIBRARY_PATH=$bundle/lib$(find_cublaslt)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PATH=$bundle/openmpi/bin:$PATH
export OPAL_BINDIR=$bundle/openmpi/bin OPAL_PKGLIBDIR=$bundle/openmpi/plugins OPAL_PKGDATADIR=$bundle/openmpi/texts
export PMIX_PKGLIBDIR=$bundle/openmpi/pmix OMPI_MCA_ess_singleton_isolated=1
export PMIX_MCA_pcompress_base_silence_warning=1
ENVIRONMENT

tar cJf "$folder.tar.xz" -C "$(dirname "$folder")" "$(basename "$folder")"
size=$(du -sm "$folder.tar.xz" | cut -f 1)
echo "$folder: $(du -sm "$folder" | cut -f 1) MB, $folder.tar.xz: $size MB"
if ((size > ${BUNDLE_MB:-48})); then
  echo "more than ${BUNDLE_MB:-48} MB: fewer CUDA_ARCHS make it smaller" >&2
  exit 1
fi
