# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# libvirt for the tests, which run daemons of their own: its packages without
# those that a host needs (networks, storage), none of its services started
# now or enabled for the next boot.  A libvirt that is there stays as it is.

: "${deps:?}"

libvirt_packages=(libvirt0 libvirt-common libvirt-clients libvirt-daemon-common
                  libvirt-daemon-log libvirt-daemon libvirt-daemon-driver-qemu)
libvirt_units=(libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket
               virtlogd.service virtlogd.socket virtlogd-admin.socket libvirt-guests.service)
libvirt_policy=/usr/sbin/policy-rc.d
libvirt_mark='written by scripts/setup of Ballast; if it is not running, delete this'

libvirt_version() { apt_versions libvirt-daemon-driver-qemu | sed 's/^[^ ]* //; s/-[^-]*$//'; }

libvirt_there() { [ -n "$(libvirt_version)" ] || have libvirtd || have virtqemud; }

libvirt_may_start() {
    ! grep -qsF "$libvirt_mark" $libvirt_policy || rm -f $libvirt_policy
}

# Debian's way to forbid it; a policy of the machine's own is left alone.
libvirt_must_not_start() {
    libvirt_may_start
    [ ! -e $libvirt_policy ] || return 0
    trap libvirt_may_start EXIT
    printf '#!/bin/sh\n# %s\nexit 101\n' "$libvirt_mark" >$libvirt_policy
    chmod 755 $libvirt_policy
}

libvirt_install() {
    local suite
    suite=$(apt_suite)
    libvirt_must_not_start
    apt_install "${libvirt_packages[@]/%//$suite}" || return 1
    libvirt_may_start
    ! have systemctl || logged systemctl disable "${libvirt_units[@]}" || true
}
