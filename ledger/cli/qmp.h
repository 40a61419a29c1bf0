/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP client that asks: one connection, a deadline for all of it, and a
 * message for people whenever something is not as it should be.
 */
#ifndef BALLAST_CLI_QMP_H
#define BALLAST_CLI_QMP_H

#include <json-c/json.h>
#include <stdbool.h>

struct qmp;

/* NULL after a message.  Everything until qmp_close() has timeout_s seconds. */
struct qmp *qmp_open(const char *path, unsigned long timeout_s);
void qmp_close(struct qmp *q);

/*
 * What the command returned, to be put by the caller.  NULL: *absent tells
 * whether this QEMU does not have the command; if it has, or absent is NULL,
 * there was a message.
 */
struct json_object *qmp_query(struct qmp *q, const char *command,
                              bool *absent);

/* The same with arguments: a short JSON object, or NULL. */
struct json_object *qmp_execute(struct qmp *q, const char *command,
                                const char *arguments, bool *absent);

/* The greeting. */
struct json_object *qmp_greeting(const struct qmp *q);

#endif
