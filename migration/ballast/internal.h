/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the files of migration/ballast only. */
#ifndef BALLAST_MIGRATION_INTERNAL_H
#define BALLAST_MIGRATION_INTERNAL_H

#include "hw/virtio/ballast/compat.h"
#include "migration/ballast/generation.h"
#include "migration/ballast/harvest.h"

/**
 * ballast_stream_widen() - let more of a migration be on its way
 *
 * On a local socket only, and as far as the host allows.
 *
 * Context: migration thread.
 */
void ballast_stream_widen(void);

/**
 * ballast_arm() - arm the kernel's log for every page that hints may name
 *
 * After this and ballast_arm_tlb(), and until the next harvest, each guest
 * write leaves a trace for the next harvest, on KVM with and without manual
 * protect, with the dirty ring, and under TCG.
 *
 * Context: migration thread, or big lock; between a harvest and the
 * publication of the next cmd id.  The migration thread may be sending
 * meanwhile.
 *
 * Return: number of chunks whose log had to be cleared.
 */
uint64_t ballast_arm(void);

/**
 * ballast_arm_tlb() - under TCG, let the next write to each page be seen
 *
 * Needed after every harvest, whether hints are asked for or not: QEMU's
 * own harvest leaves entries writable, and a page that is sent and written
 * through such an entry is lost.
 *
 * Context: big lock, after a harvest.
 */
void ballast_arm_tlb(void);

/**
 * ballast_block_migrates() - are this block's pages in a dirty bitmap?
 * @rb: a block
 *
 * Context: RCU read side, while a migration is running.
 */
bool ballast_block_migrates(RAMBlock *rb);

/**
 * ballast_generation_hold() - keep the current generation from ending
 *
 * Context: migration thread, without QEMU's dirty bitmap lock.  Takes the
 * hints lock: nobody else drops pages until ballast_generation_release(),
 * which is to follow whatever this returns.
 *
 * Return: the generation; not open if a harvest may be running.
 */
struct ballast_generation ballast_generation_hold(void);

/** ballast_generation_release() - see ballast_generation_hold() */
void ballast_generation_release(void);

/**
 * ballast_pages_sent() - what QEMU has sent in this migration
 *
 * Counted before it lets go of the dirty bitmap's lock.  With multifd, which
 * counts later, and RDMA this tells less.
 *
 * Context: any thread.
 */
uint64_t ballast_pages_sent(void);

/**
 * ballast_wait_begin() - a migration begins
 *
 * Context: before its migration thread sends.
 */
void ballast_wait_begin(void);

/**
 * ballast_may_wait() - may this migration still wait for hints?
 *
 * Context: migration thread, no lock.
 */
bool ballast_may_wait(void);

/**
 * ballast_wait_for_hints() - wait while hints come faster than QEMU sends
 * @far: set if QEMU's next pages are at the far end; cleared otherwise
 *
 * Bounded, see patience.h; returns at once where nothing is asked for.
 *
 * Context: migration thread, before a step, no lock.
 * Return: after so many pages QEMU would come to such as may still be hinted;
 * 0: let it send.
 */
uint64_t ballast_wait_for_hints(bool *far);

/**
 * ballast_wait_turn() - QEMU's turn begins
 *
 * Context: migration thread, at the end of whatever comes before a step.
 */
void ballast_wait_turn(void);

/**
 * ballast_turn_limit() - QEMU's next turn ends after so many pages
 * @pages: above 0; of zeros more may go
 *
 * Nothing happens if the operator's limit is lower, or leaves no room for the
 * largest page of any RAM block beyond that.
 *
 * Context: migration thread, before a step, no lock.
 */
void ballast_turn_limit(uint64_t pages);

/**
 * ballast_turns_are_ours() - do QEMU's turns end where we want?
 *
 * They do where no page is larger than the target's, and the operator's limit
 * is none, or at least 1 GiB/s: rarely the one that ends a turn.
 *
 * Context: migration thread, no lock.
 */
bool ballast_turns_are_ours(void);

/**
 * ballast_turn_from() - QEMU's next turn begins somewhere else
 * @rb: in this block
 * @page: with this page; if it is not dirty by then, QEMU goes on where it is
 *
 * It goes on from there, and comes to what it was about to send after the
 * last block's end.
 *
 * Context: migration thread, before a step, no lock; RCU read side.
 *
 * Return: false if it does not.
 */
bool ballast_turn_from(RAMBlock *rb, uint64_t page);

/**
 * ballast_turn_over() - take the limit back
 *
 * Context: migration thread, before each step.  Does nothing if there is
 * none.
 */
void ballast_turn_over(void);

/**
 * ballast_turns_over() - the migration has ended
 *
 * Context: whoever ends it.
 */
void ballast_turns_over(void);

/**
 * ballast_hints_ask() - arm, and let the device ask, where it could not yet
 *
 * A harvest holds the big lock: so what has to come between it and the
 * question is done here.
 *
 * Context: migration thread, before a step, no lock.  Takes the big lock
 * over the publication.
 */
void ballast_hints_ask(void);

/**
 * ballast_hints_deferred() - will ballast_hints_ask() let the device ask?
 *
 * Context: big lock.
 */
bool ballast_hints_deferred(void);

/**
 * ballast_balloons_ask() - the question that was kept from a device
 *
 * Context: big lock; armed since the harvest.
 */
void ballast_balloons_ask(void);

/**
 * ballast_hints_finished() - has the guest hinted all that it will?
 *
 * Context: any thread.
 *
 * Return: true if it has said so for the question that is open now.
 */
bool ballast_hints_finished(void);

/** ballast_absent_install() - once, before any migration; big lock */
void ballast_absent_install(void);

/**
 * ballast_absent_harvest() - a harvest is about to begin
 *
 * Context: hints lock and big lock, in the thread that harvests.
 */
void ballast_absent_harvest(void);

/**
 * ballast_absent_begin() - a generation has begun
 * @number: its harvest; with 1 a migration begins
 *
 * Context: hints lock and big lock, in the thread that has harvested.
 */
void ballast_absent_begin(uint64_t number);

/**
 * ballast_absent_end() - the migration is over
 *
 * Context: hints lock; the migration thread looks no more.
 */
void ballast_absent_end(void);

/**
 * ballast_absent_hints_begin() - hints are going to be applied
 * @addr: host address of the first page of one; its page is dropped
 * @number: the generation
 *
 * Context: hints lock, until ballast_absent_hints_end(); not in the
 * migration thread.  May wait as long as the migration thread sends.
 */
void ballast_absent_hints_begin(void *addr, uint64_t number);

/**
 * ballast_absent_hint() - the next one, before its pages are dropped
 * @addr: host address
 * @bytes: length, whole pages
 * @number: the generation
 */
void ballast_absent_hint(void *addr, size_t bytes, uint64_t number);

/** ballast_absent_hints_end() - all of them were dropped */
void ballast_absent_hints_end(void);

/**
 * ballast_find_each_zero() - which of some pages read as zero?
 * @host: memory of page 0
 * @begin: the first of them
 * @end: one more than the last
 * @todo: as for ballast_find_zeros()
 * @zero: likewise
 *
 * Context: any thread, RCU read side there or where it is waited for.
 */
void ballast_find_each_zero(const void *host, uint64_t begin, uint64_t end,
                            const unsigned long *todo, unsigned long *zero);

/**
 * ballast_find_zeros() - which of these pages read as zero?
 * @host: memory of the first
 * @pages: how many, above 0
 * @todo: those to look at; all are populated, or in @zero
 * @zero: those found are added; those in it are not read
 *
 * Some threads read, where the host has processors for them.
 *
 * Context: migration thread, RCU read side.
 */
void ballast_find_zeros(const void *host, uint64_t pages,
                        const unsigned long *todo, unsigned long *zero);

/**
 * ballast_absent_foresee() - how much of what QEMU comes to is used?
 * @most_pages: as many are enough
 *
 * Context: migration thread, round 1, no lock.
 * Return: pages that QEMU can send before it comes to any that may still be
 * hinted; 0 also if nothing is known of that.
 */
uint64_t ballast_absent_foresee(uint64_t most_pages);

/**
 * ballast_absent_far() - let QEMU go on at the far end
 *
 * Where hints are coming, but not there.  See ballast_course_far().
 *
 * Context: migration thread, round 1, no lock.
 * Return: pages that QEMU can send there; 0: none, it goes on where it is.
 */
uint64_t ballast_absent_far(void);

#endif
