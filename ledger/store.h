/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every store to the ledger file goes through here, word by word, so that a
 * test can kill the process at each of them (-DBALLAST_CRASH_POINTS), and
 * every load that needs no mutex, so that one can look at each order of them
 * (-DBALLAST_LOAD_POINTS).
 *
 * put*() are ordinary stores, made while the mutex is held or while nobody
 * else can see the place.  publish*() are the stores that make a change real:
 * everything put before is visible to whoever sees the published value.
 */
#ifndef LEDGER_STORE_H
#define LEDGER_STORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef BALLAST_CRASH_POINTS
void ballast_crash_point(void);
#else
static inline void ballast_crash_point(void)
{
}
#endif

#ifdef BALLAST_LOAD_POINTS
void ballast_load_point(const void *where);
#else
static inline void ballast_load_point(const void *where)
{
    (void)where;
}
#endif

static inline void put64(uint64_t *where, uint64_t value)
{
    ballast_crash_point();
    __atomic_store_n(where, value, __ATOMIC_RELAXED);
}

static inline void put32(uint32_t *where, uint32_t value)
{
    ballast_crash_point();
    __atomic_store_n(where, value, __ATOMIC_RELAXED);
}

static inline void publish32(uint32_t *where, uint32_t value)
{
    ballast_crash_point();
    __atomic_store_n(where, value, __ATOMIC_RELEASE);
}

static inline void publish64(uint64_t *where, uint64_t value)
{
    ballast_crash_point();
    __atomic_store_n(where, value, __ATOMIC_RELEASE);
}

/* @where and @bytes are multiples of eight. */
static inline void put_words(void *where, const void *from, size_t bytes)
{
    uint64_t *to = where;
    const uint8_t *src = from;
    uint64_t word;
    size_t i;

    for (i = 0; i < bytes / 8; i++) {
        __builtin_memcpy(&word, src + i * 8, 8);
        put64(&to[i], word);
    }
}

static inline uint64_t get64(const uint64_t *where)
{
    ballast_load_point(where);
#ifdef BALLAST_PLANTED_RACE
    return *(const volatile uint64_t *)where;   /* a control */
#endif
    return __atomic_load_n(where, __ATOMIC_RELAXED);
}

static inline uint32_t get32(const uint32_t *where)
{
    ballast_load_point(where);
    return __atomic_load_n(where, __ATOMIC_ACQUIRE);
}

#endif
