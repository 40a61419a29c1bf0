# bash completion for ballast                              -*- shell-script -*-
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Needs bash alone.  Names for "release" come from the ledger itself.

_ballast_options() {
    case $1 in
    init) echo '--capacity --reserve --slots --admission --count-cache
                --overcommit --force --json' ;;
    status) echo '--json --top --all' ;;
    claim) echo '--name --pid --wait --json' ;;
    release) echo '--json' ;;
    run) echo '--claim --name --wait --json' ;;
    check) echo '--repair --json' ;;
    watch) echo '--interval --count --top' ;;
    metrics) echo '--textfile --no-participants' ;;
    migration) echo '--qmp --json --watch --timeout' ;;
    placement) echo '--qmp --pid --exact --svg --json --timeout' ;;
    esac
    echo '--ledger --help'
}

_ballast_commands='init status claim release run check watch metrics
                   migration placement'

# What follows an option; false if that option takes nothing.
_ballast_value() {
    case $1 in
    --ledger | --textfile | --qmp | --svg)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        ;;
    --admission) mapfile -t COMPREPLY < <(compgen -W 'kernel static' -- "$cur") ;;
    --pid) mapfile -t COMPREPLY < <(compgen -W "$(ps -eo pid= 2>/dev/null)" -- "$cur") ;;
    --capacity | --reserve | --slots | --count-cache | --overcommit | --top | \
        --name | --claim | --interval | --count | --timeout) COMPREPLY=() ;;
    *) return 1 ;;
    esac
}

# Names of standing claims.  One that has a blank in it is for people to type.
_ballast_names() {
    local args=()
    [ -z "$ledger" ] || args=(--ledger "$ledger")
    "${COMP_WORDS[0]}" "${args[@]}" status --all 2>/dev/null |
        sed -n 's/^\([^ ]*\): .*standing.*/\1/p'
}

_ballast() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command='' ledger='' i word
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        --ledger)
            # "--ledger=X" comes as three words
            [ "${COMP_WORDS[i + 1]}" != = ] || i=$((i + 1))
            i=$((i + 1))
            ledger=${COMP_WORDS[i]}
            ;;
        --) [ "$command" != run ] || {
            # the command that is run completes itself
            declare -F _command_offset >/dev/null && _command_offset $((i + 1))
            return
        } ;;
        -*) ;;
        *) [ -n "$command" ] || command=$word ;;
        esac
    done
    if [ "$cur" = = ]; then
        cur=
    elif [ "$prev" = = ]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    ! _ballast_value "$prev" || return
    if [ -z "$command" ] && [[ $cur != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$_ballast_commands" -- "$cur")
    elif [ -z "$command" ]; then
        mapfile -t COMPREPLY < <(compgen -W '--ledger --help --version' -- "$cur")
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_ballast_options "$command")" -- "$cur")
    elif [ "$command" = release ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_ballast_names)" -- "$cur")
    fi
}

complete -F _ballast ballast
