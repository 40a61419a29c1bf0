/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See fuzz.h.  Files live in a directory of tmpfs that is removed at exit.
 */
#include "fuzz.h"

static char directory[] = "/dev/shm/ballast-fuzz-XXXXXX";
static char the_path[64];

void fuzz_wrong(const char *what)
{
    fprintf(stderr, "WRONG: %s\n", what);
    abort();
}

static void clean_up(void)
{
    unlink(the_path);
    rmdir(directory);
}

const char *fuzz_path(const char *name)
{
    if (!mkdtemp(directory)) {
        abort();
    }
    snprintf(the_path, sizeof(the_path), "%s/%s", directory, name);
    atexit(clean_up);
    return the_path;
}

void fuzz_write(int fd, const void *data, size_t size, uint64_t at)
{
    if (fd < 0 || pwrite(fd, data, size, (off_t)at) != (ssize_t)size) {
        abort();
    }
}

static void found(void *opaque, enum ballast_severity severity,
                  const char *text)
{
    *(bool *)opaque |= severity == BALLAST_DAMAGE;
    if (getenv("BALLAST_FUZZ_VERBOSE")) {
        fprintf(stderr, "found: %s\n", text);
    }
}

/* Status and check, on whatever it is. */
void fuzz_look(struct ballast_ledger *l)
{
    struct ballast_status *st;
    bool damage = false;
    size_t i;

    if (ballast_status_get(l, &st) == 0) {
        for (i = 0; i < st->nr_cells; i++) {
            const struct ballast_cell *c = &st->cells[i];

            if ((uint64_t)c->free_bytes + c->freeable_bytes +
                c->owned_bytes != c->capacity_bytes) {
                fuzz_wrong("free + freeable + owned is not the capacity");
            }
        }
        ballast_status_free(st);
    }
    ballast_check(l, 0, found, &damage);
}

/* After a repair nothing is left to repair. */
void fuzz_repair(struct ballast_ledger *l)
{
    bool damage = false;
    int ret;

    if (ballast_check(l, BALLAST_CHECK_REPAIR, found, &damage) < 0) {
        return;
    }
    if (ledger_lock(l)) {
        return;
    }
    if (!totals_agree(l)) {
        fuzz_wrong("totals that do not agree after a repair");
    }
    ledger_unlock(l);
    damage = false;
    ret = ballast_check(l, 0, found, &damage);
#ifndef BALLAST_REPAIRS_TOTALS_ONLY
    if (ret >= 0 && damage) {
        fuzz_wrong("damage that is found again after a repair");
    }
#endif
    (void)ret;
}
