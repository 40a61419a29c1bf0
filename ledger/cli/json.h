/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What --json prints.  docs/schema/ describes every member; names are only
 * ever added.
 */
#ifndef BALLAST_CLI_JSON_H
#define BALLAST_CLI_JSON_H

#include "ballast/admin.h"

void json_string(const char *s);
/* A whole object, and the same as a member of one. */
void json_error(const char *text, const struct ballast_refusal *why);
void json_error_member(const char *text, const struct ballast_refusal *why);
void json_created(const char *path, const struct ballast_status *st);
void json_granted(const char *name);
void json_released(const char *name);
void json_status(const struct ballast_status *st);

#endif
