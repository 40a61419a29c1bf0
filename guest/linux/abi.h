/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What Ballast adds to the virtio memory balloon: docs/spec has the text.
 *
 * Feature bit 50 adds config space after the fields of the virtio
 * specification, and changes what a buffer of the inflate and deflate queues
 * holds: le64 entries, each a block of memory.
 */

#ifndef BALLAST_BALLOON_ABI_H
#define BALLAST_BALLOON_ABI_H

#include <linux/types.h>

/* Needs VIRTIO_F_VERSION_1. */
#define VIRTIO_BALLOON_F_BALLAST_NODES	50

#define BALLAST_BALLOON_FORMAT		0x31444e42	/* "BND1" */
#define BALLAST_BALLOON_NODES		16

/* node[].target_pages: the node has no target of its own. */
#define BALLAST_BALLOON_NO_TARGET	0xffffffff

/* done_status */
#define BALLAST_BALLOON_REACHED		0
#define BALLAST_BALLOON_SHORT		1

/* An entry is a guest-physical address of a block, or'ed with its order. */
#define BALLAST_BALLOON_MAX_ENTRIES	2048
#define BALLAST_BALLOON_MAX_ORDER	18

/**
 * struct ballast_balloon_node - one node of the guest, as the device sees it
 * @proximity: ACPI proximity domain; the device writes it
 * @target_pages: 4K pages of this node that shall be in the balloon, or
 *	BALLAST_BALLOON_NO_TARGET; the device writes it
 * @actual_pages: 4K pages of this node that are in the balloon; the driver
 *	writes it
 */
struct ballast_balloon_node {
	__le32 proximity;
	__le32 target_pages;
	__le32 actual_pages;
};

/**
 * struct ballast_balloon_config - the config space with the feature bit
 * @num_pages: 4K pages that shall be in the balloon, over all nodes
 * @actual: 4K pages that are in the balloon; the driver writes it
 * @free_page_hint_cmd_id: see the virtio specification
 * @poison_val: see the virtio specification
 * @format: BALLAST_BALLOON_FORMAT
 * @num_nodes: entries of @node in use
 * @seq: changes with every request
 * @exact_mask: bit i: the target of @node[i] is met from that node or not at all
 * @block_pages: block that is worth most to the host, in 4K pages
 * @done_seq: the @seq the driver has done all it can for; the driver writes it
 * @done_status: BALLAST_BALLOON_REACHED or _SHORT; the driver writes it
 * @node: the nodes
 */
struct ballast_balloon_config {
	__le32 num_pages;
	__le32 actual;
	__le32 free_page_hint_cmd_id;
	__le32 poison_val;
	__le32 format;
	__le32 num_nodes;
	__le32 seq;
	__le32 exact_mask;
	__le32 block_pages;
	__le32 done_seq;
	__le32 done_status;
	struct ballast_balloon_node node[BALLAST_BALLOON_NODES];
};

#endif /* BALLAST_BALLOON_ABI_H */
