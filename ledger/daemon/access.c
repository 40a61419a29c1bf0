/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may do what.
 *
 * root and the daemon's own user may do everything.  Others need a rule: one
 * for their user id goes before one for a group of theirs, and that before
 * "all".  The kernel says who they are; nothing a client sends counts.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon.h"

#define MAX_GROUPS 1024

struct groups {
    uint32_t nr;
    gid_t gid[MAX_GROUPS];
};

static void peer_groups(int fd, const struct credentials *who,
                        struct groups *g)
{
    socklen_t len = sizeof(g->gid) - sizeof(g->gid[0]);

    g->nr = 0;
#ifdef SO_PEERGROUPS
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, g->gid, &len) == 0) {
        g->nr = (uint32_t)(len / sizeof(g->gid[0]));
    }
#else
    (void)fd;
    (void)len;
#endif
    g->gid[g->nr++] = who->gid;
}

static bool in_groups(const struct groups *g, uint32_t gid)
{
    uint32_t i;

    for (i = 0; i < g->nr; i++) {
        if (g->gid[i] == gid) {
            return true;
        }
    }
    return false;
}

static bool applies(const struct rule *r, const struct credentials *who,
                    const struct groups *groups)
{
    return r->kind == RULE_UID ? r->id == who->uid :
           r->kind == RULE_GID ? in_groups(groups, r->id) : true;
}

/* The most particular rule of a role; of two alike the last one given. */
static const struct rule *find_rule(const struct options *o, enum role role,
                                    const struct credentials *who,
                                    const struct groups *groups)
{
    const struct rule *best = NULL;
    uint32_t i;

    for (i = 0; i < o->nr_rules; i++) {
        const struct rule *r = &o->rules[i];

        if (r->role == role && applies(r, who, groups) &&
            (!best || r->kind <= best->kind)) {
            best = r;
        }
    }
    return best;
}

void access_of(const struct options *o, int fd, const struct credentials *who,
               struct access *access)
{
    bool owner = who->uid == 0 || who->uid == (uint32_t)geteuid();
    const struct rule *allow;
    struct groups groups;

    peer_groups(fd, who, &groups);
    allow = find_rule(o, ROLE_ALLOW, who, &groups);
    access->admin = owner || find_rule(o, ROLE_ADMIN, who, &groups);
    access->observer = access->admin ||
                       find_rule(o, ROLE_OBSERVER, who, &groups);
    access->allowed = access->observer || allow;
    access->quota_bytes = allow ? allow->quota_bytes :
                          access->admin ? NO_QUOTA : 0;
}
