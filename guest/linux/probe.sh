#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Compile probes: prints "#define BB_HAVE_…" for what these kernel headers have.
# Called by Kbuild with CC and FLAGS in the environment.

try() {
    name=$1
    shift
    # FLAGS is a list of arguments, as the kernel's own build has it
    # shellcheck disable=SC2086
    if printf '%s\n' "$@" |
        $CC $FLAGS -Werror -Wno-unused -c -x c -o /dev/null - 2>/dev/null; then
        echo "#define BB_HAVE_$name 1"
    else
        echo "/* no BB_HAVE_$name */"
    fi
}

# Headers that do not compile at all would look like headers without features.
printf '#include <linux/module.h>\n' |
    $CC $FLAGS -Werror -c -x c -o /dev/null - || exit 1

echo '/* made by probe.sh */'

# struct virtqueue_info, which virtio_find_vqs() takes since 6.11
try VIRTQUEUE_INFO \
    '#include <linux/virtio_config.h>' \
    'struct virtqueue_info info = { .name = "name", .callback = NULL };'

# shrinkers that are allocated, since 6.7
try SHRINKER_ALLOC \
    '#include <linux/shrinker.h>' \
    'void probe(void); void probe(void) { shrinker_register(shrinker_alloc(0, "name")); }'

# ballooned pages that compaction may move
try BALLOON_MIGRATION \
    '#include <linux/balloon_compaction.h>' \
    '#ifndef CONFIG_BALLOON_COMPACTION' \
    '#error no' \
    '#endif' \
    'void probe(struct balloon_dev_info *, struct page *);' \
    'void probe(struct balloon_dev_info *info, struct page *page)' \
    '{' \
    '	int (*migrate)(struct balloon_dev_info *, struct page *, struct page *, enum migrate_mode) = info->migratepage;' \
    '	migrate(info, page, page, MIGRATE_SYNC);' \
    '	info->isolated_pages--;' \
    '	balloon_page_insert(info, page);' \
    '	balloon_page_finalize(page);' \
    '}'
