/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See qmp.h.  Messages are lines, as QEMU sends them; a line that is too
 * long, is no JSON or does not come ends the conversation.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "qmp.h"

#define LINE_MAX_BYTES (4u << 20)

struct qmp {
    const char *path;
    int fd;
    unsigned long timeout_s;
    int64_t deadline_ms;
    char *buf;
    size_t used, size, taken;
    struct json_object *greeting;
};

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void complain_in_use(const struct qmp *q)
{
    complain("%s: no greeting in %lu s: another client may be using it (a QMP "
             "socket serves one at a time; give QEMU one more -qmp), or QEMU "
             "hangs", q->path, q->timeout_s);
}

static void complain_silence(const struct qmp *q)
{
    if (q->greeting) {
        complain("%s: QEMU did not answer in %lu s", q->path, q->timeout_s);
    } else {
        complain_in_use(q);
    }
}

/* Waits until the socket is ready; false after a message. */
static bool wait_ready(struct qmp *q, short events)
{
    struct pollfd p = { .fd = q->fd, .events = events };
    int64_t left;
    int n;

    do {
        left = q->deadline_ms - now_ms();
        n = left > 0 ? poll(&p, 1, (int)left) : 0;
    } while (n < 0 && errno == EINTR);
    if (n == 0) {
        complain_silence(q);
    } else if (n < 0) {
        complain("%s: %s", q->path, strerror(errno));
    }
    return n > 0;
}

static bool make_room(struct qmp *q)
{
    char *bigger;

    if (q->used < q->size) {
        return true;
    }
    if (q->size >= LINE_MAX_BYTES) {
        complain("%s: a line of more than %u MiB: this is not QMP", q->path,
                 LINE_MAX_BYTES >> 20);
        return false;
    }
    bigger = realloc(q->buf, q->size ? q->size * 2 : 4096);
    if (!bigger) {
        complain("%s: out of memory", q->path);
        return false;
    }
    q->buf = bigger;
    q->size = q->size ? q->size * 2 : 4096;
    return true;
}

/* Reads what there is; false at the end, after a message. */
static bool read_more(struct qmp *q)
{
    ssize_t n;

    if (!make_room(q) || !wait_ready(q, POLLIN)) {
        return false;
    }
    n = read(q->fd, q->buf + q->used, q->size - q->used);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return true;
    }
    if (n <= 0) {
        complain("%s: QEMU closed the connection", q->path);
        return false;
    }
    q->used += (size_t)n;
    return true;
}

/* The next line, without its end; valid until the next call. */
static char *read_line(struct qmp *q, size_t *len)
{
    size_t seen = 0;
    char *end;

    memmove(q->buf, q->buf + q->taken, q->used - q->taken);
    q->used -= q->taken;
    q->taken = 0;
    while (!q->used || !(end = memchr(q->buf + seen, '\n', q->used - seen))) {
        seen = q->used;
        if (!read_more(q)) {
            return NULL;
        }
    }
    *len = (size_t)(end - q->buf);
    q->taken = *len + 1;
    return q->buf;
}

/* Somebody else's words in a message: one line, nothing that moves a cursor. */
static void complain_not_qmp(const struct qmp *q, const char *line, size_t len)
{
    char shown[61];
    size_t i;

    for (i = 0; i < len && i < sizeof(shown) - 1; i++) {
        shown[i] = line[i] >= ' ' && line[i] <= '~' ? line[i] : '?';
    }
    shown[i] = '\0';
    complain("%s does not speak QMP: it says '%s%s'", q->path, shown,
             len > i ? "…" : "");
}

/* The next message; NULL after a message for people. */
static struct json_object *read_message(struct qmp *q)
{
    struct json_tokener *tok = json_tokener_new();
    struct json_object *message = NULL;
    size_t len = 0;
    char *line = tok ? read_line(q, &len) : NULL;

    if (line) {
        message = json_tokener_parse_ex(tok, line, (int)len);
        if (!json_object_is_type(message, json_type_object)) {
            complain_not_qmp(q, line, len);
            json_object_put(message);
            message = NULL;
        }
    }
    json_tokener_free(tok);
    return message;
}

/* The answer to what was sent: events come in between. */
static struct json_object *read_answer(struct qmp *q)
{
    struct json_object *message;

    while ((message = read_message(q)) &&
           json_object_object_get_ex(message, "event", NULL)) {
        json_object_put(message);
    }
    return message;
}

static bool send_command(struct qmp *q, const char *command,
                         const char *arguments)
{
    char text[256];
    int len = snprintf(text, sizeof(text),
                       "{\"execute\": \"%s\"%s%s}\n", command,
                       arguments ? ", \"arguments\": " : "",
                       arguments ? arguments : "");
    ssize_t n;

    if (!wait_ready(q, POLLOUT)) {
        return false;
    }
    n = send(q->fd, text, (size_t)len, MSG_NOSIGNAL);
    if (n != len) {
        complain("%s: %s", q->path, n < 0 ? strerror(errno) :
                 "QEMU does not take commands");
        return false;
    }
    return true;
}

static const char *member(struct json_object *o, const char *name)
{
    struct json_object *value;

    return json_object_object_get_ex(o, name, &value) ?
           json_object_get_string(value) : "";
}

/* True if the error only says that there is no such command. */
static bool not_there(struct qmp *q, const char *command,
                      struct json_object *answer, bool *absent)
{
    struct json_object *error;

    if (!json_object_object_get_ex(answer, "error", &error)) {
        complain("%s: the answer to %s is neither a return nor an error",
                 q->path, command);
        return false;
    }
    if (absent && strcmp(member(error, "class"), "CommandNotFound") == 0) {
        return true;
    }
    complain("%s: %s: %.200s", q->path, command, member(error, "desc"));
    return false;
}

struct json_object *qmp_query(struct qmp *q, const char *command, bool *absent)
{
    return qmp_execute(q, command, NULL, absent);
}

struct json_object *qmp_execute(struct qmp *q, const char *command,
                                const char *arguments, bool *absent)
{
    struct json_object *answer = NULL, *value = NULL;

    if (absent) {
        *absent = false;
    }
    if (send_command(q, command, arguments)) {
        answer = read_answer(q);
    }
    if (answer && json_object_object_get_ex(answer, "return", &value)) {
        json_object_get(value);
    } else if (answer && not_there(q, command, answer, absent)) {
        *absent = true;
    }
    json_object_put(answer);
    return value;
}

struct json_object *qmp_greeting(const struct qmp *q)
{
    return q->greeting;
}

/* False after a message. */
static bool dial(struct qmp *q)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    if (strlen(q->path) >= sizeof(addr.sun_path)) {
        complain("--qmp %s: a path of at most %zu bytes is allowed", q->path,
                 sizeof(addr.sun_path) - 1);
        return false;
    }
    memcpy(addr.sun_path, q->path, strlen(q->path));
    q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (q->fd < 0) {
        complain("no socket: %s", strerror(errno));
        return false;
    }
    if (connect(q->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
        return true;
    }
    if (errno == EAGAIN) {
        complain("%s: its queue is full: other clients are waiting for it (a "
                 "QMP socket serves one at a time)", q->path);
    } else {
        complain("cannot connect to %s: %s%s", q->path, strerror(errno),
                 errno == ECONNREFUSED ? "; is QEMU still running, and is "
                 "this a QMP socket?" : "");
    }
    return false;
}

static bool greet(struct qmp *q)
{
    struct json_object *hello = read_message(q), *answer;

    if (!hello) {
        return false;
    }
    if (!json_object_object_get_ex(hello, "QMP", NULL)) {
        const char *text = json_object_to_json_string(hello);

        complain_not_qmp(q, text, strlen(text));
        json_object_put(hello);
        return false;
    }
    q->greeting = hello;
    answer = qmp_query(q, "qmp_capabilities", NULL);
    json_object_put(answer);
    return answer != NULL;
}

struct qmp *qmp_open(const char *path, unsigned long timeout_s)
{
    struct qmp *q = calloc(1, sizeof(*q));

    if (!q) {
        complain("out of memory");
        return NULL;
    }
    q->fd = -1;
    q->path = path;
    q->timeout_s = timeout_s;
    q->deadline_ms = now_ms() + (int64_t)timeout_s * 1000;
    if (!make_room(q) || !dial(q) || !greet(q)) {
        qmp_close(q);
        return NULL;
    }
    return q;
}

void qmp_close(struct qmp *q)
{
    if (q->fd >= 0) {
        close(q->fd);
    }
    json_object_put(q->greeting);
    free(q->buf);
    free(q);
}
