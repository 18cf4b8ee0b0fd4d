"""Several processes, and chunks, give the losses and gradients of one process with the whole batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from mlip.contract import Method
from mlip.errors import UserError
from mlip.pretraining.gathering import gather
from mlip.pretraining.gradients import Gradients, checkpoint_activations
from mlip.pretraining.processes import ALONE, Ranks, start, together
from mlip.run.contract.world import tiny_batch
from mlip.seeding import seed_everything
from tests.methods import build, total

METHODS = {"convirt": "cnn", "gloria": "cnn", "mgca": "cnn", "cvpr24": "cnn", "isbi24": "vit"}
CPU = torch.device("cpu")
Result = dict[str, Tensor]


def _fabric(precision: Any = "32-true") -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision, plugins=[LightningEnvironment()])


def _step(method: Method, gradients: Gradients) -> Result:
    """Loss, terms and gradients of one batch of eight pairs."""
    batch = tiny_batch(method)
    batch.images = batch.images.to(next(method.parameters()).dtype)
    loss, terms = gradients.backward(batch, lambda found: total(method, found))
    result = {"loss": loss.detach()} | {f"term {name}": term.detach() for name, term in terms.items()}
    return result | {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def _still(name: str) -> Method:
    """Without dropout, batch norms as they stand: what is left does not depend on how a batch is cut. In double precision,
    since sums in another order differ by some 1e-5 in gradients that nearly cancel."""
    return build(name, METHODS[name]).eval().double()


def _steps(ranks: Ranks, folder: Path) -> None:
    with together(ranks, CPU):
        found: dict[str, Any] = {}
        for name in METHODS:
            for how, cut in {"global": {}, "local": {"negatives": "local"}, "chunk": {"chunk": 3}}.items():
                method = _still(name)
                found[f"{name} {how}"] = _step(method, Gradients(_fabric(), method, ranks, **cut))  # type: ignore[arg-type]
        x = torch.full((2, 2 + ranks.rank), 1.0 + ranks.rank, requires_grad=True)
        both = gather(
            {"x": x, "there": x > 0, "half": x.detach().bfloat16(), "count": torch.tensor([ranks.rank])}, ranks
        )
        (both["x"] * torch.arange(12.0).view(4, 3)).sum().backward()
        found["ragged"] = both | {"gradient": x.grad}
        torch.save(found, folder / f"{ranks.rank}.pt")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    """What each of two processes has computed."""
    folder = tmp_path_factory.mktemp("two")
    start(2, _steps, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def _distance(one: Result, other: Result) -> float:
    """The largest difference of a tensor, as a share of its length (of a thousandth of the longest gradient, if that is more)."""
    assert one.keys() == other.keys()
    least = 1e-3 * max(float(x.norm()) for x in other.values())
    return max(float((one[name] - x).norm() / x.norm().clamp_min(least)) for name, x in other.items())


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_give_what_one_gives_on_the_whole_batch(of_two: list[dict[str, Result]], name: str) -> None:
    method = _still(name)
    whole = _step(method, Gradients(_fabric(), method))
    for found in of_two:
        assert _distance(found[f"{name} global"], whole) < 1e-5
        assert _distance(found[f"{name} chunk"], whole) < 1e-5
        assert _distance(found[f"{name} local"], whole) > 1e-2  # other negatives: the comparison sees it
    assert _distance(of_two[0][f"{name} local"], of_two[1][f"{name} local"]) == 0


def test_what_differs_in_width_is_padded_and_loses_no_gradient(of_two: list[dict[str, Result]]) -> None:
    first, second = (found["ragged"] for found in of_two)
    assert first["x"].tolist() == [[1, 1, 0], [1, 1, 0], [2, 2, 2], [2, 2, 2]]
    assert first["half"].dtype is torch.bfloat16 and torch.equal(first["half"].float(), first["x"])
    assert first["count"].tolist() == [0, 1]
    assert first["there"].dtype is torch.bool and first["there"].sum() == 10
    # Twice the own rows' gradient: the mean over two processes follows.
    assert first["gradient"].tolist() == [[0, 2], [6, 8]]
    assert second["gradient"].tolist() == [[12, 14, 16], [18, 20, 22]]


@pytest.mark.parametrize("name", METHODS)
def test_chunks_give_what_the_whole_batch_gives(name: str) -> None:
    results = []
    for chunk in (None, 3):
        method = _still(name)
        results.append(_step(method, Gradients(_fabric(), method, ALONE, "global", chunk)))
    assert _distance(*results) < 1e-5


def test_a_chunk_is_computed_again_with_the_same_dropout_and_moves_batch_norms_once() -> None:
    method = build("mgca", "cnn").train()
    seen: list[Result] = []
    represent = method.represent
    method.represent = lambda batch: seen.append(represent(batch)) or seen[-1]  # type: ignore[method-assign, func-returns-value]
    Gradients(_fabric(), method, ALONE, "global", 4).backward(tiny_batch(method), lambda terms: total(method, terms))
    first, again = seen[:2], seen[2:]
    assert len(again) == 2 and not first[0]["text"].requires_grad and again[0]["text"].requires_grad
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(again[0]["text"], represent(tiny_batch(method).rows(0, 4))["text"])  # there is dropout
    norms = [int(m.num_batches_tracked) for m in method.image_encoder.modules() if hasattr(m, "num_batches_tracked")]
    assert set(norms) == {3}  # two chunks, and the line above


@pytest.mark.parametrize("name", ["mgca", "isbi24"])
def test_activations_computed_again_change_nothing(name: str) -> None:
    results, runs = [], []
    for again in (False, True):
        method = build(name, METHODS[name]).train()
        if again:
            checkpoint_activations(method)
        count = {"image": 0, "text": 0}
        model: Any = method.image_encoder.model
        block = model.layer1[0].conv1 if METHODS[name] == "cnn" else model.blocks[0].attn.qkv
        text: Any = method.text_encoder.model
        for part, module in (("image", block), ("text", text.encoder.layer[0].attention.self.query)):
            module.register_forward_hook(lambda *_, part=part, count=count: count.update({part: count[part] + 1}))
        seed_everything("checkpointing")
        gradients = Gradients(_fabric(), method, checkpointing=again)
        results.append(_step(method, gradients) | {f"{k} ": v for k, v in method.named_buffers()})
        runs.append(count)
    assert runs == [{"image": 1, "text": 1}, {"image": 2, "text": 2}]
    assert all(torch.allclose(x.double(), results[1][name].double(), atol=1e-6) for name, x in results[0].items())


def test_a_method_with_losses_alone_is_refused_before_it_is_cut() -> None:
    class Whole(Method):
        losses = encode_image = encode_text = None  # type: ignore[assignment]

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

    with pytest.raises(UserError, match=r"2 processes.*represent\(\) and objective\(\)"):
        Gradients(_fabric(), Whole(), Ranks(0, 2))
    with pytest.raises(UserError, match="chunks"):
        Gradients(_fabric(), Whole(), chunk=4)
    Gradients(_fabric(), Whole())


def _refuse(ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise UserError("is wrong", where="here", fix="mend it")
    time.sleep(600)


@pytest.mark.slow  # two more processes
def test_a_mistake_in_one_process_ends_all_and_is_told() -> None:
    with pytest.raises(UserError, match=r"here: is wrong\. Fix: mend it"):
        start(2, _refuse)
