/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the files about placement only. */
#ifndef BALLAST_PLACEMENT_MAP_H
#define BALLAST_PLACEMENT_MAP_H

#include "hw/virtio/ballast/placement.h"

/** BALLAST_NO_VNODE - memory of no guest node */
#define BALLAST_NO_VNODE UINT32_MAX

/** BALLAST_NO_ADDRESS - memory that is not mapped in guest-physical space */
#define BALLAST_NO_ADDRESS UINT64_MAX

/**
 * struct BallastPlace - a memory backend as it was when the map was made
 * @id: id of the RAM block
 * @memdev: QOM path
 * @device: id of the memory device, or NULL
 * @policy: name of the policy
 * @host_nodes: nodes of the policy
 * @host: first byte
 * @bytes: length
 * @page_bytes: host page size
 */
typedef struct BallastPlace {
    char *id;
    char *memdev;
    char *device;
    const char *policy;
    DECLARE_BITMAP(host_nodes, MAX_NODES);
    uint8_t *host;
    uint64_t bytes;
    uint64_t page_bytes;
} BallastPlace;

/**
 * struct BallastPart - a part of one: one stretch of guest-physical memory
 * @place: index of the backend
 * @offset: where it begins there
 * @bytes: length
 * @address: guest-physical, or BALLAST_NO_ADDRESS
 * @vnode: guest node, or BALLAST_NO_VNODE
 * @sample: what was found
 */
typedef struct BallastPart {
    unsigned place;
    uint64_t offset;
    uint64_t bytes;
    uint64_t address;
    uint32_t vnode;
    BallastSample sample;
} BallastPart;

/**
 * struct BallastMap - all of guest memory, cut
 * @places: array of BallastPlace
 * @parts: array of BallastPart; those of a backend together, ascending
 * @nr_vnodes: guest nodes
 * @bytes: of all backends
 * @method: how was looked
 */
typedef struct BallastMap {
    GArray *places;
    GArray *parts;
    uint32_t nr_vnodes;
    uint64_t bytes;
    MemoryPlacementMethod method;
} BallastMap;

static inline BallastPlace *ballast_map_place(const BallastMap *map,
                                              unsigned i)
{
    return &g_array_index(map->places, BallastPlace, i);
}

static inline BallastPart *ballast_map_part(const BallastMap *map, unsigned i)
{
    return &g_array_index(map->parts, BallastPart, i);
}

/**
 * ballast_map_new() - a map of guest memory as it is now
 *
 * Context: big lock, RCU read side.
 */
BallastMap *ballast_map_new(void);

/** ballast_map_free() - free it */
void ballast_map_free(BallastMap *map);

/** ballast_refused() - would numa_maps be allowed where this error came? */
bool ballast_refused(int err);

/**
 * ballast_map_numa_maps() - look at all parts by numa_maps
 * @map: what was found before is forgotten
 *
 * Sets @map->method.
 */
void ballast_map_numa_maps(BallastMap *map);

/**
 * ballast_map_answer() - say what was found
 * @map: the map
 * @exact: counts of samples are bytes
 *
 * Return: owned by the caller; state, looked-at and elapsed-us are not set.
 */
MemoryPlacement *ballast_map_answer(const BallastMap *map, bool exact);

#endif
