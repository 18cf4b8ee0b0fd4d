"""The code that results depend on: which modules a stage reaches, a hash of what they say, and the libraries' versions.

Comments, docstrings and layout do not count. What a module reads from its own folder (``chest.yaml``) does.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import yaml

from mlip.errors import UserError
from mlip.paths import ROOT
from mlip.yaml_files import LOADER

PACKAGES = ("mlip", "benchmarks", "baselines")
# What these modules decide enters the fingerprints as values (the configuration), or cannot move a number: words of
# errors, progress, where files lie, how a fingerprint is taken.
WITHOUT_INFLUENCE = frozenset(
    {
        "mlip.catalogue",
        "mlip.devices",
        "mlip.errors",
        "mlip.fingerprints",
        "mlip.log",
        "mlip.manifest",
        "mlip.methods",
        "mlip.paths",
        "mlip.pretraining.provenance",
        "mlip.source_code",
        "mlip.study",
        "mlip.yaml_files",
    }
)
# The libraries that compute numbers, by import name. Others (command line, progress, checks) are left out.
LIBRARIES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "detectron2": "pb1-detectron2",
    "imagehash": "imagehash",
    "lightning_fabric": "lightning-fabric",
    "nibabel": "nibabel",
    "numpy": "numpy",
    "open_clip": "open-clip-torch",
    "ot": "POT",
    "pandas": "pandas",
    "pycocotools": "pycocotools",
    "pydicom": "pydicom",
    "scipy": "scipy",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sklearn": "scikit-learn",
    "timm": "timm",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "torchmetrics": "torchmetrics",
    "torchvision": "torchvision",
    "transformers": "transformers",
}


@cache
def _graph():
    import grimp

    # The top floor (command line, doctor) is looked at too: the stages live there.
    return grimp.build_graph(
        *PACKAGES, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def reached(*modules: str) -> set[str]:
    """The modules that the given modules (or packages) of the project import, directly or not, and they themselves; of
    libraries the names in :data:`LIBRARIES`.

    Imports inside functions count, imports for type checking do not.

    Raises
    ------
    UserError : a file of the project is no valid Python.
    """
    try:
        graph = _graph()
    except Exception as error:  # grimp raises errors of its own for a file that does not parse
        raise UserError(
            f"the project's code cannot be read ({' '.join(str(error).split())})", fix="correct it"
        ) from None
    found: set[str] = set()
    for module in modules:
        if module in LIBRARIES:
            found.add(module)
            continue
        if module not in graph.modules:
            raise UserError(f"there is no module {module!r}", where=ROOT, fix="restore it")
        found |= {module, *graph.find_descendants(module)}
        found |= graph.find_upstream_modules(module, as_package=bool(graph.find_children(module)))
    return {name for name in found if name in LIBRARIES or name.split(".")[0] in PACKAGES}


def code_of(modules: Iterable[str], folders: Iterable[Path] = (), without: Iterable[str] = ()) -> str:
    """16 hex characters that change when the code changes that is reached from ``modules`` and ``folders``.

    Parameters
    ----------
    modules : where the closure of imports starts.
    folders : method folders, which need not be packages: all their files count (but ``method.yaml``, whose values are
        configuration, and Markdown), and whatever their Python files import of the project.
    without : packages that are known not to be used on this way.
    """
    return _code_of(tuple(modules), tuple(folders), tuple(without))


@cache
def _code_of(modules: tuple[str, ...], folders: tuple[Path, ...], cut: tuple[str, ...]) -> str:
    entries, own, waiting, seen = set(modules), [], list(folders), set[Path]()
    while waiting:
        folder = waiting.pop()
        if folder in seen:
            continue
        seen.add(folder)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if "__pycache__" in path.parts or path.name == "method.yaml" or path.suffix == ".md" or path.name[0] == ".":
                continue
            own.append((folder.name, str(path.relative_to(folder)), content_of(path)))
            if path.suffix == ".py":
                known, others = _imported(path)
                entries |= known
                waiting += others  # a method may take a part from another method's folder
    names = sorted(
        m
        for m in reached(*entries)
        if m not in WITHOUT_INFLUENCE and not any(m == c or m.startswith(f"{c}.") for c in cut)
    )
    libraries = [(name, version(LIBRARIES[name])) for name in names if name in LIBRARIES]
    return digest(sorted(own), [(name, *_module(name)) for name in names if name not in LIBRARIES], libraries)


def content_of(path: Path) -> str:
    """Hash of a file: of a Python file what it says, of a YAML file what it holds, else its bytes.

    What a text says is remembered by its bytes; what other files hold (weights of gigabytes) by path, time and size.

    Raises
    ------
    UserError : it cannot be read, or is no valid Python or YAML.
    """
    try:
        if path.suffix in (".py", ".yaml", ".yml"):
            raw = path.read_bytes()
            key = f"{path.suffix}-{hashlib.sha256(raw).hexdigest()[:32]}"
            return _remembered(key, lambda: _meaning(path, raw))
        state = path.stat()
        return _remembered(f"{path.resolve()} {state.st_mtime_ns} {state.st_size}", lambda: _bytes(path))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path, fix="restore it") from None


def digest(*parts: object) -> str:
    """16 hex characters of anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_syntax(folder: Path) -> None:
    """Raise UserError, with file and line, where a Python file of a method folder does not parse."""
    for path in sorted(folder.rglob("*.py")):
        content_of(path)


# --- hashing ----------------------------------------------------------------------------------------------------------


def _meaning(path: Path, raw: bytes) -> str:
    if path.suffix == ".py":
        return digest(ast.dump(_without_docstrings(_parse(path, raw)), annotate_fields=False))
    try:
        return digest(yaml.load(raw, Loader=LOADER))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"is not valid YAML ({' '.join(str(error).split())})", where=path, fix="correct it") from None


def _bytes(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _parse(path: Path, raw: bytes) -> ast.Module:
    try:
        return ast.parse(raw)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(
            f"is no valid Python ({getattr(error, 'msg', error)}{f', line {line}' if line else ''})",
            where=path,
            fix="correct it",
        ) from None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                del node.body[0]
    return tree


def _imported(path: Path) -> tuple[set[str], list[Path]]:
    """What a file outside the import graph names (``from package import module`` included): modules of the project and
    libraries, and method folders, which are no packages.
    """
    found: set[str] = set()
    for node in ast.walk(_parse(path, path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    known = {name for name in found if name in _graph().modules and name.split(".")[0] in PACKAGES}
    known |= {name.split(".")[0] for name in found} & set(LIBRARIES)
    folders = {ROOT.joinpath(*name.split(".")[:2]) for name in found - known if name.split(".")[0] in PACKAGES}
    return known, sorted(folder for folder in folders if (folder / "method.yaml").is_file())


@cache
def _file_of(module: str) -> Path:
    base = ROOT / module.replace(".", "/")
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@cache
def _module(name: str) -> tuple[str, list[str]]:
    """Hash of a module, and of the files of its own folder that it names."""
    path = _file_of(name)
    return content_of(path), [content_of(path.parent / file) for file in _names_files(path)]


def _names_files(path: Path) -> list[str]:
    beside = {p.name for p in path.parent.iterdir() if p.is_file() and p.suffix not in (".py", ".md")}
    text = path.read_text(encoding="utf-8") if beside else ""
    return sorted(name for name in beside if f'"{name}"' in text)


# --- the hashes already taken -----------------------------------------------------------------------------------------

_unsaved: list[str] = []
MOST = 20_000  # entries kept


@cache
def _known() -> dict[str, str]:
    """What earlier processes found out, by a name that says all that it depends on."""
    return _read_cache()


def _read_cache() -> dict[str, str]:
    try:
        return dict(json.loads(_cache_file().read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _remembered(key: str, find: Callable[[], str]) -> str:
    known = _known()
    if key not in known:
        if not _unsaved:
            atexit.register(save_hashes)
        known[key] = find()
        _unsaved.append(key)
    return known[key]


def passed(check: str) -> bool:
    """Whether a check of this name passed before on this machine; the name says all that it depends on."""
    return check in _known()


def remember_passed(check: str) -> None:
    _remembered(check, lambda: "")


def save_hashes() -> None:
    """Keep them for the next process; every job asks for the same ones. Does nothing where there is no room for them."""
    if not _unsaved:
        return
    path = _cache_file()
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        latest = list({**_known(), **_read_cache(), **_known()}.items())[-MOST:]  # others have written meanwhile
        draft.write_text(json.dumps(dict(latest)), encoding="utf-8")
        draft.replace(path)
        _unsaved.clear()
    except OSError:
        draft.unlink(missing_ok=True)


def _cache_file() -> Path:
    """Outside the checkout, one for each user and Python."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlip"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"mlip-{os.getuid()}"
    return folder / f"hashes-{sys.version_info.major}{sys.version_info.minor}.json"
