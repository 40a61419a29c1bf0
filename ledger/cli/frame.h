/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One view of ballast watch, made for a screen of any size.
 */
#ifndef BALLAST_CLI_FRAME_H
#define BALLAST_CLI_FRAME_H

#include "ballast/admin.h"

/**
 * struct frame - a text under construction
 * @width: columns.
 * @height: rows, 0 for as many as there are.
 * @top: most rows of each table.
 * @terminal: escape sequences are understood.
 * @color: some of them may be colours.
 * @utf8: bars are made of blocks, not of ASCII.
 * @text: the result, to be freed.
 * @len: its length; 0 for a frame that could not be made.
 * @room: allocated.
 * @col: column of the next character.
 * @row: row of the next character.
 * @style: in force.
 */
struct frame {
    int width;
    int height;
    size_t top;
    bool terminal;
    bool color;
    bool utf8;
    char *text;
    size_t len;
    size_t room;
    int col;
    int row;
    int style;
};

/**
 * frame_draw() - make a view
 * @f: size and abilities are set; the result replaces @f->text.
 * @st: a snapshot, NULL if there is none.
 * @path: the ledger.
 * @problem: shown instead when @st is NULL.
 *
 * Return: false without memory.
 */
bool frame_draw(struct frame *f, const struct ballast_status *st,
                const char *path, const char *problem);

#endif
