/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ledger file that anybody may have written, as the library sees it: every
 * call must come back with an answer, touch nothing outside the mapping, and
 * keep the identity.
 *
 * The input is the file.  Most mutations are of one field or one word, and
 * the sums of the header are put right afterwards, so that it is not refused
 * at the door.  A boot id of 0xaa stands for that of this boot, and a pid
 * namespace of 0xbb for ours, so that inputs keep their meaning.
 *
 * What is not tried: a mutex that somebody holds for ever (a call waits ten
 * seconds for it, as it says).  It is free, or its owner has died.
 */
#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned seed);

static const char *path;

/* Mutation ------------------------------------------------------------- */

static const uint64_t interesting[] = {
    0, 1, 2, 3, 4, 5, 64, 65, 4096, 8192, 8193, UINT32_MAX, INT32_MAX,
    UINT64_C(1) << 32, BALLAST_MAX_BYTES, BALLAST_MAX_BYTES + 1,
    BALLAST_MAX_BYTES - 4096, INT64_MAX, UINT64_MAX, UINT64_C(1) << 63,
    FUZZ_PIDNS,
};

static uint64_t pick_value(uint64_t old, unsigned *seed)
{
    switch (rand_r(seed) % 6) {
    case 0:
        return old + 1;
    case 1:
        return old - 1;
    case 2:
        return old ^ UINT64_C(1) << rand_r(seed) % 64;
    case 3:
        return old * 4096;
    default:
        return interesting[(unsigned)rand_r(seed) %
                           (sizeof(interesting) / 8)];
    }
}

/* A word of the parts that are not all zero, half of it or all. */
static void change_word(uint8_t *data, size_t size, unsigned *seed)
{
    static const size_t parts[][2] = {
        { 0, 128 }, { 1032, 1216 }, { 0, 4096 }, { 4096, 8192 },
        { 8192, 20000 }, { 8192, 20000 }, { 8192, 20000 }, { 8192, 20000 },
    };
    size_t part = (unsigned)rand_r(seed) % 8, from = parts[part][0];
    size_t to = parts[part][1] < size ? parts[part][1] : size, at;
    size_t bytes = rand_r(seed) % 3 ? 8 : 4;
    uint64_t word = 0;

    if (from + 8 > to) {
        return;
    }
    at = from + (unsigned)rand_r(seed) % (to - from - 7) / bytes * bytes;
    memcpy(&word, data + at, bytes);
    word = pick_value(word, seed);
    memcpy(data + at, &word, bytes);
}

static void lay_out(struct file_header *h)
{
    struct geometry geo = {
        .nr_nodes = h->nr_nodes, .nr_classes = h->nr_classes,
        .nr_slots = h->nr_slots,
    };

    if (h->nr_nodes <= BALLAST_MAX_NODES &&
        h->nr_classes <= BALLAST_MAX_CLASSES && h->nr_slots <= SLOTS_MAX) {
        file_lay_out(&geo);
        h->capacity_offset = geo.capacity_offset;
        h->totals_offset = geo.totals_offset;
        h->slots_offset = geo.slots_offset;
        h->slot_bytes = geo.slot_bytes;
        h->file_bytes = geo.file_bytes;
    }
}

static void put_right(uint8_t *data, size_t size, unsigned *seed)
{
    struct file_header h;
    uint64_t capacity[MAX_CELLS];
    uint64_t cells;

    if (size < sizeof(h)) {
        return;
    }
    memcpy(&h, data, sizeof(h));
    if (rand_r(seed) % 8) {
        memcpy(h.magic, FILE_MAGIC, sizeof(h.magic));
        h.format = FILE_FORMAT;
        h.header_bytes = FILE_HEADER_BYTES;
        h.abi = FILE_ABI;
        h.mutex_bytes = sizeof(pthread_mutex_t);
        lay_out(&h);
    }
    cells = ((uint64_t)h.nr_nodes + 1) * h.nr_classes;
    if (cells <= MAX_CELLS && size >= FILE_HEADER_BYTES + cells * 8) {
        memcpy(capacity, data + FILE_HEADER_BYTES, cells * 8);
        h.capacity_sum = file_capacity_sum(capacity, (uint32_t)cells);
    }
    h.static_sum = file_static_sum(&h);
    if (rand_r(seed) % 4) {
        memset(h.boot_id, FUZZ_BOOT_BYTE, sizeof(h.boot_id));
    }
    memcpy(data, &h, sizeof(h));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned seed)
{
    unsigned left;

    if (rand_r(&seed) % 16 == 0) {
        size = LLVMFuzzerMutate(data, size, max_size);
    } else {
        for (left = 1 + (unsigned)rand_r(&seed) % 4; left; left--) {
            change_word(data, size, &seed);
        }
    }
    if (rand_r(&seed) % 16) {
        put_right(data, size, &seed);
    }
    return size;
}

/* Use ------------------------------------------------------------------ */

/* What the input cannot know, in a file that has a header at all. */
static void localise(int fd, size_t size)
{
    struct file_header h;
    uint64_t at, pidns = host_pidns(), word;
    uint8_t *boot = h.boot_id;

    if (size < sizeof(h) || pread(fd, &h, sizeof(h), 0) != sizeof(h)) {
        return;
    }
    if (boot[0] == FUZZ_BOOT_BYTE && boot[15] == FUZZ_BOOT_BYTE) {
        file_boot_id(boot);
    }
    h.mutex.__data.__lock &= 0x40000000;
    fuzz_write(fd, &h, sizeof(h), 0);
    for (at = h.slots_offset % size + offsetof(struct file_slot, pidns_inode);
         at + 8 <= size && h.slot_bytes >= 64; at += h.slot_bytes) {
        if (pread(fd, &word, 8, (off_t)at) == 8 && word == FUZZ_PIDNS) {
            fuzz_write(fd, &pidns, 8, at);
        }
    }
}

static void use_own_slot(struct ballast_ledger *l)
{
    struct ballast_demand d = { .node = l->geo.node_id[0],
                                .bytes = l->geo.page_bytes[0] * 2 };
    struct ballast_usage u = { .node = d.node,
                               .resident_bytes = l->geo.page_bytes[0] };
    struct ballast_refusal why;
    struct ballast_own own[8];
    char text[1024];

    if (ballast_join(l, "fuzzer", 0, &why)) {
        ballast_refusal_text(&why, text, sizeof(text));
        return;
    }
    if (ballast_claim(l, &d, 1, &why)) {
        ballast_refusal_text(&why, text, sizeof(text));
    }
    ballast_report(l, &u, 1);
    d.bytes *= 1000;
    ballast_queue(l, &d, 1, 1000, &why);
    ballast_queue_poll(l, &why);
    ballast_own(l, own, 8);
    ballast_queue_cancel(l);
    ballast_stand(l, "standing", &d, 1, 0, &why);
    ballast_release(l, "standing", &why);
}

/* Whatever was in it, what we make of it agrees with itself. */
static void use(struct ballast_ledger *l)
{
    fuzz_look(l);
    use_own_slot(l);
    fuzz_look(l);
    ballast_sweep(l);
    fuzz_repair(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ballast_ledger *l;
    struct ballast_refusal why;
    char text[1024];
    int fd;

    if (!path) {
        path = fuzz_path("file");
    }
    unlink(path);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    fuzz_write(fd, data, size, 0);
    localise(fd, size);
    close(fd);
    if (ballast_ledger_open(path, &l, &why)) {
        ballast_refusal_text(&why, text, sizeof(text));
        return 0;
    }
    use(l);
    ballast_ledger_close(l);
    return 0;
}
