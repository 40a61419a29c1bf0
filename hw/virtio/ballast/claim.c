/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The claim of this process: its participation in the host's ledger.
 *
 *   desired[line] = max(0, base[line] - given[line])   what it may have
 *   wanted[line]  = max(desired, resident), at most base
 *   granted[line]                                      what was agreed to
 *   deficit       = sum of max(0, wanted - granted)
 *
 * A deficit exists only after the guest took memory that the ledger had
 * refused (which the device allows where the user said so, and at a reset)
 * or used, without a word, what it had given back.  It is pursued: asked for
 * again until the ledger grants it.
 *
 * Every two seconds, sooner when the balloon moved, a sample of the guest's
 * pages tells the ledger what is really resident (about half a millisecond:
 * less than 0.03 % of a core at any guest size).
 *
 * Everything here runs under the big lock.  The ledger's own lock is taken
 * inside its calls and never held across anything of QEMU's.  A daemon that is
 * silent, or gone, costs a tenth of a second in each second at most; what was
 * granted last counts meanwhile, a raise is refused, and the next sample
 * brings the claim to where it should be.
 *
 * Here: the lines, and the talk with the ledger.  claim-stake.c makes the
 * claim, claim-blocks.c knows the memory it is for, claim-follow.c follows the
 * balloon, claim-resident.c samples.
 */
#include "qemu/osdep.h"
#include "ballast/admin.h"
#include "ballast/ledger.h"
#include "claim-internal.h"
#include "hw/virtio/ballast/claim.h"
#include "hw/virtio/ballast/compat.h"
#include "migration/ballast/binding.h"
#include "qapi/error.h"
#include "trace-hw_virtio_ballast.h"

ClaimState ballast_claim_state;

uint32_t ballast_claim_slot(void)
{
    return claim->ledger ? claim->slot : UINT32_MAX;
}

/* Lines --------------------------------------------------------------- */

ClaimLine *ballast_line_get(uint32_t node, uint64_t page_bytes)
{
    ClaimLine *line;
    unsigned i;

    for (i = 0; i < claim->nr_lines; i++) {
        line = &claim->lines[i];
        if (line->node == node && line->page_bytes == page_bytes) {
            return line;
        }
    }
    if (claim->nr_lines == BALLAST_MAX_LINES) {
        return NULL;
    }
    line = &claim->lines[claim->nr_lines++];
    *line = (ClaimLine) { .node = node, .page_bytes = page_bytes };
    return line;
}

bool ballast_line_add(uint32_t node, uint64_t page_bytes, uint64_t bytes,
                      Error **errp)
{
    ClaimLine *line = ballast_line_get(node, page_bytes);

    if (!line) {
        error_setg(errp, "more than %d kinds of memory (node and page size)",
                   BALLAST_MAX_LINES);
        return false;
    }
    line->base_bytes += bytes;
    return true;
}

uint32_t ballast_bound_node(const HostMemoryBackend *backend)
{
    unsigned long node = find_first_bit(backend->host_nodes, MAX_NODES);

    if (backend->policy != HOST_MEM_POLICY_BIND || node >= MAX_NODES ||
        find_next_bit(backend->host_nodes, MAX_NODES, node + 1) < MAX_NODES) {
        return BALLAST_NODE_ANY;
    }
    return node;
}

uint64_t ballast_line_desired(const ClaimLine *line)
{
    uint64_t bytes = line->base_bytes - MIN(line->base_bytes,
                                            line->given_bytes);

    return bytes - MIN(bytes, line->moved_out_bytes) + line->moved_in_bytes;
}

uint64_t ballast_line_resident(const ClaimLine *line)
{
    uint64_t bytes = 0;
    unsigned node;

    for (node = 0; node < BALLAST_MAX_NODES; node++) {
        bytes += line->resident_bytes[node];
    }
    return bytes;
}

/*
 * What to ask for: pages that the guest uses although it gave them back
 * need their promise again, whatever it says.
 */
static uint64_t wanted_bytes(const ClaimLine *line)
{
    return MIN(line->base_bytes + line->moved_in_bytes,
               MAX(ballast_line_desired(line), ballast_line_resident(line)));
}

/* What the guest may use, or uses, without a promise. */
uint64_t ballast_line_deficit(const ClaimLine *line)
{
    uint64_t wanted = wanted_bytes(line);

    return wanted - MIN(wanted, line->granted_bytes);
}

uint64_t ballast_line_granted(const ClaimLine *line)
{
    return line->granted_bytes;
}

static uint64_t line_given_bytes(const ClaimLine *line)
{
    return line->given_bytes;
}

uint64_t ballast_line_sum(uint64_t (*of_line)(const ClaimLine *))
{
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < claim->nr_lines; i++) {
        bytes += of_line(&claim->lines[i]);
    }
    return bytes;
}

bool ballast_claim_settled(void)
{
    unsigned i;

    for (i = 0; i < claim->nr_lines; i++) {
        if (wanted_bytes(&claim->lines[i]) != claim->lines[i].granted_bytes) {
            return false;
        }
    }
    return true;
}

/* Talking to the ledger ----------------------------------------------- */

char *ballast_refusal_words(const struct ballast_refusal *why)
{
    char words[1024];

    ballast_refusal_text(why, words, sizeof(words));
    return g_strdup(words);
}

static void make_demands(struct ballast_demand *set, Ask ask)
{
    unsigned i;

    for (i = 0; i < claim->nr_lines; i++) {
        ClaimLine *line = &claim->lines[i];
        uint64_t wanted = wanted_bytes(line);

        set[i] = (struct ballast_demand) {
            .node = line->node,
            .page_bytes = line->page_bytes,
            .bytes = ask == ASK_LESS ? MIN(wanted, line->granted_bytes) :
                     wanted,
        };
    }
}

/* Ask for what is wanted.  0, or -errno with @why filled in. */
int ballast_claim_ask(Ask ask, struct ballast_refusal *why)
{
    struct ballast_demand set[BALLAST_MAX_LINES];
    unsigned i;
    int ret;

    make_demands(set, ask);
    if (ask == ASK_IN_LINE) {
        ret = ballast_queue(claim->ledger, set, claim->nr_lines,
                            BALLAST_WAIT_FOREVER, why);
    } else {
        ret = ballast_claim(claim->ledger, set, claim->nr_lines, why);
    }
    claim->in_line = ret == -EINPROGRESS;
    for (i = 0; ret == 0 && i < claim->nr_lines; i++) {
        claim->lines[i].granted_bytes = set[i].bytes;
    }
    if (ret == 0) {
        trace_ballast_claim_changed(ballast_claim_slot(),
                                    ballast_line_sum(ballast_line_granted),
                                    ballast_line_sum(line_given_bytes));
    }
    return ret;
}

void ballast_count_refusal(const struct ballast_refusal *why)
{
    g_autofree char *words = ballast_refusal_words(why);

    claim->refused++;
    trace_ballast_claim_refused(ballast_claim_slot(), why->missing_bytes,
                                words);
}

/* QMP ----------------------------------------------------------------- */

static MemoryLedgerDemandList *info_lines(void)
{
    MemoryLedgerDemandList *list = NULL, **tail = &list;
    unsigned i;

    for (i = 0; i < claim->nr_lines; i++) {
        const ClaimLine *line = &claim->lines[i];
        MemoryLedgerDemand *d = g_new0(MemoryLedgerDemand, 1);

        d->has_node = line->node != BALLAST_NODE_ANY;
        d->node = d->has_node ? line->node : 0;
        d->page_size = line->page_bytes;
        d->claimed = ballast_line_desired(line);
        d->given_back = line->given_bytes;
        QAPI_LIST_APPEND(tail, d);
    }
    return list;
}

MemoryLedgerInfo *ballast_claim_info(Error **errp)
{
    MemoryLedgerInfo *info;

    if (!claim->ledger) {
        error_setg(errp, "this QEMU has no memory ledger (give one with %s, "
                   "or start it with 'ballast run')", ballast_in_qemu ?
                   "-object memory-ledger,id=ID,path=PATH" :
                   "-plugin ballast-qemu.so,ledger=PATH");
        return NULL;
    }
    info = g_new0(MemoryLedgerInfo, 1);
    info->path = g_strdup(claim->path);
    info->name = g_strdup(claim->name);
    info->slot = ballast_claim_slot();
    info->inherited = claim->inherited;
    info->claims = info_lines();
    info->resident = ballast_line_sum(ballast_line_resident);
    info->freeable = MIN(claim->freeable_bytes, info->resident);
    info->deficit = ballast_line_sum(ballast_line_deficit);
    info->refused = claim->refused;
    return info;
}
