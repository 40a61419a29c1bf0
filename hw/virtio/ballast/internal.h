/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the files of hw/virtio/ballast only.  Context: the big lock. */
#ifndef BALLAST_INTERNAL_H
#define BALLAST_INTERNAL_H

#include "hw/virtio/ballast/balloon.h"

#define BALLAST_PAGE_BYTES (1ULL << VIRTIO_BALLOON_PFN_SHIFT)

/*
 * A list of page frame numbers has no upper bound in the specification.
 * Linux sends 256, Windows 1,024.  A longer list than this is refused as a
 * whole (the device asks for a reset): cutting it would let pages out of the
 * balloon that nobody claimed.
 */
#define BALLAST_MAX_PFNS 16384

/* Pages, or buffers of a few ranges, that one run of a handler takes. */
#define BALLAST_RUN_PAGES 16384
#define BALLAST_RUN_BUFFERS 64

/**
 * struct BallastRange - guest pages that a buffer names
 * @pfn: first, 4K
 * @nr: how many, at least one
 */
typedef struct BallastRange {
    uint64_t pfn;
    uint64_t nr;
} BallastRange;

/**
 * ballast_read_ranges() - what a balloon buffer names
 * @b: device
 * @elem: buffer: page numbers, or blocks where the driver negotiated them
 *
 * What is no block, and a torn last entry, is counted as bad.
 *
 * Return: array of BallastRange, ascending, owned by the caller; or NULL for
 * a list that is too long.
 */
GArray *ballast_read_ranges(BallastBalloon *b, VirtQueueElement *elem);

/**
 * struct BallastPiece - adjacent pages of one block and one guest node
 * @block: the block's state
 * @page: first 4K page within the block
 * @nr: how many
 * @entry: the guest node, as index in BallastNodes.node
 */
typedef struct BallastPiece {
    BallastBlock *block;
    uint64_t page;
    uint64_t nr;
    uint32_t entry;
} BallastPiece;

/**
 * struct BallastCursor - a walk over guest pages, ascending
 * @section: where it is; .mr is referenced, or NULL
 */
typedef struct BallastCursor {
    MemoryRegionSection section;
} BallastCursor;

/**
 * ballast_cursor_take() - the next piece of a range
 * @b: device
 * @c: cursor, zeroed before its first use
 * @range: shortened by the piece
 * @piece: out
 *
 * The range ends where there is no guest RAM that the guest may give away
 * (nothing there, ROM, a device, unaligned); this is counted as bad.
 *
 * Return: true if there is a piece, false at the end.
 */
bool ballast_cursor_take(BallastBalloon *b, BallastCursor *c,
                         BallastRange *range, BallastPiece *piece);

/** ballast_cursor_end() - let go of the last region */
void ballast_cursor_end(BallastCursor *c);

/**
 * ballast_reject() - a buffer that breaks the rules: the device wants a reset
 * @b: device
 * @vq: its queue
 * @elem: the buffer; freed
 */
void ballast_reject(BallastBalloon *b, VirtQueue *vq, VirtQueueElement *elem);

/** ballast_block() - state of a block, made on first use */
BallastBlock *ballast_block(BallastBalloon *b, RAMBlock *rb);

/** ballast_block_host_pages() - host pages of a block, the last may be cut */
static inline uint64_t ballast_block_host_pages(const BallastBlock *block)
{
    return DIV_ROUND_UP(block->pages, block->per_host_page);
}

/** ballast_block_part() - guest node of a 4K page, and where its part ends */
const BallastVnodePart *ballast_block_part(const BallastBlock *block,
                                           uint64_t page);

/**
 * ballast_block_next() - the next run of ballooned pages, of any guest node
 * @block: a block
 * @first: out: first 4K page of the run
 * @end: where to look from on, 0 at first; out: 4K page behind the run
 *
 * Return: true if there is one, false at the end of the block.
 */
bool ballast_block_next(const BallastBlock *block, uint64_t *first,
                        uint64_t *end);

/** ballast_block_uncount() - no page of a block is in the balloon any more */
void ballast_block_uncount(BallastBalloon *b, const BallastBlock *block);

/**
 * ballast_ranges_weight() - work that a buffer makes, in single pages
 * @ranges: as it was read
 */
uint64_t ballast_ranges_weight(const GArray *ranges);

/**
 * struct BallastRun - adjacent host pages to discard, of one guest node
 * @block: the block's state
 * @entry: the guest node, as index in BallastNodes.node
 * @first: first host page
 * @nr: how many
 * @gone: they were discarded
 */
typedef struct BallastRun {
    BallastBlock *block;
    uint32_t entry;
    uint64_t first;
    uint64_t nr;
    bool gone;
} BallastRun;

/**
 * ballast_full_host_pages() - the host pages of a piece that are ballooned
 * @piece: all of it is in the balloon
 * @first: out: the first such host page
 *
 * Return: how many, from @first on.
 */
uint64_t ballast_full_host_pages(const BallastPiece *piece, uint64_t *first);

/** ballast_block_free() - free notify of BallastBalloon.blocks */
void ballast_block_free(gpointer block);

/** ballast_discard_inhibited() - must memory stay, whatever the guest says? */
bool ballast_discard_inhibited(void);

/**
 * ballast_discard() - give memory back to the host
 * @rb: block
 * @start: first byte in the block, a multiple of its page size
 * @bytes: length, a multiple of its page size
 *
 * A migration that is running sends zeros for it.
 *
 * Return: true if the pages are gone.
 */
bool ballast_discard(RAMBlock *rb, uint64_t start, uint64_t bytes);

/** ballast_handle_inflate() - queue handler */
void ballast_handle_inflate(VirtIODevice *vdev, VirtQueue *vq);

/**
 * ballast_discard_all() - discard all that is in the balloon: after loading
 * @b: device; nothing in it is given yet
 */
void ballast_discard_all(BallastBalloon *b);

/**
 * ballast_look() - where is what will be discarded?
 * @runs: array of BallastRun
 *
 * Return: for ballast_count_gone(), owned by the caller.
 */
GArray *ballast_look(GArray *runs);

/**
 * ballast_count_gone() - count what was discarded, by where it was
 * @b: device
 * @runs: array of BallastRun, after the attempt
 * @looked: from ballast_look()
 */
void ballast_count_gone(BallastBalloon *b, GArray *runs, GArray *looked);

/** ballast_count_unseen() - the same, where nobody looked */
void ballast_count_unseen(BallastBalloon *b, GArray *runs);

/** ballast_discard_kept() - discard what could not be discarded before */
void ballast_discard_kept(BallastBalloon *b);

/** ballast_handle_deflate() - queue handler */
void ballast_handle_deflate(VirtIODevice *vdev, VirtQueue *vq);

/** ballast_handle_report() - queue handler */
void ballast_handle_report(VirtIODevice *vdev, VirtQueue *vq);

/** ballast_gate_init() - before the queues exist */
void ballast_gate_init(BallastBalloon *b);

/** ballast_gate_drop() - forget the held buffer: reset, unrealize */
void ballast_gate_drop(BallastBalloon *b);

/** ballast_gate_pause() - put the held buffer back into the ring: VM stop */
void ballast_gate_pause(BallastBalloon *b);

/** ballast_gate_destroy() - at unrealize */
void ballast_gate_destroy(BallastBalloon *b);

/** ballast_balloon_void() - the guest forgot its balloon: device reset */
void ballast_balloon_void(BallastBalloon *b);

/**
 * ballast_block_gone() - a RAM block is unplugged with pages in the balloon
 * @b: device
 * @block: its state; the caller frees it
 */
void ballast_block_gone(BallastBalloon *b, BallastBlock *block);

/** ballast_hintq_init() - take over the hint queue; after the parent's realize */
void ballast_hintq_init(BallastBalloon *b);

/**
 * ballast_hint_ring_take() - plain hints off a split ring, and back to it
 * @vdev: device
 * @vq: its hint queue, ready
 * @hints: array of BallastHint, appended to
 * @most: at most so many
 *
 * Takes one descriptor after the other as long as each is a hint by itself:
 * one range of RAM that the device may write.  Their buffers are returned,
 * without a notification.  The next descriptor, if there is one, is for
 * virtqueue_pop().
 *
 * Context: big lock.
 * Return: how many; 0 also for a ring of another kind.
 */
unsigned ballast_hint_ring_take(VirtIODevice *vdev, VirtQueue *vq,
                                GArray *hints, unsigned most);

/** ballast_hintq_kick() - look at the ring again: VM start */
void ballast_hintq_kick(BallastBalloon *b);

/** ballast_hintq_reset() - drop what is pending */
void ballast_hintq_reset(BallastBalloon *b);

/** ballast_hintq_destroy() - before the parent's unrealize */
void ballast_hintq_destroy(BallastBalloon *b);

/**
 * ballast_take_over() - give a queue of the parent another handler
 * @vdev: device
 * @vq: queue; keeps its index and its address
 * @handler: new handler
 */
void ballast_take_over(VirtIODevice *vdev, VirtQueue *vq,
                       VirtIOHandleOutput handler);

/** ballast_nodes_on() - has the driver negotiated node ballooning? */
static inline bool ballast_nodes_on(BallastBalloon *b)
{
    return virtio_vdev_has_feature(VIRTIO_DEVICE(b),
                                   VIRTIO_BALLOON_F_BALLAST_NODES);
}

/** ballast_nodes_count() - guest nodes in the table, of this machine */
uint32_t ballast_nodes_count(void);

/** ballast_nodes_init() - at realize; guest nodes are known by then */
void ballast_nodes_init(BallastBalloon *b);

/**
 * ballast_nodes_offer() - offer node ballooning, if asked to
 * @b: device
 * @features: offered so far; the bit is added for modern drivers
 *
 * Context: when the device is plugged into its bus.
 */
void ballast_nodes_offer(BallastBalloon *b, uint64_t *features);

/** ballast_nodes_get_config() - behind the parent's fields */
void ballast_nodes_get_config(BallastBalloon *b, uint8_t *config);

/** ballast_nodes_set_config() - the driver wrote to configuration space */
void ballast_nodes_set_config(BallastBalloon *b, const uint8_t *config);

/** ballast_nodes_void() - no page is in the balloon any more */
void ballast_nodes_void(BallastBalloon *b);

/** ballast_nodes_reset() - withdraw all targets */
void ballast_nodes_reset(BallastBalloon *b);

/** ballast_nodes_withdraw() - no node has a target of its own */
void ballast_nodes_withdraw(BallastBalloon *b);

/**
 * ballast_nodes_publish() - tell the driver of a new set of targets
 * @b: device; targets and exact_mask are set
 * @num_pages: of this set
 */
void ballast_nodes_publish(BallastBalloon *b, uint32_t num_pages);

/** ballast_place_init() - at realize */
void ballast_place_init(BallastBalloon *b);

/** ballast_place_destroy() - at unrealize */
void ballast_place_destroy(BallastBalloon *b);

/**
 * ballast_place() - have the guest's pages where the request wants them
 * @b: device with a request
 * @piece: pages about to be given to the guest, not populated
 *
 * Return: true if a policy will; false if all that is possible is in use, or
 * another request's applies there.
 */
bool ballast_place(BallastBalloon *b, const BallastPiece *piece);

/**
 * ballast_place_drop() - give memory its old policy back
 * @b: device
 * @block: of this block; NULL: of all
 */
void ballast_place_drop(BallastBalloon *b, const BallastBlock *block);

/** ballast_placed_bytes() - memory under a policy of ours */
uint64_t ballast_placed_bytes(const BallastBalloon *b);

/** ballast_nodes_follow() - was the command "balloon" used meanwhile? */
void ballast_nodes_follow(BallastBalloon *b);

/** ballast_backend_is_bound() - can its memory be on this host node only? */
bool ballast_backend_is_bound(const MemoryPlacementBackend *backend,
                              uint32_t host_node);

/**
 * ballast_mems_find() - virtio-mem devices that may serve the request
 * @b: device with a request
 * @p: where memory is now
 */
void ballast_mems_find(BallastBalloon *b, const MemoryPlacement *p);

/** ballast_mems_free() - forget them */
void ballast_mems_free(BallastBalloon *b);

/**
 * ballast_mems_ask() - ask them for what is missing
 * @b: device with a request
 * @bytes: at most so much
 *
 * Return: true if there was one to ask; the request's @look follows.
 */
bool ballast_mems_ask(BallastBalloon *b, uint64_t bytes);

/** ballast_mems_busy() - are they at it still?  Looks again if so. */
bool ballast_mems_busy(BallastBalloon *b);

/** ballast_mems_stop() - what they have not done they need not do */
void ballast_mems_stop(BallastBalloon *b);

/** ballast_mems_moved_bytes() - what they have done */
uint64_t ballast_mems_moved_bytes(const BallastBalloon *b);

/** ballast_mems_each() - the same one by one, with their guest nodes */
void ballast_mems_each(const BallastBalloon *b,
                       void (*tell)(uint32_t vnode, uint64_t bytes,
                                    void *opaque), void *opaque);

/**
 * ballast_request_left_pages() - what of a request is still to come
 * @b: device with a request
 */
uint64_t ballast_request_left_pages(const BallastBalloon *b);

/**
 * ballast_request_tell() - what came of a request so far
 * @b: device with a request
 *
 * Return: owned by the caller.
 */
BalloonNodeRequest *ballast_request_tell(const BallastBalloon *b);

/**
 * ballast_request_ask_first() - publish the first targets of a request
 * @b: device with a request that is active
 *
 * Return: true if there was something to ask for.
 */
bool ballast_request_ask_first(BallastBalloon *b);

/** ballast_request_ask_next() - the same, after a round has ended */
bool ballast_request_ask_next(BallastBalloon *b);

/**
 * ballast_candidates_find() - guest nodes that can serve the request
 * @b: device; the request's @candidates, @pure, @bound and @can_pages, and its
 *     virtio-mem devices, are filled in
 */
void ballast_candidates_find(BallastBalloon *b);

/** ballast_candidates_any() - did they find anything? */
bool ballast_candidates_any(const BallastNodeRequest *r);

/** ballast_host_has_node() - a node number that a user gave */
bool ballast_host_has_node(uint32_t node);

/**
 * ballast_host_free_bytes() - free, or page cache: what a policy that binds
 * could still get
 * @node: host node
 *
 * Return: bytes; UINT64_MAX if the kernel does not tell.
 */
uint64_t ballast_host_free_bytes(uint32_t node);

/** ballast_node_device() - the device, or NULL */
BallastBalloon *ballast_node_device(void);

/** ballast_request_init() - at realize */
void ballast_request_init(BallastBalloon *b);

/** ballast_request_destroy() - at unrealize */
void ballast_request_destroy(BallastBalloon *b);

/**
 * ballast_request_end() - a request of balloon-node is over
 * @b: device; nothing happens if there is none
 * @status: how it ended
 */
void ballast_request_end(BallastBalloon *b, BalloonNodeStatus status);

/** ballast_request_left() - end, here, what another host was asked for */
void ballast_request_left(BallastBalloon *b);

/** ballast_request_step() - the driver wrote to configuration space */
void ballast_request_step(BallastBalloon *b);

/** ballast_vmsd() - the parent's device state plus the balloon's pages */
const VMStateDescription *ballast_vmsd(const VMStateDescription *parent);

#endif
