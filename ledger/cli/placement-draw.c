/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placement as a picture: guest nodes on the left, host nodes on the right,
 * bands between them as wide as the memory is large.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "placement.h"
#include "text.h"

#define WIDTH 820
#define TOP 92
#define HEIGHT 420.0        /* of all memory */
#define GAP 22.0            /* between two boxes */
#define BOX 26
#define LEFT_X 230
#define RIGHT_X 540

/* Told apart by people who see colours differently, too (Okabe, Ito). */
static const char *const colors[] = {
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9",
    "#8c6d1f", "#6a3d9a",
};

static const char *color(unsigned node)
{
    return colors[node % (sizeof(colors) / sizeof(colors[0]))];
}

/* What is drawn so far, and how far down. */
struct drawing {
    FILE *out;
    double scale;
    double right[BALLAST_SAMPLE_NODES];
    double bottom;
};

static void put_text(FILE *out, const char *text)
{
    char one[5];
    uint32_t c;

    while ((c = text_next(&text)) != 0) {
        if (c == '<' || c == '>' || c == '&' || c == '"') {
            fprintf(out, "&#%" PRIu32 ";", c);
        } else {
            text_put(c < ' ' || (c >= 0x7f && c < 0xa0) ||
                     (c & 0xfffe) == 0xfffe ? '?' : c, one);
            fputs(one, out);
        }
    }
}

static void line(FILE *out, double x, double y, const char *style,
                 const char *text)
{
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style);
    put_text(out, text);
    fputs("</text>\n", out);
}

static void box(const struct drawing *d, double x, double y, double height,
                const char *fill, const char *title)
{
    if (height <= 0) {
        return;
    }
    fprintf(d->out, "<rect x=\"%.1f\" y=\"%.2f\" width=\"%d\" "
            "height=\"%.2f\" fill=\"%s\"><title>", x, y, BOX, height, fill);
    put_text(d->out, title);
    fputs("</title></rect>\n", d->out);
}

static void band(const struct drawing *d, double from, double to,
                 double height, unsigned node, const char *title)
{
    double x0 = LEFT_X + BOX, x1 = RIGHT_X, middle = (x0 + x1) / 2;

    fprintf(d->out, "<path d=\"M%.1f,%.2f C%.1f,%.2f %.1f,%.2f %.1f,%.2f "
            "l0,%.2f C%.1f,%.2f %.1f,%.2f %.1f,%.2f Z\" fill=\"%s\" "
            "fill-opacity=\"0.45\"><title>", x0, from, middle, from, middle,
            to, x1, to, height, middle, to + height, middle, from + height,
            x0, from + height, color(node));
    put_text(d->out, title);
    fputs("</title></path>\n", d->out);
}

/* A row's box, with a band for each host node, then what is on none. */
static double draw_row(struct drawing *d, const struct placement_row *row,
                       double y)
{
    char text[PLACEMENT_LINE], amount[TEXT_BYTES];
    double start = y, height;
    unsigned node;

    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        height = (double)row->on_node[node] * d->scale;
        if (height <= 0) {
            continue;
        }
        snprintf(text, sizeof(text), "%s: %s on host node %u", row->name,
                 text_bytes(row->on_node[node], amount), node);
        band(d, y, d->right[node], height, node, text);
        box(d, LEFT_X, y, height, color(node), text);
        d->right[node] += height;
        y += height;
    }
    snprintf(text, sizeof(text), "%s: %s absent", row->name,
             text_bytes(row->absent, amount));
    box(d, LEFT_X, y, (double)row->absent * d->scale, "url(#absent)", text);
    y += (double)row->absent * d->scale;
    snprintf(text, sizeof(text), "%s: %s unknown", row->name,
             text_bytes(row->unknown, amount));
    box(d, LEFT_X, y, (double)row->unknown * d->scale, "#555555", text);
    height = (double)row->size * d->scale;
    line(d->out, LEFT_X - 10, start + height / 2,
         "text-anchor=\"end\" dominant-baseline=\"central\"", row->name);
    snprintf(text, sizeof(text), "%s", text_bytes(row->size, amount));
    line(d->out, LEFT_X - 10, start + height / 2 + 16, "text-anchor=\"end\" "
         "dominant-baseline=\"central\" class=\"small\"", text);
    return start + (height > 28 ? height : 28) + GAP;
}

/* Where each host node begins, and its box. */
static double draw_nodes(struct drawing *d, const struct placement_row *sum)
{
    char text[PLACEMENT_LINE], amount[TEXT_BYTES];
    double y = TOP, height;
    unsigned node;

    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        height = (double)sum->on_node[node] * d->scale;
        if (height <= 0) {
            continue;
        }
        d->right[node] = y;
        snprintf(text, sizeof(text), "host node %u", node);
        box(d, RIGHT_X, y, height, color(node), text);
        line(d->out, RIGHT_X + BOX + 10, y + height / 2,
             "dominant-baseline=\"central\"", text);
        snprintf(text, sizeof(text), "%s",
                 text_bytes(sum->on_node[node], amount));
        line(d->out, RIGHT_X + BOX + 10, y + height / 2 + 16,
             "dominant-baseline=\"central\" class=\"small\"", text);
        y += (height > 28 ? height : 28) + GAP;
    }
    return y;
}

static void draw_head(const struct drawing *d, const struct placement_view *v,
                      double height)
{
    fprintf(d->out, "<svg xmlns=\"http://www.w3.org/2000/svg\" "
            "viewBox=\"0 0 %d %.0f\" width=\"%d\" height=\"%.0f\" "
            "font-family=\"sans-serif\" font-size=\"14\" fill=\"#222222\">\n"
            "<style>.small { font-size: 12px; fill: #666666 }</style>\n"
            "<defs><pattern id=\"absent\" width=\"6\" height=\"6\" "
            "patternUnits=\"userSpaceOnUse\" "
            "patternTransform=\"rotate(45)\">"
            "<rect width=\"6\" height=\"6\" fill=\"#eeeeee\"/>"
            "<rect width=\"2\" height=\"6\" fill=\"#bbbbbb\"/></pattern>"
            "</defs>\n<rect width=\"100%%\" height=\"100%%\" "
            "fill=\"#ffffff\"/>\n", WIDTH, height, WIDTH, height);
    line(d->out, 24, 32, "font-size=\"18\" font-weight=\"bold\"", v->title);
    line(d->out, 24, 54, "", v->result);
    line(d->out, 24, 72, "class=\"small\"", v->how);
}

static void draw_legend(const struct drawing *d,
                        const struct placement_row *sum, double y)
{
    if (sum->absent) {
        box(d, 24, y, 14, "url(#absent)", "absent");
        line(d->out, 58, y + 11, "class=\"small\"", "absent: never touched, "
             "ballooned, or swapped out");
    }
    if (sum->unknown) {
        box(d, 424, y, 14, "#555555", "unknown");
        line(d->out, 458, y + 11, "class=\"small\"", "unknown");
    }
}

/* The height that boxes of rows will take. */
static double rows_height(const struct drawing *d,
                          const struct placement_rows *rows)
{
    double sum = 0, height;
    size_t i;

    for (i = 0; i < rows->nr; i++) {
        height = (double)rows->row[i].size * d->scale;
        sum += (height > 28 ? height : 28) + GAP;
    }
    return sum;
}

static double nodes_height(const struct drawing *d,
                           const struct placement_row *sum)
{
    double all = 0, height;
    unsigned node;

    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        height = (double)sum->on_node[node] * d->scale;
        all += height > 0 ? (height > 28 ? height : 28) + GAP : 0;
    }
    return all;
}

static void draw(FILE *out, const struct placement_view *v)
{
    struct drawing d = { .out = out };
    double left, right, y = TOP, tall;
    struct placement_row sum;
    size_t i;

    placement_sum(&v->whole, &sum);
    d.scale = sum.size ? HEIGHT / (double)sum.size : 0;
    left = rows_height(&d, &v->whole);
    right = nodes_height(&d, &sum);
    tall = TOP + (left > right ? left : right);
    draw_head(&d, v, tall + 34);
    draw_nodes(&d, &sum);
    for (i = 0; i < v->whole.nr; i++) {
        y = draw_row(&d, &v->whole.row[i], y);
    }
    draw_legend(&d, &sum, tall);
    fputs("</svg>\n", out);
}

bool placement_draw(const struct placement_view *v, const char *path)
{
    FILE *out = fopen(path, "we");
    bool ok;

    if (!out) {
        complain("--svg %s: %s", path, strerror(errno));
        return false;
    }
    draw(out, v);
    ok = !ferror(out);
    if (fclose(out) || !ok) {
        complain("--svg %s: %s", path, strerror(errno));
        return false;
    }
    return true;
}
