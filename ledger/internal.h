/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the library share.
 *
 * Lock order: the open lock (a byte of the file, held only while a ledger is
 * opened, reset or replaced) before the mutex in the header.  Slot locks are
 * taken without waiting, so they have no place in the order.  Nothing that
 * may block is called with the mutex held.
 *
 * A "view" is a slot's cells in private memory; "cell" is row * classes +
 * class, the last row being claims on no node in particular.
 */
#ifndef LEDGER_INTERNAL_H
#define LEDGER_INTERNAL_H

#include "ballast/admin.h"
#include "format.h"
#include "remote.h"
#include "store.h"

/*
 * Hidden: a plug-in that links the library must not have these names bound
 * to something of the same name in the program that loads it.
 */
#pragma GCC visibility push(hidden)

struct geometry {
    uint32_t nr_nodes;
    uint32_t nr_classes;
    uint32_t nr_cells;
    uint32_t nr_slots;
    uint32_t slot_bytes;
    uint32_t admission;
    uint32_t count_cache_percent;
    uint64_t capacity_offset;
    uint64_t totals_offset;
    uint64_t slots_offset;
    uint64_t file_bytes;
    uint64_t page_bytes[BALLAST_MAX_CLASSES];
    uint32_t node_id[BALLAST_MAX_NODES];
    uint32_t overcommit_percent[BALLAST_MAX_NODES];
};

/*
 * What never changes is copied and checked at open, and the copy is used: the
 * geometry, and per cell what the operator gave and what may be promised.
 */
struct ballast_ledger {
    struct remote *remote;      /* behind a daemon: then no file below */
    int fd;
    struct file_header *header;
    struct geometry geo;
    uint64_t fixed[FILE_STATIC_BYTES / 8 + 1];     /* the static part, sum */
    uint64_t backed[MAX_CELLS];
    uint64_t promisable[MAX_CELLS];
    uint64_t *capacity;
    struct total_cell *totals;
    uint8_t *slots;
    uint32_t slot;
    uint64_t serial;
    pid_t joined_pid;
    bool bequeathed;
    bool serving;       /* the daemon's: it is told when a client ends */
    bool wake;          /* under the mutex: wake the waiters after it */
    uint32_t swept_to;
    uint64_t looked_ns;
    bool unlinked;
};

struct view {
    uint64_t col[NR_COLUMNS][MAX_CELLS];
    uint64_t outstanding[MAX_CELLS];
};

#define CELL_WORDS ((MAX_CELLS + 63) / 64)

static inline void cell_set(uint64_t *bits, uint32_t cell)
{
    bits[cell / 64] |= UINT64_C(1) << (cell % 64);
}

static inline bool cell_is_set(const uint64_t *bits, uint32_t cell)
{
    return bits[cell / 64] >> (cell % 64) & 1;
}

/* Who a process is. */
struct identity {
    int32_t pid;
    uint32_t uid;
    uint64_t start_ticks;
    uint64_t pidns_inode;
};

/*
 * What the kernel had free, and what the ledger looked like just before.  Only
 * for the cells that somebody needs: each one is a file to read.
 */
struct sample {
    bool valid;         /* the rest, but for need, is not set before it is */
    uint64_t need[CELL_WORDS];
    uint64_t have[CELL_WORDS];
    uint64_t epoch;
    uint64_t drawn_bytes[MAX_CELLS];
    uint64_t free_bytes[MAX_CELLS];
};

/* refusal.c */
void why_init(struct ballast_refusal *why);
int refuse(struct ballast_refusal *why, enum ballast_reason reason);
int refuse_system(struct ballast_refusal *why, int err, const char *format,
                  ...) __attribute__((format(printf, 3, 4)));
int refuse_stale(struct ballast_refusal *why, const char *detail);
int refuse_detail(struct ballast_refusal *why, enum ballast_reason reason,
                  const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* file.c */
int file_lock_open(int fd);
void file_unlock_open(int fd);
int file_map(int fd, struct ballast_ledger **out, struct ballast_refusal *why);
void file_unmap(struct ballast_ledger *l);
uint64_t file_static_sum(const struct file_header *h);
uint64_t file_capacity_sum(const uint64_t *cells, uint32_t nr);
void file_lay_out(struct geometry *geo);
int file_geometry(const struct file_header *h, uint64_t size,
                  struct geometry *geo, struct ballast_refusal *why);
int file_boot_id(uint8_t id[16]);
int file_mutex_init(pthread_mutex_t *mutex);
int file_put_mutex(struct file_header *h);
bool file_mutex_looks_right(const pthread_mutex_t *mutex);
bool file_mutex_is_lost(const pthread_mutex_t *mutex);
bool file_mutex_is_orphan(const pthread_mutex_t *mutex);
bool file_has_locks(int fd);
bool file_has_daemon(int fd);
bool file_is_at(const char *path, int fd);

/* boot.c */
int boot_look(struct ballast_ledger *l);

/* lock.c */
int ledger_lock(struct ballast_ledger *l);
int ledger_lock_why(struct ballast_ledger *l, struct ballast_refusal *why);
void ledger_unlock(struct ballast_ledger *l);
int ledger_verdict(const struct ballast_ledger *l, int err,
                   struct ballast_refusal *why);
uint32_t ledger_recompute(struct ballast_ledger *l, struct total_cell *sums);
void ledger_recover(struct ballast_ledger *l);

/* guard.c */
int guard_map(void *base, size_t bytes);
void guard_unmap(void *base);
void guard_thread(void);
void guard_condemn(const struct ballast_ledger *l);
bool guard_unlinked(struct ballast_ledger *l);

/* slot.c */
struct file_slot *slot_at(const struct ballast_ledger *l, uint32_t nr);
uint32_t slots_high(const struct ballast_ledger *l);
bool slot_in_use(const struct file_slot *s);
size_t slot_control_bytes(const char *text);
void slot_name(const struct file_slot *s, char name[BALLAST_NAME_BYTES]);
void slot_view(const struct ballast_ledger *l, const struct file_slot *s,
               struct view *v);
void slot_publish(struct ballast_ledger *l, struct file_slot *s,
                  const struct view *v);
void slot_write_identity(struct file_slot *s, const struct identity *who);
void slot_free(struct ballast_ledger *l, struct file_slot *s);
struct birth {
    const char *name;
    uint64_t max_bytes;
    uint32_t flags;
    struct identity who;
    uint64_t cookie[2];
};
void slot_take(struct ballast_ledger *l, struct file_slot *s,
               const struct birth *b, const struct view *v);
int slot_lock_byte(int fd, uint32_t nr, short type);
bool slot_lock_is_free(int fd, uint32_t nr);
int slot_find_free(struct ballast_ledger *l, bool lock, uint32_t *nr);
struct file_slot *slot_find_name(struct ballast_ledger *l, const char *name,
                                 uint32_t except);
struct file_slot *slot_own(struct ballast_ledger *l, int *err,
                           struct ballast_refusal *why);
int slot_check_name(const char *name, struct ballast_refusal *why);

/* account.c */
uint64_t clamp_bytes(uint64_t bytes);
void view_zero(const struct geometry *geo, struct view *v);
void view_redeem(const struct geometry *geo, struct view *v);
bool view_uses_cell(const struct view *v, uint32_t cell);
void totals_move(struct ballast_ledger *l, const struct view *from,
                 const struct view *to);
int64_t cell_free(const struct ballast_ledger *l, uint32_t cell);
uint64_t host_room(const struct ballast_ledger *l, uint32_t class);
uint64_t host_capacity(const struct ballast_ledger *l, uint32_t class);

/* admit.c */
#define ADMIT_SAMPLE 1
#define ADMIT_RESAMPLE 2
int admit(const struct ballast_ledger *l, const struct view *from,
          const struct view *to, struct sample *sample,
          struct ballast_refusal *why);
void refusal_holders(struct ballast_ledger *l, struct ballast_refusal *why,
                     uint32_t except);

/* demand.c */
int demand_view(const struct geometry *geo, const struct ballast_demand *set,
                size_t nr, struct view *v, struct ballast_refusal *why);
int usage_view(const struct geometry *geo, const struct ballast_usage *set,
               size_t nr, struct view *v);

/* claim.c */
enum sweep { SWEEP_SOME, SWEEP_ALL };
typedef int attempt_fn(struct ballast_ledger *l, void *opaque,
                       struct sample *sample, struct ballast_refusal *why);
int attempt(struct ballast_ledger *l, attempt_fn *try, void *opaque,
            struct ballast_refusal *why, enum sweep sweep);
int claim_slot(struct ballast_ledger *l, struct file_slot *s,
               struct view *to, uint64_t ticket, struct sample *sample,
               struct ballast_refusal *why);
uint32_t claim_ahead(const struct ballast_ledger *l,
                     const struct file_slot *s, const struct view *from,
                     const struct view *to, uint64_t ticket, bool name_them,
                     struct ballast_refusal *why);
bool claims_nothing(const struct geometry *geo, const struct view *v);
bool same_claim(const struct geometry *geo, const struct view *a,
                const struct view *b);
bool worth_waiting(int err);
void finish_refusal(struct ballast_ledger *l, int err, uint32_t except,
                    struct ballast_refusal *why);

/* queue.c */
struct waiting {
    bool again;         /* look after the entry; else: make or replace it */
    bool anyway;        /* wait, though the kernel could not be asked */
    uint32_t seq;       /* returned_seq when it did not fit */
    uint64_t deadline_ns;
    void *opaque;       /* for the attempt, if it is not this */
    struct view to;
};
bool queue_waits(const struct file_slot *s);
bool queue_attended(const struct file_slot *s);
bool queue_abandoned(const struct file_slot *s);
void queue_wanted(const struct ballast_ledger *l, const struct file_slot *s,
                  const struct view *from, struct view *to);
void queue_stir(struct ballast_ledger *l);
void queue_wake(struct ballast_ledger *l);
void queue_sleep(struct ballast_ledger *l, uint32_t seq, uint64_t deadline_ns);
uint64_t queue_deadline(uint64_t timeout_ms);
void queue_forget(struct ballast_ledger *l, struct file_slot *s);
uint32_t queue_ahead(const struct ballast_ledger *l,
                     const struct file_slot *self, const struct view *from,
                     const struct view *to, uint64_t ticket, bool name_them,
                     struct ballast_refusal *why);
int queue_claim(struct ballast_ledger *l, struct file_slot *s,
                struct waiting *w, struct sample *sample,
                struct ballast_refusal *why);
int queue_look_after(struct ballast_ledger *l, struct file_slot *s,
                     struct waiting *w, struct sample *sample,
                     struct ballast_refusal *why);
int queue_attempt(struct ballast_ledger *l, attempt_fn *try,
                  struct waiting *w, struct ballast_refusal *why);

/* stand.c: calls like those of the queue, for a claim that stands */
struct stand_ask {
    const char *name;
    const struct ballast_demand *set;
    size_t nr;
    pid_t pid;
    struct identity waiter;
    bool again;         /* this call may have come before, and been cut off */
    uint64_t timeout_ms;
};
struct stand_place {
    char name[BALLAST_NAME_BYTES];
    struct identity who;        /* whose the claim will be; pid 0: nobody's */
    struct identity waiter;
    bool placed;                /* the rest is set */
    bool made;                  /* the slot, for this waiter */
    uint32_t slot;
    uint64_t serial;
    uint64_t ticket;
};
struct standing {
    struct stand_place at;
    bool polite;        /* not over the entry of another waiter */
    bool again;
    struct waiting w;
};
int stand_queue(struct ballast_ledger *l, struct standing *st,
                const struct stand_ask *ask, struct ballast_refusal *why);
int stand_poll(struct ballast_ledger *l, struct standing *st,
               struct ballast_refusal *why);
int stand_resume(struct ballast_ledger *l, const struct stand_place *at,
                 pid_t pid, struct standing *st, struct ballast_refusal *why);

/* sweep.c */
#define SWEEP_BUDGET_NS (UINT64_C(200) * 1000)
int sweep_some(struct ballast_ledger *l, uint64_t budget_ns);
bool process_gone(int32_t pid, uint64_t start_ticks);
int sweep_served(struct ballast_ledger *l, uint32_t nr);

/* served.c: what the daemon does for a client, with a handle like a client's */
int served_join(struct ballast_ledger *l, const struct birth *b,
                struct ballast_refusal *why);
int served_attach(struct ballast_ledger *l, uint32_t slot, uint64_t serial,
                  const uint64_t cookie[2], const struct identity *who,
                  bool adopt, struct ballast_refusal *why);
bool served_is_mine(const struct ballast_ledger *l);
uint64_t served_charge(const struct ballast_ledger *l, uint32_t nr);

/* host.c */
extern const char *ballast_sysfs_root;
int identity_self(struct identity *who);
int identity_of(pid_t pid, struct identity *who);
uint64_t host_pidns(void);
uint64_t host_now_ns(void);
uint64_t host_kernel_free(uint32_t node, uint64_t page_bytes, bool base,
                          uint32_t count_cache_percent);
int host_read(const char *path, char *buf, size_t len);
struct process_stat {
    char state;
    uint64_t threads;
    uint64_t start_ticks;
};
int host_process_stat(int32_t pid, struct process_stat *st);
void sample_take(const struct ballast_ledger *l, struct sample *s);
void sample_take_all(const struct ballast_ledger *l, struct sample *s);

#pragma GCC visibility pop

#endif
