#!/usr/bin/env bash
# check_readme.sh PRIMA: fails where README.md or docs/ name a make target, a subcommand or flag of
# `prima`, a script or a page that is not there. PRIMA is the built executable.
set -euo pipefail
prima=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset MAKEFLAGS MAKELEVEL

failures=0
checked=0
check() { # WHAT COMMAND...: COMMAND must succeed
  local what=$1
  shift
  checked=$((checked + 1))
  "$@" >/dev/null 2>&1 || {
    echo "$page names $what, which does not exist" >&2
    failures=$((failures + 1))
  }
}

# The code in a page: indented lines, fenced lines, and what stands between backticks; a command
# that a backslash continues is one line.
code() {
  awk '/^```/ { fenced = !fenced; next }
       fenced || /^    / { sub(/^ +(\$ )?/, ""); printf "%s", $0; if (sub(/\\$/, "")) next; print ""; next }
       { n = split($0, spans, "`"); for (i = 2; i <= n; i += 2) print spans[i] }' "$page" |
    sed 's/\\$//'
}

# The exit status says nothing: of a word that it does not know, prima prints its own help.
knows_command() { # SUBCOMMAND...
  local help
  help=$("$prima" "$@" --help 2>&1) || return
  grep -qE -- "^Usage: prima $*( |$)" <<<"$help"
}

knows_flag() { # FLAG SUBCOMMAND...
  local flag=$1 help
  shift
  help=$("$prima" "$@" --help 2>&1) || return
  grep -qE -- "(^|[ ,])${flag}([ ,=]|$)" <<<"$help"
}

for page in README.md docs/*.md; do
  while read -r target; do
    check "'make $target'" make --dry-run --no-print-directory "$target"
  done < <(code | sed -nE 's/^(sudo )?make ([a-z-]+).*/\2/p' | sort -u)

  while read -r line; do
    words=()
    flags=()
    for word in $line; do
      case $word in
        *prima) ;;
        -*) flags+=("${word%%=*}") ;;
        [a-z]*) [ "${#flags[@]}" -gt 0 ] || words+=("$word") ;;
        *) [ "${#flags[@]}" -gt 0 ] || break ;;
      esac
    done
    [ "${#words[@]}" -gt 0 ] || continue
    check "'prima ${words[*]}'" knows_command "${words[@]}"
    for flag in ${flags[@]+"${flags[@]}"}; do
      check "'prima ${words[*]} $flag'" knows_flag "$flag" "${words[@]}"
    done
  done < <(code | sed -nE "s/\"[^\"]*\"|'[^']*'//g; s/ *[&#|>].*//; s/^([a-z./]*\/)?prima( .*)/prima\2/p" | sort -u)

  while read -r file; do
    check "$file" test -e "$file"
  done < <(code | grep -oE '(tools|cmake|docs|\.ci)/[A-Za-z0-9_./-]+' | sort -u)

  while read -r link; do
    check "the page $link" test -e "$(dirname "$page")/$link"
  done < <(grep -oE '\]\([^)#:]+\)' "$page" | sed -E 's/^\]\((.*)\)$/\1/' | sort -u)
done

echo "$checked names checked, $failures missing"
[ "$checked" -gt 0 ] && [ "$failures" -eq 0 ]
