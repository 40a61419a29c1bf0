# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with several NUMA nodes, as a guest under TCG, with QEMU and the tests inside."""
