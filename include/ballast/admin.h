/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The operator's side of a ledger: make one, look at it, check it, and hold
 * claims that are not bound to the calling process.
 *
 * The same rules as in ledger.h apply: 0 or -errno, nothing printed, every
 * amount in bytes.
 */
#ifndef BALLAST_ADMIN_H
#define BALLAST_ADMIN_H

#include "ballast/ledger.h"

/**
 * enum ballast_admission - what a claim is compared with
 * @BALLAST_ADMIT_KERNEL: the ledger's capacity, and the memory that the
 *     kernel has free on the node (the default; seed 000: claims must see
 *     allocations nobody asked permission for).
 * @BALLAST_ADMIT_STATIC: the ledger's capacity only.
 */
enum ballast_admission {
    BALLAST_ADMIT_KERNEL = 0,
    BALLAST_ADMIT_STATIC = 1,
};

/**
 * struct ballast_config - what a new ledger is made of
 * @nr_nodes: nodes in @node_id, 1 to BALLAST_MAX_NODES.
 * @nr_classes: page sizes in @page_bytes, 1 to BALLAST_MAX_CLASSES; the first
 *     is the base page size.
 * @nr_slots: participants at one time, 1 to 8192; 0 means 4096.
 * @admission: see enum ballast_admission.
 * @count_cache_percent: how much of the file page cache counts as free to the
 *     kernel, 0 to 100.
 * @mode: permission bits of the file.  Who can write the file is trusted.
 * @node_id: the host's node numbers, ascending; they may have gaps.
 * @page_bytes: page sizes, powers of two, no two alike.
 * @overcommit_percent: per node, how much of the base-page capacity may be
 *     promised: 1 to 1000, 0 means 100.  The kernel's free memory counts for
 *     as many bytes more (or, below 100, less) as this adds to the capacity.
 * @capacity_bytes: what guests may use, per node and class, at most
 *     BALLAST_MAX_BYTES each, a multiple of the page size.
 */
struct ballast_config {
    uint32_t nr_nodes;
    uint32_t nr_classes;
    uint32_t nr_slots;
    enum ballast_admission admission;
    uint32_t count_cache_percent;
    mode_t mode;
    uint32_t node_id[BALLAST_MAX_NODES];
    uint64_t page_bytes[BALLAST_MAX_CLASSES];
    uint32_t overcommit_percent[BALLAST_MAX_NODES];
    uint64_t capacity_bytes[BALLAST_MAX_NODES][BALLAST_MAX_CLASSES];
};

/**
 * ballast_config_host() - describe this host
 * @config: filled in: every node with memory, the base page size and as many
 *     hugetlb sizes as fit (those with a pool first), capacities from sysfs,
 *     admission by kernel, 50 percent of the cache counted, mode 0660.
 * @reserve_bytes: base-page memory kept from guests over the whole host,
 *     taken from the nodes in proportion; UINT64_MAX for the default of one
 *     sixteenth, at least 256 MiB.
 *
 * Context: reads sysfs and /proc; may block for disk-less I/O only.
 * Return: 0; -ENODATA when the host does not say how much memory it has.
 */
int ballast_config_host(struct ballast_config *config, uint64_t reserve_bytes);

/**
 * BALLAST_CREATE_FORCE - replace a ledger, or any file, that is in the way
 *
 * Refused with BALLAST_EXISTS and -EBUSY while the old ledger has living
 * participants.
 */
#define BALLAST_CREATE_FORCE 1u

/**
 * ballast_ledger_create() - make a ledger file
 * @path: where; its directory must exist.  A local file system, best on tmpfs.
 * @config: see struct ballast_config; owned by the caller.
 * @flags: 0 or BALLAST_CREATE_FORCE.
 * @why: filled in on failure, may be NULL.
 *
 * The file appears at @path complete or not at all.
 *
 * Return: 0; -EEXIST when there is a file already (BALLAST_EXISTS); -EBUSY
 * when it is in use; -EINVAL for a configuration out of range (@why->detail
 * names the field); -EOVERFLOW for a capacity above BALLAST_MAX_BYTES; any
 * errno of the file system (BALLAST_SYSTEM).
 */
int ballast_ledger_create(const char *path,
                          const struct ballast_config *config,
                          unsigned flags, struct ballast_refusal *why);

/**
 * ballast_stand() - make or replace a standing claim
 * @ledger: an open ledger; the caller's own slot is not touched.
 * @name: the claim's name; an existing standing claim of that name is
 *     replaced.
 * @set: as in ballast_claim().
 * @nr: entries in @set.
 * @pid: 0, or the process with which the claim ends.
 * @why: filled in on failure, may be NULL.
 *
 * A standing claim ends with ballast_release(), with @pid, or with the boot.
 *
 * Return: as ballast_claim() and ballast_join(), and -ESRCH when there is no
 * process @pid.
 */
int ballast_stand(struct ballast_ledger *ledger, const char *name,
                  const struct ballast_demand *set, size_t nr, pid_t pid,
                  struct ballast_refusal *why);

/**
 * ballast_stand_wait() - make or replace a standing claim, waiting for it
 * @ledger: an open ledger.
 * @name: as in ballast_stand().
 * @set: as in ballast_claim().
 * @nr: entries in @set.
 * @pid: as in ballast_stand().
 * @timeout_ms: as in ballast_claim_wait().
 * @why: filled in, may be NULL.
 *
 * While it waits, a new claim stands with nothing, bound to this process.
 *
 * Return: as ballast_stand() and ballast_claim_wait().
 */
int ballast_stand_wait(struct ballast_ledger *ledger, const char *name,
                       const struct ballast_demand *set, size_t nr, pid_t pid,
                       uint64_t timeout_ms, struct ballast_refusal *why);

/**
 * ballast_release() - end a standing claim
 * @ledger: an open ledger.
 * @name: the name it was made with.
 * @why: filled in on failure, may be NULL.
 *
 * Return: 0; -ENOENT when no standing claim has that name; -EINVAL
 * (BALLAST_BAD_NAME).
 */
int ballast_release(struct ballast_ledger *ledger, const char *name,
                    struct ballast_refusal *why);

/**
 * ballast_sweep() - let go of participants that are gone
 * @ledger: an open ledger.
 *
 * A participant whose lock is free becomes dying; a dying one is freed when
 * its process has really ended.  Joining, a refusal, status and check do this
 * by themselves.
 *
 * Return: how many slots were freed, or -errno.
 */
int ballast_sweep(struct ballast_ledger *ledger);

/**
 * struct ballast_cell - one node and page size, all participants together
 * @node: host node, or BALLAST_NODE_ANY for the whole host.
 * @page_bytes: the class.
 * @overcommit_percent: the factor of this node; 100 for the whole host and
 *     for hugetlb pages.
 * @backed_bytes: the capacity as the operator gave it.
 * @capacity_bytes: what guests may be promised: the former times the factor,
 *     whole pages.
 * @free_bytes: capacity less everything reserved; negative when more is
 *     resident than the capacity.  For the whole host, claims on no node in
 *     particular are taken off too.
 * @freeable_bytes: resident, but their guests do not need them.
 * @owned_bytes: reserved less freeable.
 *     free + freeable + owned = capacity, always (seed 001).
 * @claimed_bytes: promised.
 * @resident_bytes: reported as allocated.
 * @outstanding_bytes: promised and not yet allocated.
 * @kernel_free_bytes: what the kernel could hand out, UINT64_MAX if unknown.
 * @broken_bytes: outstanding that the kernel could not hand out now.
 * @wanted_bytes: by how much those who wait want to grow there.
 */
struct ballast_cell {
    uint32_t node;
    uint32_t overcommit_percent;
    uint64_t page_bytes;
    uint64_t backed_bytes;
    uint64_t capacity_bytes;
    int64_t free_bytes;
    uint64_t freeable_bytes;
    uint64_t owned_bytes;
    uint64_t claimed_bytes;
    uint64_t resident_bytes;
    uint64_t outstanding_bytes;
    uint64_t kernel_free_bytes;
    uint64_t broken_bytes;
    uint64_t wanted_bytes;
};

/**
 * enum ballast_state - where a participant is in its life
 * @BALLAST_RUNNING: its process lives.
 * @BALLAST_STATE_DYING: its lock is gone, its memory perhaps not yet.
 * @BALLAST_STANDING: a standing claim.
 */
enum ballast_state {
    BALLAST_RUNNING,
    BALLAST_STATE_DYING,
    BALLAST_STANDING,
};

/**
 * struct ballast_participant - one slot
 * @name: as given to ballast_join() or ballast_stand().
 * @state: see enum ballast_state.
 * @pid: process, 0 for a standing claim that is bound to none.
 * @uid: user that joined.
 * @slot: its number.
 * @serial: tells two occupants of one slot apart.
 * @max_bytes: its maximum over all classes, 0 for none.
 * @served: it joined through the daemon.
 * @queue_place: 1 for the first of those that wait, 0 for one that does not.
 * @waited_ms: for how long it has waited.
 * @nr_cells: entries in @cells.
 * @cells: what it holds, only cells that are not empty.
 */
struct ballast_participant {
    char name[BALLAST_NAME_BYTES];
    enum ballast_state state;
    int32_t pid;
    uint32_t uid;
    uint32_t slot;
    uint64_t serial;
    uint64_t max_bytes;
    bool served;
    uint32_t queue_place;
    uint64_t waited_ms;
    size_t nr_cells;
    struct ballast_own *cells;
};

/**
 * struct ballast_status - a ledger at one instant
 * @admission: see enum ballast_admission.
 * @count_cache_percent: see struct ballast_config.
 * @nr_slots: participants that fit.
 * @nr_waiting: participants in the queue.
 * @nr_nodes: nodes.
 * @nr_classes: page sizes.
 * @nr_cells: entries in @cells: first all classes of the first node, last all
 *     classes of the whole host.
 * @cells: (nr_nodes + 1) * nr_classes entries.
 * @nr_participants: entries in @participants.
 * @participants: by slot number.
 */
struct ballast_status {
    enum ballast_admission admission;
    uint32_t count_cache_percent;
    uint32_t nr_slots;
    uint32_t nr_waiting;
    uint32_t nr_nodes;
    uint32_t nr_classes;
    size_t nr_cells;
    struct ballast_cell *cells;
    size_t nr_participants;
    struct ballast_participant *participants;
};

/**
 * ballast_status_get() - take a snapshot
 * @ledger: an open ledger.
 * @out: set to a snapshot that the caller frees with ballast_status_free().
 *
 * Sweeps first.  All of it is from one instant, but for the kernel's figures,
 * which are read just before.
 *
 * Return: 0, -ENOMEM, or the errno of a ledger that cannot be locked.
 */
int ballast_status_get(struct ballast_ledger *ledger,
                       struct ballast_status **out);

/**
 * ballast_status_free() - free a snapshot
 * @status: from ballast_status_get(), or NULL.
 */
void ballast_status_free(struct ballast_status *status);

/**
 * enum ballast_severity - how bad a finding is
 * @BALLAST_NOTE: worth knowing.
 * @BALLAST_WARNING: a promise may not hold.
 * @BALLAST_DAMAGE: the file contradicts itself.
 */
enum ballast_severity {
    BALLAST_NOTE,
    BALLAST_WARNING,
    BALLAST_DAMAGE,
};

/**
 * typedef ballast_finding - called for every finding
 * @opaque: as given to ballast_check().
 * @severity: see enum ballast_severity.
 * @text: one line, valid during the call.
 *
 * Context: the ledger's lock is not held.
 */
typedef void ballast_finding(void *opaque, enum ballast_severity severity,
                             const char *text);

/**
 * BALLAST_CHECK_REPAIR - put right what can be: totals are recomputed from
 * the slots, values out of range are cut to the range, and so on; each repair
 * is a finding that says what was there and what is there now
 */
#define BALLAST_CHECK_REPAIR 1u

/**
 * ballast_check() - look for contradictions and broken promises
 * @ledger: an open ledger.
 * @flags: 0 or BALLAST_CHECK_REPAIR.
 * @report: called for every finding.
 * @opaque: handed to @report.
 *
 * Return: the number of findings worse than BALLAST_NOTE, or -errno.
 */
int ballast_check(struct ballast_ledger *ledger, unsigned flags,
                  ballast_finding *report, void *opaque);

#endif
