/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * On which host node pages are: a sample of them, or every one.
 *
 * Looking populates nothing.  Only the page tables of the process looked at
 * count: a page of a shared file that only another process has touched is
 * absent.  Without QEMU, so that it can be tested against faked nodes, and
 * used by the command for other processes.
 */
#ifndef BALLAST_PAGENODE_H
#define BALLAST_PAGENODE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/** BALLAST_SAMPLE_NODES - host nodes that can be told apart */
#define BALLAST_SAMPLE_NODES 128

/** BALLAST_LOOK_BYTES - as much as one exact look does in 0.1 s or so */
#define BALLAST_LOOK_BYTES (256UL << 20)

/**
 * struct ballast_sample - what a look at some memory found
 * @samples: sum of the counts below; of a sample: pages, of an exact look:
 *           bytes
 * @on_node: of them, per host node
 * @absent: of them, not present
 * @unknown: of them, of which the kernel did not tell
 * @huge: of an exact look: of the present bytes, those in huge pages
 * @flat: of an exact look: bytes of which the kernel did not tell whether
 *        they are in huge pages
 * @lookups: addresses that the kernel was asked for
 * @whole: every page was looked at
 */
struct ballast_sample {
    uint64_t samples;
    uint64_t on_node[BALLAST_SAMPLE_NODES];
    uint64_t absent;
    uint64_t unknown;
    uint64_t huge;
    uint64_t flat;
    uint64_t lookups;
    bool whole;
};

/**
 * struct ballast_page_run - adjacent pages that are present
 * @start: address of the first byte
 * @end: address behind the last byte
 * @huge: they are mapped by huge entries of the page table
 */
struct ballast_page_run {
    uint64_t start;
    uint64_t end;
    bool huge;
};

/**
 * struct ballast_eyes - how to look at a process' memory
 * @nodes: for each of @nr addresses its node, or -errno (-ENOENT and
 *         -EFAULT: not present), into @status; 0 or -errno
 * @runs: the present runs from @start on, ascending, at most @room, and
 *        @walked: where the next look begins (@end if all was seen); how
 *        many, or -errno if the kernel cannot tell; may be NULL
 * @waits: how often this thread has had to wait so far; NULL: never pause
 * @pause: lets others have the mmap lock, called where @waits grew
 * @pid: the process; 0: this one
 * @pagemap: its page tables, or -1
 * @page_bytes: of a small page
 * @huge_bytes: of a transparent huge page
 */
struct ballast_eyes {
    int (*nodes)(const struct ballast_eyes *eyes, void **pages, unsigned nr,
                 int *status);
    int (*runs)(const struct ballast_eyes *eyes, uint64_t start, uint64_t end,
                struct ballast_page_run *run, unsigned room, uint64_t *walked);
    uint64_t (*waits)(const struct ballast_eyes *eyes);
    void (*pause)(const struct ballast_eyes *eyes);
    pid_t pid;
    int pagemap;
    uint64_t page_bytes;
    uint64_t huge_bytes;
};

/**
 * ballast_eyes_init() - look with the kernel's eyes, for samples
 * @eyes: filled in; nothing is opened
 * @pid: the process; 0: this one
 *
 * Context: any thread.
 */
void ballast_eyes_init(struct ballast_eyes *eyes, pid_t pid);

/**
 * ballast_eyes_open() - look with the kernel's eyes, also at every page
 * @eyes: filled in; ballast_eyes_close() it
 * @pid: the process; 0: this one
 *
 * Page tables that cannot be opened only make the look slower.
 *
 * Context: any thread.
 */
void ballast_eyes_open(struct ballast_eyes *eyes, pid_t pid);

/** ballast_eyes_close() - close what ballast_eyes_open() has opened */
void ballast_eyes_close(struct ballast_eyes *eyes);

/**
 * ballast_look_sample() - look at a random page of each of equal stretches
 * @eyes: how
 * @start: first byte, aligned to @page_bytes
 * @bytes: length, a multiple of @page_bytes
 * @page_bytes: page size of the mapping
 * @samples: stretches, at the most one for each page
 * @random: a number from 0 to UINT32_MAX, each time another
 * @out: added to, so that ranges can be put together
 *
 * Context: any thread; holds the process' mmap lock for microseconds.  Where
 * others take it meanwhile, it pauses: eight times 0.3 ms for 4,096 samples.
 *
 * Return: 0, or -errno if the kernel refused (-EPERM: forbidden): the pages
 * are counted as unknown then.
 */
int ballast_look_sample(const struct ballast_eyes *eyes, uint64_t start,
                        uint64_t bytes, uint64_t page_bytes, uint64_t samples,
                        uint32_t (*random)(void), struct ballast_sample *out);

/**
 * ballast_look_exact() - look at every page; counts are bytes
 * @eyes: how
 * @start: first byte, aligned to @page_bytes
 * @bytes: length, a multiple of @page_bytes
 * @page_bytes: page size of the mapping; a transparent huge page has small
 *              ones
 * @out: added to
 *
 * One address for each huge page and each small page; none for what is
 * absent, where the kernel tells (Linux 6.7).
 *
 * Context: any thread; holds the process' mmap lock for a fraction of a
 * millisecond at a time, and pauses where others take it meanwhile.
 *
 * Return: 0, or -errno as above.
 */
int ballast_look_exact(const struct ballast_eyes *eyes, uint64_t start,
                       uint64_t bytes, uint64_t page_bytes,
                       struct ballast_sample *out);

/**
 * ballast_sample_bytes() - scale a count of a sample to bytes
 * @s: the sample
 * @count: a count of it
 * @bytes: size of what was sampled
 */
uint64_t ballast_sample_bytes(const struct ballast_sample *s, uint64_t count,
                              uint64_t bytes);

/** ballast_sample_add() - put one sample to another */
void ballast_sample_add(struct ballast_sample *to,
                        const struct ballast_sample *from);

/**
 * ballast_sample_error() - what the least certain figure may be off by
 * @s: a sample of pages
 * @bytes: size of what was sampled
 *
 * The far end of Wilson's interval at 95 % confidence, seen from the
 * figure.  So it is not 0 when all pages looked at are on one node: a few
 * that are not may have been missed.  Stratified samples err less.
 *
 * Return: bytes; 0 if all was looked at.
 */
uint64_t ballast_sample_error(const struct ballast_sample *s, uint64_t bytes);

#endif
