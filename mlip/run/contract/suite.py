"""Which checks apply to a method, and running them all."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tabulate import tabulate

from mlip.contract import Method
from mlip.errors import UserError
from mlip.manifest import EncoderKind, Manifest
from mlip.methods import Entry
from mlip.run.contract import features, files, maps, text, training, weights
from mlip.run.contract.subject import Subject, explain
from mlip.study import Study

Check = Callable[[Subject], None]

ALWAYS, TRAINED, TEXT, FILMS = "always", "trained", "zero_shot or retrieval", "unless looked_up"
LOCAL, KNOWLEDGE, MAPS, NO_MAPS = "local_alignment", "knowledge", "maps", "without maps"
# When a check applies: by what method.yaml says. In the order in which they run.
CHECKS: dict[Check, str] = {
    files.check_readme_is_there: ALWAYS,
    files.check_preferred_encoder_is_supported: ALWAYS,
    files.check_recipes: ALWAYS,
    weights.check_method_builds: ALWAYS,
    training.check_text_view_draws_from_its_rng: ALWAYS,
    training.check_losses_are_finite_scalars: TRAINED,
    training.check_losses_work_in_validation: TRAINED,
    training.check_loss_weights_name_terms: TRAINED,
    training.check_losses_leave_the_batch_unchanged: TRAINED,
    training.check_losses_repeat: TRAINED,
    training.check_losses_draw_from_the_batch_generator: TRAINED,
    training.check_gradients_are_finite: TRAINED,
    training.check_gradients_reach_every_parameter: TRAINED,
    training.check_losses_take_reports_without_entities: KNOWLEDGE,
    training.check_knowledge_can_be_forgotten: KNOWLEDGE,
    features.check_image_features_have_their_shapes: FILMS,
    features.check_image_features_are_finite: FILMS,
    features.check_image_joint_is_normalised: FILMS,
    features.check_image_features_depend_on_the_image: FILMS,
    features.check_image_features_repeat: FILMS,
    features.check_image_features_do_not_depend_on_the_batch: FILMS,
    features.check_grid_is_in_image_order: FILMS,
    features.check_own_image_network_has_feature_maps: FILMS,
    features.check_feature_maps: FILMS,
    text.check_text_features_have_their_shapes: TEXT,
    text.check_text_features_are_finite: TEXT,
    text.check_empty_text_is_encoded: TEXT,
    text.check_text_joint_is_normalised: TEXT,
    text.check_text_features_depend_on_the_text: TEXT,
    text.check_text_features_repeat: TEXT,
    text.check_text_features_do_not_depend_on_the_batch: TEXT,
    text.check_similarity: TEXT,
    text.check_local_text_features: LOCAL,
    training.check_pair_terms_name_terms: TRAINED,
    maps.check_maps_are_there: MAPS,
    maps.check_maps_have_their_shapes: MAPS,
    maps.check_maps_are_finite: MAPS,
    maps.check_maps_repeat: MAPS,
    maps.check_maps_are_listed: NO_MAPS,
    weights.check_same_seed_gives_the_same_weights: ALWAYS,
    weights.check_image_encoder_is_exported: ALWAYS,
    weights.check_weights_load_strictly: ALWAYS,
}
_BUILT = (weights.check_method_builds,)
_SHAPES = (*_BUILT, features.check_image_features_have_their_shapes, features.check_image_features_are_finite)
_TEXTS = (*_SHAPES[:2], text.check_text_features_have_their_shapes, text.check_text_features_are_finite)
_MAPS = (*_BUILT, maps.check_maps_are_there, maps.check_maps_have_their_shapes, maps.check_maps_are_finite)
_TOTAL = (training.check_losses_are_finite_scalars, training.check_loss_weights_name_terms)
# A check says nothing where one of these has failed at the same setting: it would only repeat its mistake.
NEEDS: dict[Check, tuple[Check, ...]] = {
    **{c: (*_BUILT, training.check_losses_are_finite_scalars) for c in CHECKS if c.__module__ == training.__name__},
    **{c: _SHAPES for c in CHECKS if c.__module__ == features.__name__},
    **{c: _TEXTS for c in CHECKS if c.__module__ == text.__name__},
    **{c: _MAPS for c in CHECKS if c.__module__ == maps.__name__},
    training.check_text_view_draws_from_its_rng: _BUILT,
    training.check_gradients_are_finite: _TOTAL,
    training.check_gradients_reach_every_parameter: (*_TOTAL, training.check_gradients_are_finite),
    training.check_losses_draw_from_the_batch_generator: (
        training.check_losses_are_finite_scalars,
        training.check_losses_repeat,
    ),
    training.check_pair_terms_name_terms: (*_TOTAL, *_SHAPES, *_TEXTS),
    features.check_image_features_do_not_depend_on_the_batch: (*_SHAPES, features.check_image_features_repeat),
    text.check_text_features_do_not_depend_on_the_batch: (*_TEXTS, text.check_text_features_repeat),
    text.check_similarity: (*_SHAPES, *_TEXTS),
    maps.check_maps_are_listed: _BUILT,
    weights.check_same_seed_gives_the_same_weights: _BUILT,
    weights.check_image_encoder_is_exported: _BUILT,
    weights.check_weights_load_strictly: (
        training.check_losses_are_finite_scalars,
        weights.check_same_seed_gives_the_same_weights,
        *_SHAPES,
        features.check_image_features_repeat,
        *_TEXTS,
        text.check_text_features_repeat,
    ),
}


# What is looked at again with a component switched off: an ablation trains it, encodes with it and draws its maps.
SWITCHED: tuple[Check, ...] = (
    weights.check_method_builds,
    *(c for c in CHECKS if c.__module__ == training.__name__),
    *_SHAPES[1:],
    *_TEXTS[2:],
    text.check_similarity,
    *_MAPS[2:],
)


@dataclass(frozen=True)
class Outcome:
    """What one check said at one setting: nothing (ok), a mistake, or why it was left out."""

    mistake: UserError | None = None
    skipped: str = ""
    trace: str = ""


class Setting:
    """A method at one encoder and with one set of switches, and the checks that apply to it."""

    def __init__(self, label: str, subject: Subject, only: tuple[Check, ...] | None = None) -> None:
        self.label, self.subject = label, subject
        applying = checks_of(subject.entry.manifest)
        self.checks = [check for check in applying if only is None or check in only]
        self.without_result: dict[Check, Outcome] = {}

    def run(self, check: Check) -> Outcome:
        """Run one check. An exception of the method's own code is its mistake."""
        lacking = next((n for n in NEEDS.get(check, ()) if n in self.without_result), None)
        try:
            if lacking is not None:
                outcome = Outcome(skipped=f"needs {lacking.__name__}")
            else:
                check(self.subject)
                return Outcome()
        except Exception as error:  # whatever a method's code may raise
            mistake = explain(error, self.subject.folder, self.subject.line_of(""))
            outcome = Outcome(mistake, trace="".join(traceback.format_exception(error)))
        self.without_result[check] = outcome
        return outcome


def checks_of(manifest: Manifest) -> list[Check]:
    """The checks that apply to a method, in the order in which they run."""
    can = set(manifest.capabilities)
    applies = {
        ALWAYS: True,
        TRAINED: manifest.trained,
        TEXT: bool(can & {"zero_shot", "retrieval"}) and not manifest.looked_up,
        FILMS: not manifest.looked_up,
        LOCAL: "local_alignment" in can,
        KNOWLEDGE: "knowledge" in can and manifest.trained,
        MAPS: "maps" in can,
        NO_MAPS: "maps" not in can,
    }
    return [check for check, when in CHECKS.items() if applies[when]]


def settings_of(manifest: Manifest, folder: Path, kind: type[Method]) -> Iterator[Setting]:
    """Each supported encoder; then, on the preferred one, each component switched the other way.

    A switch that the method refuses (UserError) is turned with the first other one that it goes with.
    """
    for encoder in manifest.encoders.supports:
        yield Setting(encoder, Subject(toy_entry(manifest, folder, encoder), kind))
    encoder = manifest.encoders.prefers
    for name in manifest.components:
        for other in (None, *(n for n in manifest.components if n != name)):
            turned = [n for n in (name, other) if n is not None]
            subject = Subject(toy_entry(manifest, folder, encoder, turned), kind)
            if _accepted(subject):
                words = " and ".join(f"{'without' if manifest.components[n].default else 'with'} {n}" for n in turned)
                yield Setting(f"{encoder} {words}", subject, SWITCHED)
                break


def row_setting(entry: Entry, kind: type[Method], study: Study) -> Setting:
    """A row with its checkpoint, at its own encoder and size. What is trained is not looked at: it is not."""
    setting = Setting(entry.encoder, Subject(entry, kind, study))
    setting.checks = [c for c in setting.checks if CHECKS[c] not in (TRAINED, KNOWLEDGE)]
    return setting


def toy_entry(manifest: Manifest, folder: Path, encoder: EncoderKind, turned: Sequence[str] = ()) -> Entry:
    """The row that a study would make of the folder at its ``smoke`` recipe, with some components switched over."""
    params = {key: spec.value for key, spec in manifest.parameters.items()}
    if "smoke" in manifest.recipes:
        params |= manifest.recipes["smoke"].params
    components = {key: spec.default != (key in turned) for key, spec in manifest.components.items()}
    return Entry(manifest.id, manifest, folder, encoder, components, params, manifest.title)


def _accepted(subject: Subject) -> bool:
    try:
        subject.fresh()
    except UserError:
        return False
    except Exception:
        return True  # a mistake, which check_method_builds reports
    return True


def run_suite(settings: Sequence[Setting], verbose: bool = False) -> Iterator[Line]:
    """One line per check over all settings; a mistake once, with the settings that show it.

    With ``verbose`` the whole traceback stands below it. Toy tensors are slower on many threads: one is used meanwhile.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for check in CHECKS:
            outcomes = {s.label: s.run(check) for s in settings if check in s.checks}
            if outcomes:
                yield from _lines(check.__name__, outcomes, verbose)
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Line:
    """A printed line and what it says of the check."""

    status: Literal["ok", "FAILED", "skipped"]
    text: str


def _lines(name: str, outcomes: dict[str, Outcome], verbose: bool) -> Iterator[Line]:
    mistakes: dict[str, list[str]] = {}
    traces: dict[str, str] = {}
    for label, outcome in outcomes.items():
        if outcome.mistake is not None:
            mistakes.setdefault(str(outcome.mistake), []).append(label)
            traces.setdefault(str(outcome.mistake), outcome.trace)
    for mistake, labels in mistakes.items():
        below = f"\n{traces[mistake]}" if verbose else ""
        yield Line("FAILED", f"FAILED   {name} ({', '.join(labels)}): {mistake}{below}")
    skipped = sorted({outcome.skipped for outcome in outcomes.values() if outcome.skipped})
    if mistakes:
        return
    yield Line("skipped", f"skipped  {name}: {', '.join(skipped)}") if skipped else Line("ok", f"ok       {name}")


def checks_table() -> str:
    """The table of ``docs/adding-a-baseline.md``: each check, when it applies, and its docstring."""
    rows = [[f"`{check.__name__}`", when, inspect.getdoc(check)] for check, when in CHECKS.items()]
    return tabulate(rows, headers=["check", "applies", "what must hold"], tablefmt="github")
