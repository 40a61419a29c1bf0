/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names and amounts on a screen and in files.
 */
#ifndef BALLAST_CLI_TEXT_H
#define BALLAST_CLI_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Room for text_bytes(). */
#define TEXT_BYTES 32

/**
 * text_next() - the next character of what should be UTF-8
 * @s: where; moved on.
 *
 * Return: its code point, U+FFFD for a byte that is not UTF-8, 0 at the end.
 */
uint32_t text_next(const char **s);

/**
 * text_put() - make UTF-8
 * @c: a code point.
 * @buf: receives up to four bytes and a zero.
 */
void text_put(uint32_t c, char buf[5]);

/**
 * text_width() - columns that a character takes on this terminal
 * @c: a code point.
 *
 * Return: 1 or 2; 0 for what had better be shown as a question mark.
 */
int text_width(uint32_t c);

/**
 * text_is_utf8() - whether the locale's letters are UTF-8
 */
int text_is_utf8(void);

/**
 * text_bytes() - an amount in at most five letters, rounded down
 * @bytes: the amount; UINT64_MAX is shown as "?".
 * @buf: receives it.
 *
 * Return: @buf.
 */
const char *text_bytes(uint64_t bytes, char buf[TEXT_BYTES]);

/**
 * text_signed() - the same, and six letters, for what may be negative
 */
const char *text_signed(int64_t bytes, char buf[TEXT_BYTES]);

/**
 * text_page() - a page size as in SIZE[@NODE][/PAGE]: 4K, 2M, 1G
 */
const char *text_page(uint64_t bytes, char buf[TEXT_BYTES]);

/**
 * text_name() - a name for people, without what a terminal would obey
 * @name: from the ledger.
 * @buf: receives it.
 * @len: room in @buf.
 * @columns: most columns that it may take; a longer one ends in "~".
 *
 * Return: the columns it takes.
 */
int text_name(const char *name, char *buf, size_t len, int columns);

#endif
