# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo: its story, what it samples, and the picture it draws."""
