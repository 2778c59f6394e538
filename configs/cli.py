"""From a command line to a checked config, and from an error to one line and an exit code."""

import argparse
import errno
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

from configs.errors import UserError, nearest, nearest_path
from configs.launcher import end_with_launcher

# What to do about the errors of the system that the user can mend.
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
        "check free space and permissions, or choose another folder",
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit on open files (ulimit -n)"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "the disk or the network file system fails: check it, then run again"),
    errno.ENAMETOOLONG: "choose shorter names of files and folders",
    errno.ENOMEM: "give the process more memory",
}
RECIPES = Path(__file__).parent
Config = TypeVar("Config")


class _OneLineParser(ArgumentParser):
    """A parser whose errors reach `run_command`, which prints each as one line; `settings` are those of `_settings`."""

    settings: dict[str, Any]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        reason = " ".join(str(message).split()).replace(' in "<unicode string>"', "")
        raise UserError(f"{reason}{_nearest_in(reason, self.settings)} (see {self.prog} --help)") from ex


def parse(kind: type[Config], argv: Sequence[str], *, prog: str, description: str) -> Config:
    """Parse `argv` into a `kind`: defaults, then each --config file and each option in the order given.

    Options may be spelled with - or _ between words, but not be abbreviated. Raises UserError for unknown options and
    invalid values, with the option or value that was probably meant.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _OneLineParser(prog=prog, description=description, allow_abbrev=False)
    parser.settings = _settings(kind)
    _require_options(argv, parser.settings, prog)
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    parser.add_class_arguments(kind, fail_untyped=True)
    options: Any = _parsed(parser, _spelled_out(kind, argv))
    settings = vars(parser.instantiate(options))
    del settings["config"]
    return kind(**settings)


def _parsed(parser: _OneLineParser, words: Sequence[str]) -> Any:
    """What the parser makes of `words`. Raises UserError, which names the --config file if one of them is at fault."""
    try:
        return parser.parse_args(words)
    except (UserError, UnicodeDecodeError):
        for option, value in pairwise([*words, ""]):
            name, _, path = option.partition("=")
            if name == "--config":
                file = path or value
                try:
                    parser.parse_args([f"--config={file}"])
                except UnicodeDecodeError as error:
                    raise UserError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
                except UserError as error:
                    raise UserError(str(error) if file in str(error) else f"{file}: {error}") from error
        raise


def _settings(kind: type[Any], group: str = "") -> dict[str, Any]:
    """Every setting of a config and its parts by its dotted name, with its type."""
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):
        found[group + field.name] = hint = hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            found |= _settings(hint, f"{group}{field.name}.")
    return found


def _require_options(argv: Sequence[str], settings: dict[str, Any], prog: str) -> None:
    """Raise UserError for the first word that looks like an option and is none, or that is not UTF-8."""
    known = [*settings, "config", "help", "print_config"]
    for word in argv:
        if any("\udc80" <= letter <= "\udcff" for letter in word):  # what Python makes of other bytes
            raise UserError(f"{word!a} is not UTF-8: rename the file or folder")
        option = word.split("=", 1)[0]
        name = option.lstrip("-").rstrip("+").replace("-", "_")
        if re.match("--?[A-Za-z]", option) and option != "-h" and (name not in known or not option.startswith("--")):
            meant = nearest(name, known).replace("mean ", "mean --").replace("_", "-")
            raise UserError(f"{option}: no such option{meant} (see {prog} --help)")


def _nearest_in(reason: str, settings: dict[str, Any]) -> str:
    """What was probably meant, by the parser's words about a value, a key of a YAML file, or a file."""
    if value := re.search(r'key "([\w.]+)".* Got value: (\S+)', reason):
        hint = settings.get(value[1])
        choices = ("true", "false") if hint is bool else get_args(hint) if get_origin(hint) is Literal else ()
        return nearest(value[2], map(str, choices))
    if key := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", reason):
        return nearest(f"{key[1]}.{key[2]}", settings)
    if key := re.search(r"Option '([\w.]+)' is not accepted", reason):
        return nearest(key[1], settings)
    if file := re.search(r"File does not exist: '(.+?)'", reason):
        return nearest_path(file[1])
    return ""


def with_recipe(argv: Sequence[str], backbone: str) -> list[str]:
    """`argv` with the recipe of `backbone` in front, so that every --config and option that follows overrides it."""
    recipe = RECIPES / f"{Path(backbone).name}.yaml"
    return [f"--config={recipe}", *argv] if recipe.is_file() else list(argv)


def with_list(argv: Sequence[str], option: str) -> list[str]:
    """`argv` with the values of an option that takes several (--image A B) as one list, as the parser reads it."""
    (values,), rest = values_of(argv, option)
    return [*rest, f"{option}={json.dumps(values)}"] if values else rest


def values_of(argv: Sequence[str], *options: str) -> tuple[list[list[str]], list[str]]:
    """The values of each option, none, one or several, and the rest of `argv`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        parser.add_argument(option, nargs="*", action="extend", dest=option)
    named, rest = parser.parse_known_args(argv)
    for option, values in vars(named).items():
        if values == []:
            raise UserError(f"{option} needs a value: give one or more")
    return [values or [] for values in vars(named).values()], rest


def _spelled_out(kind: type[Any], argv: Sequence[str]) -> list[str]:
    """Options in jsonargparse's spelling: --batch-size=8 -> --batch_size=8, and --ensemble -> --ensemble=true."""
    switches = {f"--{field.name}" for field in fields(kind) if field.type is bool}
    words = [re.sub("^--([^=]+)", lambda option: "--" + option[1].replace("-", "_"), word) for word in argv]
    return [
        f"{word}=true" if word in switches and following.startswith("--") else word
        for word, following in pairwise([*words, "--"])
    ]


def _in_utf8() -> None:
    """Where the locale is not UTF-8, start this command again in Python's UTF-8 mode: pyarrow knows no other names."""
    if sys.getfilesystemencoding() == "utf-8":
        return
    if sys.platform == "win32" or os.environ.get("PYTHONUTF8") == "1":
        raise UserError(f"file names are read as {sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8")
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_command(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a command and exit: 0 on success, 2 with a one-line message for what the user can fix, 130 for Ctrl-C.

    Anything unexpected ends with one line too, which names the file that the traceback is written to, and exit code 1.
    """
    end_with_launcher()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each rank that loses another prints C++ frames
    try:
        _in_utf8()
        _refuse_launch_module(sys.argv[1:])
        main(sys.argv[1:])
    except BrokenPipeError:  # the reader of our output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = _explained(error)
        if message is None:
            what = _one_line("".join(traceback.format_exception_only(error)))
            print(f"unexpected error: {what}; {_recorded()}", file=sys.stderr)
            sys.exit(1)
        print(f"error: {_one_line(message)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _refuse_launch_module(argv: Sequence[str]) -> None:
    """torch.distributed.launch passes an option of its own, which torchrun does not."""
    if any(re.match("--local[-_]rank(=|$)", word) for word in argv):
        raise UserError("torch.distributed.launch is not supported: start with torchrun, which takes the same options")


def _explained(error: Exception) -> str | None:
    """The message for an error that the user can fix; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is too slow to import just for its name
        return "out of GPU memory: lower --batch-size, or use smaller images"
    if isinstance(error, MemoryError):
        return "out of memory: give the process more, or lower --batch-size, --workers or the images' size"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}: {_REMEDIES[error.errno]}"
    return None


def _recorded() -> str:
    """Write the traceback of the error in hand to a file, and say where, and what is kept."""
    text = f"{datetime.now().astimezone().isoformat()}\n{sys.version}\n{sys.argv}\n\n{traceback.format_exc()}"
    kept = "what was written before is kept: the same command continues or starts again"
    try:
        descriptor, path = tempfile.mkstemp(prefix="traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return f"{kept}; no file could be written for the traceback, which follows\n{text}"
    return f"the traceback is in {path}; {kept}"


def _one_line(message: str) -> str:
    """`message` on one line that a terminal prints as it is, at most 2,000 characters of it."""
    words = " ".join(message.split())
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in words)[:2000]
