/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the fuzzers share.  Whatever must not be ends in abort().
 */
#ifndef BALLAST_FUZZ_H
#define BALLAST_FUZZ_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ballast/admin.h"
#include "internal.h"
#include "totals.h"

#define FUZZ_BOOT_BYTE  0xaa
#define FUZZ_PIDNS      UINT64_C(0xbbbbbbbbbbbbbbbb)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

const char *fuzz_path(const char *name);
void fuzz_write(int fd, const void *data, size_t size, uint64_t at);
void fuzz_look(struct ballast_ledger *l);
void fuzz_repair(struct ballast_ledger *l);
void fuzz_wrong(const char *what);

#endif
