/* SPDX-License-Identifier: GPL-2.0-or-later */
/* numa_maps: what is understood, what is not, and what is not believed. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "hw/virtio/ballast/numamaps.h"

#define MIB (1UL << 20)

static const char *const good[] = {
    "7f0000000000 default",
    "7f0000000000 default\n",
    "7f0000000000 bind:0-1 anon=512 dirty=512 N0=500 N1=12 "
        "kernelpagesize_kB=4\n",
    "7f0000000000 prefer=relative:0,2-3 heap anon=1 N3=1 kernelpagesize_kB=4",
    "7f0000000000 interleave:0-3 file=/a\\040N1=7 huge N0=2 "
        "kernelpagesize_kB=2048",
    "7f0000000000 some-policy-of-tomorrow:x N0=1 new=3 kernelpagesize_kB=4 z",
    "0 default NO=9 N=3 Nice",
};

static const char *const bad[] = {
    "", "\n", " ", "default N0=1", "7f0000000000", "7f0000000000 ",
    "7f0000000000\n", "7f00x default", "-1 default", "0x10 default",
    "+7f default", "10000000000000000 default",
    "7f00 default N0=1",                            /* of what size? */
    "7f00 default N0= kernelpagesize_kB=4", "7f00 default N0 N1=2",
    "7f00 default N0=-1 kernelpagesize_kB=4",
    "7f00 default N0=0x1 kernelpagesize_kB=4",
    "7f00 default N0=1x kernelpagesize_kB=4",
    "7f00 default N128=1 kernelpagesize_kB=4",
    "7f00 default N4294967296=1 kernelpagesize_kB=4",
    "7f00 default N99999999999999999999=1 kernelpagesize_kB=4",
    "7f00 default N0=99999999999999999999 kernelpagesize_kB=4",
    "7f00 default N0=9223372036854775807 kernelpagesize_kB=4",
    "7f00 default N0=1 N0=1 kernelpagesize_kB=4",
    "7f00 default N0=1 kernelpagesize_kB=0",
    "7f00 default N0=1 kernelpagesize_kB=",
    "7f00 default N0=1 kernelpagesize_kB=4 kernelpagesize_kB=4",
    "7f00 default N0=1 kernelpagesize_kB=18446744073709551615",
};

static void test_lines(void)
{
    struct ballast_numa_line line;
    char what[160];
    size_t i;
    bool ok;

    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        snprintf(what, sizeof(what), "understood: %.*s",
                 (int)strcspn(good[i], "\n#"), good[i]);
        check(ballast_numa_line_parse(good[i], &line), what);
    }
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(what, sizeof(what), "not understood: '%.*s'",
                 (int)strcspn(bad[i], "\n#"), bad[i]);
        check(!ballast_numa_line_parse(bad[i], &line), what);
    }
    ok = ballast_numa_line_parse(good[2], &line);
    check(ok && line.start == 0x7f0000000000 && line.page_bytes == 4096 &&
          line.bytes[0] == 500 * 4096 && line.bytes[1] == 12 * 4096,
          "pages are counted in the size that the line tells");
    ok = ballast_numa_line_parse(good[4], &line);
    check(ok && line.bytes[0] == 4 * MIB && !line.bytes[1],
          "huge pages, and a file's name that looks like a figure");
}

static void test_mapping_lines(void)
{
    static const char *const wrong[] = {
        "", "7f00", "7f00-", "7f00-7f00 rw-p 0 0:0 0", "7f01-7f00 rw-p 0 0 0",
        "7f00-8000", "7f00-8000 rw 0 0 0", "7f00-8000 rw-p", "x-y rw-p 0 0 0",
        "7f00-10000000000000000 rw-p 0 0:0 0",
    };
    struct ballast_mapping_line line;
    bool ok = true;
    size_t i;

    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ok = !ballast_mapping_line_parse(wrong[i], &line) && ok;
    }
    check(ok, "lines of maps that are none");
    check(ballast_mapping_line_parse("7f00-8000 rw-s 00001000 00:01 42     "
                                     "  /memfd:a b (deleted)\nx", &line) &&
          line.start == 0x7f00 && line.end == 0x8000 &&
          !strcmp(line.perms, "rw-s") &&
          !strcmp(line.name, "/memfd:a b (deleted)"), "a line of maps");
    check(ballast_mapping_line_parse("7f00-8000 rw-p 00000000 00:00 0 \n",
                                     &line) && !*line.name,
          "a mapping without a name");
}

/* One MiB each: a, a hole, b, c; d is not in numa_maps. */
static const char maps[] =
    "100000-200000 rw-p 00000000 00:00 0 \n"
    "300000-400000 rw-p 00000000 00:00 0 [heap]\n"
    "400000-500000 ---p 00000000 00:00 0\n"
    "500000-600000 rw-s 00000000 00:01 5 /memfd:x (deleted)\n";

static struct ballast_sample look(const char *numa, uint64_t start,
                                  uint64_t bytes, uint64_t *bad_lines)
{
    struct ballast_numa_maps m = { 0 };
    struct ballast_sample s = { 0 };
    unsigned node;
    uint64_t sum;

    if (!ballast_numa_maps_parse(maps, numa, &m)) {
        ballast_numa_maps_look(&m, start, bytes, &s);
    }
    *bad_lines = m.bad_lines;
    ballast_numa_maps_free(&m);
    sum = s.absent + s.unknown;
    for (node = 0; node < BALLAST_SAMPLE_NODES; node++) {
        sum += s.on_node[node];
    }
    if (sum != bytes || s.samples != bytes) {
        printf("# %lu of %lu bytes\n", (unsigned long)sum,
               (unsigned long)bytes);
        abort();
    }
    return s;
}

static void test_ranges(void)
{
    /* not in order, and with a line that has no mapping */
    static const char numa[] =
        "400000 default\n"
        "100000 bind:1 anon=3 N1=2 N0=1 kernelpagesize_kB=4\n"
        "900000 default N0=5 kernelpagesize_kB=4\n"
        "300000 default heap anon=256 N0=256 kernelpagesize_kB=4\n";
    struct ballast_sample s;
    uint64_t bad_lines;

    s = look(numa, MIB, MIB, &bad_lines);
    check(s.on_node[0] == 4096 && s.on_node[1] == 8192 && !s.unknown &&
          s.absent == MIB - 12288 && s.whole && !bad_lines,
          "a mapping, by its address");
    s = look(numa, 3 * MIB, 2 * MIB, &bad_lines);
    check(s.on_node[0] == MIB && s.absent == MIB, "two mappings together");
    s = look(numa, MIB, 2 * MIB, &bad_lines);
    check(s.unknown == MIB && s.on_node[1] == 8192,
          "what is not mapped is unknown");
    s = look(numa, 3 * MIB, MIB / 2, &bad_lines);
    check(s.unknown == MIB / 2, "a part of a mapping is unknown");
    s = look(numa, 4 * MIB, MIB / 2, &bad_lines);
    check(s.absent == MIB / 2, "a part of a mapping without pages is absent");
    s = look(numa, 5 * MIB, MIB, &bad_lines);
    check(s.unknown == MIB, "a mapping that numa_maps does not have");
    s = look("", 3 * MIB, MIB, &bad_lines);
    check(s.unknown == MIB, "an empty numa_maps");
}

static void test_disbelief(void)
{
    struct ballast_sample s;
    uint64_t bad_lines;

    s = look("100000 default N0=257 kernelpagesize_kB=4\n", MIB, MIB,
             &bad_lines);
    check(s.unknown == MIB && bad_lines == 1, "more pages than there is room");
    s = look("100000 default N0=4503599627370495 N1=4503599627370495 "
             "kernelpagesize_kB=4\n", MIB, MIB, &bad_lines);
    check(s.unknown == MIB && bad_lines == 1, "… and that only in a sum");
    s = look("100000 default N0=1 kernelpagesize_kB=4\n"
             "100000 default N0=2 kernelpagesize_kB=4\n"
             "100000 default N0=2 kernelpagesize_kB=4\n", MIB, MIB,
             &bad_lines);
    check(s.unknown == MIB && bad_lines == 2, "two that contradict, or three");
    s = look("nonsense\n\n100000 default N0=1 kernelpagesize_kB=4", MIB, MIB,
             &bad_lines);
    check(s.on_node[0] == 4096 && bad_lines == 2,
          "nonsense before it, no newline behind it");
}

/* Bytes changed, added and left out: anything but a wrong sum or a crash. */
static void test_noise(void)
{
    static const char seed[] =
        "100000 bind:1 anon=3 N1=2 N0=1 kernelpagesize_kB=4\n"
        "300000 default heap anon=256 N0=256 kernelpagesize_kB=4\n"
        "400000 default\n500000 default huge N3=0 kernelpagesize_kB=2048\n";
    static const char letters[] = "0123456789abcdefN=_kB \n-:\xff\x01\x1b";
    char text[2 * sizeof(seed)];
    uint64_t bad_lines, seen_bad = 0;
    unsigned round, i, changes;
    size_t len, at;

    for (round = 0; round < 200000; round++) {
        strcpy(text, seed);
        len = strlen(text);
        changes = 1 + check_below(8);
        for (i = 0; i < changes; i++) {
            at = check_below(len);
            switch (check_below(4)) {
            case 0:
                text[at] = '\0';
                len = at ? at : 1;
                break;
            case 1:
                memmove(text + at, text + at + 1, len - at);
                len = strlen(text) ? strlen(text) : 1;
                break;
            default:
                text[at] = letters[check_below(sizeof(letters) - 1)];
            }
        }
        look(text, check_below(7) * MIB / 2, (1 + check_below(12)) * MIB / 2,
             &bad_lines);
        seen_bad += bad_lines;
    }
    check(seen_bad > 10000, "200000 damaged files: every sum is right");
}

int main(void)
{
    test_lines();
    test_mapping_lines();
    test_ranges();
    test_disbelief();
    test_noise();
    return check_end();
}
