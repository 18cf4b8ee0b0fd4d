"""What the suite accepts, how it prints mistakes, and what it looks at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mlip import methods
from mlip.errors import UserError
from mlip.methods import method_folders
from mlip.run.contract.suite import CHECKS, checks_of, checks_table, run_suite, settings_of
from mlip.run.scaffold import check_baseline, new_baseline
from tests.conftest import ROOT
from tests.run.contract.bad_images import OwnNetwork
from tests.run.contract.good import Good, manifest, mistakes, subject

# --- what is accepted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["cnn", "vit"])
def test_a_method_that_does_everything_right_passes(encoder: str) -> None:
    assert mistakes(Good, encoder) == {}


class Frozen(Good):
    part = "text_encoder"

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        getattr(self, self.part).requires_grad_(False)


class FrozenImages(Frozen):
    part = "image_encoder"


@pytest.mark.parametrize("kind", [Frozen, FrozenImages])
def test_an_encoder_that_is_declared_frozen_is_accepted(kind: type[Good]) -> None:
    assert mistakes(kind) == {}


class OwnNetworkWithMaps(OwnNetwork):
    def feature_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.own(images)]


def test_an_image_network_of_its_own_with_feature_maps_is_accepted() -> None:
    assert mistakes(OwnNetworkWithMaps) == {}


class FunctionalDropout(Good):
    def pair_terms(self, image: Any, text: Any, batch: Any) -> Any:
        return super().pair_terms(nn.functional.dropout(image, 0.2, self.training), text, batch)


def test_dropout_may_draw_from_the_global_state_which_the_loop_seeds_by_step() -> None:
    assert mistakes(FunctionalDropout) == {}


# --- at which shape and switches ------------------------------------------------------------------------------------------


class SeesItsSize(Good):
    def encode_image(self, images: torch.Tensor) -> Any:
        if images.shape[-1] != 64:
            raise ValueError(f"images of {images.shape[-1]} pixels")
        return super().encode_image(images)


def test_a_declared_input_size_is_the_size_of_the_toy_images() -> None:
    case = subject(SeesItsSize)
    encoders = case.entry.manifest.encoders.model_copy(update={"input_size": 64})
    object.__setattr__(case.entry, "manifest", case.entry.manifest.model_copy(update={"encoders": encoders}))
    assert case.images.shape[-1] == case.fresh().image_encoder.input_size == 64
    assert case.fresh().encode_image(case.images).grid.shape[1] == 4


class Switched(Good):
    """`inner` cannot stand without `outer`; a layer stays when `outer` is off, and nothing uses it."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        if self.components["inner"] and not self.components["outer"]:
            raise UserError("inner without outer", where="method.yaml", fix="switch it off too")
        self.layer = nn.Linear(16, 16)

    def losses(self, batch: Any) -> Any:
        terms = super().losses(batch)
        if self.components["outer"]:
            terms["outer"] = self.layer(self.text(batch.tokens)).square().mean()
        return terms


def test_each_component_is_switched_off_alone_or_with_what_cannot_stand_without_it() -> None:
    parts = {name: {"doc": "a part", "source": "ours"} for name in ("outer", "inner")}
    settings = list(settings_of(manifest(components=parts), Path(__file__).parent, Switched))
    assert [s.label for s in settings] == ["cnn", "cnn without outer and without inner", "cnn without inner"]
    (failed,) = [line.text for line in run_suite(settings) if line.status == "FAILED" and "readme" not in line.text]
    assert failed.startswith(
        "FAILED   check_gradients_reach_every_parameter (cnn without outer and without inner): tests/run/contract/test_suite.py:"
    )
    assert "no gradient reaches layer" in failed and "\n" not in failed
    line = int(re.search(r"test_suite\.py:(\d+): ", failed)[1])  # type: ignore[index]
    assert "self.layer = " in Path(__file__).read_text(encoding="utf-8").splitlines()[line - 1]


def test_checks_follow_the_capabilities() -> None:
    def names(**changes: Any) -> set[str]:
        return {check.__name__ for check in checks_of(manifest(**changes))}

    everything, nothing = names(), names(capabilities=[], trained=False)
    assert everything == {c.__name__ for c in CHECKS} - {
        "check_losses_take_reports_without_entities",
        "check_knowledge_can_be_forgotten",
        "check_maps_are_listed",
    }
    assert not [n for n in nothing if "losses" in n or "gradients" in n or "text_features" in n or "similarity" in n]
    assert "check_losses_take_reports_without_entities" in names(capabilities=["knowledge"])


# --- what is printed ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A scaffolded method of a name that no other test uses (a module is loaded once), in a folder of its own."""
    monkeypatch.setattr(methods, "METHOD_FOLDERS", (tmp_path / "baselines",))
    method_folders.cache_clear()
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    made = new_baseline(name, tmp_path / "baselines")
    method_folders.cache_clear()
    yield made
    method_folders.cache_clear()


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def _run(folder: Path, verbose: bool = False) -> tuple[list[str], str]:
    """The lines printed, and the error at the end."""
    lines: list[str] = []
    with pytest.raises(UserError) as error:
        for line in check_baseline(folder.name, verbose):
            lines.append(line)
    return lines, str(error.value)


def test_the_scaffold_passes_and_a_missing_readme_does_not(folder: Path) -> None:
    lines = list(check_baseline(folder.name))
    assert lines[0].endswith(": cnn, vit, cnn without text_to_image")
    assert all(re.fullmatch(r"ok       check_\w+", line) for line in lines[1:-1])
    assert lines[-1] == f"{len(lines) - 2} checks passed"
    (folder / "README.md").unlink()
    lines, error = _run(folder)
    failed = [line for line in lines if line.startswith("FAILED")]
    assert len(failed) == 1 and "check_readme_is_there" in failed[0] and "has no README.md. Fix: " in failed[0]
    assert "1 mistakes" in error and len(lines) > 30  # the other checks ran


def test_an_exception_is_one_line_with_the_line_of_the_method(folder: Path) -> None:
    model = folder / "model.py"
    _edit(model, "        out = self.image_encoder(images)\n", "        out = self.image_encoder(images[:, :1])\n")
    number = 1 + model.read_text(encoding="utf-8").splitlines().index("        out = self.image_encoder(images[:, :1])")
    lines, _ = _run(folder)
    failed = [line for line in lines if line.startswith("FAILED")]
    shapes, _ = [line for line in failed if "check_image_features_have_their_shapes" in line]  # of the cnn and the vit
    assert f"{model}:{number}: RuntimeError: " in shapes and "\n" not in shapes and len(shapes) < 700
    assert [
        line for line in lines if line.startswith("skipped") and "needs check_image_features_have_their_shapes" in line
    ]
    assert [line for line in lines if line == "ok       check_losses_are_finite_scalars"]
    assert "Traceback (most recent call last)" in "\n".join(_run(folder, verbose=True)[0])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    def represent(self,", "    def represent(self,,", r"model\.py:\d+: SyntaxError"),
        ("from torch import Tensor, nn", "from torch import Tensor, nn, nothing", r"model\.py:7: ImportError"),
        ("(Method):", "(nn.Module):", r"model\.py: defines 0 classes deriving Method"),
    ],
    ids=["syntax", "import", "base"],
)
def test_a_file_that_cannot_be_read_is_one_line(folder: Path, old: str, new: str, words: str) -> None:
    _edit(folder / "model.py", old, new)
    lines, error = _run(folder)
    assert lines == [] and re.search(words, error) and "\n" not in error and ". Fix: " in error


def test_a_function_that_is_missing_is_named(folder: Path) -> None:
    _edit(folder / "model.py", "    def encode_text(", "    def encode_texts(")
    lines, _ = _run(folder)
    failed = [line for line in lines if line.startswith("FAILED")]
    assert len(failed) == 1 and re.search(r"check_method_builds .*model\.py:\d+: TypeError: .*encode_text", failed[0])
    assert "Fix: define it as in mlip/contract.py" in failed[0]


def test_the_command_exits_with_2_and_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlip", "check-baseline", "no-such-method"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


# --- what is written about it -----------------------------------------------------------------------------------------------


def test_every_check_has_a_sentence_and_the_docs_have_the_table() -> None:
    for check in CHECKS:
        assert check.__name__.startswith("check_") and check.__doc__
        assert re.fullmatch(r"[^\n]+\.", check.__doc__), check.__name__
    page = (ROOT / "docs" / "adding-a-baseline.md").read_text(encoding="utf-8")
    assert checks_table() in page, (
        'paste: python -c "from mlip.run.contract.suite import checks_table as t; print(t())"'
    )
