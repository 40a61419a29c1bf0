/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The largest ledger: 64 nodes, 8 page sizes, 4096 standing claims, vm4095
 * with the largest.  $1 is its path.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ballast/admin.h"

#define NR_CLAIMS 4096

static void must(int err, const char *what, const struct ballast_refusal *why)
{
    char text[2048];

    if (err) {
        ballast_refusal_text(why, text, sizeof(text));
        fprintf(stderr, "%s: %s\n", what, text);
        exit(1);
    }
}

static void configure(struct ballast_config *c)
{
    uint32_t i, k;

    memset(c, 0, sizeof(*c));
    c->nr_nodes = BALLAST_MAX_NODES;
    c->nr_classes = BALLAST_MAX_CLASSES;
    c->admission = BALLAST_ADMIT_STATIC;
    c->mode = 0600;
    for (k = 0; k < c->nr_classes; k++) {
        c->page_bytes[k] = UINT64_C(4096) << (3 * k);
    }
    for (i = 0; i < c->nr_nodes; i++) {
        c->node_id[i] = i;
        for (k = 0; k < c->nr_classes; k++) {
            c->capacity_bytes[i][k] = BALLAST_MAX_BYTES;
        }
    }
}

int main(int argc, char **argv)
{
    static struct ballast_config config;
    struct ballast_refusal why;
    struct ballast_ledger *l;
    char name[16];
    uint32_t i;

    if (argc != 2) {
        return 2;
    }
    configure(&config);
    must(ballast_ledger_create(argv[1], &config, 0, &why), "create", &why);
    must(ballast_ledger_open(argv[1], &l, &why), "open", &why);
    for (i = 0; i < NR_CLAIMS; i++) {
        struct ballast_demand d = {
            .node = i % BALLAST_MAX_NODES,
            .page_bytes = config.page_bytes[i / 64 % BALLAST_MAX_CLASSES],
        };

        /* each larger than the one before, in whole pages of any size */
        d.bytes = (uint64_t)(i + 1) * config.page_bytes[7];
        snprintf(name, sizeof(name), "vm%" PRIu32, i);
        must(ballast_stand(l, name, &d, 1, 0, &why), name, &why);
    }
    ballast_ledger_close(l);
    return 0;
}
