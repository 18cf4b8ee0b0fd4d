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
from lightning_fabric import Fabric
from rich.progress import Progress
from safetensors.torch import save_file, save_model

from mlip.contract import Method
from mlip.devices import best_device
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
from mlip.pretraining.cost import flops_of, peak_memory
from mlip.pretraining.optimizers import build_optimizer
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
    UserError : no usable reports, a loss that is not finite, or a device that is not there.
    """
    paths = StudyPaths(study)
    out = paths.pretrain(entry.name, seed)
    out.mkdir(parents=True, exist_ok=True)
    if not entry.trained:
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
            {"seconds": 0.0, "steps": 0, "samples_per_second": 0.0},
        )
        (out / "metrics.jsonl").write_text("", encoding="utf-8")
        return
    _Training(study, entry, seed, out, fingerprint).run()


class _Training:
    def __init__(self, study: Study, entry: Entry, seed: int, out: Path, fingerprint: Fingerprint) -> None:
        self.study, self.entry, self.seed, self.out = study, entry, seed, out
        self.training_seed = entry.training_seed(seed)
        self.recipe: Recipe = recipe_of(entry, study)
        paths = StudyPaths(study)
        self.state_path = paths.training_state(entry.name, seed)
        self.metrics_path = self.state_path.with_suffix(".jsonl")
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        self.fabric = _fabric(study, self.recipe)
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
        self.method = method
        self.module, self.optimizer = self.fabric.setup(method, build_optimizer(method, self.recipe))
        self.module.mark_forward_method("losses")
        self.key, self.code = fingerprint.key, fingerprint.code
        self.step, self.seconds, self.resumed = 0, 0.0, 0

    def run(self) -> None:
        self._resume()
        started = self.last_save = time.monotonic()
        before = self.seconds
        with progress() as bar, self.metrics_path.open("a", encoding="utf-8") as metrics:
            task = bar.add_task(f"pre-train {self.entry.name}", total=self.batches.steps, completed=self.step)
            while self.step < self.batches.steps:
                line = self._train_step()
                self.step += 1
                self.seconds = before + time.monotonic() - started
                if self.step % self.batches.steps_per_epoch == 0 or self.step == self.batches.steps:
                    line["validation"] = self._validate()
                metrics.write(json.dumps(line) + "\n")
                self._show(bar, task, line)
                if time.monotonic() - self.last_save > self.study.pretrain.checkpoint_seconds:
                    metrics.flush()
                    self._save()
        self.seconds = before + time.monotonic() - started
        self._finish()

    def _train_step(self) -> dict[str, Any]:
        step = self.step
        # Dropout and the like draw from the global state: seeding it by step makes resumption exact.
        seed_everything(self.study.seed, "pretrain-step", self.training_seed, step, self.fabric.global_rank)
        batch = self.batches.train(step, self.fabric.global_rank, self.fabric.world_size).to(self.fabric.device)
        steps = self.batches.steps
        lr = self.recipe.lr * rate(step, steps, rising=max(1, round(self.recipe.warmup * steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.module.train()
        terms = self.module.losses(batch)
        loss = self._total(terms)
        if not torch.isfinite(loss):
            values = {k: v.item() for k, v in terms.items()}
            raise UserError(
                f"the loss of {self.entry.name} is not finite at step {step}: {values}",
                where=self.entry.folder,
                fix="lower the rate or look at the term",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.method.on_backward(batch)
        line: dict[str, Any] = {"step": step, "epoch": batch.epoch, "lr": lr, "loss": loss.item()}
        if self.recipe.clip:
            norm = self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.recipe.clip)
            line["grad_norm"] = None if norm is None else norm.item()
        self.optimizer.step()
        line["terms"] = {k: v.item() for k, v in terms.items()}
        return line

    def _total(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = self.method.loss_weights()
        return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean loss terms on fixed validation pairs; logged, never used to choose anything."""
        if not self.validation:
            return {}
        self.module.eval()
        totals: dict[str, float] = {}
        for batch in self.validation:
            seed_everything(self.study.seed, "validation", self.training_seed, batch.step)
            batch.generator.manual_seed(batch.generator.initial_seed())
            for name, term in self.module.losses(batch.to(self.fabric.device)).items():
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
        self.fabric.save(temporary, {"method": self.module, "optimizer": self.optimizer, **state})
        os.replace(temporary, self.state_path)

    def _resume(self) -> None:
        if self.state_path.is_file():
            state = {"method": self.module, "optimizer": self.optimizer}
            if torch.load(self.state_path, map_location="cpu", weights_only=False).get("key") == self.key:
                rest = self.fabric.load(self.state_path, state)
                self.code = rest["code"]  # a training that goes on in spite of an edit is of the code that began it
                self.step, self.seconds, self.resumed = rest["step"], rest["seconds"], rest["resumed"] + 1
                logger.info(
                    f"{self.entry.name} seed {self.seed}: continues at step {self.step} of {self.batches.steps}"
                )
            else:
                logger.info(
                    f"{self.entry.name} seed {self.seed}: the state in {self.state_path} belongs to another configuration, training starts anew"
                )
        lines = (
            self.metrics_path.read_text(encoding="utf-8").splitlines()[: self.step]
            if self.metrics_path.is_file()
            else []
        )
        self.metrics_path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _flops(self) -> int:
        """Of the last step, done once more when the weights are written: counting may choose other kernels."""
        batch = self.batches.train(self.step - 1).to(self.fabric.device)
        self.method.to(self.fabric.device).train()
        with self.fabric.autocast():
            return flops_of(lambda: self._total(self.method.losses(batch)))

    def _finish(self) -> None:
        if self.fabric.is_global_zero:
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
            }
            _write_card(self.out, self.study, self.entry, self.seed, self.method, self.code, self.key, facts)
            for path in (self.state_path, self.metrics_path):
                path.unlink(missing_ok=True)


def _fabric(study: Study, recipe: Recipe) -> Fabric:
    device = best_device(study.device)
    if device.type == "cpu":
        torch.set_num_threads(study.pretrain.threads)
    precision = study.pretrain.precision
    if precision == "auto":
        own = recipe.precision or ("bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else None)
        precision = own if device.type == "cuda" and own else "32-true"
    devices = study.pretrain.devices if device.type == "cuda" else 1
    fabric = Fabric(accelerator=device.type, devices=devices, precision=precision)
    if devices > 1:
        fabric.launch()
    return fabric


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
        **provenance.facts(study.device),
    }
    (out / "card.json").write_text(json.dumps(card, indent=1, default=str) + "\n", encoding="utf-8")
