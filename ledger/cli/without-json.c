/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands that read QMP, in a build without a JSON library.
 */
#include "cli.h"

static int without_json(char **argv)
{
    complain("%s: this build has no JSON library: install json-c "
             "(Debian: libjson-c-dev) and build again", argv[0]);
    return EXIT_ERROR;
}

int cmd_migration(int argc, char **argv)
{
    (void)argc;
    return without_json(argv);
}

int cmd_placement(int argc, char **argv)
{
    (void)argc;
    return without_json(argv);
}
