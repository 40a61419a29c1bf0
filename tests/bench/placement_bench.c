/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What looking at every page costs, and whom it keeps waiting.
 *
 *   placement_bench thp    3 GiB of transparent huge pages, against one
 *                          move_pages address per 2 MiB
 *   placement_bench 4k     3 GiB of small pages, against bare move_pages
 *   placement_bench stall  another thread's mmap, touch and munmap while
 *                          nobody looks, samples are taken, all is looked at
 *
 * The same code as in the plug-in.  Prints "name value" lines, nanoseconds.
 * Exit status 77 if there are no transparent huge pages to be had.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"
#include "hw/virtio/ballast/pagenode.h"

#define BYTES (3UL << 30)
#define SMALL 4096UL
#define HUGE (2UL << 20)
#define BATCH 512
#define PIECES (BYTES / BALLAST_LOOK_BYTES)
#define SAMPLES 4096

/* Linux 6.1; not in older headers. */
#define ADVISE_COLLAPSE 25

#define ROUNDS_THP 101
#define ROUNDS_4K 7
#define PHASES 5
#define PHASE_NS 500000000
#define MAX_LAPS 2000000

static char *guest;

static void populate(bool huge)
{
    char *room = mmap(NULL, BYTES + HUGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t at;

    if (room == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    guest = (char *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));
    madvise(guest, BYTES, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    for (at = 0; at < BYTES; at += SMALL) {
        guest[at] = 1;
    }
    if (huge) {
        madvise(guest, BYTES, ADVISE_COLLAPSE);
    }
}

/* As the plug-in's thread does, a piece at a time. */
static void look_piece(const struct ballast_eyes *eyes, size_t piece,
                       struct ballast_sample *out)
{
    if (ballast_look_exact(eyes, (uintptr_t)guest + piece * BALLAST_LOOK_BYTES,
                           BALLAST_LOOK_BYTES, SMALL, out)) {
        fprintf(stderr, "move_pages is forbidden\n");
        exit(1);
    }
}

static void look(struct ballast_sample *out)
{
    struct ballast_eyes eyes;
    size_t piece;

    memset(out, 0, sizeof(*out));
    ballast_eyes_open(&eyes, 0);
    for (piece = 0; piece < PIECES; piece++) {
        look_piece(&eyes, piece, out);
    }
    ballast_eyes_close(&eyes);
}

static void bare_piece(const struct ballast_eyes *eyes, size_t piece,
                       size_t step)
{
    size_t at = piece * BALLAST_LOOK_BYTES, end = at + BALLAST_LOOK_BYTES;
    void *page[BATCH];
    int status[BATCH];
    unsigned nr = 0;

    for (; at < end; at += step) {
        page[nr++] = guest + at;
        if (nr == BATCH || at + step >= end) {
            eyes->nodes(eyes, page, nr, status);
            nr = 0;
        }
    }
}

/*
 * All of both, in turn piece by piece, so that a busy machine is busy for
 * both; of different memory, so that neither finds what the other has just
 * brought into the caches.
 */
static void compare_once(size_t step, double *ours, double *theirs)
{
    struct ballast_sample found = { 0 };
    struct ballast_eyes eyes;
    uint64_t start = now_ns();
    size_t i;

    ballast_eyes_open(&eyes, 0);
    *ours = (double)(now_ns() - start);
    *theirs = 0;
    for (i = 0; i < PIECES; i++) {
        start = now_ns();
        look_piece(&eyes, i, &found);
        *ours += (double)(now_ns() - start);
        start = now_ns();
        bare_piece(&eyes, (i + PIECES / 2) % PIECES, step);
        *theirs += (double)(now_ns() - start);
    }
    ballast_eyes_close(&eyes);
}

static int cost(bool huge)
{
    int rounds = huge ? ROUNDS_THP : ROUNDS_4K, i;
    double ours[ROUNDS_THP], theirs[ROUNDS_THP];
    struct ballast_sample found;

    populate(huge);
    look(&found);
    if (huge && found.huge < BYTES / 100 * 99) {
        fprintf(stderr, "%lu of %lu MiB in huge pages\n", found.huge >> 20,
                BYTES >> 20);
        return 77;
    }
    if (found.absent || found.unknown || found.samples != BYTES) {
        fprintf(stderr, "%lu bytes absent, %lu unknown\n", found.absent,
                found.unknown);
        return 1;
    }
    for (i = 0; i < rounds; i++) {
        compare_once(huge ? HUGE : SMALL, &ours[i], &theirs[i]);
    }
    printf("exact %.0f\nbare %.0f\n", median(ours, rounds),
           median(theirs, rounds));
    return 0;
}

/* Stalls ---------------------------------------------------------------- */

/* Who looks meanwhile. */
enum phase { NOBODY, SAMPLE, EXACT, PHASE_KINDS };

static const char *const phase_names[] = { "none", "sample", "exact" };
static atomic_int phase;
static atomic_bool over;
static double *laps[PHASE_KINDS];
static int nr_laps[PHASE_KINDS];
static _Atomic double longest;
static double smallest_longest[PHASE_KINDS];

/*
 * A lap belongs to a phase if it began and ended in it.  Of the longest laps
 * of the phases the smallest is told: what a look causes is in each of them,
 * what the scheduler does is not.
 */
static void *lap_thread(void *opaque)
{
    (void)opaque;
    while (!over) {
        int before = phase;
        uint64_t start = now_ns();
        char *p = mmap(NULL, SMALL, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        double took;

        if (p == MAP_FAILED) {
            abort();
        }
        *p = 1;
        munmap(p, SMALL);
        took = (double)(now_ns() - start);
        if (before == phase && nr_laps[before] < MAX_LAPS) {
            laps[before][nr_laps[before]++] = took;
            longest = took > longest ? took : longest;
        }
    }
    return NULL;
}

static uint32_t random_number(void)
{
    return (uint32_t)random();
}

static void sample(void)
{
    struct ballast_sample found = { 0 };
    struct ballast_eyes eyes;

    ballast_eyes_init(&eyes, 0);
    ballast_look_sample(&eyes, (uintptr_t)guest, BYTES, SMALL, SAMPLES,
                        random_number, &found);
}

static void one_phase(enum phase which)
{
    uint64_t end = now_ns() + PHASE_NS;
    struct ballast_sample found;
    struct timespec pause = { .tv_nsec = PHASE_NS };

    phase = which;
    if (which == NOBODY) {
        nanosleep(&pause, NULL);
    }
    while (now_ns() < end) {
        if (which == SAMPLE) {
            sample();
        } else {
            look(&found);
        }
    }
}

static int stall(void)
{
    pthread_t thread;
    int i, which;

    populate(false);
    for (which = 0; which < PHASE_KINDS; which++) {
        laps[which] = calloc(MAX_LAPS, sizeof(double));
        /* its own first touch is no stall */
        memset(laps[which], 1, MAX_LAPS * sizeof(double));
    }
    if (pthread_create(&thread, NULL, lap_thread, NULL)) {
        return 1;
    }
    for (i = 0; i < PHASES; i++) {
        for (which = 0; which < PHASE_KINDS; which++) {
            longest = 0;
            one_phase((enum phase)which);
            if (!i || longest < smallest_longest[which]) {
                smallest_longest[which] = longest;
            }
        }
    }
    over = true;
    pthread_join(thread, NULL);
    for (which = 0; which < PHASE_KINDS; which++) {
        if (!nr_laps[which]) {
            return 1;
        }
        printf("%s.median %.0f\n%s.max %.0f\n", phase_names[which],
               median(laps[which], nr_laps[which]), phase_names[which],
               smallest_longest[which]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (!strcmp(what, "thp") || !strcmp(what, "4k")) {
        return cost(*what == 't');
    }
    if (!strcmp(what, "stall")) {
        return stall();
    }
    fprintf(stderr, "usage: %s thp|4k|stall\n", argv[0]);
    return 2;
}
