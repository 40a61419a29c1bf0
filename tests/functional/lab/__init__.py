# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/lab: live-migration experiments on this machine, as a table, charts and a page that explains them.

It is among the functional tests because it is made of their guests: a cell of
the lab boots, fills, migrates and checks a Linux guest as a test does.
"""
