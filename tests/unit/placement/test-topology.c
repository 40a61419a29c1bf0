/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The three cases of seed 002, and what is none of them. */
#include <string.h>

#include "check.h"
#include "hw/virtio/ballast/topology.h"

#define NODES 4
#define NONE BALLAST_TOPOLOGY_NONE
#define ONE BALLAST_TOPOLOGY_ONE_TO_ONE
#define SHARED BALLAST_TOPOLOGY_MANY_TO_ONE
#define SPLIT BALLAST_TOPOLOGY_ONE_TO_MANY

static const struct {
    const char *what;
    unsigned nr;
    uint64_t on[NODES][NODES];
    enum ballast_topology is;
} cases[] = {
    { "no guest node", 0, { { 0 } }, NONE },
    { "guest nodes without memory", 3, { { 0 } }, NONE },
    { "one guest node on one host node", 1, { { 0, 7 } }, ONE },
    { "each on its own", 3, { { 0, 1 }, { 9 }, { 0, 0, 5 } }, ONE },
    { "one of them without memory", 3, { { 0, 1 }, { 0 }, { 3 } }, ONE },
    { "two on the same", 3, { { 0, 1 }, { 5 }, { 0, 8 } }, SHARED },
    { "all on the same", 3, { { 4 }, { 5 }, { 6 } }, SHARED },
    { "the example of the seed", 4,
      { { 0, 1 }, { 0, 0, 0, 1 }, { 0, 0, 0, 1 }, { 1 } }, SHARED },
    { "one guest node on two host nodes", 1, { { 1, 1 } }, SPLIT },
    { "one page is enough", 2, { { 1 << 30, 4096 }, { 0, 0, 1 } }, SPLIT },
    { "shared and split", 3, { { 1 }, { 1 }, { 1, 1 } }, SPLIT },
};

int main(void)
{
    uint64_t bytes[NODES][BALLAST_SAMPLE_NODES];
    size_t i, v;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(bytes, 0, sizeof(bytes));
        for (v = 0; v < NODES; v++) {
            memcpy(bytes[v], cases[i].on[v], sizeof(cases[i].on[v]));
        }
        check(ballast_topology(bytes, cases[i].nr) == cases[i].is,
              cases[i].what);
    }
    memset(bytes, 0, sizeof(bytes));
    bytes[0][0] = bytes[0][BALLAST_SAMPLE_NODES - 1] = 1;
    check(ballast_topology(bytes, 1) == SPLIT, "the last host node counts");
    return check_end();
}
