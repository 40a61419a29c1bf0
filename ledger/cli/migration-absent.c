/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ballast migration in a build without a JSON library.
 */
#include "cli.h"

int cmd_migration(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    complain("migration: this build has no JSON library: install json-c "
             "(Debian: libjson-c-dev) and build again");
    return EXIT_ERROR;
}
