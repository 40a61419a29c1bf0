/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What --json prints: one object, amounts in bytes.
 */
#include <inttypes.h>
#include <stdio.h>

#include "cli.h"
#include "json.h"
#include "rows.h"
#include "text.h"

void json_string(const char *s)
{
    char one[5];
    uint32_t c;

    putchar('"');
    while ((c = text_next(&s)) != 0) {
        if (c == '"' || c == '\\') {
            printf("\\%c", (char)c);
        } else if (c < 0x20 || c == 0x7f) {
            printf("\\u%04" PRIx32, c);
        } else {
            text_put(c, one);
            fputs(one, stdout);
        }
    }
    putchar('"');
}

static void json_number(const char *key, uint64_t value)
{
    printf(", \"%s\": %" PRIu64, key, value);
}

/* The first member of an object. */
static void json_node(uint32_t node)
{
    if (node == BALLAST_NODE_ANY) {
        fputs("{\"node\": null", stdout);
    } else {
        printf("{\"node\": %" PRIu32, node);
    }
}

static void json_pid(int32_t pid)
{
    if (pid) {
        printf(", \"pid\": %" PRId32, pid);
    } else {
        fputs(", \"pid\": null", stdout);
    }
}

static void json_holder(const struct ballast_holder *h)
{
    fputs("{\"name\": ", stdout);
    json_string(h->name);
    json_pid(h->pid);
    json_number("slot", h->slot);
    json_number("reserved", h->reserved_bytes);
    printf(", \"dying\": %s}", h->dying ? "true" : "false");
}

static void json_figures(const struct ballast_refusal *why)
{
    uint32_t i;

    if (why->node == BALLAST_NODE_ANY) {
        fputs(", \"node\": null", stdout);
    } else {
        json_number("node", why->node);
    }
    json_number("page-size", why->page_bytes);
    json_number("asked", why->asked_bytes);
    json_number("available", why->available_bytes);
    json_number("missing", why->missing_bytes);
    json_number("limit", why->limit_bytes);
    json_number("ahead", why->nr_ahead);
    fputs(", \"holders\": [", stdout);
    for (i = 0; i < why->nr_holders && i < BALLAST_MAX_HOLDERS; i++) {
        fputs(i ? ", " : "", stdout);
        json_holder(&why->holders[i]);
    }
    putchar(']');
    json_number("more-holders", why->more_holders);
}

/* Figures only with the reasons that have some. */
void json_error_member(const char *text, const struct ballast_refusal *why)
{
    printf("\"error\": {\"reason\": \"%s\", \"message\": ",
           ballast_reason_name(why->reason));
    json_string(text);
    json_number("errno", (uint64_t)(why->err < 0 ? -why->err : why->err));
    if (is_refusal(why->reason) || why->reason == BALLAST_BELOW_RESIDENT) {
        json_figures(why);
    }
    putchar('}');
}

void json_error(const char *text, const struct ballast_refusal *why)
{
    putchar('{');
    json_error_member(text, why);
    puts("}");
}

void json_granted(const char *name)
{
    fputs("{\"granted\": ", stdout);
    json_string(name);
    puts("}");
}

void json_released(const char *name)
{
    fputs("{\"released\": ", stdout);
    json_string(name);
    puts("}");
}

/* The first members of an object that tells of a ledger. */
static void json_ledger(const struct ballast_status *st)
{
    printf("\"admission\": \"%s\"", st->admission == BALLAST_ADMIT_STATIC ?
           "static" : "kernel");
    json_number("count-cache-percent", st->count_cache_percent);
    json_number("slots", st->nr_slots);
}

void json_created(const char *path, const struct ballast_status *st)
{
    size_t i;

    fputs("{\"created\": ", stdout);
    json_string(path);
    fputs(", ", stdout);
    json_ledger(st);
    fputs(",\n \"capacity\": [", stdout);
    for (i = 0; i < st->nr_cells; i++) {
        const struct ballast_cell *c = &st->cells[i];

        fputs(i ? ",\n  " : "\n  ", stdout);
        json_node(c->node);
        json_number("page-size", c->page_bytes);
        json_number("capacity", c->capacity_bytes);
        json_number("overcommit-percent", c->overcommit_percent);
        json_number("backed", c->backed_bytes);
        putchar('}');
    }
    fputs("]}\n", stdout);
}

static void json_cell(const struct ballast_cell *c)
{
    json_node(c->node);
    json_number("page-size", c->page_bytes);
    json_number("capacity", c->capacity_bytes);
    printf(", \"free\": %" PRId64, c->free_bytes);
    json_number("freeable", c->freeable_bytes);
    json_number("owned", c->owned_bytes);
    json_number("claimed", c->claimed_bytes);
    json_number("resident", c->resident_bytes);
    json_number("outstanding", c->outstanding_bytes);
    if (c->kernel_free_bytes == UINT64_MAX) {
        fputs(", \"kernel-free\": null, \"broken\": null", stdout);
    } else {
        json_number("kernel-free", c->kernel_free_bytes);
        json_number("broken", c->broken_bytes);
    }
    json_number("overcommit-percent", c->overcommit_percent);
    json_number("backed", c->backed_bytes);
    json_number("wanted", c->wanted_bytes);
    putchar('}');
}

static void json_hold(const struct ballast_own *c)
{
    json_node(c->node);
    json_number("page-size", c->page_bytes);
    json_number("claimed", c->claimed_bytes);
    json_number("resident", c->resident_bytes);
    json_number("outstanding", c->outstanding_bytes);
    json_number("freeable", c->freeable_bytes);
    json_number("wanted", c->wanted_bytes);
    putchar('}');
}

static void json_participant(const struct ballast_participant *p)
{
    size_t i;

    fputs("{\"name\": ", stdout);
    json_string(p->name);
    printf(", \"state\": \"%s\"", state_name(p->state));
    json_pid(p->pid);
    json_number("uid", p->uid);
    json_number("slot", p->slot);
    json_number("serial", p->serial);
    json_number("maximum", p->max_bytes);
    printf(", \"served\": %s", p->served ? "true" : "false");
    if (p->queue_place) {
        json_number("queue-place", p->queue_place);
        json_number("waited-ms", p->waited_ms);
    } else {
        fputs(", \"queue-place\": null, \"waited-ms\": null", stdout);
    }
    fputs(", \"holds\": [", stdout);
    for (i = 0; i < p->nr_cells; i++) {
        fputs(i ? ", " : "", stdout);
        json_hold(&p->cells[i]);
    }
    fputs("]}", stdout);
}

void json_status(const struct ballast_status *st)
{
    size_t i;

    putchar('{');
    json_ledger(st);
    json_number("waiting", st->nr_waiting);
    fputs(",\n \"capacity\": [", stdout);
    for (i = 0; i < st->nr_cells; i++) {
        fputs(i ? ",\n  " : "\n  ", stdout);
        json_cell(&st->cells[i]);
    }
    fputs("],\n \"participants\": [", stdout);
    for (i = 0; i < st->nr_participants; i++) {
        fputs(i ? ",\n  " : "\n  ", stdout);
        json_participant(&st->participants[i]);
    }
    fputs("]}\n", stdout);
}
