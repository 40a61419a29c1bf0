/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The capacity ledger of a host: who was promised how much memory, where.
 *
 * A ledger is a file that every process on the host maps.  It holds, for each
 * host NUMA node and page-size class, the capacity that guests may use, and
 * for each participant (usually: one QEMU process) what it was promised and
 * what it has really allocated.  A promise ("claim") is granted or refused in
 * one critical section, before a page is allocated.
 *
 * Everything here returns 0 or -errno and prints nothing.  Where a person
 * wants to know why, the call takes a struct ballast_refusal, and
 * ballast_refusal_text() puts it into words.
 *
 * Context: every function may be called from any thread; operations on one
 * handle are serialised by the ledger's own lock.  No call blocks on another
 * participant for longer than that participant's critical section, and a
 * participant that dies inside one is repaired by the next one that enters.
 *
 * Through a daemon (docs/ballastd.md) calls mean the same.  They connect
 * again by themselves when the daemon is started anew; one that gets no
 * answer for five seconds (ballast_set_patience()) fails with
 * BALLAST_NO_DAEMON.  A handle is its process's: a forked child opens, or
 * adopts, one of its own.
 */
#ifndef BALLAST_LEDGER_H
#define BALLAST_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/**
 * BALLAST_NODE_ANY - a claim on no node in particular, or the whole host
 */
#define BALLAST_NODE_ANY     UINT32_MAX

/**
 * BALLAST_MAX_NODES - host NUMA nodes in one ledger
 */
#define BALLAST_MAX_NODES    64

/**
 * BALLAST_MAX_CLASSES - page sizes in one ledger
 */
#define BALLAST_MAX_CLASSES  8

/**
 * BALLAST_MAX_DEMANDS - entries in one claim or report
 */
#define BALLAST_MAX_DEMANDS  ((BALLAST_MAX_NODES + 1) * BALLAST_MAX_CLASSES)

/**
 * BALLAST_NAME_BYTES - room for a participant's name and its final zero
 */
#define BALLAST_NAME_BYTES   64

/**
 * BALLAST_MAX_HOLDERS - how many holders a refusal names
 */
#define BALLAST_MAX_HOLDERS  8

/**
 * BALLAST_MAX_BYTES - most that one amount, or one participant's sum over all
 * nodes of a page size, can be: 256 TiB, so that no sum over all slots
 * overflows
 */
#define BALLAST_MAX_BYTES    (UINT64_C(1) << 48)

/**
 * BALLAST_WAIT_FOREVER - a time-out that never comes
 */
#define BALLAST_WAIT_FOREVER UINT64_MAX

/**
 * BALLAST_ENV_LEDGER - environment variable: path of the ledger, or of the
 * socket of the daemon that has it
 */
#define BALLAST_ENV_LEDGER   "BALLAST_LEDGER"

/**
 * BALLAST_ENV_CLAIM - environment variable: an inherited claim, for
 * ballast_adopt(); whoever adopts it removes it from the environment
 */
#define BALLAST_ENV_CLAIM    "BALLAST_CLAIM"

/**
 * struct ballast_ledger - a handle: one open ledger, at most one participant
 */
struct ballast_ledger;

/**
 * struct ballast_demand - one entry of a claim
 * @node: host node, or BALLAST_NODE_ANY.
 * @zero: must be zero.
 * @page_bytes: page size, 0 for the base page size.
 * @bytes: absolute amount, a multiple of the page size, at most
 *     BALLAST_MAX_BYTES; 0 claims nothing there.
 */
struct ballast_demand {
    uint32_t node;
    uint32_t zero;
    uint64_t page_bytes;
    uint64_t bytes;
};

/**
 * struct ballast_usage - one entry of a report
 * @node: host node, not BALLAST_NODE_ANY.
 * @zero: must be zero.
 * @page_bytes: page size, 0 for the base page size.
 * @resident_bytes: really allocated there now.
 * @freeable_bytes: the part of it that the guest does not need; at most
 *     @resident_bytes.
 */
struct ballast_usage {
    uint32_t node;
    uint32_t zero;
    uint64_t page_bytes;
    uint64_t resident_bytes;
    uint64_t freeable_bytes;
};

/**
 * enum ballast_reason - why not
 * @BALLAST_OK: no error.
 * @BALLAST_SHORT_NODE: the node's capacity is reserved by others.  -ENOMEM
 * @BALLAST_SHORT_HOST: the nodes' capacity together is.  -ENOMEM
 * @BALLAST_SHORT_KERNEL: the kernel has not enough free memory that is not
 *     promised yet.  -ENOMEM
 * @BALLAST_BELOW_RESIDENT: less than what is resident, and not the claim that
 *     is in force, and not zero.  -EINVAL
 * @BALLAST_NO_SUCH_NODE: the ledger has no such node.  -ENOENT
 * @BALLAST_NO_SUCH_CLASS: the ledger has no such page size.  -ENOENT
 * @BALLAST_ABOVE_MAXIMUM: above the maximum given at joining.  -EDQUOT
 * @BALLAST_TOO_MANY_ENTRIES: more than BALLAST_MAX_DEMANDS.  -E2BIG
 * @BALLAST_DUPLICATE_ENTRY: two entries for one node and page size.  -EINVAL
 * @BALLAST_NOT_ZERO: a field that must be zero is not.  -EINVAL
 * @BALLAST_NOT_ALIGNED: not a multiple of the page size.  -EINVAL
 * @BALLAST_OVERFLOW: an amount or a sum above BALLAST_MAX_BYTES.  -EOVERFLOW
 * @BALLAST_DYING: the slot was given up as dead, or is gone.  -ESHUTDOWN
 * @BALLAST_NOT_JOINED: the handle is no participant.  -ENOTCONN
 * @BALLAST_NO_SLOT: all slots are taken.  -ENOSPC
 * @BALLAST_NAME_IN_USE: a living participant has the name.  -EADDRINUSE
 * @BALLAST_BAD_NAME: empty, too long, not UTF-8, control characters.  -EINVAL
 * @BALLAST_BAD_FILE: not a ledger, or damaged, or cut short (-EBADMSG), or
 *     replaced or removed since it was opened (-ESTALE: nobody joins, no claim
 *     grows, the rest goes on if it was removed), or its lock is beyond repair
 *     (-ENOTRECOVERABLE, -EINVAL).
 * @BALLAST_OTHER_FORMAT: a format this program does not know.
 *     -EPROTONOSUPPORT
 * @BALLAST_OTHER_ABI: made with another C library or word size.  -ENOEXEC
 * @BALLAST_EXISTS: there is a file (-EEXIST), or it is in use (-EBUSY).
 * @BALLAST_BEHIND_QUEUE: others wait for the same memory, and came first.
 *     -EBUSY
 * @BALLAST_NOT_ALLOWED: the daemon does not serve this user, or not this
 *     call.  -EACCES
 * @BALLAST_ABOVE_QUOTA: above what the daemon lets this user claim.  -EDQUOT
 * @BALLAST_NO_DAEMON: the daemon does not answer.  -ENOTCONN
 * @BALLAST_SYSTEM: an errno of the system; the detail says of what.
 */
enum ballast_reason {
    BALLAST_OK = 0,
    BALLAST_SHORT_NODE,
    BALLAST_SHORT_HOST,
    BALLAST_SHORT_KERNEL,
    BALLAST_BELOW_RESIDENT,
    BALLAST_NO_SUCH_NODE,
    BALLAST_NO_SUCH_CLASS,
    BALLAST_ABOVE_MAXIMUM,
    BALLAST_TOO_MANY_ENTRIES,
    BALLAST_DUPLICATE_ENTRY,
    BALLAST_NOT_ZERO,
    BALLAST_NOT_ALIGNED,
    BALLAST_OVERFLOW,
    BALLAST_DYING,
    BALLAST_NOT_JOINED,
    BALLAST_NO_SLOT,
    BALLAST_NAME_IN_USE,
    BALLAST_BAD_NAME,
    BALLAST_BAD_FILE,
    BALLAST_OTHER_FORMAT,
    BALLAST_OTHER_ABI,
    BALLAST_EXISTS,
    BALLAST_SYSTEM,
    BALLAST_BEHIND_QUEUE,
    BALLAST_NOT_ALLOWED,
    BALLAST_ABOVE_QUOTA,
    BALLAST_NO_DAEMON,
};

/**
 * struct ballast_holder - somebody who has what was refused
 * @name: the participant's name.
 * @pid: its process, 0 for none.
 * @slot: its slot.
 * @reserved_bytes: what it reserves of the node and page size in question;
 *     after BALLAST_BEHIND_QUEUE, by how much it wants to grow there.
 * @dying: its process has lost its lock, its memory may not be back yet.
 */
struct ballast_holder {
    char name[BALLAST_NAME_BYTES];
    int32_t pid;
    uint32_t slot;
    uint64_t reserved_bytes;
    bool dying;
};

/**
 * struct ballast_refusal - why not, in figures
 * @reason: see enum ballast_reason; BALLAST_OK after a success.
 * @err: -errno, as returned.
 * @node: the node in question, or BALLAST_NODE_ANY for the host.
 * @page_bytes: the page size in question.
 * @asked_bytes: what was asked for there, in all.
 * @available_bytes: what was free there.
 * @missing_bytes: what must come back for the same claim to be granted.
 * @limit_bytes: what it was compared with: the capacity, the kernel's free
 *     memory, what is resident, the maximum, or the page size.
 * @nr_ahead: participants that wait for the same memory and came first.
 * @zero: zero.
 * @nr_holders: entries in @holders; after a shortage those that have it,
 *     after BALLAST_BEHIND_QUEUE those that wait for it, first come first.
 * @more_holders: holders that did not fit.
 * @holders: others that hold it, largest first.
 * @detail: a few more words.
 */
struct ballast_refusal {
    enum ballast_reason reason;
    int err;
    uint32_t node;
    uint64_t page_bytes;
    uint64_t asked_bytes;
    uint64_t available_bytes;
    uint64_t missing_bytes;
    uint64_t limit_bytes;
    uint32_t nr_ahead;
    uint32_t zero;
    uint32_t nr_holders;
    uint32_t more_holders;
    struct ballast_holder holders[BALLAST_MAX_HOLDERS];
    char detail[128];
};

/**
 * ballast_ledger_open() - open a ledger
 * @path: an existing ledger file, see ballast_ledger_create(), or the socket
 *     of a daemon that has one.
 * @out: set to a handle that the caller closes with ballast_ledger_close().
 * @why: filled in on failure, may be NULL.
 *
 * Open it early: the descriptor made here is what tells others that the
 * process lives, and the kernel lets go of descriptors that were opened
 * before a memory file after that file (docs/design/ledger-format.md).  The
 * first to open a ledger after a reboot empties it.
 *
 * Context: may block on the file system, and up to five seconds on others
 * that open or create at this moment.
 * Return: 0; -EBADMSG, -EPROTONOSUPPORT, -ENOEXEC: see BALLAST_BAD_FILE,
 * BALLAST_OTHER_FORMAT, BALLAST_OTHER_ABI; -ETIMEDOUT: somebody keeps it
 * locked; -EAGAIN: it was replaced again and again; any errno of open().
 */
int ballast_ledger_open(const char *path, struct ballast_ledger **out,
                        struct ballast_refusal *why);

/**
 * BALLAST_CLAIM_BYTES - room for the words of ballast_bequeath()
 */
#define BALLAST_CLAIM_BYTES 256

/**
 * ballast_set_patience() - how long a call may wait for the daemon
 * @ledger: an open handle; nothing happens if it is of a file.
 * @ms: milliseconds; 5000 before the first call.
 *
 * A call that got no answer in that time fails with BALLAST_NO_DAEMON.  Calls
 * in the next second try once at most, and not at all if the daemon was there
 * and silent: a caller that must not block loses one patience a second.
 */
void ballast_set_patience(struct ballast_ledger *ledger, uint32_t ms);

/**
 * ballast_ledger_close() - close a handle
 * @ledger: from ballast_ledger_open() or ballast_adopt(), or NULL.
 *
 * Leaves first, if joined, unless the claim was bequeathed, or the caller is
 * a forked child of the process that joined.
 *
 * Context: no other thread may use the handle any more.
 */
void ballast_ledger_close(struct ballast_ledger *ledger);

/**
 * ballast_guard_rearm() - stay safe from a file that is cut short
 *
 * Whoever shortens the file of a ledger must not kill those who have it
 * mapped: the first open installs a handler of SIGBUS that makes operations
 * fail with BALLAST_BAD_FILE instead, and passes on every fault that is not
 * in a ledger.  A program that installs a handler of its own afterwards calls
 * this once it has.  A thread that uses a ledger has SIGBUS unblocked.
 *
 * Return: 0, also when nothing was open yet or nobody is in front; -ENOSPC
 * after too many times (4).
 */
int ballast_guard_rearm(void);

/**
 * ballast_join() - become a participant
 * @ledger: an open handle that has not joined.
 * @name: 1 to 63 bytes of UTF-8 without control characters (up to U+001F,
 *     and U+007F to U+009F), not in use by a
 *     living participant; NULL for "pid-N".
 * @max_bytes: most that the participant may ever claim over all nodes and
 *     page sizes, 0 for no maximum.
 * @why: filled in on failure, may be NULL.
 *
 * Nothing is claimed yet.  Participants that are gone are swept first.
 *
 * Return: 0; -EINVAL (BALLAST_BAD_NAME); -EADDRINUSE (BALLAST_NAME_IN_USE);
 * -ENOSPC (BALLAST_NO_SLOT); -EALREADY when the handle has joined; errors of
 * a ledger that cannot be locked (BALLAST_BAD_FILE, or BALLAST_SYSTEM and
 * -ETIMEDOUT).
 */
int ballast_join(struct ballast_ledger *ledger, const char *name,
                 uint64_t max_bytes, struct ballast_refusal *why);

/**
 * ballast_adopt() - take over a claim that was bequeathed
 * @claim: the words made by ballast_bequeath(), usually from the environment
 *     variable BALLAST_ENV_CLAIM; the caller unsets that afterwards.
 * @out: set to a handle that has joined, with the claim it inherited.
 * @why: filled in on failure, may be NULL.
 *
 * The calling process may be the heir itself or a child that it forked.  The
 * inherited descriptor belongs to the handle from here on, and is closed on
 * exec again.  On failure it is left alone.
 *
 * Return: 0; -EINVAL for words that are not of that form, or a slot that does
 * not exist; -EBADF for a descriptor that is not open, or does not hold the
 * claim's lock; -ESHUTDOWN (BALLAST_DYING) when the claim is gone; errors of
 * ballast_ledger_open() about the file.
 */
int ballast_adopt(const char *claim, struct ballast_ledger **out,
                  struct ballast_refusal *why);

/**
 * ballast_bequeath() - let the claim survive exec
 * @ledger: a handle that has joined.
 * @buf: receives words for BALLAST_ENV_CLAIM.
 * @len: room in @buf, in bytes; BALLAST_CLAIM_BYTES is enough.
 *
 * The descriptor stays open across exec, in every program that the process
 * starts from now on: execute the heir next.  Through a daemon there is no
 * descriptor: the words have a secret in them, and a heir in another process
 * must adopt within two seconds of this one's end.
 *
 * Return: 0; -ENOTCONN when there is no claim; -ENOSPC when @buf is too
 * small; any errno of fcntl().
 */
int ballast_bequeath(struct ballast_ledger *ledger, char *buf, size_t len);

/**
 * ballast_leave() - stop being a participant
 * @ledger: an open handle, joined or not.
 *
 * Everything claimed and reported is given back at once: free the memory
 * first, or just exit, and the claim ends when the memory is back.  In a
 * forked child of the process that joined, nothing is given back.
 */
void ballast_leave(struct ballast_ledger *ledger);

/**
 * ballast_claim() - claim memory before allocating it
 * @ledger: a handle that has joined.
 * @set: what is claimed from now on, in all; replaces the claim in force.
 *     Owned by the caller; may be NULL when @nr is 0.
 * @nr: entries in @set, 0 to BALLAST_MAX_DEMANDS; 0 claims nothing.
 * @why: filled in, may be NULL.
 *
 * All of it is granted, or nothing changes.  A claim that is smaller
 * everywhere, or equal, is not refused for want of memory; a claim of nothing
 * is never refused.  Pages redeem first the claim on their node, then the
 * host-wide one, then claims on other nodes (seed 000; DESIGN, "Ledger").
 *
 * Whoever waits (ballast_queue()) came first: a claim that grows where an
 * older entry of the queue wants to grow too is refused, even if it would
 * fit.  A claim made while this participant itself waits takes it out of the
 * queue, granted or not.
 *
 * Context: no allocation.  With admission by the kernel, a claim that grows
 * reads sysfs, without holding the ledger's lock.
 * Return: 0, or the errno of a reason: BALLAST_SHORT_NODE, _SHORT_HOST,
 * _SHORT_KERNEL, _BELOW_RESIDENT, _NO_SUCH_NODE, _NO_SUCH_CLASS,
 * _ABOVE_MAXIMUM, _TOO_MANY_ENTRIES, _DUPLICATE_ENTRY, _NOT_ZERO,
 * _NOT_ALIGNED, _OVERFLOW, _DYING, _NOT_JOINED, _BAD_FILE, _BEHIND_QUEUE,
 * and through a daemon _ABOVE_QUOTA and _NO_DAEMON; -EFAULT for a
 * count without a list; -EAGAIN when the kernel's figures changed too fast to
 * be compared with; -ETIMEDOUT when the ledger cannot be locked.
 */
int ballast_claim(struct ballast_ledger *ledger,
                  const struct ballast_demand *set, size_t nr,
                  struct ballast_refusal *why);

/**
 * ballast_queue() - claim, or wait in line for it
 * @ledger: a handle that has joined.
 * @set: as in ballast_claim(); copied.
 * @nr: entries in @set.
 * @timeout_ms: how long the entry stays in the queue, BALLAST_WAIT_FOREVER.
 * @why: filled in, may be NULL; while waiting it says what is missing.
 *
 * First come, first served: an entry is granted when it fits and no older
 * entry wants memory that it needs too (a page size in common, and a node in
 * common or either of them on any node).  An entry whose process is dead, or
 * has not looked after it for five seconds, is passed over; the latter keeps
 * its place for when it comes back.  A participant has one entry; a second
 * call replaces what it asks for and keeps its place.
 *
 * The claim in force stays in force until the entry is granted.
 *
 * Context: does not wait; call ballast_queue_poll() at least every two
 * seconds afterwards.
 * Return: 0 when granted at once; -EINPROGRESS when queued; errors of
 * ballast_claim() that waiting does not cure.
 */
int ballast_queue(struct ballast_ledger *ledger,
                  const struct ballast_demand *set, size_t nr,
                  uint64_t timeout_ms, struct ballast_refusal *why);

/**
 * ballast_queue_poll() - look after the entry in the queue
 * @ledger: a handle that has joined.
 * @why: filled in, may be NULL: what is missing, and how many are ahead.
 *
 * Context: does not wait.
 * Return: 0 when it was granted, and has left the queue; -EINPROGRESS;
 * -ETIMEDOUT when its time is over, and it has left the queue; -ENOENT when
 * there is no entry; errors of ballast_claim().
 */
int ballast_queue_poll(struct ballast_ledger *ledger,
                       struct ballast_refusal *why);

/**
 * ballast_queue_cancel() - leave the queue
 * @ledger: a handle that has joined.
 *
 * Return: 0; -ENOENT when there is no entry (it may have been granted: that
 * is only ever found out by ballast_queue_poll(), so not here); errors of a
 * ledger that cannot be locked.
 */
int ballast_queue_cancel(struct ballast_ledger *ledger);

/**
 * ballast_claim_wait() - claim, and wait until it is granted
 * @ledger: a handle that has joined.
 * @set: as in ballast_claim().
 * @nr: entries in @set.
 * @timeout_ms: how long to wait, BALLAST_WAIT_FOREVER.
 * @why: filled in, may be NULL; after a time-out it says what was missing.
 *
 * Context: sleeps; woken when capacity returns, and looks by itself ten times
 * a second for what nobody tells (deaths, the kernel's memory).
 * Return: 0; -ETIMEDOUT; errors of ballast_claim() that waiting does not
 * cure.
 */
int ballast_claim_wait(struct ballast_ledger *ledger,
                       const struct ballast_demand *set, size_t nr,
                       uint64_t timeout_ms, struct ballast_refusal *why);

/**
 * ballast_report() - say what is allocated
 * @ledger: a handle that has joined.
 * @set: what is resident and freeable from now on, in all; replaces the last
 *     report.  Owned by the caller; may be NULL when @nr is 0.
 * @nr: entries in @set, 0 to BALLAST_MAX_DEMANDS.
 *
 * A report is never refused for want of memory: it is about facts.  To lower
 * a claim after giving memory back, report first, then claim less.
 *
 * Return: 0; -EINVAL for BALLAST_NODE_ANY, @zero not zero, freeable above
 * resident, or the same entry twice; -ENOENT for an absent node or page size;
 * -E2BIG; -EFAULT; -EOVERFLOW above BALLAST_MAX_BYTES; -ENOTCONN; -ESHUTDOWN
 * when the slot is gone; errors of a ledger that cannot be locked.
 */
int ballast_report(struct ballast_ledger *ledger,
                   const struct ballast_usage *set, size_t nr);

/**
 * struct ballast_own - what a participant holds on one node
 * @node: host node, or BALLAST_NODE_ANY.
 * @zero: zero.
 * @page_bytes: page size.
 * @claimed_bytes: promised.
 * @resident_bytes: reported as allocated.
 * @freeable_bytes: reported as not needed.
 * @outstanding_bytes: promised and not redeemed.
 * @wanted_bytes: what its entry in the queue asks for there, 0 if it does not
 *     wait.
 */
struct ballast_own {
    uint32_t node;
    uint32_t zero;
    uint64_t page_bytes;
    uint64_t claimed_bytes;
    uint64_t resident_bytes;
    uint64_t freeable_bytes;
    uint64_t outstanding_bytes;
    uint64_t wanted_bytes;
};

/**
 * ballast_own() - what this participant holds
 * @ledger: a handle that has joined.
 * @cells: receives the nodes and page sizes that are not empty; may be NULL
 *     when @nr is 0.
 * @nr: room in @cells, in entries.
 *
 * Return: how many are not empty, even if more than @nr; -ENOTCONN;
 * -ESHUTDOWN; errors of a ledger that cannot be locked.
 */
int ballast_own(struct ballast_ledger *ledger, struct ballast_own *cells,
                size_t nr);

/**
 * ballast_slot() - which participant this is
 * @ledger: an open handle.
 * @slot: set to the slot's number.
 * @serial: set to the serial number, which no other participant of this
 *     ledger ever has.
 *
 * Return: 0; -ENOTCONN.
 */
int ballast_slot(struct ballast_ledger *ledger, uint32_t *slot,
                 uint64_t *serial);

/**
 * struct ballast_geometry - the nodes and page sizes of a ledger
 * @nr_nodes: entries in @node_id.
 * @nr_classes: entries in @page_bytes.
 * @node_id: host node numbers, ascending, perhaps with gaps.
 * @page_bytes: page sizes, the base page size first.
 */
struct ballast_geometry {
    uint32_t nr_nodes;
    uint32_t nr_classes;
    uint32_t node_id[BALLAST_MAX_NODES];
    uint64_t page_bytes[BALLAST_MAX_CLASSES];
};

/**
 * ballast_geometry() - what can be claimed in this ledger
 * @ledger: an open handle.
 * @out: filled in.
 */
void ballast_geometry(const struct ballast_ledger *ledger,
                      struct ballast_geometry *out);

/**
 * ballast_parse_bytes() - read an amount
 * @text: digits, perhaps a fraction, and K, M, G, T or P (powers of 1024),
 *     perhaps followed by "iB".  "GB" is not taken: it could be meant either
 *     way.
 * @out: set to bytes; untouched on failure.
 *
 * Return: 0; -EINVAL for anything else, or a fraction of a byte; -ERANGE for
 * what does not fit in 64 bits.
 */
int ballast_parse_bytes(const char *text, uint64_t *out);

/**
 * ballast_parse_demand() - read SIZE[@NODE][/PAGESIZE]
 * @text: see ballast_parse_bytes() for both sizes; NODE is a number or "any",
 *     which is also the default; PAGESIZE is a power of two.
 * @out: filled in; page_bytes is 0 without PAGESIZE; untouched on failure.
 *
 * Whether such a node or page size exists is for ballast_claim() to say.
 *
 * Return: 0; -EINVAL; -ERANGE.
 */
int ballast_parse_demand(const char *text, struct ballast_demand *out);

/**
 * ballast_format_bytes() - write an amount for people
 * @bytes: the amount.
 * @buf: receives it: "4 GiB", "1.5 GiB", or, when two decimals do not tell
 *     all, "1.37 GiB (1471026300 bytes)".
 * @len: room in @buf, in bytes; 64 is enough.
 *
 * Return: as snprintf().
 */
int ballast_format_bytes(uint64_t bytes, char *buf, size_t len);

/**
 * ballast_reason_name() - a reason as one word, for machines
 * @reason: any value.
 *
 * Return: a constant such as "short-node"; "unknown" for no known reason.
 */
const char *ballast_reason_name(enum ballast_reason reason);

/**
 * ballast_refusal_text() - a refusal in one line, for people
 * @why: filled in by a call that failed.
 * @buf: receives the line, without a newline, cut if need be; may be NULL
 *     when @len is 0.
 * @len: room in @buf, in bytes.
 *
 * Return: the length of the whole line, without the final zero.
 */
size_t ballast_refusal_text(const struct ballast_refusal *why,
                            char *buf, size_t len);

#endif
