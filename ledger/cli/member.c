/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Members of what QEMU answered: see member.h. */
#include "member.h"

struct json_object *member_get(struct json_object *o, const char *name)
{
    struct json_object *value;

    return json_object_object_get_ex(o, name, &value) ? value : NULL;
}

uint64_t member_number(struct json_object *o, const char *name)
{
    return json_object_get_uint64(member_get(o, name));
}

const char *member_text(struct json_object *o, const char *name,
                        const char *otherwise)
{
    struct json_object *value = member_get(o, name);

    return value ? json_object_get_string(value) : otherwise;
}
