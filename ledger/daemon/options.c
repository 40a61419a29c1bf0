/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options, from the command line and from a file with one option per line
 * ("allow user:alice=64G"; no dashes, # begins a comment).  Whatever is wrong
 * is said in one line: which option, which value, what is allowed.
 */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon.h"

#define MAX_CLIENTS_MOST    65536u
#define EXIT_USAGE          2

enum option_id {
    OPT_LEDGER = 256, OPT_SOCKET, OPT_ALLOW, OPT_ADMIN, OPT_OBSERVER,
    OPT_USER, OPT_CLIENTS, OPT_PER_UID, OPT_IDLE_LOG, OPT_CONFIG, OPT_HELP,
    OPT_VERSION,
};

static const struct option table[] = {
    { "ledger", required_argument, NULL, OPT_LEDGER },
    { "socket", required_argument, NULL, OPT_SOCKET },
    { "allow", required_argument, NULL, OPT_ALLOW },
    { "admin", required_argument, NULL, OPT_ADMIN },
    { "observer", required_argument, NULL, OPT_OBSERVER },
    { "user", required_argument, NULL, OPT_USER },
    { "max-clients", required_argument, NULL, OPT_CLIENTS },
    { "max-clients-per-uid", required_argument, NULL, OPT_PER_UID },
    { "idle-log", no_argument, NULL, OPT_IDLE_LOG },
    { "config", required_argument, NULL, OPT_CONFIG },
    { "help", no_argument, NULL, OPT_HELP },
    { "version", no_argument, NULL, OPT_VERSION },
    { NULL, 0, NULL, 0 }
};

static const char usage[] =
    "usage: ballastd --ledger FILE [--socket PATH] [OPTION]...\n"
    "\n"
    "  --ledger FILE              the ledger to own (ballast init makes one)\n"
    "  --socket PATH              where to listen, unless systemd gives a socket\n"
    "  --allow WHO[=QUOTA]        may claim: uid:N, user:NAME, gid:N, group:NAME\n"
    "                             or all; QUOTA (64G) is the most per user\n"
    "  --observer WHO             sees all participants\n"
    "  --admin WHO                also holds standing claims, and repairs\n"
    "  --user NAME                become this user after start\n"
    "  --max-clients N            connections at one time (1024)\n"
    "  --max-clients-per-uid N    of one user, and participants of it (64)\n"
    "  --idle-log                 a line of figures every minute\n"
    "  --config FILE              options, one per line, without dashes\n"
    "  --help, --version\n"
    "\n"
    "Without --allow: root and the daemon's own user.  docs/ballastd.md\n";

static int wrong(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

static int wrong(const char *format, ...)
{
    va_list args;

    fputs("ballastd: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

static bool parse_number(const char *text, uint64_t least, uint64_t most,
                         uint32_t *out)
{
    unsigned long long value;
    char *end;

    if (*text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno || *end || value < least || value > most) {
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

static int find_user(const char *option, const char *name, uint32_t *uid)
{
    const struct passwd *entry = getpwnam(name);

    if (!entry) {
        return wrong("--%s 'user:%s': there is no such user", option, name);
    }
    *uid = entry->pw_uid;
    return 0;
}

static int find_group(const char *option, const char *name, uint32_t *gid)
{
    const struct group *entry = getgrnam(name);

    if (!entry) {
        return wrong("--%s 'group:%s': there is no such group", option, name);
    }
    *gid = entry->gr_gid;
    return 0;
}

/* @who is the part before "=". */
static int parse_who(const char *option, const char *who, struct rule *r)
{
    if (strcmp(who, "all") == 0 && r->role == ROLE_ALLOW) {
        r->kind = RULE_ALL;
        return 0;
    }
    r->kind = *who == 'g' ? RULE_GID : RULE_UID;
    if (strncmp(who, "uid:", 4) == 0 || strncmp(who, "gid:", 4) == 0) {
        return parse_number(who + 4, 0, UINT32_MAX - 1, &r->id) ? 0 :
               wrong("--%s '%s': a number is needed after the colon", option,
                     who);
    }
    if (strncmp(who, "user:", 5) == 0) {
        return find_user(option, who + 5, &r->id);
    }
    if (strncmp(who, "group:", 6) == 0) {
        return find_group(option, who + 6, &r->id);
    }
    return wrong("--%s '%s': uid:N, user:NAME, gid:N%s are allowed", option,
                 who, r->role == ROLE_ALLOW ? ", group:NAME and all" :
                 " and group:NAME");
}

static int add_rule(struct options *o, const char *option, enum role role,
                    const char *text)
{
    struct rule r = { .role = role, .quota_bytes = NO_QUOTA };
    char who[256];
    const char *quota = strchr(text, '=');
    size_t len = quota ? (size_t)(quota - text) : strlen(text);
    int err;

    if (len >= sizeof(who)) {
        return wrong("--%s '%.40s...': too long", option, text);
    }
    memcpy(who, text, len);
    who[len] = '\0';
    err = parse_who(option, who, &r);
    if (err) {
        return err;
    }
    if (quota && role != ROLE_ALLOW) {
        return wrong("--%s '%s': a quota goes with --allow", option, text);
    }
    if (quota && (ballast_parse_bytes(quota + 1, &r.quota_bytes) ||
                  r.quota_bytes > BALLAST_MAX_BYTES)) {
        return wrong("--%s '%s': the quota is an amount such as 512M or 64G, "
                     "at most 256T", option, text);
    }
    if (o->nr_rules == MAX_RULES) {
        return wrong("--%s '%s': at most %d rules are allowed", option, text,
                     MAX_RULES);
    }
    o->rules[o->nr_rules++] = r;
    return 0;
}

static int set_number(const char *option, const char *text, uint32_t *out)
{
    return parse_number(text, 1, MAX_CLIENTS_MOST, out) ? 0 :
           wrong("--%s '%s': 1 to %u are allowed", option, text,
                 MAX_CLIENTS_MOST);
}

static int set_path(const char *option, const char *text, size_t most,
                    const char **out)
{
    if (!*text || strlen(text) > most) {
        return wrong("--%s '%.60s': a path of 1 to %zu bytes is allowed",
                     option, text, most);
    }
    *out = strdup(text);
    return *out ? 0 : wrong("--%s: out of memory", option);
}

static int read_config(struct options *o, const char *path);

static int apply(struct options *o, int id, const char *value)
{
    switch (id) {
    case OPT_LEDGER:
        return set_path("ledger", value, 4095, &o->ledger);
    case OPT_SOCKET:
        return set_path("socket", value, WIRE_PATH_BYTES - 5, &o->socket);
    case OPT_USER:
        return set_path("user", value, 255, &o->user);
    case OPT_ALLOW:
        return add_rule(o, "allow", ROLE_ALLOW, value);
    case OPT_ADMIN:
        return add_rule(o, "admin", ROLE_ADMIN, value);
    case OPT_OBSERVER:
        return add_rule(o, "observer", ROLE_OBSERVER, value);
    case OPT_CLIENTS:
        return set_number("max-clients", value, &o->max_clients);
    case OPT_PER_UID:
        return set_number("max-clients-per-uid", value,
                          &o->max_clients_per_uid);
    case OPT_IDLE_LOG:
        o->idle_log = true;
        return 0;
    default:
        return read_config(o, value);
    }
}

/* "name value", blanks and comments taken away. */
static int apply_line(struct options *o, const char *path, int nr, char *line)
{
    const struct option *opt;
    char *name, *value, *end;

    line[strcspn(line, "#\n")] = '\0';
    name = line + strspn(line, " \t");
    end = name + strcspn(name, " \t");
    value = end + strspn(end, " \t");
    if (!*name) {
        return 0;
    }
    *end = '\0';
    end = value + strlen(value);
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
        *--end = '\0';
    }
    for (opt = table; opt->name && strcmp(opt->name, name) != 0; opt++) {
        continue;
    }
    if (!opt->name || opt->val >= OPT_CONFIG) {
        return wrong("%s:%d: '%s' is no option for a file", path, nr, name);
    }
    if ((opt->has_arg == required_argument) != (*value != '\0')) {
        return wrong("%s:%d: '%s' takes %s value", path, nr, name,
                     *value ? "no" : "a");
    }
    return apply(o, opt->val, value);
}

static int read_config(struct options *o, const char *path)
{
    char line[4352];
    int nr = 0, status = 0;
    FILE *f = fopen(path, "re");

    if (!f) {
        return wrong("--config '%s': %s", path, strerror(errno));
    }
    while (!status && fgets(line, sizeof(line), f)) {
        nr++;
        status = strchr(line, '\n') || feof(f) ?
                 apply_line(o, path, nr, line) :
                 wrong("%s:%d: the line is too long", path, nr);
    }
    fclose(f);
    return status;
}

static int check(const struct options *o, int argc, char **argv)
{
    if (optind < argc) {
        return wrong("'%s': only options are allowed; see --help",
                     argv[optind]);
    }
    if (!o->ledger) {
        return wrong("--ledger FILE is needed; see --help");
    }
    if (o->max_clients_per_uid > o->max_clients) {
        return wrong("--max-clients-per-uid %u: at most --max-clients, which "
                     "is %u", o->max_clients_per_uid, o->max_clients);
    }
    return 0;
}

/* 0, an exit status, or -1 for one of zero. */
int options_parse(struct options *o, int argc, char **argv)
{
    int c, status = 0;

    memset(o, 0, sizeof(*o));
    o->max_clients = 1024;
    o->max_clients_per_uid = 64;
    opterr = 0;
    while (!status && (c = getopt_long(argc, argv, "+:", table, NULL)) != -1) {
        if (c == OPT_HELP || c == OPT_VERSION) {
            fputs(c == OPT_HELP ? usage : "ballastd " BALLAST_VERSION "\n",
                  stdout);
            return -1;
        }
        if (c == ':') {
            return wrong("'%s' needs a value; see --help", argv[optind - 1]);
        }
        status = c == '?' ? wrong("'%s' is no option; see --help",
                                  argv[optind - 1]) :
                 apply(o, c, optarg);
    }
    return status ? status : check(o, argc, argv);
}
