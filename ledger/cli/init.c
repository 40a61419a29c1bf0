/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast init: a ledger for this host, or for the capacities given.
 *
 * With --capacity only what is given exists: nodes and page sizes that are
 * not named are not in the ledger.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "json.h"

/* BALLAST_NODE_ANY: every node that has none of its own. */
struct factor {
    uint32_t node;
    uint32_t percent;
};

struct init {
    struct ballast_config config;
    struct ballast_demand given[BALLAST_MAX_DEMANDS];
    size_t nr_given;
    uint64_t reserve_bytes;
    bool reserve_given;
    struct factor factors[BALLAST_MAX_NODES + 1];
    size_t nr_factors;
    unsigned flags;
};

static uint32_t add_node(struct ballast_config *c, uint32_t node)
{
    uint32_t i, at;

    for (at = 0; at < c->nr_nodes && c->node_id[at] < node; at++) {
    }
    if (at < c->nr_nodes && c->node_id[at] == node) {
        return at;
    }
    if (c->nr_nodes == BALLAST_MAX_NODES) {
        return BALLAST_MAX_NODES;
    }
    for (i = c->nr_nodes++; i > at; i--) {
        c->node_id[i] = c->node_id[i - 1];
        memcpy(c->capacity_bytes[i], c->capacity_bytes[i - 1],
               sizeof(c->capacity_bytes[i]));
    }
    c->node_id[at] = node;
    memset(c->capacity_bytes[at], 0, sizeof(c->capacity_bytes[at]));
    return at;
}

static uint32_t add_page_size(struct ballast_config *c, uint64_t page_bytes)
{
    uint32_t i;

    for (i = 0; i < c->nr_classes; i++) {
        if (c->page_bytes[i] == page_bytes) {
            return i;
        }
    }
    if (i < BALLAST_MAX_CLASSES) {
        c->page_bytes[c->nr_classes++] = page_bytes;
    }
    return i;
}

static int use_given(struct init *in)
{
    struct ballast_config *c = &in->config;
    uint64_t base = (uint64_t)sysconf(_SC_PAGESIZE);
    size_t i;

    c->nr_nodes = c->nr_classes = 0;
    add_page_size(c, base);
    for (i = 0; i < in->nr_given; i++) {
        const struct ballast_demand *d = &in->given[i];
        uint32_t node = d->node == BALLAST_NODE_ANY ? 0 : d->node;
        uint32_t row = add_node(c, node);
        uint32_t class = add_page_size(c, d->page_bytes ? d->page_bytes :
                                       base);

        if (row == BALLAST_MAX_NODES || class == BALLAST_MAX_CLASSES) {
            return usage_error("--capacity: at most %d nodes and %d page "
                               "sizes are allowed", BALLAST_MAX_NODES,
                               BALLAST_MAX_CLASSES);
        }
        if (c->capacity_bytes[row][class]) {
            return usage_error("--capacity for node %" PRIu32 " and pages of "
                               "%" PRIu64 " bytes is given twice", node,
                               c->page_bytes[class]);
        }
        c->capacity_bytes[row][class] = d->bytes;
    }
    return EXIT_OK;
}

/* NODE=PERCENT, or PERCENT. */
static int parse_factor(struct init *in, const char *text)
{
    struct factor *f = &in->factors[in->nr_factors];
    const char *percent = strchr(text, '=');
    unsigned long node = BALLAST_NODE_ANY, n;
    char word[16];
    int status;

    if (in->nr_factors == BALLAST_MAX_NODES + 1) {
        return usage_error("--overcommit is given too often");
    }
    if (percent) {
        snprintf(word, sizeof(word), "%.*s", (int)(percent - text), text);
        status = parse_number("--overcommit, node", word, 0,
                              BALLAST_NODE_ANY - 1, &node);
        if (status) {
            return status;
        }
    }
    status = parse_number("--overcommit, percent",
                          percent ? percent + 1 : text, 1, 1000, &n);
    f->node = (uint32_t)node;
    f->percent = (uint32_t)n;
    in->nr_factors++;
    return status;
}

static int use_factor(struct ballast_config *c, const struct factor *f)
{
    bool used = false;
    uint32_t i;

    for (i = 0; i < c->nr_nodes; i++) {
        if (f->node == BALLAST_NODE_ANY ? !c->overcommit_percent[i] :
            c->node_id[i] == f->node) {
            c->overcommit_percent[i] = f->percent;
            used = true;
        }
    }
    return used || f->node == BALLAST_NODE_ANY ? EXIT_OK :
           usage_error("--overcommit: there is no node %" PRIu32, f->node);
}

/* Those with a node first. */
static int use_factors(struct init *in)
{
    int pass, status = EXIT_OK;
    size_t i;

    for (pass = 0; pass < 2; pass++) {
        for (i = 0; !status && i < in->nr_factors; i++) {
            if ((in->factors[i].node == BALLAST_NODE_ANY) == pass) {
                status = use_factor(&in->config, &in->factors[i]);
            }
        }
    }
    return status;
}

static int one_option(struct init *in, int c)
{
    unsigned long n;
    int status;

    switch (c) {
    case OPT_CAPACITY:
        if (in->nr_given == BALLAST_MAX_DEMANDS) {
            return usage_error("--capacity is given too often");
        }
        return parse_demand("--capacity", optarg, &in->given[in->nr_given++]);
    case OPT_RESERVE:
        if (ballast_parse_bytes(optarg, &in->reserve_bytes)) {
            return usage_error("--reserve '%s': a size like 2G is allowed",
                               optarg);
        }
        in->reserve_given = true;
        return EXIT_OK;
    case OPT_SLOTS:
        status = parse_number("--slots", optarg, 1, 8192, &n);
        in->config.nr_slots = (uint32_t)n;
        return status;
    case OPT_COUNT_CACHE:
        status = parse_number("--count-cache", optarg, 0, 100, &n);
        in->config.count_cache_percent = (uint32_t)n;
        return status;
    case OPT_OVERCOMMIT:
        return parse_factor(in, optarg);
    case OPT_FORCE:
        in->flags |= BALLAST_CREATE_FORCE;
        return EXIT_OK;
    case OPT_ADMISSION:
        if (strcmp(optarg, "static") && strcmp(optarg, "kernel")) {
            return usage_error("--admission '%s': kernel or static is allowed",
                               optarg);
        }
        in->config.admission = optarg[0] == 's' ? BALLAST_ADMIT_STATIC :
                               BALLAST_ADMIT_KERNEL;
        return EXIT_OK;
    default:
        return -1;
    }
}

static int parse(struct init *in, int argc, char **argv)
{
    static const struct option table[] = {
        { "json", no_argument, NULL, OPT_JSON },
        COMMON_OPTIONS,
        { "capacity", required_argument, NULL, OPT_CAPACITY },
        { "reserve", required_argument, NULL, OPT_RESERVE },
        { "slots", required_argument, NULL, OPT_SLOTS },
        { "admission", required_argument, NULL, OPT_ADMISSION },
        { "count-cache", required_argument, NULL, OPT_COUNT_CACHE },
        { "overcommit", required_argument, NULL, OPT_OVERCOMMIT },
        { "force", no_argument, NULL, OPT_FORCE },
        { NULL, 0, NULL, 0 }
    };
    int c, status;

    while ((c = option(argc, argv, table)) != -1) {
        status = one_option(in, c);
        if (status < 0) {
            return bad_option(argc, argv);
        }
        if (status) {
            return status;
        }
    }
    if (optind < argc) {
        return usage_error("init: '%s' is not an option", argv[optind]);
    }
    if (in->reserve_given && in->nr_given) {
        return usage_error("--reserve only goes without --capacity");
    }
    return EXIT_OK;
}

/* One level: /run/ballast, after a boot. */
static void make_directory(const char *path)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');

    if (slash && slash > path && (size_t)(slash - path) < sizeof(dir)) {
        memcpy(dir, path, (size_t)(slash - path));
        dir[slash - path] = '\0';
        mkdir(dir, 0755);
    }
}

static int configure(struct init *in)
{
    struct ballast_config asked = in->config;
    struct ballast_refusal why = { .reason = BALLAST_SYSTEM };
    char text[256];
    int err;

    if (in->nr_given) {
        return use_given(in);
    }
    err = ballast_config_host(&in->config, in->reserve_bytes);
    if (err) {
        snprintf(text, sizeof(text), "cannot find out how much memory the "
                 "host has: %s; use --capacity", strerror(-err));
        complain("%s", text);
        if (json_wanted) {
            why.err = err;
            json_error(text, &why);
        }
        return EXIT_ERROR;
    }
    in->config.nr_slots = asked.nr_slots;
    in->config.admission = asked.admission;
    in->config.count_cache_percent = asked.count_cache_percent;
    return EXIT_OK;
}

/* What can be promised now, as the ledger has it. */
static int print_created(void)
{
    struct ballast_status *st;
    struct ballast_ledger *l;
    int status = EXIT_OK;

    l = open_ledger(&status);
    if (!l) {
        return status;
    }
    status = read_status(l, &st);
    if (!status) {
        json_created(ledger_path, st);
        ballast_status_free(st);
        status = flush_output();
    }
    ballast_ledger_close(l);
    return status;
}

int cmd_init(int argc, char **argv)
{
    static struct init in = { .reserve_bytes = UINT64_MAX };
    struct ballast_refusal why;
    int status, err;

    in.config.count_cache_percent = 50;
    in.config.mode = 0660;
    status = parse(&in, argc, argv);
    if (!status) {
        status = configure(&in);
    }
    if (!status) {
        status = use_factors(&in);
    }
    if (status) {
        return status;
    }
    make_directory(ledger_path);
    err = ballast_ledger_create(ledger_path, &in.config, in.flags, &why);
    return err ? failed(err, &why) : json_wanted ? print_created() : EXIT_OK;
}
