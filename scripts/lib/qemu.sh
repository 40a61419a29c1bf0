# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the scripts need to know about the installed QEMU and a source tree.

# The oldest QEMU that Ballast builds for.
# shellcheck disable=SC2034
qemu_oldest=10.0

qemu_binary=${QEMU:-qemu-system-x86_64}

# qemu_look: asks the installed QEMU who it is, for the functions below.  To be
# called again when it may be another one.
qemu_look() {
    qemu_says=$("$qemu_binary" --version 2>/dev/null | sed -n 1p || true)
}

# "10.0.2", or nothing
qemu_installed_version() {
    sed -n 's/^QEMU emulator version \([0-9][0-9.]*\).*/\1/p' <<<"$qemu_says"
}

# What the distribution put in brackets behind the version, or nothing
qemu_installed_package() {
    sed -n 's/^QEMU emulator version [0-9.]* (\(.*\))$/\1/p' <<<"$qemu_says"
}

qemu_tree_version() {
    [ -f "$1/VERSION" ] && tr -d '[:space:]' <"$1/VERSION"
}

# qemu_tree_ok DIR: the directory holds a QEMU source tree
qemu_tree_ok() {
    [ -f "$1/VERSION" ] && [ -x "$1/configure" ] &&
        [ -f "$1/include/qemu/osdep.h" ] && [ -f "$1/scripts/qapi-gen.py" ]
}

# qemu_headers_ok DIR: the files that a build against the headers opens first
qemu_headers_ok() {
    [ -f "$1/config-host.h" ] && [ -f "$1/config-poison.h" ] &&
        [ -f "$1/qemu-version.h" ] &&
        [ -f "$1/x86_64-softmmu-config-target.h" ] &&
        [ -f "$1/qapi/qapi-types-migration.h" ] &&
        [ -f "$1/trace/trace-hw_virtio.h" ] && [ -e "$1/linux-headers/asm" ]
}

# qemu_python_stub DIR: a directory for PYTHONPATH.  QEMU's configure insists
# on the Python package pycotap, which only runs QEMU's own functional tests
# and which Debian 12 does not have; the entry satisfies the check.
qemu_python_stub() {
    mkdir -p "$1/pycotap-1.3.1.dist-info"
    : >"$1/pycotap.py"
    printf 'Metadata-Version: 2.1\nName: pycotap\nVersion: 1.3.1\n' \
        >"$1/pycotap-1.3.1.dist-info/METADATA"
}

# qemu_firmware SRC DIR: Debian removes the firmware blobs from its QEMU
# tarball; the build of SRC only names them, so empty files in DIR/pc-bios do.
qemu_firmware() {
    local src=$1/pc-bios dir=$2/pc-bios name
    grep -oh "edk2-[a-z0-9_-]*\.fd" "$src/meson.build" | sort -u | while read -r name; do
        [ -e "$dir/$name.bz2" ] || : >"$dir/$name.bz2"
    done
    # 10.2: device trees, which are compiled only where dtc is
    [ -f "$src/dtb/meson.build" ] || return 0
    grep -o "[a-z0-9-]*\.dtb" "$src/dtb/meson.build" | sort -u | while read -r name; do
        [ -e "$dir/dtb/$name" ] || : >"$dir/dtb/$name"
    done
}

# qemu_shadow SRC DIR: a view of a source tree that configure accepts, made of
# links, so that nothing is written to the tree.
qemu_shadow() {
    local src=$1 dir=$2
    rm -rf "$dir"
    mkdir -p "$dir/pc-bios/dtb"
    find "$src" -mindepth 1 -maxdepth 1 ! -name pc-bios ! -name .git \
        -exec ln -s -t "$dir" {} +
    find "$src/pc-bios" -mindepth 1 -maxdepth 1 ! -name dtb -exec ln -s -t "$dir/pc-bios" {} +
    find "$src/pc-bios/dtb" -mindepth 1 -maxdepth 1 -exec ln -s -t "$dir/pc-bios/dtb" {} + 2>/dev/null || true
    qemu_firmware "$src" "$dir"
}
