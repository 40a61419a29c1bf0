/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The three cases of seed 002. */
#include "hw/virtio/ballast/topology.h"

enum ballast_topology
ballast_topology(const uint64_t (*bytes)[BALLAST_SAMPLE_NODES], size_t nr)
{
    unsigned users[BALLAST_SAMPLE_NODES] = { 0 }, node, used;
    enum ballast_topology all = BALLAST_TOPOLOGY_NONE;
    size_t i;

    for (i = 0; i < nr; i++) {
        used = 0;
        for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
            used += bytes[i][node] > 0;
            users[node] += bytes[i][node] > 0;
        }
        if (used > 1) {
            return BALLAST_TOPOLOGY_ONE_TO_MANY;
        }
        all = used ? BALLAST_TOPOLOGY_ONE_TO_ONE : all;
    }
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        if (users[node] > 1) {
            return BALLAST_TOPOLOGY_MANY_TO_ONE;
        }
    }
    return all;
}
