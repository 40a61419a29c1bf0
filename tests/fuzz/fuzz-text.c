/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Amounts, demands, and the words of an inherited claim, as people and
 * environments give them.  What is taken is understood the same way again
 * once it is written down exactly.
 */
#include "fuzz.h"

static void try_bytes(const char *text)
{
    uint64_t bytes = 0, again = 0;
    char words[64];

    if (ballast_parse_bytes(text, &bytes)) {
        return;
    }
    snprintf(words, sizeof(words), "%" PRIu64, bytes);
    if (ballast_parse_bytes(words, &again) || again != bytes) {
        fuzz_wrong("an amount that is another one when written in full");
    }
    if (ballast_format_bytes(bytes, words, sizeof(words)) >=
        (int)sizeof(words)) {
        fuzz_wrong("an amount with too many words");
    }
}

static void try_demand(const char *text)
{
    struct ballast_demand d, again;
    char words[96], node[16] = "any";

    if (ballast_parse_demand(text, &d)) {
        return;
    }
    if (d.node != BALLAST_NODE_ANY) {
        snprintf(node, sizeof(node), "%" PRIu32, d.node);
    }
    snprintf(words, sizeof(words), d.page_bytes ? "%" PRIu64 "@%s/%" PRIu64 :
             "%" PRIu64 "@%s", d.bytes, node, d.page_bytes);
    if (ballast_parse_demand(words, &again) || again.bytes != d.bytes ||
        again.node != d.node || again.page_bytes != d.page_bytes || d.zero) {
        fuzz_wrong("a demand that is another one when written in full");
    }
}

static void try_adopt(const char *text)
{
    struct ballast_refusal why;
    struct ballast_ledger *l;
    char words[1024];

    if (ballast_adopt(text, &l, &why) == 0) {
        fuzz_wrong("a claim that was never bequeathed");
    }
    ballast_refusal_text(&why, words, sizeof(words));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[256];

    if (size >= sizeof(text)) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = '\0';
    try_bytes(text);
    try_demand(text);
    try_adopt(text);
    return 0;
}
