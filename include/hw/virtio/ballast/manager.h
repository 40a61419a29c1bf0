/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a program that starts QEMU (libvirt) must be given before QEMU ends.
 */
#ifndef BALLAST_MANAGER_H
#define BALLAST_MANAGER_H

/**
 * ballast_manager_let_in() - a refusal is about to end QEMU: not too soon
 *
 * libvirt hands over sockets that listen already, and connects to its own once
 * QEMU has been started.  If that is closed before it came, its user is told
 * so instead of why QEMU ended.  Where QEMU was given such a socket, this
 * waits until somebody connects, five seconds at most, and a moment longer.
 * It returns at once where there is none, or once the machine is ready: whoever
 * asks a running QEMU for something gets its answer there.
 *
 * Context: the big lock.  The reason may be told before or afterwards.
 */
void ballast_manager_let_in(void);

#endif
