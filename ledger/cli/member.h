/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Members of what QEMU answered, which may be there or not.
 */
#ifndef BALLAST_CLI_MEMBER_H
#define BALLAST_CLI_MEMBER_H

#include <json-c/json.h>
#include <stdint.h>

/* NULL if @o is NULL, no object, or has none of that name. */
struct json_object *member_get(struct json_object *o, const char *name);

/* 0 if there is none. */
uint64_t member_number(struct json_object *o, const char *name);

/* @otherwise if there is none. */
const char *member_text(struct json_object *o, const char *name,
                        const char *otherwise);

#endif
