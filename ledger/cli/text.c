/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names and amounts on a screen and in files.
 */
#include <inttypes.h>
#include <langinfo.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#include "text.h"

/* Of a first byte: how many follow, and the smallest that needs so many. */
static int utf8_kind(unsigned char c, uint32_t *value, uint32_t *least)
{
    if ((c & 0xe0) == 0xc0) {
        *value = c & 0x1f;
        *least = 0x80;
        return 1;
    }
    if ((c & 0xf0) == 0xe0) {
        *value = c & 0x0f;
        *least = 0x800;
        return 2;
    }
    if ((c & 0xf8) == 0xf0) {
        *value = c & 0x07;
        *least = 0x10000;
        return 3;
    }
    return 0;
}

uint32_t text_next(const char **s)
{
    const unsigned char *p = (const unsigned char *)*s;
    uint32_t value, least;
    int n, i;

    if (*p < 0x80) {
        *s += *p != 0;
        return *p;
    }
    n = utf8_kind(*p, &value, &least);
    for (i = 1; i <= n && (p[i] & 0xc0) == 0x80; i++) {
        value = value << 6 | (p[i] & 0x3f);
    }
    if (!n || i <= n || value < least || value > 0x10ffff ||
        (value >= 0xd800 && value < 0xe000)) {
        *s += 1;
        return 0xfffd;
    }
    *s += n + 1;
    return value;
}

void text_put(uint32_t c, char buf[5])
{
    int n = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char first[] = { 0, 0xc0, 0xe0, 0xf0 };
    int i;

    for (i = n; i > 0; i--, c >>= 6) {
        buf[i] = (char)(0x80 | (c & 0x3f));
    }
    buf[0] = (char)(first[n] | c);
    buf[n + 1] = '\0';
}

int text_is_utf8(void)
{
    return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

int text_width(uint32_t c)
{
    int width;

    if (c < 0x80) {
        return c >= ' ' && c != 0x7f;
    }
    if (!text_is_utf8() || !iswprint((wint_t)c)) {
        return 0;
    }
    width = wcwidth((wchar_t)c);
    return width == 1 || width == 2 ? width : 0;
}

const char *text_bytes(uint64_t bytes, char buf[TEXT_BYTES])
{
    static const char units[] = "BKMGTPE";
    uint64_t unit = 1, rest;
    int u = 0;

    if (bytes == UINT64_MAX || bytes == 0) {
        strcpy(buf, bytes ? "?" : "0");
        return buf;
    }
    while (bytes / unit >= 1024) {
        unit *= 1024;
        u++;
    }
    rest = unit > 1 ? bytes % unit / (unit / 1024) * 100 / 1024 : 0;
    rest -= bytes / unit >= 10 ? rest % 10 : 0;
    if (bytes / unit >= 100 || rest == 0) {
        snprintf(buf, TEXT_BYTES, "%" PRIu64 "%c", bytes / unit, units[u]);
    } else if (bytes / unit >= 10 || rest % 10 == 0) {
        snprintf(buf, TEXT_BYTES, "%" PRIu64 ".%" PRIu64 "%c", bytes / unit,
                 rest / 10, units[u]);
    } else {
        snprintf(buf, TEXT_BYTES, "%" PRIu64 ".%02" PRIu64 "%c",
                 bytes / unit, rest, units[u]);
    }
    return buf;
}

const char *text_signed(int64_t bytes, char buf[TEXT_BYTES])
{
    char word[TEXT_BYTES];

    if (bytes >= 0) {
        return text_bytes((uint64_t)bytes, buf);
    }
    text_bytes(0 - (uint64_t)bytes, word);
    snprintf(buf, TEXT_BYTES, "-%.*s", TEXT_BYTES - 2, word);
    return buf;
}

const char *text_page(uint64_t bytes, char buf[TEXT_BYTES])
{
    static const char units[] = "KMGTP";
    int u = -1;

    while (bytes && bytes % 1024 == 0 && u < 4) {
        bytes /= 1024;
        u++;
    }
    if (u < 0) {
        snprintf(buf, TEXT_BYTES, "%u", (unsigned)bytes);
    } else {
        snprintf(buf, TEXT_BYTES, "%u%c", (unsigned)bytes, units[u]);
    }
    return buf;
}

int text_name(const char *name, char *buf, size_t len, int columns)
{
    const char *s = name;
    size_t used = 0;
    int col = 0;
    uint32_t c;

    buf[0] = '\0';
    while ((c = text_next(&s)) != 0 && used + 5 < len) {
        int width = text_width(c);
        char one[5];

        text_put(width ? c : '?', one);
        width += !width;
        /* the last column is the "~", unless this is the end */
        if (col + width > columns - (*s != '\0')) {
            strcpy(buf + used, "~");
            return col + 1;
        }
        strcpy(buf + used, one);
        used += strlen(one);
        col += width;
    }
    return col;
}
