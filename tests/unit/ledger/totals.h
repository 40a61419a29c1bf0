/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The totals against the slots, for unit tests and fuzzers.
 */
#ifndef LEDGER_TEST_TOTALS_H
#define LEDGER_TEST_TOTALS_H

#include "internal.h"

/* The totals, and the number of those who wait; with the mutex held. */
bool totals_agree(struct ballast_ledger *l);

#endif
