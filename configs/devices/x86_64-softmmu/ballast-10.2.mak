# SPDX-License-Identifier: GPL-2.0-or-later
#
# The same for QEMU 10.2, whose ACPI tables do not link without all of CXL: its
# stubs lack cxl_fmws_get_all_sorted().

include ballast.mak
CONFIG_PXB=y
CONFIG_PCI_BRIDGE=y
CONFIG_CXL=y
CONFIG_CXL_MEM_DEVICE=y
