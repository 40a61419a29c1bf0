/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Amounts and demands as people write and read them.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

static const char units[] = "KMGTP";

static bool add_digit(uint64_t *value, char c)
{
    uint64_t digit = (uint64_t)(c - '0');

    if (*value > (UINT64_MAX - digit) / 10) {
        return false;
    }
    *value = *value * 10 + digit;
    return true;
}

/* K, KiB, k and so on; "GB" could be meant either way, so it is not taken. */
static bool parse_unit(const char **s, uint64_t *unit)
{
    const char *at;

    *unit = 1;
    if (!**s || *(*s) == '@' || *(*s) == '/') {
        return true;
    }
    at = strchr(units, toupper((unsigned char)**s));
    if (!at) {
        return false;
    }
    *unit = UINT64_C(1) << (10 * (at - units + 1));
    (*s)++;
    if (strncmp(*s, "iB", 2) == 0) {
        *s += 2;
    }
    return true;
}

/* Up to '@', '/' or the end; a fraction must come out in whole bytes. */
static int parse_amount(const char **s, uint64_t *bytes)
{
    uint64_t whole = 0, part = 0, scale = 1, unit;

    if (!isdigit((unsigned char)**s)) {
        return -EINVAL;
    }
    for (; isdigit((unsigned char)**s); (*s)++) {
        if (!add_digit(&whole, **s)) {
            return -ERANGE;
        }
    }
    if (**s == '.') {
        if (!isdigit((unsigned char)*++*s)) {
            return -EINVAL;
        }
        for (; isdigit((unsigned char)**s); (*s)++, scale *= 10) {
            if (scale > 1000 * 1000 * 1000 || !add_digit(&part, **s)) {
                return -EINVAL;
            }
        }
    }
    if (!parse_unit(s, &unit)) {
        return -EINVAL;
    }
    if (whole > UINT64_MAX / unit) {
        return -ERANGE;
    }
    while (part && part % 10 == 0) {
        part /= 10;
        scale /= 10;
    }
    if (part && (part > UINT64_MAX / unit || part * unit % scale)) {
        return -EINVAL;
    }
    part = part ? part * unit / scale : 0;
    if (part > UINT64_MAX - whole * unit) {
        return -ERANGE;
    }
    *bytes = whole * unit + part;
    return 0;
}

int ballast_parse_bytes(const char *text, uint64_t *out)
{
    uint64_t bytes;
    int err = parse_amount(&text, &bytes);

    if (err) {
        return err;
    }
    if (*text) {
        return -EINVAL;
    }
    *out = bytes;
    return 0;
}

static int parse_node(const char **s, uint32_t *node)
{
    uint64_t value = 0;

    if (strncmp(*s, "any", 3) == 0) {
        *s += 3;
        *node = BALLAST_NODE_ANY;
        return 0;
    }
    if (!isdigit((unsigned char)**s)) {
        return -EINVAL;
    }
    for (; isdigit((unsigned char)**s); (*s)++) {
        if (!add_digit(&value, **s) || value >= BALLAST_NODE_ANY) {
            return -ERANGE;
        }
    }
    *node = (uint32_t)value;
    return 0;
}

int ballast_parse_demand(const char *text, struct ballast_demand *out)
{
    struct ballast_demand d = { .node = BALLAST_NODE_ANY };
    int err = parse_amount(&text, &d.bytes);

    if (!err && *text == '@') {
        text++;
        err = parse_node(&text, &d.node);
    }
    if (!err && *text == '/') {
        text++;
        err = parse_amount(&text, &d.page_bytes);
        if (!err && (d.page_bytes < 512 ||
                     (d.page_bytes & (d.page_bytes - 1)))) {
            err = -EINVAL;
        }
    }
    if (err) {
        return err;
    }
    if (*text) {
        return -EINVAL;
    }
    *out = d;
    return 0;
}

/* At most two decimals; the exact number follows when that is not all. */
int ballast_format_bytes(uint64_t bytes, char *buf, size_t len)
{
    uint64_t whole, rest, hundredths;
    uint64_t unit = 1;
    char fraction[8] = "";
    int u = -1;

    while (u < 4 && bytes / 1024 >= unit) {
        unit *= 1024;
        u++;
    }
    if (u < 0) {
        return snprintf(buf, len, "%" PRIu64 " bytes", bytes);
    }
    whole = bytes / unit;
    rest = bytes % unit;
    hundredths = rest / 4 * 100 / (unit / 4);
    if (hundredths) {
        snprintf(fraction, sizeof(fraction), ".%02u",
                 (unsigned)(hundredths % 100));
        if (fraction[2] == '0') {
            fraction[2] = '\0';
        }
    }
    if (rest == 0 || (rest % 4 == 0 &&
                      rest / 4 * 100 % (unit / 4) == 0)) {
        return snprintf(buf, len, "%" PRIu64 "%s %ciB", whole, fraction,
                        units[u]);
    }
    return snprintf(buf, len, "%" PRIu64 "%s %ciB (%" PRIu64 " bytes)", whole,
                    fraction, units[u], bytes);
}
