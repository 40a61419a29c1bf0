// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fragment MIB [move]: a guest that has only single pages to give.
 *
 * Fills that much memory, then gives back every second page of it, and stays
 * in the background with the rest.  The rest is locked, and cannot be moved by
 * compaction where vm.compact_unevictable_allowed is 0; "move": not locked.
 * Prints the process id when it is done.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24     /* Linux 5.18 */
#endif

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Every second page stays. */
static void fill(char *memory, size_t bytes, int locked)
{
    int advice = locked ? MADV_DONTNEED_LOCKED : MADV_DONTNEED;
    size_t at;

    if (locked && mlock(memory, bytes)) {
        die("mlock");
    }
    for (at = 0; at < bytes; at += PAGE) {
        memory[at] = 1;
    }
    for (at = 0; at < bytes; at += 2 * PAGE) {
        if (madvise(memory + at, PAGE, advice)) {
            die("madvise");
        }
    }
}

int main(int argc, char **argv)
{
    int pipes[2], locked = argc < 3 || strcmp(argv[2], "move") != 0;
    char *memory, done = 0;
    size_t bytes;
    pid_t child;

    if (argc < 2) {
        fprintf(stderr, "usage: fragment MIB [move]\n");
        return 2;
    }
    bytes = strtoul(argv[1], NULL, 10) << 20;
    if (pipe(pipes)) {
        die("pipe");
    }
    child = fork();
    if (child < 0) {
        die("fork");
    }
    if (child) {
        close(pipes[1]);
        if (read(pipes[0], &done, 1) != 1) {
            fprintf(stderr, "fragment: the memory could not be had\n");
            return 1;
        }
        printf("%d\n", child);
        return 0;
    }
    setsid();
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        die("mmap");
    }
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    fill(memory, bytes, locked);
    if (write(pipes[1], &done, 1) != 1) {
        die("write");
    }
    close(pipes[1]);
    for (;;) {
        pause();
    }
}
