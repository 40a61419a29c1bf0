/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /proc/PID/numa_maps: bytes per host node of each mapping, for kernels (and
 * containers) that forbid move_pages(2).
 *
 * Reading it holds the mmap lock of the process, tens of milliseconds for a
 * few GiB of small pages: the last resort.
 */
#ifndef BALLAST_NUMAMAPS_H
#define BALLAST_NUMAMAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hw/virtio/ballast/pagenode.h"

/**
 * struct ballast_numa_line - a line of numa_maps
 * @start: first address of the mapping; the line does not say where it ends
 * @page_bytes: size of a page as counted there; 0 in a line without pages
 * @bytes: per node
 */
struct ballast_numa_line {
    uint64_t start;
    uint64_t page_bytes;
    uint64_t bytes[BALLAST_SAMPLE_NODES];
};

/**
 * ballast_numa_line_parse() - understand a line of numa_maps
 * @text: the line, with or without its newline
 * @out: filled in
 *
 * Return: false if it is not such a line: a field that is there twice, a
 * number that is none or too large, a node above the last one.
 */
bool ballast_numa_line_parse(const char *text, struct ballast_numa_line *out);

/** struct ballast_mapping_line - the fields of a line of maps in use here */
struct ballast_mapping_line {
    /** @start: first address */
    uint64_t start;
    /** @end: address behind the last one */
    uint64_t end;
    /** @perms: like "rw-p" */
    char perms[5];
    /** @name: what follows, escaped as there; "" for anonymous memory */
    char name[256];
};

/**
 * ballast_mapping_line_parse() - understand a line of /proc/PID/maps
 * @text: the line, with or without its newline
 * @out: filled in; a longer name is cut
 *
 * Return: false if it is not such a line.
 */
bool ballast_mapping_line_parse(const char *text,
                                struct ballast_mapping_line *out);

/**
 * struct ballast_numa_mapping - a mapping and where it is
 * @start: first address
 * @end: address behind the last one
 * @known: whether numa_maps had one line for it, that can be true
 * @doubted: it had another, or one that cannot be true
 * @page_bytes: size of a page as counted there, or 0
 * @bytes: per node
 */
struct ballast_numa_mapping {
    uint64_t start;
    uint64_t end;
    bool known;
    bool doubted;
    uint64_t page_bytes;
    uint64_t bytes[BALLAST_SAMPLE_NODES];
};

/**
 * struct ballast_numa_maps - all mappings, by address, ascending
 * @mapping: the list; ballast_numa_maps_free() it
 * @nr: how many
 * @room: for how many
 * @bad_lines: lines of either file that could not be understood
 */
struct ballast_numa_maps {
    struct ballast_numa_mapping *mapping;
    size_t nr;
    size_t room;
    uint64_t bad_lines;
};

/**
 * ballast_numa_maps_parse() - put both files together
 * @maps: text of /proc/PID/maps
 * @numa: text of /proc/PID/numa_maps
 * @out: zeroed before; filled in
 *
 * Lines belong together by address, never by number.  A line of numa_maps at
 * whose address nothing begins, or that has more than fits in the mapping,
 * is not believed.
 *
 * Return: 0 or -ENOMEM.
 */
int ballast_numa_maps_parse(const char *maps, const char *numa,
                            struct ballast_numa_maps *out);

/**
 * ballast_numa_maps_read() - read both files of a process
 * @pid: the process; 0: this one
 * @out: zeroed before; filled in
 *
 * Return: 0 or -errno.
 */
int ballast_numa_maps_read(pid_t pid, struct ballast_numa_maps *out);

/** ballast_numa_maps_free() - free the list */
void ballast_numa_maps_free(struct ballast_numa_maps *m);

/**
 * ballast_numa_maps_look() - what they say of a range; counts are bytes
 * @m: the mappings
 * @start: first byte
 * @bytes: length
 * @out: added to
 *
 * A mapping that is only partly in the range, and is not known to have
 * nothing, is unknown there.
 */
void ballast_numa_maps_look(const struct ballast_numa_maps *m, uint64_t start,
                            uint64_t bytes, struct ballast_sample *out);

#endif
