/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How guest nodes and host nodes belong together: the three cases of seed
 * 002 ("Limitations").  Without QEMU.
 */
#ifndef BALLAST_TOPOLOGY_H
#define BALLAST_TOPOLOGY_H

#include <stddef.h>
#include <stdint.h>

#include "hw/virtio/ballast/pagenode.h"

/** enum ballast_topology - a case; guest nodes without memory do not count */
enum ballast_topology {
    /** @BALLAST_TOPOLOGY_NONE: no guest memory is on any node */
    BALLAST_TOPOLOGY_NONE,
    /** @BALLAST_TOPOLOGY_ONE_TO_ONE: each guest node has a host node alone */
    BALLAST_TOPOLOGY_ONE_TO_ONE,
    /**
     * @BALLAST_TOPOLOGY_MANY_TO_ONE: each guest node is on one host node,
     * and some share one
     */
    BALLAST_TOPOLOGY_MANY_TO_ONE,
    /**
     * @BALLAST_TOPOLOGY_ONE_TO_MANY: some guest node is on several host
     * nodes: memory of a guest node need not be of the wanted host node
     */
    BALLAST_TOPOLOGY_ONE_TO_MANY,
};

/**
 * ballast_topology() - which of them it is
 * @bytes: for each guest node, bytes on each host node
 * @nr: guest nodes
 */
enum ballast_topology
ballast_topology(const uint64_t (*bytes)[BALLAST_SAMPLE_NODES], size_t nr);

#endif
