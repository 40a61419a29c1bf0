# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Packages and package sources through a private apt configuration: package
# lists, sources and download cache are under build/deps/apt.  The machine's
# own sources, preferences and lists stay as they are.

: "${deps:?}" "${step_log?}"

apt_dir=$deps/apt

# apt-get and apt-cache, also those of other scripts, take this file first.
apt_private() { APT_CONFIG=$apt_dir/apt.conf "$@"; }

# The suite that QEMU and meson come from.
apt_suite() {
    # shellcheck disable=SC1091
    . /etc/os-release
    case ${ID:-}:${VERSION_CODENAME:-} in
    debian:bookworm) echo bookworm-backports ;;
    debian:?*) echo "$VERSION_CODENAME" ;;
    *) return 1 ;;
    esac
}

apt_usable() { have apt-get && have dpkg-query && apt_suite >/dev/null; }

apt_write_conf() {
    mkdir -p "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial"
    cat >"$apt_dir/apt.conf" <<EOF
Dir::State::lists "$apt_dir/lists";
Dir::Cache "$apt_dir/cache";
Dir::Etc::sourcelist "$1";
Dir::Etc::sourceparts "$2";
APT::Keep-Downloaded-Packages "false";
Acquire::Retries "3";
DPkg::Lock::Timeout "300";
EOF
}

# "URI RELEASE" of each of the machine's own binary package sources
apt_own_sources() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' \
        'Created-By: Packages' 2>/dev/null | sort -u
}

apt_base_uri() { apt_own_sources | awk -v s="$1" '$2 == s { print $1; exit }'; }

apt_update() {
    logged apt_private apt-get -q -o APT::Update::Error-Mode=any update ||
        die "apt-get update failed, check the network and the machine's apt sources: $(apt_error)"
}

apt_error() { grep -m 1 -E '^(E:|Err:)' "$step_log" || echo 'see the log'; }

# Writes the private sources and fetches their lists, once per run.
apt_fresh=
apt_refresh() {
    local suite codename base uri own release option='' keyring
    [ -z "$apt_fresh" ] || return 0
    mkdir -p "$apt_dir"
    suite=$(apt_suite)
    codename=${suite%-backports}
    base=$(apt_base_uri "$codename")
    if [ -z "$base" ]; then
        # No lists on this machine: read its sources into a directory of ours.
        apt_write_conf /etc/apt/sources.list /etc/apt/sources.list.d
        apt_update
        base=$(apt_private apt_base_uri "$codename")
        own=$(apt_private apt_own_sources)
    else
        own=$(apt_own_sources)
    fi
    [ -n "$base" ] || die "no apt source for $codename on this machine; add it to /etc/apt/sources.list"

    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -f "$keyring" ] || option="[signed-by=$keyring] "
    {
        echo "deb $option$base $codename main"
        echo "deb-src $option$base $codename main"
        if [ "$suite" != "$codename" ]; then
            echo "deb $option$base $suite main"
            echo "deb-src $option$base $suite main"
        fi
        while read -r uri release; do
            case $release in
            "$codename-updates" | "$codename-security")
                echo "deb $option$uri $release main"
                echo "deb-src $option$uri $release main"
                ;;
            esac
        done <<<"$own"
    } >"$apt_dir/sources.list"
    apt_write_conf "$apt_dir/sources.list" -
    apt_update
    apt_fresh=1
}

# apt_versions PACKAGE…: "NAME VERSION" of those that are installed
apt_versions() {
    dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p' || true
}

# apt_missing PACKAGE…: those that are not installed
apt_missing() {
    local there name
    there=$(apt_versions "$@" | cut -d ' ' -f 1)
    for name; do
        [[ $'\n'$there$'\n' == *$'\n'$name$'\n'* ]] || echo "$name"
    done
}

# apt_install [-t SUITE] PACKAGE…
apt_install() {
    logged apt_private env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y --no-install-recommends install "$@"
}

# apt_source SUITE DIR PACKAGE: the package's source files of any suite to DIR.
# Lists of source packages only, in a state of their own.
apt_source() {
    local suite=$1 dir=$2 package=$3 own=$apt_dir/$1 base keyring option=''
    base=$(apt_base_uri "$(apt_suite | sed 's/-backports$//')")
    if [ -z "$base" ]; then
        apt_refresh
        base=$(apt_private apt_base_uri "$(apt_suite | sed 's/-backports$//')")
    fi
    [ -n "$base" ] || return 1
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -f "$keyring" ] || option="[signed-by=$keyring] "
    mkdir -p "$own"
    (
        apt_dir=$own
        apt_write_conf "$own/sources.list" -
        echo "deb-src $option$base $suite main" >"$own/sources.list"
        apt_update
        cd "$dir" || exit 1
        logged apt_private apt-get -q source --download-only --tar-only "$package"
    )
}

# apt_pool PATH SHA256 DIR: a file of the archive's pool to DIR.  Without lists:
# also after a suite has gone on to a revision that was made of the same file.
apt_pool() {
    local own=$apt_dir/pool base
    base=$(apt_base_uri "$(apt_suite | sed 's/-backports$//')")
    [ -n "$base" ] || return 1
    mkdir -p "$own"
    (
        apt_dir=$own
        apt_write_conf /dev/null -
        logged apt_private /usr/lib/apt/apt-helper download-file \
            "${base%/}/$1" "$3/${1##*/}" "SHA256:$2"
    )
}
