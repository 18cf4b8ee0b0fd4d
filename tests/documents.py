"""What a document names that does not exist: commands and their options, make targets, files, modules, keys, links.

Nothing is run: the command lines are asked for their own parsers.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from snakemake.cli import get_argument_parser

from mlip.manifest import Manifest
from mlip.paths import StudyPaths
from mlip.run.cli import app
from mlip.study import Study, load_study
from tests.conftest import ROOT

SHELL = ("", "sh", "bash", "console")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"(`+)(.+?)\1", re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SUFFIXES = ("csv", "json", "jsonl", "md", "npy", "npz", "parquet", "png", "py", "safetensors", "smk", "txt", "yaml")
PROGRAMS = ("make", "mlip", "python", "pytest", "snakemake")
# Rooms and files of the checkout: what begins so is one of its paths. `work` is StudyPaths' (below).
OURS = ("config", "workflows", "profiles", "mlip", "baselines", "benchmarks", "results", "tests", "docs", ".ci", "Makefile", "Snakefile", "pyproject.toml")  # fmt: skip


def problems(text: str, folder: Path = ROOT) -> list[str]:
    """What a document in ``folder`` names that does not exist, one line each."""
    spans, blocks = inline(text), list(shell_blocks(text))
    found: list[str] = []
    for line in [*blocks, *(s for s in spans if " " in s or s in PROGRAMS)]:
        found += [f"{line}: {what}" for words in [split(line)] if words for what in wrong_command(words)]
    named = [re.sub(r",\s+(?=[^{}]*\})", ",", s) for s in (*spans, *blocks)]  # {a, b} is one word
    for word in [word for line in named for word in split(line)]:
        found += [f"{word}: {what}" for what in (*wrong_path(word), *wrong_variable(word))]
    for span in spans:
        found += [f"{span}: {what}" for what in (*wrong_key(span), *wrong_module(span), *wrong_option(span))]
    return found + [f"{link}: leads nowhere" for link in LINK.findall(prose(text)) if not leads_somewhere(link, folder)]


# --- reading Markdown -------------------------------------------------------------------------------------------------


def shell_blocks(text: str) -> Iterator[str]:
    """Lines of the fenced blocks that may hold commands, without prompts; continued lines are joined."""
    for language, body in FENCE.findall(text):
        if language in SHELL:
            yield from (line.removeprefix("$ ") for line in body.replace("\\\n", " ").splitlines() if line.strip())


def inline(text: str) -> list[str]:
    return [" ".join(span.split()) for _, span in INLINE.findall(FENCE.sub("", text))]


def prose(text: str) -> str:
    return INLINE.sub("", FENCE.sub("", text))


def split(line: str) -> list[str]:
    """Words of a line without its comment; none where it is no shell line (a formula, an apostrophe)."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


# --- commands ---------------------------------------------------------------------------------------------------------


def wrong_command(words: list[str]) -> list[str]:
    """What is wrong with a command; nothing where the line does not begin with one of ``PROGRAMS``."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words or words[0] not in PROGRAMS:
        return []
    program, rest = words[0], words[1:]
    if "..." in rest:
        rest = rest[: rest.index("...")]
    if program == "python" and rest[:1] == ["-m"]:
        program, rest = rest[1], rest[2:]
        if program not in PROGRAMS:
            return [] if module_file(program) else [f"there is no module {program}"]
    match program:
        case "make":
            return wrong_make(rest)
        case "mlip":
            return wrong_mlip(rest)
        case "snakemake":
            return wrong_snakemake(rest)
        case "python" if rest[:1] == ["-c"]:
            return wrong_imports(rest[1])
        case _:  # a script, or tests for pytest
            return [
                f"there is no {w}" for w in rest if not w.startswith("-") and not (ROOT / w.split("::")[0]).exists()
            ]


def wrong_make(words: list[str]) -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets, variables = re.findall(r"^([a-z-]+):", makefile, re.M), re.findall(r"^([A-Z]+) \?=", makefile, re.M)
    found = []
    for word in words:
        name, is_variable, value = word.partition("=")
        if name not in (variables if is_variable else targets):
            found.append(f"the Makefile has no {name}")
        if name == "STUDY" and not (ROOT / "config" / f"{value}.yaml").is_file():
            found.append(f"there is no study {value}")
    return found


@cache
def commands() -> Any:
    return typer.main.get_command(app)


def wrong_mlip(words: list[str]) -> list[str]:
    command: Any = commands()
    while hasattr(command, "commands") and words and not words[0].startswith(("<", "-")):
        if words[0] not in command.commands:
            return [f"mlip has no command {words[0]}"]
        command, words = command.commands[words[0]], words[1:]
    if not words or hasattr(command, "commands"):  # named, not called
        return []
    try:
        command.make_context(command.name, list(words))
    except typer.Exit:
        return []
    except Exception as error:  # click's own, which typer brings along under a private name
        return [getattr(error, "message", "") or f"is refused ({type(error).__name__})"]
    return []


@cache
def snakemake_parser() -> Any:
    parser = get_argument_parser()
    parser.allow_abbrev = False
    return parser


def wrong_snakemake(words: list[str]) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            snakemake_parser().parse_args(words)
    except SystemExit:
        return [said.getvalue().strip().splitlines()[-1]]
    return []


@cache
def options() -> frozenset[str]:
    """All options of Snakemake and of our own command line."""
    found = {o for action in snakemake_parser()._actions for o in action.option_strings}
    waiting = [commands()]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        found |= {o for parameter in command.params for o in parameter.opts}
    return frozenset(found)


def wrong_option(span: str) -> list[str]:
    is_option = re.fullmatch(r"--[a-z][a-z-]*", span)
    return ["neither snakemake nor mlip has this option"] if is_option and span not in options() else []


# --- files, modules, variables ----------------------------------------------------------------------------------------


def wrong_path(word: str) -> list[str]:
    word = word.rstrip(",;:")
    first = word.split("/")[0]
    if not re.fullmatch(r"[\w./*<>{},-]+", word) or ("/" not in word and "." not in word and first not in OURS[-3:]):
        return []
    if first == "work":
        third = word.split("/")[2:3]
        return ["is no path of a study"] if third and third[0] and third[0] not in work_names() else []
    if first not in OURS or word in study_paths().values():  # a page may be of a study whose results are not committed
        return []
    pattern = re.sub(r"<\w+>|\b[A-Z]{3,}\b(?!file|\.)", "*", word).rstrip("/")
    return [] if all(any(ROOT.glob(one)) for one in expand(pattern)) else ["there is no such file"]


def expand(pattern: str) -> list[str]:
    """``a.{b,c}`` as ``a.b`` and ``a.c``."""
    if not (braces := re.search(r"\{([^{}]*)\}", pattern)):
        return [pattern]
    return [
        one
        for part in braces[1].split(",")
        for one in expand(pattern[: braces.start()] + part.strip() + pattern[braces.end() :])
    ]


def study_paths() -> dict[str, str]:
    """Every path of ``mlip/paths.py``, in the words of docs/study.md."""
    study = load_study(ROOT / "config" / "twin.yaml").model_copy(update={"study": "<study>"})
    paths = StudyPaths(study)
    found = {name: value for name, value in vars(paths).items() if isinstance(value, Path) and name != "work"}
    cell = ("<task>", "<protocol>", "<dataset>", "<row>", "<k>")
    calls: dict[str, tuple[str, ...]] = {
        "resolved": ("<hash>",), "failure": ("<stage>", "<names>"), "made": ("<stage>", "<names>"), "hospital": ("<hospital>",),
        "data": ("<dataset>",), "splits": ("<dataset>",), "pretrain": ("<row>", "<k>"), "training_state": ("<row>", "<k>"),
        "features": ("<row>", "<k>", "<dataset>"), "predictions": cell, "evaluation_state": cell,
    }  # fmt: skip
    methods = {n for n, v in vars(StudyPaths).items() if isinstance(v, types.FunctionType) and not n.startswith("_")}
    assert methods == {*calls, "raw"}, "a new path: name it here and in docs/study.md (`raw` is the user's own folder)"
    return {n: p.as_posix() for n, p in (found | {n: getattr(paths, n)(*a) for n, a in calls.items()}).items()}


@cache
def work_names() -> set[str]:
    """What lies directly under ``work/<study>``."""
    rules = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "workflows" / "rules").glob("*.smk"))
    names = {path.split("/")[2] for path in study_paths().values() if path.startswith("work/<study>/")}
    return names | set(re.findall(r"\{WORK\}/(\w+)", rules)) | {"audit.failed.md"}


def module_file(module: str) -> Path | None:
    base = ROOT / module.replace(".", "/")
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def defined(path: Path) -> set[str]:
    """Names at the top level of a module."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def wrong_module(span: str) -> list[str]:
    if not re.fullmatch(r"(mlip|benchmarks|baselines)(\.\w+)+", span) or module_file(span):
        return []
    module, _, name = span.rpartition(".")
    if not (path := module_file(module)) and (path := module_file(module.rpartition(".")[0])):
        name = module.rpartition(".")[2]  # a class, and something of it
    return [] if path and name in defined(path) else ["there is no such module or name"]


def wrong_imports(code: str) -> list[str]:
    imports = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in imports for alias in node.names]
    return [f"{name}: {what}" for name in names for what in wrong_module(name)]


@cache
def variables() -> frozenset[str]:
    files = [*ROOT.glob("mlip/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("workflows/**/*.*")]
    return frozenset(name for p in files for name in re.findall(r"\bMLIP_[A-Z_]+", p.read_text(encoding="utf-8")))


def wrong_variable(word: str) -> list[str]:
    name = re.match(r"MLIP_[A-Z_]+", word)
    return ["nothing reads this variable"] if name and name[0] not in variables() else []


# --- keys and links ---------------------------------------------------------------------------------------------------


def wrong_key(span: str) -> list[str]:
    """A dotted key of a study or of a ``method.yaml``: decided where its first part is one of theirs."""
    parts = span.split(".")
    if not re.fullmatch(r"[a-z_]+(\.([\w*-]+|<\w+>))+", span) or parts[-1] in SUFFIXES:
        return []
    models = [model for model in (Study, Manifest) if parts[0] in model.model_fields]
    return [] if not models or any(has_key(model, parts) for model in models) else ["there is no such key"]


def has_key(kind: Any, parts: list[str]) -> bool:
    if not parts or kind is Any:
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = [field for name, field in kind.model_fields.items() if parts[0] in (name, "*")]
        return any(has_key(field.annotation, parts[1:]) for field in fields)
    if typing.get_origin(kind) is dict:
        return has_key(typing.get_args(kind)[1], parts[1:])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(has_key(one, parts) for one in typing.get_args(kind))
    return False


def all_keys(kind: Any, at: str = "") -> Iterator[str]:
    """Keys of a configuration that hold values; names that a user chooses are ``<>``."""
    kinds = [kind, *typing.get_args(kind)] if typing.get_origin(kind) in (typing.Union, types.UnionType) else [kind]
    for one in kinds:
        if isinstance(one, type) and issubclass(one, BaseModel):
            for name, field in one.model_fields.items():
                yield from all_keys(field.annotation, f"{at}.{name}" if at else name)
            return
        if typing.get_origin(one) is dict and issubclass(typing.get_args(one)[1], BaseModel):
            yield from all_keys(typing.get_args(one)[1], f"{at}.<>")
            return
    yield at


def leads_somewhere(link: str, folder: Path) -> bool:
    if re.match(r"https?:|mailto:", link):
        return True
    path, _, anchor = link.partition("#")
    target = folder / path if path else None
    if target is not None and not target.exists():
        return False
    if not anchor or target is None:
        return not anchor
    titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
    return anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
