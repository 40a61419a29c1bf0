/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether clang is here with all that a fuzzer needs: the least that links.
 */
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)data;
    (void)size;
    return 0;
}
