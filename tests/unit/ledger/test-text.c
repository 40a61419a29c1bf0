/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Amounts, demands and refusals in words.
 */
#include "helper.h"

static void test_parse_bytes(void)
{
    static const struct {
        const char *text;
        int err;
        uint64_t bytes;
    } cases[] = {
        { "0", 0, 0 }, { "4096", 0, 4096 }, { "4G", 0, GIB(4) },
        { "512MiB", 0, MIB(512) }, { "1.5G", 0, MIB(1536) },
        { "0.5k", 0, 512 }, { "1.50G", 0, MIB(1536) }, { "2T", 0, GIB(2048) },
        { "16383P", 0, UINT64_C(16383) << 50 },
        { "18446744073709551615", 0, UINT64_MAX },
        { "", -EINVAL, 0 }, { "G", -EINVAL, 0 }, { "-1", -EINVAL, 0 },
        { "4GB", -EINVAL, 0 }, { "4X", -EINVAL, 0 }, { "4 G", -EINVAL, 0 },
        { "1.G", -EINVAL, 0 }, { ".5G", -EINVAL, 0 }, { "1.3", -EINVAL, 0 },
        { "1.3G", -EINVAL, 0 }, { "0x10", -EINVAL, 0 }, { "4G@", -EINVAL, 0 },
        { "16384P", -ERANGE, 0 }, { "18446744073709551616", -ERANGE, 0 },
        { "99999999999999999999999G", -ERANGE, 0 },
        { "1.00000000000000000000000000001G", -EINVAL, 0 },
    };
    uint64_t bytes;
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bytes = 77;
        OK(ballast_parse_bytes(cases[i].text, &bytes) == cases[i].err &&
           bytes == (cases[i].err ? 77 : cases[i].bytes),
           "parse bytes '%s'", cases[i].text);
    }
}

static void test_parse_demand(void)
{
    static const struct {
        const char *text;
        int err;
        struct ballast_demand d;
    } cases[] = {
        { "4G", 0, { ANY, 0, 0, GIB(4) } },
        { "4G@any", 0, { ANY, 0, 0, GIB(4) } },
        { "4G@1", 0, { 1, 0, 0, GIB(4) } },
        { "4G@1/2M", 0, { 1, 0, MIB(2), GIB(4) } },
        { "1.5GiB/1G", 0, { ANY, 0, GIB(1), MIB(1536) } },
        { "0@0", 0, { 0, 0, 0, 0 } },
        { "4G@", -EINVAL, { 0, 0, 0, 0 } }, { "@1", -EINVAL, { 0, 0, 0, 0 } },
        { "4G@x", -EINVAL, { 0, 0, 0, 0 } },
        { "4G@1x", -EINVAL, { 0, 0, 0, 0 } },
        { "4G@-1", -EINVAL, { 0, 0, 0, 0 } },
        { "4G@4294967295", -ERANGE, { 0, 0, 0, 0 } },
        { "4G/", -EINVAL, { 0, 0, 0, 0 } },
        { "4G/3M", -EINVAL, { 0, 0, 0, 0 } },
        { "4G/0", -EINVAL, { 0, 0, 0, 0 } },
        { "4G/2M@1", -EINVAL, { 0, 0, 0, 0 } },
    };
    struct ballast_demand d;
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(&d, 0, sizeof(d));
        OK(ballast_parse_demand(cases[i].text, &d) == cases[i].err &&
           memcmp(&d, &cases[i].d, sizeof(d)) == 0,
           "parse demand '%s'", cases[i].text);
    }
}

static void test_format_bytes(void)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        { 0, "0 bytes" }, { 1023, "1023 bytes" }, { 1024, "1 KiB" },
        { 1025, "1 KiB (1025 bytes)" }, { MIB(1536), "1.5 GiB" },
        { GIB(4), "4 GiB" }, { GIB(4) + KIB(4), "4 GiB (4294971392 bytes)" },
        { GIB(1024), "1 TiB" }, { MIB(1) + KIB(256), "1.25 MiB" },
        { UINT64_MAX, "16383.99 PiB (18446744073709551615 bytes)" },
    };
    char text[64], tiny[4];
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ballast_format_bytes(cases[i].bytes, text, sizeof(text));
        OK(strcmp(text, cases[i].text) == 0, "format '%s', got '%s'",
           cases[i].text, text);
    }
    OK(ballast_format_bytes(GIB(4), tiny, sizeof(tiny)) == 5 &&
       strcmp(tiny, "4 G") == 0, "format into too little room is cut");
}

static void test_refusal(void)
{
    const char *path = new_ledger("text", 1, GIB(16));
    struct ballast_ledger *a = must_join(path, "vm1");
    struct ballast_ledger *b = must_join(path, "vm2");
    struct ballast_ledger *c = must_join(path, "vm3");
    struct ballast_refusal why;
    char text[512], expect[512], tiny[8];

    CLAIM1(a, 0, GIB(8), NULL);
    CLAIM1(b, 0, MIB(5632), NULL);
    OK(CLAIM1(c, 0, GIB(4), &why) == -ENOMEM, "a claim is refused");
    snprintf(expect, sizeof(expect), "claim of 4 GiB on node 0 refused: "
             "1.5 GiB missing (2.5 GiB free of 16 GiB); held by vm1 (pid %d) "
             "8 GiB, vm2 (pid %d) 5.5 GiB", (int)getpid(), (int)getpid());
    OK(ballast_refusal_text(&why, text, sizeof(text)) == strlen(expect) &&
       strcmp(text, expect) == 0, "says '%s'", text);
    OK(ballast_refusal_text(&why, tiny, sizeof(tiny)) == strlen(expect) &&
       strcmp(tiny, "claim o") == 0, "text is cut where the buffer ends");
    ballast_ledger_close(a);
    ballast_ledger_close(b);
    ballast_ledger_close(c);
}

static void test_every_reason(void)
{
    struct ballast_refusal why;
    char text[512];
    int r, bad = 0;

    for (r = BALLAST_OK; r <= BALLAST_SYSTEM + 1; r++) {
        memset(&why, 0xff, sizeof(why));
        why.reason = (enum ballast_reason)r;
        why.err = -EIO;
        bad += ballast_refusal_text(&why, text, sizeof(text)) == 0 ||
               !ballast_reason_name(why.reason)[0];
    }
    OK(!bad, "every reason has words, whatever the other fields hold");
}

int main(void)
{
    test_parse_bytes();
    test_parse_demand();
    test_format_bytes();
    test_refusal();
    test_every_reason();
    return tap_done();
}
