/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Why not: reasons, their errno, and their words.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

static const struct {
    int err;
    const char *name;
    const char *text;
} reasons[] = {
    [BALLAST_OK] = { 0, "ok", "no error" },
    [BALLAST_SHORT_NODE] = { -ENOMEM, "short-node", NULL },
    [BALLAST_SHORT_HOST] = { -ENOMEM, "short-host", NULL },
    [BALLAST_SHORT_KERNEL] = { -ENOMEM, "short-kernel", NULL },
    [BALLAST_BELOW_RESIDENT] = { -EINVAL, "below-resident", NULL },
    [BALLAST_NO_SUCH_NODE] = { -ENOENT, "no-such-node", NULL },
    [BALLAST_NO_SUCH_CLASS] = { -ENOENT, "no-such-class", NULL },
    [BALLAST_ABOVE_MAXIMUM] = { -EDQUOT, "above-maximum", NULL },
    [BALLAST_TOO_MANY_ENTRIES] = { -E2BIG, "too-many-entries",
        "too many entries in one claim" },
    [BALLAST_DUPLICATE_ENTRY] = { -EINVAL, "duplicate-entry", NULL },
    [BALLAST_NOT_ZERO] = { -EINVAL, "not-zero",
        "a field that must be zero is not" },
    [BALLAST_NOT_ALIGNED] = { -EINVAL, "not-aligned", NULL },
    [BALLAST_OVERFLOW] = { -EOVERFLOW, "overflow",
        "amount too large: at most 256 TiB per page size" },
    [BALLAST_DYING] = { -ESHUTDOWN, "dying",
        "this participant was given up as dead" },
    [BALLAST_NOT_JOINED] = { -ENOTCONN, "not-joined",
        "not a participant of this ledger" },
    [BALLAST_NO_SLOT] = { -ENOSPC, "no-slot",
        "the ledger has no slot left for another participant" },
    [BALLAST_NAME_IN_USE] = { -EADDRINUSE, "name-in-use",
        "a living participant has this name already" },
    [BALLAST_BAD_NAME] = { -EINVAL, "bad-name", "bad name" },
    [BALLAST_BAD_FILE] = { -EBADMSG, "bad-file", "not a usable ledger" },
    [BALLAST_OTHER_FORMAT] = { -EPROTONOSUPPORT, "other-format",
        "the ledger has another format" },
    [BALLAST_OTHER_ABI] = { -ENOEXEC, "other-abi", "the ledger was made by a "
        "program with another C library or word size" },
    [BALLAST_EXISTS] = { -EEXIST, "exists", "there is such a file already" },
    [BALLAST_SYSTEM] = { -EIO, "system", NULL },
    [BALLAST_BEHIND_QUEUE] = { -EBUSY, "behind-queue", NULL },
    [BALLAST_NOT_ALLOWED] = { -EACCES, "not-allowed",
        "the daemon does not allow this" },
    [BALLAST_ABOVE_QUOTA] = { -EDQUOT, "above-quota", NULL },
    [BALLAST_NO_DAEMON] = { -ENOTCONN, "no-daemon",
        "the daemon does not answer" },
};

#define NR_REASONS (sizeof(reasons) / sizeof(reasons[0]))

/* All that is looked at, not all there is: it is a kilobyte. */
void why_init(struct ballast_refusal *why)
{
    if (why) {
        why->reason = BALLAST_OK;
        why->err = 0;
        why->node = BALLAST_NODE_ANY;
        why->page_bytes = 0;
        why->asked_bytes = why->available_bytes = 0;
        why->missing_bytes = why->limit_bytes = 0;
        why->nr_ahead = why->zero = 0;
        why->nr_holders = why->more_holders = 0;
        why->detail[0] = '\0';
    }
}

int refuse(struct ballast_refusal *why, enum ballast_reason reason)
{
    if (why) {
        why->reason = reason;
        why->err = reasons[reason].err;
    }
    return reasons[reason].err;
}

int refuse_system(struct ballast_refusal *why, int err, const char *format,
                  ...)
{
    va_list args;

    if (why) {
        why->reason = BALLAST_SYSTEM;
        why->err = err;
        va_start(args, format);
        vsnprintf(why->detail, sizeof(why->detail), format, args);
        va_end(args);
    }
    return err;
}

int refuse_detail(struct ballast_refusal *why, enum ballast_reason reason,
                  const char *format, ...)
{
    va_list args;

    if (why) {
        va_start(args, format);
        vsnprintf(why->detail, sizeof(why->detail), format, args);
        va_end(args);
    }
    return refuse(why, reason);
}

int refuse_stale(struct ballast_refusal *why, const char *detail)
{
    refuse_detail(why, BALLAST_BAD_FILE, "%s", detail);
    if (why) {
        why->err = -ESTALE;
    }
    return -ESTALE;
}

const char *ballast_reason_name(enum ballast_reason reason)
{
    return (size_t)reason < NR_REASONS ? reasons[reason].name : "unknown";
}

/* A bounded text that keeps counting, as snprintf does. */
struct text {
    char *buf;
    size_t len;
    size_t used;
};

static void say(struct text *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void say(struct text *t, const char *format, ...)
{
    size_t room = t->used < t->len ? t->len - t->used : 0;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(room ? t->buf + t->used : NULL, room, format, args);
    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
}

static void say_bytes(struct text *t, uint64_t bytes)
{
    char word[64];

    ballast_format_bytes(bytes, word, sizeof(word));
    say(t, "%s", word);
}

static void say_where(struct text *t, const struct ballast_refusal *why)
{
    if (why->node == BALLAST_NODE_ANY) {
        say(t, " on the host");
    } else {
        say(t, " on node %u", why->node);
    }
    if (why->page_bytes > 64 * 1024) {
        say(t, " in pages of ");
        say_bytes(t, why->page_bytes);
    }
}

static void say_holders(struct text *t, const struct ballast_refusal *why,
                        const char *how)
{
    uint32_t nr = why->nr_holders;
    uint32_t i;

    nr = nr > BALLAST_MAX_HOLDERS ? BALLAST_MAX_HOLDERS : nr;
    for (i = 0; i < nr; i++) {
        const struct ballast_holder *h = &why->holders[i];

        say(t, "%s%.*s ", i ? ", " : how, BALLAST_NAME_BYTES - 1, h->name);
        if (h->pid > 0) {
            say(t, "(pid %d%s) ", h->pid, h->dying ? ", dying" : "");
        }
        say_bytes(t, h->reserved_bytes);
    }
    if (why->more_holders && nr) {
        say(t, " and %u more", why->more_holders);
    } else if (why->more_holders) {
        say(t, "%s%u that a daemon does not name", how, why->more_holders);
    }
}

static void say_short(struct text *t, const struct ballast_refusal *why)
{
    uint64_t counted = why->missing_bytes + why->available_bytes;

    say(t, "claim of ");
    say_bytes(t, why->asked_bytes);
    say_where(t, why);
    say(t, " refused: ");
    say_bytes(t, why->missing_bytes);
    say(t, " missing (");
    say_bytes(t, why->available_bytes);
    if (why->reason == BALLAST_SHORT_KERNEL) {
        say(t, " unpromised of ");
        say_bytes(t, why->limit_bytes);
        say(t, " that the kernel has free");
    } else {
        say(t, " free of ");
        say_bytes(t, why->limit_bytes);
    }
    if (why->available_bytes && why->asked_bytes > counted) {
        say(t, ", ");
        say_bytes(t, why->asked_bytes - counted);
        say(t, " claimed before");
    }
    say(t, ")");
    say_holders(t, why, "; held by ");
    if (why->nr_ahead) {
        say(t, "; %u came first", why->nr_ahead);
    }
}

static void say_queue(struct text *t, const struct ballast_refusal *why)
{
    say(t, "claim of ");
    say_bytes(t, why->asked_bytes);
    say_where(t, why);
    say(t, " refused: %u wait%s for memory there and came first",
        why->nr_ahead, why->nr_ahead == 1 ? "s" : "");
    say_holders(t, why, ": ");
}

static void say_limit(struct text *t, const struct ballast_refusal *why,
                      const char *relation)
{
    say(t, "claim of ");
    say_bytes(t, why->asked_bytes);
    say(t, " refused: %s ", relation);
    say_bytes(t, why->limit_bytes);
}

static void say_other(struct text *t, const struct ballast_refusal *why)
{
    const char *text = (size_t)why->reason < NR_REASONS ?
                       reasons[why->reason].text : "unknown reason";

    if (text) {
        say(t, "%s", text);
    }
    if (why->detail[0]) {
        say(t, "%s%.*s", text ? ": " : "", (int)sizeof(why->detail) - 1,
            why->detail);
    }
    if (!text) {
        say(t, "%s%s", why->detail[0] ? ": " : "", strerror(-why->err));
    }
}

size_t ballast_refusal_text(const struct ballast_refusal *why,
                            char *buf, size_t len)
{
    struct text t = { buf, len, 0 };

    if (len) {
        buf[0] = '\0';
    }
    switch (why->reason) {
    case BALLAST_SHORT_NODE:
    case BALLAST_SHORT_HOST:
    case BALLAST_SHORT_KERNEL:
        say_short(&t, why);
        break;
    case BALLAST_BELOW_RESIDENT:
        say_limit(&t, why, "below what is resident,");
        break;
    case BALLAST_BEHIND_QUEUE:
        say_queue(&t, why);
        break;
    case BALLAST_ABOVE_QUOTA:
        say_limit(&t, why, "above what this user may claim,");
        break;
    case BALLAST_ABOVE_MAXIMUM:
        say_limit(&t, why, "above this participant's maximum of");
        break;
    case BALLAST_NO_SUCH_NODE:
        say(&t, "there is no node %u in this ledger", why->node);
        break;
    case BALLAST_NO_SUCH_CLASS:
        say(&t, "this ledger has no pages of ");
        say_bytes(&t, why->page_bytes);
        break;
    case BALLAST_DUPLICATE_ENTRY:
        say(&t, "two entries of one claim are");
        say_where(&t, why);
        break;
    case BALLAST_NOT_ALIGNED:
        say_limit(&t, why, "not a multiple of the page size,");
        break;
    default:
        say_other(&t, why);
        break;
    }
    return t.used;
}
