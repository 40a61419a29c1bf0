/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How long round 1 waits for hints: the rules, without QEMU.  See the header. */
#include "migration/ballast/patience.h"

#define SECOND_NS (1000 * BALLAST_MS)

/* Less says little of how fast QEMU sends. */
#define MEASURED_NS (10 * BALLAST_MS)

void ballast_patience_sent(struct ballast_patience *p, uint64_t pages,
                           uint64_t ns)
{
    p->sent_pages += pages;
    p->sending_ns += ns;
}

bool ballast_patience_left(const struct ballast_patience *p)
{
    return !p->over && p->waited_ns < BALLAST_WAIT_MOST_NS &&
           p->idle_ns < BALLAST_WAIT_UNPAID_NS &&
           p->waited_ns < p->worth_ns + BALLAST_WAIT_UNPAID_NS;
}

double ballast_patience_pace(const struct ballast_patience *p,
                             uint64_t most_per_s)
{
    double pace = p->sending_ns >= MEASURED_NS ?
                  (double)p->sent_pages / p->sending_ns :
                  (double)BALLAST_PAGES_PER_S / SECOND_NS;
    double most = (double)most_per_s / SECOND_NS;

    return most_per_s && pace > most ? most : pace;
}

/* How long they are worth waiting for; long, if nothing can be sent. */
static double ns_worth(const struct ballast_patience *p, uint64_t pages,
                       uint64_t most_per_s)
{
    double ns = BALLAST_HINT_WORTH * pages /
                ballast_patience_pace(p, most_per_s);

    return pages && ns < BALLAST_WAIT_MOST_NS ? ns :
           pages ? BALLAST_WAIT_MOST_NS : 0;
}

bool ballast_patience_waited(struct ballast_patience *p, uint64_t ns,
                             uint64_t pages, uint64_t hinted_pages,
                             uint64_t most_per_s, bool finished)
{
    double worth_ns = ns_worth(p, pages, most_per_s);

    p->waited_ns += ns;
    p->slices++;
    p->gained_pages += pages;
    p->worth_ns += worth_ns;
    if (worth_ns >= ns) {
        p->idle_ns = 0;
        return true;
    }
    p->unpaid_ns += ns;
    p->unpaid_slices++;
    p->over = finished;
    if (ns_worth(p, hinted_pages, most_per_s) >= ns) {
        return true;
    }
    p->idle_ns += ns;
    return p->idle_ns < BALLAST_WAIT_IDLE_NS;
}
