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
 * ballast_read_pfns() - the page list of a balloon buffer
 * @b: device
 * @elem: buffer
 *
 * A torn last number is counted as bad.
 *
 * Return: array of uint32_t, ascending, owned by the caller; or NULL for a
 * list of more than BALLAST_MAX_PFNS.
 */
GArray *ballast_read_pfns(BallastBalloon *b, VirtQueueElement *elem);

/**
 * struct BallastCursor - a walk over guest pages, ascending
 * @section: where it is; .mr is referenced, or NULL
 */
typedef struct BallastCursor {
    MemoryRegionSection section;
} BallastCursor;

/**
 * ballast_cursor_find() - which block holds a guest page?
 * @b: device
 * @c: cursor, zeroed before its first use
 * @pfn: guest frame, 4K
 * @page: out: the 4K page within the block
 *
 * Return: the block's state, or NULL if the page is not guest RAM that the
 * guest may give away (nothing there, ROM, a device, unaligned).
 */
BallastBlock *ballast_cursor_find(BallastBalloon *b, BallastCursor *c,
                                  uint32_t pfn, uint64_t *page);

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

/**
 * ballast_host_page_full() - is the whole host page of a page ballooned?
 * @block: a block
 * @page: a 4K page of it
 */
bool ballast_host_page_full(const BallastBlock *block, uint64_t page);

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

/** ballast_vmsd() - the parent's device state plus the balloon's pages */
const VMStateDescription *ballast_vmsd(const VMStateDescription *parent);

#endif
