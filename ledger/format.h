/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ledger file, byte for byte.  docs/design/ledger-format.md has the
 * picture and the reasons; this header is what the compiler holds us to.
 *
 * Invariants:
 *  - everything up to FILE_STATIC_BYTES never changes after creation and is
 *    covered by static_sum; the capacity cells by capacity_sum;
 *  - geometry is read once, at open, checked, and kept in the handle: later
 *    changes in the file cannot make us read or write outside the mapping;
 *  - alive is FILE_ALIVE, and zero once the file was found to be cut short;
 *  - a slot that is not SLOT_FREE owns what the copy (seq & 1) says;
 *  - totals are a cache of the slots and may be wrong only while the mutex
 *    is held, or after its owner died.
 */
#ifndef LEDGER_FORMAT_H
#define LEDGER_FORMAT_H

#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "ballast/ledger.h"

#define FILE_MAGIC          "ballast\x1a"
#define FILE_FORMAT         2u
#define FILE_HEADER_BYTES   4096u
#define FILE_STATIC_BYTES   1024u
#define FILE_MUTEX_BYTES    56u
#define FILE_ALIVE          UINT64_C(0x6576696c41746c42)
#define FILE_MAX_BYTES      (UINT64_C(1) << 30)

#define SLOTS_DEFAULT       4096u
#define SLOTS_MAX           8192u
#define SLOT_NONE           UINT32_MAX

#define MAX_ROWS            (BALLAST_MAX_NODES + 1)
#define MAX_CELLS           (MAX_ROWS * BALLAST_MAX_CLASSES)

/* Byte locks far behind the data: the daemon's, one for open, one per slot. */
#define LOCK_DAEMON_OFFSET  (LOCK_OPEN_OFFSET - 1)
#define LOCK_OPEN_OFFSET    (INT64_C(1) << 40)
#define LOCK_SLOT_OFFSET    (LOCK_OPEN_OFFSET + 1)

enum slot_state {
    SLOT_FREE = 0,
    SLOT_LIVE = 1,
    SLOT_DYING = 2,
};

#define SLOT_STANDING       1u      /* not bound to a lock */
#define SLOT_PID_BOUND      2u      /* standing, ends with a process */
#define SLOT_SERVED         4u      /* joined through the daemon */
#define SLOT_FLAGS          7u

#define OVERCOMMIT_MAX      1000u   /* percent */

enum column { COL_CLAIMED, COL_RESIDENT, COL_FREEABLE, NR_COLUMNS };

struct file_header {
    char magic[8];
    uint32_t format;
    uint32_t header_bytes;
    uint32_t abi;
    uint32_t mutex_bytes;
    uint32_t nr_nodes;
    uint32_t nr_classes;
    uint32_t nr_slots;
    uint32_t slot_bytes;
    uint64_t capacity_offset;
    uint64_t totals_offset;
    uint64_t slots_offset;
    uint64_t file_bytes;
    uint32_t admission;
    uint32_t count_cache_percent;
    uint64_t created_ns;
    uint64_t capacity_sum;
    uint64_t page_bytes[BALLAST_MAX_CLASSES];
    uint32_t node_id[BALLAST_MAX_NODES];
    uint32_t overcommit_percent[BALLAST_MAX_NODES];
    uint64_t zero0[44];
    /* The parts below change. */
    uint64_t static_sum;
    uint64_t zero1[7];
    uint8_t boot_id[16];
    uint32_t retired;
    uint32_t zero2;
    uint64_t epoch;
    uint64_t next_serial;
    uint32_t slots_high;
    uint32_t returned_seq;
    uint32_t nr_waiters;
    uint32_t zero3;
    uint64_t next_ticket;
    union {
        pthread_mutex_t mutex;
        uint8_t mutex_room[FILE_MUTEX_BYTES];
    };
    uint64_t alive;         /* in the mutex's cache line: read before it */
};

struct total_cell {
    uint64_t claimed_bytes;
    uint64_t resident_bytes;
    uint64_t freeable_bytes;
    uint64_t outstanding_bytes;
    uint64_t drawn_bytes;
    uint64_t zero[3];
};

struct file_slot {
    uint32_t state;
    uint32_t seq;
    uint64_t serial;
    uint64_t max_bytes;
    int32_t pid;
    uint32_t flags;
    uint64_t start_ticks;
    uint64_t pidns_inode;
    uint64_t dying_since_ns;
    uint32_t uid;
    uint32_t zero0;
    uint64_t name[BALLAST_NAME_BYTES / 8];
    uint64_t wait_ticket;       /* 0: does not wait */
    uint64_t wait_deadline_ns;
    uint64_t wait_seen_ns;
    uint64_t wait_since_ns;
    uint64_t cookie[2];         /* the daemon's; 0 unless SLOT_SERVED */
    uint64_t zero1[2];
    uint64_t cells[];       /* [2 copies][NR_COLUMNS][cells], wanted [cells] */
};

#define AT(type, field, offset) \
    static_assert(offsetof(struct type, field) == (offset), \
                  #type "." #field " moved")

AT(file_header, magic, 0);
AT(file_header, format, 8);
AT(file_header, header_bytes, 12);
AT(file_header, abi, 16);
AT(file_header, mutex_bytes, 20);
AT(file_header, nr_nodes, 24);
AT(file_header, nr_classes, 28);
AT(file_header, nr_slots, 32);
AT(file_header, slot_bytes, 36);
AT(file_header, capacity_offset, 40);
AT(file_header, totals_offset, 48);
AT(file_header, slots_offset, 56);
AT(file_header, file_bytes, 64);
AT(file_header, admission, 72);
AT(file_header, count_cache_percent, 76);
AT(file_header, created_ns, 80);
AT(file_header, capacity_sum, 88);
AT(file_header, page_bytes, 96);
AT(file_header, node_id, 160);
AT(file_header, overcommit_percent, 416);
AT(file_header, zero0, 672);
AT(file_header, static_sum, FILE_STATIC_BYTES);
AT(file_header, zero1, 1032);
AT(file_header, boot_id, 1088);
AT(file_header, retired, 1104);
AT(file_header, zero2, 1108);
AT(file_header, epoch, 1112);
AT(file_header, next_serial, 1120);
AT(file_header, slots_high, 1128);
AT(file_header, returned_seq, 1132);
AT(file_header, nr_waiters, 1136);
AT(file_header, zero3, 1140);
AT(file_header, next_ticket, 1144);
AT(file_header, mutex, 1152);
AT(file_header, alive, 1208);
static_assert(sizeof(struct file_header) == 1216, "header size");
static_assert(sizeof(pthread_mutex_t) <= FILE_MUTEX_BYTES, "mutex room");

AT(total_cell, claimed_bytes, 0);
AT(total_cell, resident_bytes, 8);
AT(total_cell, freeable_bytes, 16);
AT(total_cell, outstanding_bytes, 24);
AT(total_cell, drawn_bytes, 32);
AT(total_cell, zero, 40);
static_assert(sizeof(struct total_cell) == 64, "total cell size");

AT(file_slot, state, 0);
AT(file_slot, seq, 4);
AT(file_slot, serial, 8);
AT(file_slot, max_bytes, 16);
AT(file_slot, pid, 24);
AT(file_slot, flags, 28);
AT(file_slot, start_ticks, 32);
AT(file_slot, pidns_inode, 40);
AT(file_slot, dying_since_ns, 48);
AT(file_slot, uid, 56);
AT(file_slot, zero0, 60);
AT(file_slot, name, 64);
AT(file_slot, wait_ticket, 128);
AT(file_slot, wait_deadline_ns, 136);
AT(file_slot, wait_seen_ns, 144);
AT(file_slot, wait_since_ns, 152);
AT(file_slot, cookie, 160);
AT(file_slot, zero1, 176);
AT(file_slot, cells, 192);

#undef AT

/*
 * Whether the mutex of one program is the mutex of another: its size, the
 * word size, the byte order, and whose C library made it.
 */
#ifdef __GLIBC__
#define FILE_ABI_LIBC       1u
#else
#define FILE_ABI_LIBC       2u
#endif
#define FILE_ABI \
    ((FILE_ABI_LIBC << 24) | ((uint32_t)sizeof(long) << 16) | \
     ((__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 1u : 2u) << 8) | \
     (uint32_t)sizeof(pthread_mutex_t))

#endif
