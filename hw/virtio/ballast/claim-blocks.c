/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which blocks of memory the claim is for, and which line pays for each: found
 * once the machine is made, or told by the backends that stake by themselves.
 */
#include "qemu/osdep.h"
#include "ballast/admin.h"
#include "claim-internal.h"
#include "qapi/error.h"
#include "qemu/rcu_queue.h"
#include "system/system.h"

static ClaimBlock *block_find(const RAMBlock *rb)
{
    unsigned i;

    for (i = 0; claim->blocks && i < claim->blocks->len; i++) {
        ClaimBlock *block = &g_array_index(claim->blocks, ClaimBlock, i);

        if (block->rb == rb) {
            return block;
        }
    }
    return NULL;
}

/* Which line would pay for it, by where its backend's pages can be? */
static uint32_t line_of_backend(RAMBlock *rb)
{
    Object *owner = rb->mr ? memory_region_owner(rb->mr) : NULL;
    uint64_t page_bytes = rb->page_size;
    uint32_t node, any = BALLAST_NO_LINE;
    unsigned i;

    if (!owner || !object_dynamic_cast(owner, TYPE_MEMORY_BACKEND)) {
        return BALLAST_NO_LINE;
    }
    node = ballast_bound_node(MEMORY_BACKEND(owner));
    for (i = 0; i < claim->nr_lines; i++) {
        if (claim->lines[i].page_bytes != page_bytes) {
            continue;
        }
        if (claim->lines[i].node == node) {
            return i;
        }
        if (claim->lines[i].node == BALLAST_NODE_ANY ||
            any == BALLAST_NO_LINE) {
            any = i;
        }
    }
    return any;
}

uint32_t ballast_claim_line(RAMBlock *rb)
{
    ClaimBlock *block;

    if (!claim->ledger) {
        return BALLAST_NO_LINE;
    }
    if (!claim->blocks) {
        return line_of_backend(rb);
    }
    block = block_find(rb);
    return block ? block->line : BALLAST_NO_LINE;
}

static void find_blocks(void)
{
    GArray *blocks = g_array_new(false, false, sizeof(ClaimBlock));
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    QLIST_FOREACH_RCU(rb, &ram_list.blocks, next) {
        ClaimBlock block = {
            .rb = rb,
            .line = line_of_backend(rb),
            .bytes = claim->auto_lines ? rb->used_length : 0,
        };

        if (block.line != BALLAST_NO_LINE) {
            g_array_append_val(blocks, block);
        }
    }
    claim->blocks = blocks;
}

static void machine_made(Notifier *n, void *unused)
{
    if (!claim->by_backend) {
        find_blocks();
    }
    /* QEMU has installed its own handler of SIGBUS since the ledger's open. */
    ballast_guard_rearm();
}

/* Unplugged: no promise is needed any more; a sample will ask for less. */
static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    ClaimLine *line;
    unsigned i;

    for (i = 0; claim->blocks && i < claim->blocks->len; i++) {
        ClaimBlock *block = &g_array_index(claim->blocks, ClaimBlock, i);

        if (block->rb->host == host) {
            line = &claim->lines[block->line];
            line->base_bytes -= MIN(block->bytes, line->base_bytes);
            if (line->moved_out_bytes > line->base_bytes) {
                ballast_move_back(line, line->moved_out_bytes -
                                  line->base_bytes);
            }
            g_array_remove_index_fast(claim->blocks, i);
            ballast_sample_soon();
            return;
        }
    }
}

void ballast_follow_blocks(void)
{
    claim->machine_done.notify = machine_made;
    qemu_add_machine_init_done_notifier(&claim->machine_done);
    claim->block_notifier.ram_block_removed = block_removed;
    ram_block_notifier_add(&claim->block_notifier);
}

/* Parts: what backends stake by themselves ---------------------------- */

bool ballast_claim_start_empty(const BallastClaimOptions *o, Error **errp)
{
    if (!ballast_claim_open(o, errp)) {
        return false;
    }
    if (claim->ledger) {
        claim->auto_lines = claim->by_backend = true;
        claim->blocks = g_array_new(false, false, sizeof(ClaimBlock));
        ballast_claim_run();
    }
    return true;
}

bool ballast_claim_by_backend(void)
{
    return claim->by_backend;
}

static void parts_undo(const BallastPart *parts, unsigned nr)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        ballast_line_get(parts[i].node, parts[i].page_bytes)->base_bytes -=
            parts[i].bytes;
    }
}

static bool parts_add(const BallastPart *parts, unsigned nr, Error **errp)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        if (!ballast_line_add(parts[i].node, parts[i].page_bytes,
                              parts[i].bytes, errp)) {
            parts_undo(parts, i);
            return false;
        }
    }
    return true;
}

bool ballast_claim_grow(const BallastPart *parts, unsigned nr, Error **errp)
{
    struct ballast_refusal why;
    g_autofree char *words = NULL;

    if (!parts_add(parts, nr, errp)) {
        return false;
    }
    if (ballast_claim_ask(ASK_NOW, &why) == 0 ||
        why.reason == BALLAST_BELOW_RESIDENT) {
        return true;
    }
    parts_undo(parts, nr);
    ballast_count_refusal(&why);
    words = ballast_refusal_words(&why);
    error_setg(errp, "%s", words);
    return false;
}

void ballast_claim_shrink(const BallastPart *part)
{
    ClaimLine *line = ballast_line_get(part->node, part->page_bytes);

    line->base_bytes -= MIN(part->bytes, line->base_bytes);
    ballast_sample_soon();
}

void ballast_claim_attach(RAMBlock *rb, const BallastPart *part)
{
    ClaimBlock block = {
        .rb = rb,
        .line = ballast_line_get(part->node, part->page_bytes) - claim->lines,
        .bytes = part->bytes,
    };

    g_array_append_val(claim->blocks, block);
    ballast_sample_soon();
}

static BallastPart block_part(const ClaimBlock *block, uint64_t bytes)
{
    return (BallastPart) {
        .node = claim->lines[block->line].node,
        .page_bytes = claim->lines[block->line].page_bytes,
        .bytes = bytes,
    };
}

bool ballast_claim_raise_block(const RAMBlock *rb, uint64_t bytes,
                               Error **errp)
{
    ClaimBlock *block = block_find(rb);
    BallastPart part;

    if (!block || bytes <= block->bytes) {
        return true;
    }
    part = block_part(block, bytes - block->bytes);
    if (!ballast_claim_grow(&part, 1, errp)) {
        return false;
    }
    block->bytes = bytes;
    return true;
}

void ballast_claim_follow_block(const RAMBlock *rb, uint64_t bytes)
{
    ClaimBlock *block = block_find(rb);

    if (block && block->bytes != bytes) {
        claim->lines[block->line].base_bytes += bytes - block->bytes;
        block->bytes = bytes;
        ballast_pursue_soon();
    }
}
