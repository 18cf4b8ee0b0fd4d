"""Pre-training of one method: Lightning Fabric, linear warm-up + cosine, exact resumption after a kill.

The training state lives in ``work/<study>/state``, outside the outputs Snakemake knows and deletes when a job dies.
The fingerprint of the training guards it: a state of other code or another configuration is set aside.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from rich.progress import Progress
from safetensors.torch import save_file, save_model

from mlip.contract import Method
from mlip.devices import best_device, device_of_rank, take_devices
from mlip.errors import UserError
from mlip.knowledge.entities import Knowledge
from mlip.log import logger, progress
from mlip.manifest import Recipe
from mlip.methods import Entry, recipe_of
from mlip.paths import StudyPaths
from mlip.pretraining import provenance
from mlip.pretraining.batches import Batches, Pairs
from mlip.pretraining.calibration import calibrate
from mlip.pretraining.checkpoints import build_method
from mlip.pretraining.cost import counted, flops_of, peak_memory
from mlip.pretraining.gradients import Gradients, checkpoint_activations, share_statistics
from mlip.pretraining.optimizers import build_optimizer
from mlip.pretraining.processes import ALONE, Ranks, launched, start, together, was_launched
from mlip.schedules import rate
from mlip.seeding import seed_everything
from mlip.study import Study

if TYPE_CHECKING:
    from mlip.fingerprints import Fingerprint

VALIDATION_PAIRS = 192


def pretrain(study: Study, entry: Entry, seed: int, fingerprint: Fingerprint) -> None:
    """Train one row of the study and write its folder: weights, card.json (with the fingerprint), metrics.jsonl.

    Raises
    ------
    UserError : no usable reports, a loss that is not finite, a device that is not there, or another number of processes than
        ``pretrain.devices`` says.
    """
    paths = StudyPaths(study)
    out = paths.pretrain(entry.name, seed)
    out.mkdir(parents=True, exist_ok=True)
    ranks = launched()
    if not entry.trained:
        if ranks.rank:
            return
        method = build_method(study, entry, seed)
        if entry.calibrated:
            calibrate(method.image_encoder, study)
        _export(method, out)
        _write_card(
            out,
            study,
            entry,
            seed,
            method,
            fingerprint.code,
            fingerprint.key,
            {"seconds": 0.0, "steps": 0, "samples_per_second": 0.0} | provenance.facts(best_device(study.device)),
        )
        (out / "metrics.jsonl").write_text("", encoding="utf-8")
        return
    arguments = (study, entry, seed, out, fingerprint)
    count = study.pretrain.devices
    if was_launched():
        if ranks.count != count * ranks.nodes:
            raise UserError(
                f"{ranks.count} processes were started on {ranks.nodes} machines, pretrain.devices is {count}",
                where=f"study {study.study}",
                fix="start as many on each machine as pretrain.devices says",
            )
        _train(ranks, device_of_rank(study.device, ranks.local, count), *arguments)
        return
    devices = take_devices(study.device, count)
    if count == 1:
        _train(ALONE, devices[0], *arguments)
    else:
        start(count, _train_on, devices, *arguments)


def _train_on(ranks: Ranks, devices: list[torch.device], *arguments: Any) -> None:
    _train(ranks, devices[ranks.local], *arguments)


def _train(ranks: Ranks, device: torch.device, *arguments: Any) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with together(ranks, device):
        _Training(ranks, device, *arguments).run()


class _Training:
    def __init__(
        self,
        ranks: Ranks,
        device: torch.device,
        study: Study,
        entry: Entry,
        seed: int,
        out: Path,
        fingerprint: Fingerprint,
    ) -> None:
        self.ranks = ranks
        self.study, self.entry, self.seed, self.out = study, entry, seed, out
        self.training_seed = entry.training_seed(seed)
        self.recipe: Recipe = recipe_of(entry, study)
        paths = StudyPaths(study)
        self.state_path = paths.training_state(entry.name, seed)
        self.metrics_path = self.state_path.with_suffix(".jsonl")
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        self.fabric = _fabric(study, self.recipe, device)
        pairs = Pairs(study, "train", share=entry.pairs)
        method = build_method(study, entry, seed)
        knowledge = Knowledge.load(paths.knowledge) if entry.reads_knowledge else None
        self.batches = Batches(
            pairs,
            study,
            method,
            knowledge,
            self.training_seed,
            self.recipe.batch_size,
            self.recipe.epochs,
            self.recipe.augment,
        )
        validation = Pairs(study, "val")
        self.validation = (
            Batches(validation, study, method, knowledge, self.training_seed, self.recipe.batch_size, 1).evaluation(
                VALIDATION_PAIRS
            )
            if len(validation)
            else []
        )
        self.pairs = pairs
        if len(pairs) < self.recipe.batch_size and entry.pairs < 100:
            raise UserError(
                f"{entry.pairs} % of the training patients have {len(pairs)} pairs, fewer than a batch of {self.recipe.batch_size}",
                where=f"study {study.study}: methods.variants.{entry.name}.pairs",
                fix="give it more, or a smaller pretrain.batch_size",
            )
        if self.batches.batch_size % ranks.count:
            raise UserError(
                f"a batch of {self.batches.batch_size} pairs cannot be shared by {ranks.count} processes",
                where=f"study {study.study}: pretrain.batch_size",
                fix="choose a multiple",
            )
        config = study.pretrain
        share_statistics(method, ranks, device)
        if config.activation_checkpointing:
            checkpoint_activations(method)
        self.gradients = Gradients(
            self.fabric, method, ranks, config.negatives, config.chunk, config.activation_checkpointing
        )
        self.method = method
        self.fabric.to_device(method)
        self.optimizer: Any = self.fabric.setup_optimizers(build_optimizer(method, self.recipe))
        self.key, self.code = fingerprint.key, fingerprint.code
        self.step, self.seconds, self.resumed = 0, 0.0, 0

    def run(self) -> None:
        self._resume()
        started = self.last_save = time.monotonic()
        before = self.seconds
        shown = progress()
        shown.disable |= self.ranks.rank > 0
        own = self.metrics_path if self.ranks.rank == 0 else Path(os.devnull)
        with shown as bar, own.open("a", encoding="utf-8") as metrics:
            task = bar.add_task(f"pre-train {self.entry.name}", total=self.batches.steps, completed=self.step)
            while self.step < self.batches.steps:
                line = self._train_step()
                self.step += 1
                self.seconds = before + time.monotonic() - started
                if self.step % self.batches.steps_per_epoch == 0 or self.step == self.batches.steps:
                    line["validation"] = self._validate()
                metrics.write(json.dumps(line) + "\n")
                self._show(bar, task, line)
                if not self.ranks.rank and time.monotonic() - self.last_save > self.study.pretrain.checkpoint_seconds:
                    metrics.flush()
                    self._save()
        self.seconds = before + time.monotonic() - started
        self._finish()

    def _train_step(self) -> dict[str, Any]:
        step = self.step
        # Dropout and the like draw from the global state: seeding it by step makes resumption exact.
        seed_everything(self.study.seed, "pretrain-step", self.training_seed, step, self.ranks.rank)
        batch = self.batches.train(step)
        steps = self.batches.steps
        lr = self.recipe.lr * rate(step, steps, rising=max(1, round(self.recipe.warmup * steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.method.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, terms = self.gradients.backward(batch, self._finite)
        self.method.on_backward(batch)
        line: dict[str, Any] = {"step": step, "epoch": batch.epoch, "lr": lr, "loss": loss.item()}
        if self.recipe.clip:
            norm = self.fabric.clip_gradients(self.method, self.optimizer, max_norm=self.recipe.clip)
            line["grad_norm"] = None if norm is None else norm.item()
        self.optimizer.step()
        line["terms"] = {k: v.item() for k, v in terms.items()}
        return line

    def _finite(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = self._total(terms)
        if not torch.isfinite(loss):
            values = {k: v.item() for k, v in terms.items()}
            raise UserError(
                f"the loss of {self.entry.name} is not finite at step {self.step}: {values}",
                where=self.entry.folder,
                fix="lower the rate or look at the term",
            )
        return loss

    def _total(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = self.method.loss_weights()
        return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean loss terms on fixed validation pairs; logged, never used to choose anything. By the process that logs."""
        if not self.validation or self.ranks.rank:
            return {}
        self.method.eval()
        totals: dict[str, float] = {}
        for batch in self.validation:
            seed_everything(self.study.seed, "validation", self.training_seed, batch.step)
            batch.generator.manual_seed(batch.generator.initial_seed())
            for name, term in self.gradients.terms(batch).items():
                totals[name] = totals.get(name, 0.0) + term.item() / len(self.validation)
        return totals

    def _show(self, bar: Progress, task: Any, line: dict[str, Any]) -> None:
        bar.update(task, completed=self.step, description=f"pre-train {self.entry.name}  loss {line['loss']:.3f}")
        if self.step % self.batches.steps_per_epoch == 0:
            epoch, speed = line["epoch"] + 1, self.step * self.batches.batch_size / max(self.seconds, 1e-9)
            logger.info(
                f"{self.entry.name} seed {self.seed}: epoch {epoch}/{self.batches.epochs} loss {line['loss']:.3f} {speed:.0f} samples/s"
            )

    def _save(self) -> None:
        self.last_save = time.monotonic()
        state = {
            "key": self.key,
            "code": self.code,
            "step": self.step,
            "seconds": self.seconds,
            "resumed": self.resumed,
        }
        temporary = self.state_path.with_suffix(".tmp")
        self.fabric.save(temporary, {"method": self.method, "optimizer": self.optimizer, **state})
        os.replace(temporary, self.state_path)

    def _resume(self) -> None:
        name = f"{self.entry.name} seed {self.seed}"
        lines = self.metrics_path.read_text(encoding="utf-8").splitlines() if self.metrics_path.is_file() else []
        if self.state_path.is_file():
            kept = torch.load(self.state_path, map_location="cpu", weights_only=False)
            if kept.get("key") != self.key:
                logger.info(f"{name}: {self.state_path} is the state of another configuration, training starts anew")
            elif kept["step"] > len(lines):  # a power cut can lose the one and leave the other
                logger.info(f"{name}: {self.metrics_path} lacks steps of the state beside it, training starts anew")
            else:
                rest = self.fabric.load(self.state_path, {"method": self.method, "optimizer": self.optimizer})
                self.code = rest["code"]  # a training that goes on in spite of an edit is of the code that began it
                self.step, self.seconds, self.resumed = rest["step"], rest["seconds"], rest["resumed"] + 1
                logger.info(f"{name}: continues at step {self.step} of {self.batches.steps}")
        if self.ranks.count > 1:
            self._agree()
        if not self.ranks.rank:
            self.metrics_path.write_text("".join(f"{line}\n" for line in lines[: self.step]), encoding="utf-8")

    def _agree(self) -> None:
        """Raise UserError where a process has not found the state that the others go on from."""
        steps = torch.tensor([self.step, -self.step], device=self.fabric.device)
        dist.all_reduce(steps, dist.ReduceOp.MAX)
        if steps[0] != -steps[1]:
            raise UserError(
                "is not the same for all processes of the training",
                where=self.state_path,
                fix="put `work` on a file system that all machines share",
            )

    def _flops(self) -> int:
        """Of the last step on all devices, done once more when the weights are written: counting may choose other kernels."""
        batch = self.batches.train(self.step - 1)
        self.method.to(self.fabric.device).train()
        if self.ranks.count > 1 or self.study.pretrain.chunk:
            return self.ranks.count * counted(lambda: self.gradients.backward(batch, self._total))
        batch = batch.to(self.fabric.device)
        with self.fabric.autocast():
            return flops_of(lambda: self._total(self.method.losses(batch)))

    def _finish(self) -> None:
        if self.ranks.rank:
            self._flops()  # which all do together
        else:
            memory = peak_memory(self.fabric.device)
            last = json.loads(self.metrics_path.read_text(encoding="utf-8").splitlines()[-1])
            _export(self.method, self.out)
            shutil.copyfile(self.metrics_path, self.out / "metrics.jsonl")
            facts = {
                "seconds": round(self.seconds, 2),
                "steps": self.step,
                "pairs": len(self.pairs),
                "rows_without_report": self.pairs.without_report,
                "samples_per_second": round(self.step * self.batches.batch_size / max(self.seconds, 1e-9), 2),
                "peak_memory_bytes": memory,
                "flops_per_step": self._flops(),
                "resumed": self.resumed,
                "recipe": self.recipe.model_dump(),
                "final": {k: last[k] for k in ("loss", "terms") if k in last}
                | {"validation": last.get("validation", {})},
                **provenance.facts(self.fabric.device, self.ranks.count),
            }
            _write_card(self.out, self.study, self.entry, self.seed, self.method, self.code, self.key, facts)
            for path in (self.state_path, self.metrics_path):
                path.unlink(missing_ok=True)


def _fabric(study: Study, recipe: Recipe, device: torch.device) -> Fabric:
    """Precision, saving and loading on one device; the other processes are those of ``mlip/pretraining/processes.py``."""
    if device.type == "cpu":
        torch.set_num_threads(study.pretrain.threads)
    precision = study.pretrain.precision
    if precision == "auto":
        own = recipe.precision or ("bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else None)
        precision = own if device.type == "cuda" and own else "32-true"
    devices = 1 if device.type == "cpu" else [device.index]
    return Fabric(accelerator=device.type, devices=devices, precision=precision, plugins=[LightningEnvironment()])


def _export(method: Method, out: Path) -> None:
    model = method.image_encoder.model
    save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, out / "encoder.safetensors")
    save_model(method.cpu(), str(out / "method.safetensors"))


def _write_card(
    out: Path, study: Study, entry: Entry, seed: int, method: Method, code: str, key: str, facts: dict[str, Any]
) -> None:
    card = {
        "method": entry.name,
        "fingerprint": key,
        "code": code,
        "folder": entry.folder.name,
        **({"weights": entry.weights.path.name, "trained_on": entry.weights.trained_on} if entry.weights else {}),
        "status": entry.standing,
        "encoder": entry.encoder,
        "study": study.study,
        "seed": entry.training_seed(seed),
        **facts,
        "components": entry.components,
        "params": entry.params,
        "parameters_image_encoder": sum(p.numel() for p in method.image_encoder.parameters()),
        "parameters_total": sum(p.numel() for p in method.parameters()),
    }
    (out / "card.json").write_text(json.dumps(card, indent=1, default=str) + "\n", encoding="utf-8")
