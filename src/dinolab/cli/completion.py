"""Shell completion: `dinolab completion SHELL` prints a script to source.

The script holds all verbs, options and choices as text, so that the shell never starts Python.
"""

import shlex
from dataclasses import dataclass
from typing import Any

from dinolab.cli.grammar import Family, Place, Positional, Verb, training_options, walk


@dataclass
class Entry:
    """The words that can follow the name of one verb."""

    path: str  # for example "eval knn"
    options: dict[str, list[str]]  # the choices of each option; empty where any value goes
    words: list[str]  # positionals that are known by name
    training: bool


def entry(place: Place) -> Entry:
    assert isinstance(place.at, Verb)
    words = [word for positional in place.at.positionals for word in positional.choices]
    metavars = {positional.metavar for positional in place.at.positionals}
    if "CONFIG" in metavars:
        from dinolab.recipes import shipped

        words += shipped()
    if "GRID" in metavars:
        from dinolab.grid.read import shipped as shipped_grids

        words += shipped_grids()
    own = {name: choices(f) for name, f in place.at.own_options.items()}
    return Entry(" ".join(place.path), own, words, place.at.training)


def choices(f: Any) -> list[str]:
    return ["true", "false"] if f.type is bool else list(f.metadata.get("choices") or f.metadata.get("named") or ())


def families(root: Family) -> dict[str, list[str]]:
    """The words that can follow the name of each family; the root has an empty name."""
    found, todo = {}, [("", root)]
    while todo:
        name, family = todo.pop()
        members = family.members()
        found[name] = list(members)
        todo += [(f"{name} {word}".strip(), one) for word, one in members.items() if isinstance(one, Family)]
    return found


def lists(root: Family) -> tuple[dict[str, list[str]], list[Entry], dict[str, list[str]]]:
    """Words after each family, every verb, and the options of a training with their choices."""
    training = {name: choices(f) for name, f in training_options("").items()}
    return families(root), [entry(place) for place in walk(root)], training


def groups(training: dict[str, list[str]]) -> list[str]:
    """Names of options with their "=", and each section once with its "." in place of its options."""
    return list(dict.fromkeys(f"{name.partition('.')[0]}." if "." in name else f"{name}=" for name in training))


def cases(by: dict[str, list[str]], end: str = "=") -> list[str]:
    """Shell code that sets `found` to the choices of `key`, where it has some."""
    return [f"      {key}) found={shlex.quote(' '.join(words))} ;;" for key, words in by.items() if words]


def shell_table(root: Family) -> str:
    """Functions that bash and zsh share: _dinolab_names PATH sets `names` and `more`, _dinolab_choices PATH KEY sets `found`."""
    members, verbs, training = lists(root)
    lines = [
        f"_dinolab_training={shlex.quote(' '.join(f'{name}=' for name in training))}",
        f"_dinolab_groups={shlex.quote(' '.join(groups(training)))}",
        "_dinolab_names() {",
        "  names= more=",
        "  case $1 in",
    ]
    own = {verb.path for verb in verbs}
    lines += [
        f"    {shlex.quote(n)}) more={shlex.quote(' '.join(words))} ;;" for n, words in members.items() if n not in own
    ]
    for verb in verbs:
        names = " ".join(f"{name}=" for name in verb.options)
        both = f'{shlex.quote(names)}" $_dinolab_training"' if verb.training else shlex.quote(names)
        more = " ".join([*members.get(verb.path, []), *verb.words])
        lines.append(f"    {pattern(verb, members)}) names={both} more={shlex.quote(more)} ;;")
    lines += ["  esac", "}", "_dinolab_choices() {", "  found=", "  case $1 in"]
    for verb in verbs:
        known = cases(verb.options)
        if known:
            lines += [f"    {pattern(verb, members)}) case $2 in", *known, "    esac ;;"]
    lines += ["  esac", "  [[ -n $found || $names != *$_dinolab_training* ]] && return", "  case $2 in"]
    lines += [*cases(training), "  esac", "}", "_dinolab_families=" + shlex.quote(families_pattern(members)), ""]
    return "\n".join(lines)


def pattern(verb: Entry, members: dict[str, list[str]]) -> str:
    """The words that lead to a verb, as a pattern of `case`; for the verb that a family falls back on, with any word behind them."""
    path = shlex.quote(verb.path)
    return f"{path}|{shlex.quote(f'{verb.path} ')}*" if verb.path in members else path


def families_pattern(members: dict[str, list[str]]) -> str:
    """Names of the families between spaces."""
    return f" {' '.join(name for name in members if name)} "


BASH = r"""
_dinolab() {
  local line=${COMP_LINE:0:COMP_POINT} words verb names more found word cut reply
  read -ra words <<< "$line"
  [[ $line == *" " ]] && words+=("")
  word=${words[${#words[@]}-1]}
  verb=; (( ${#words[@]} > 2 )) && verb=${words[1]}
  [[ -n $verb && $_dinolab_families == *" $verb "* ]] && (( ${#words[@]} > 3 )) && verb+=" ${words[2]}"
  _dinolab_names "$verb"
  COMPREPLY=()
  if [[ $word == *=* ]]; then
    _dinolab_choices "$verb" "${word%%=*}"
    if [[ -n $found ]]; then
      reply=$(compgen -W "$found" -P "${word%%=*}=" -- "${word#*=}")
    else
      compopt -o filenames -o nospace 2> /dev/null
      reply=$(compgen -f -P "${word%%=*}=" -- "${word#*=}")
    fi
  else
    [[ $word == *.* ]] || names=${names/"$_dinolab_training"/$_dinolab_groups}
    reply=$(compgen -W "$names $more --help" -- "$word")
    [[ $reply == *[=.] ]] && compopt -o nospace 2> /dev/null
    if [[ -n $names && $word != -* ]]; then
      reply+=$'\n'$(compgen -f -- "$word")
      [[ -n $word && -e $word ]] && compopt -o filenames 2> /dev/null
    fi
  fi
  # readline completes only what follows the last = or : of the word
  cut=${word%"${word##*[=:]}"}
  while IFS= read -r word; do
    [[ -n $word ]] && COMPREPLY+=("${word#"$cut"}")
  done <<< "$reply"
}
complete -F _dinolab dinolab
"""

ZSH = r"""
_dinolab() {
  local verb names more found key
  (( CURRENT > 2 )) && verb=$words[2]
  [[ -n $verb && $_dinolab_families == *" $verb "* ]] && (( CURRENT > 3 )) && verb+=" $words[3]"
  _dinolab_names "$verb"
  if compset -P 1 '*='; then
    key=${IPREFIX%=}
    _dinolab_choices "$verb" "$key"
    if [[ -n $found ]]; then compadd -- ${=found}; else _files; fi
  else
    [[ $PREFIX == *.* ]] || names=${names/"$_dinolab_training"/$_dinolab_groups}
    compadd -- ${=more} --help
    compadd -S '' -- ${=names}
    [[ -n $names ]] && _files
  fi
}
compdef _dinolab dinolab
"""


def bash(root: Family) -> str:
    return f"# dinolab completion for bash: source this file\n{shell_table(root)}{BASH}"


def zsh(root: Family) -> str:
    return f"#compdef dinolab\n# dinolab completion for zsh: source this file after compinit\n{shell_table(root)}{ZSH}"


FISH = r"""# dinolab completion for fish: source this file
function __dinolab_at
  set -l words (commandline -opc)
  set -l end (count dinolab (string split ' ' -- $argv[1]))
  test (count $words) -ge $end
  and test "$words[2..$end]" = "$argv[1]"
  and test "$argv[2]" != only -o (count $words) -eq $end
end
complete -c dinolab -l help -s h -d 'explain the verb'
"""


def fish(root: Family) -> str:
    members, verbs, training = lists(root)
    training_words = fish_words(training)
    lines = [f"set -g __dinolab_training {' '.join(map(shlex.quote, training_words))}"]
    for name, words in members.items():
        at = f"__dinolab_at {shlex.quote(name)} only" if name else "test (count (commandline -opc)) -eq 1"
        lines.append(f"complete -c dinolab -f -n {shlex.quote(at)} -a {shlex.quote(' '.join(words))}")
    for verb in verbs:
        at = f"complete -c dinolab -n {shlex.quote(f'__dinolab_at {shlex.quote(verb.path)}')}"
        lines.append(f"{at} -a {shlex.quote(' '.join([*fish_words(verb.options), *verb.words]))}")
        if verb.training:
            lines.append(f"{at} -a '$__dinolab_training'")
    return FISH + "\n".join(lines) + "\n"


def fish_words(names: dict[str, list[str]]) -> list[str]:
    """Each option with its "=", and with each of its choices."""
    return [f"{name}={value}" for name, values in names.items() for value in ("", *values)]


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def run_completion(shell: str) -> int:
    from dinolab.cli.verbs import ROOT

    print(SHELLS[shell](ROOT), end="")
    return 0


COMPLETION = Verb(
    "print a completion script for your shell",
    run_completion,
    about="Print a script that completes verbs, options and their choices at TAB. For bash: `dinolab completion bash > "
    "~/.dinolab-completion` and `source ~/.dinolab-completion` in ~/.bashrc; for zsh alike, after compinit; for fish: `dinolab "
    "completion fish > ~/.config/fish/completions/dinolab.fish`.",
    positionals=(Positional("SHELL", f"one of {', '.join(SHELLS)}", choices=tuple(SHELLS)),),
    examples=("completion bash > ~/.dinolab-completion",),
)
