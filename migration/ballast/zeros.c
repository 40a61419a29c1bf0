/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which of many pages read as zero?  Some threads read them.
 *
 * After hints all that the guest has zeroed before it hinted is looked at
 * once more, and nothing else can be done meanwhile: as long as one thread
 * reads, a migration of a guest that had freed all its memory stands still.
 *
 * Pages are taken in chunks, by whoever comes next.  The caller takes chunks
 * like the rest, and waits only for chunks that were taken: a helper that
 * the host does not let run holds nobody up.  One that comes late finds no
 * chunk; it has a reference to the job, and touches nothing else.
 *
 * Bits of two chunks are never in the same word.
 */
#include "qemu/osdep.h"
#include "hw/virtio/ballast/compat.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/thread.h"
#include "exec/target_page.h"
#include "internal.h"

#define CHUNK_PAGES 1024
#define MOST_HELPERS 3

QEMU_BUILD_BUG_ON(CHUNK_PAGES % BITS_PER_LONG);

typedef struct Job {
    const void *host;
    uint64_t pages;
    const unsigned long *todo;
    unsigned long *zero;
    uint64_t next_page;         /* atomic: of the next chunk */
    uint64_t left_pages;        /* atomic: not looked at */
    QemuSemaphore done;
    int refs;
} Job;

void ballast_find_each_zero(const void *host, uint64_t begin, uint64_t end,
                            const unsigned long *todo, unsigned long *zero)
{
    const uint8_t *memory = host;
    uint64_t page;

    for (page = find_next_bit(todo, end, begin); page < end;
         page = find_next_bit(todo, end, page + 1)) {
        if (!test_bit(page, zero) &&
            buffer_is_zero(memory + page * TARGET_PAGE_SIZE,
                           TARGET_PAGE_SIZE)) {
            set_bit(page, zero);
        }
    }
}

static void take_chunks(Job *j)
{
    uint64_t begin, nr;

    while ((begin = qatomic_fetch_add(&j->next_page, CHUNK_PAGES)) <
           j->pages) {
        nr = MIN(CHUNK_PAGES, j->pages - begin);
        ballast_find_each_zero(j->host, begin, begin + nr, j->todo, j->zero);
        if (qatomic_fetch_sub(&j->left_pages, nr) == nr) {
            qemu_sem_post(&j->done);
        }
    }
}

static void job_unref(Job *j)
{
    if (qatomic_fetch_dec(&j->refs) == 1) {
        qemu_sem_destroy(&j->done);
        g_free(j);
    }
}

static void help(gpointer data, gpointer opaque)
{
    take_chunks(data);
    job_unref(data);
}

/* Threads of GLib's, which end when they have had nothing to do for long. */
static GThreadPool *helpers(void)
{
    static GThreadPool *pool;

    if (!pool) {
        pool = g_thread_pool_new(help, NULL, MOST_HELPERS, false, NULL);
    }
    return pool;
}

/* None for little, or on one processor. */
static int helpers_for(uint64_t pages)
{
    uint64_t chunks = DIV_ROUND_UP(pages, CHUNK_PAGES);

    return MIN(MIN(MOST_HELPERS, g_get_num_processors() - 1), chunks - 1);
}

void ballast_find_zeros(const void *host, uint64_t pages,
                        const unsigned long *todo, unsigned long *zero)
{
    int nr = helpers_for(pages), i;
    Job *j = g_new(Job, 1);

    *j = (Job) {
        .host = host, .pages = pages, .todo = todo, .zero = zero,
        .left_pages = pages, .refs = nr + 1,
    };
    qemu_sem_init(&j->done, 0);
    for (i = 0; i < nr; i++) {
        g_thread_pool_push(helpers(), j, NULL);
    }
    take_chunks(j);
    qemu_sem_wait(&j->done);
    job_unref(j);
}
