"""Pages, leaderboard and figures of a synthetic study."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from benchmarks.cells import compute
from benchmarks.related import ablated, figures, on_shares
from benchmarks.report import ablation, pairs
from benchmarks.report.build import build_tables
from benchmarks.report.standing import main_columns
from benchmarks.report.words import letter
from benchmarks.scores import statistics
from benchmarks.scores.predictions import read_predictions, write_predictions
from benchmarks.tasks.shared.task import MetricSpec
from tests.benchmarks.simulated import NOTE, THREE_SEEDS, Probe, World, make_world


def card(world: World, method: str, seconds: float) -> None:
    folder = world.paths.pretrain(method, 0)  # of the first seed
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "fingerprint": world.plan.training(method, 0).key,
        "seconds": seconds,
        "samples_per_second": 8.0,
        "steps": 500,
        "recipe": {"batch_size": 8},
        "peak_memory_bytes": 3 * 2**29,
        "flops_per_step": 4e9,
    }
    (folder / "card.json").write_text(
        json.dumps({**facts, "parameters_image_encoder": 2e6, "parameters_total": 3.5e6}), encoding="utf-8"
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(text: str, start: str) -> dict[str, list[str]]:
    """The first table after ``start``: first column -> the other columns."""
    lines = text[text.index(start) :].splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("|"))
    rows = {}
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        name, *rest = [c.strip() for c in line.strip("|").split("|")]
        rows[name] = rest
    return rows


def test_tables_compile_when_nothing_is_computed(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    build_tables(world.plan)
    names = set(tree(tmp_path / "results"))
    pages = {"simulated.md", "simulated/cost.md", "simulated/probe.md", "simulated/direct.md"}
    assert names == pages | {
        "simulated.html",
        "simulated/cells.csv", "simulated/breakdown.csv", "simulated/made.json", "simulated/probe.csv", "simulated/direct.csv",
        "simulated/probe.tex", "simulated/direct.tex",
        "simulated/figures/probe.png", "simulated/figures/direct.png",
    }  # fmt: skip
    for page in pages:
        assert (tmp_path / "results" / page).read_text(encoding="utf-8").splitlines()[0] == NOTE
    text = world.paths.leaderboard.read_text(encoding="utf-8")
    rows = table(text, "## Protocol `plain`: Plain direct")
    assert rows["Alpha"] == ["pending [a]"] and rows["Gamma"] == ["skipped [b]"]
    assert "- [a] pending: not computed yet" in text
    assert "- [b] skipped: the method has no zero_shot capability" in text
    assert table(text, "# Simulated study")["Alpha"][-1] == "pending"
    assert "nan" not in text.lower()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A complete study, its tables built once."""
    with pytest.MonkeyPatch.context() as patch:
        world = make_world(tmp_path_factory.mktemp("full"), patch, **THREE_SEEDS)
        world.fill()
        for method in ("alpha", "beta", "gamma"):
            card(world, method, 100.0)
        build_tables(world.plan)
        yield world


def test_leaderboard_orders_by_standing_and_sets_apart_controls_and_rows_that_lack_cells(full):
    text = full.paths.leaderboard.read_text(encoding="utf-8")
    assert text.splitlines()[0] == NOTE
    rows = table(text, "# Simulated study")
    names = list(rows)
    assert set(names[2:4]) == {"Alpha", "Beta †"}  # after the head and its line
    assert names[4:] == ["*Without all cells*", "Gamma", "*Controls*", "Noise", "Noise (ViT)"]
    head = rows["method"]
    assert head[:5] == ["encoder", "status", "standing", "above every control", "Direct: AUROC"]
    alpha, gamma, noise = (dict(zip(head, rows[name], strict=True)) for name in ("Alpha", "Gamma", "Noise"))
    assert (gamma["standing"], gamma["Direct: AUROC"]) == ("", "skipped")
    assert re.fullmatch(r"\*\*[\d.]+\*\* \[[\d., ]+\] \(1–2\)", alpha["standing"])
    assert re.fullmatch(r"-?[\d.]+ \[[-\d., ]+\]", noise["standing"])  # controls take no rank
    assert alpha["above every control"] == "5 of 5"
    assert alpha["pre-training"] == "4.0 k pairs seen, 3.5 M parameters"
    cells = pd.read_csv(full.paths.cells)
    own = cells[(cells["method"] == "alpha") & (cells["metric"] == "AUROC")]
    top = own[(own["task"] == "probe") & (own["fraction"] == 100)]
    assert float(alpha["Probe: AUROC 100 %"]) == pytest.approx(100 * top["value"].mean(), abs=0.06)
    scaled = pd.concat(pd.read_csv(full.paths.results / f"{task}.csv") for task in ("probe", "direct"))
    own = scaled[(scaled["method"] == "alpha") & (scaled["metric"] == "AUROC")]
    vote = own.groupby("task")["scaled"].mean()  # each task has one, whatever the number of its columns
    assert float(re.findall(r"[\d.]+", alpha["standing"])[0]) == pytest.approx(100 * vote.mean(), abs=0.06)


def test_pages_count_the_heads_that_ended_by_themselves(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    world.fill()
    for method, iterations, stopped in (("alpha", 80, True), ("beta", 300, False), ("gamma", 0, True)):
        for dataset in ("rsna", "siim"):
            change = lambda frame, i=iterations, s=stopped: frame.assign(iterations=i, stopped=s)  # noqa: E731
            world.predict("probe", dataset, method, change=change)
    build_tables(world.plan)
    text = (world.paths.results / "probe.md").read_text(encoding="utf-8")
    # Two draws at 1 %, one at 100 %; what was not trained does not count, nor do predictions that say nothing.
    line = next(x for x in text.splitlines() if x.startswith("Heads that ended by themselves"))
    assert "rsna 1 % 2 of 4; rsna 100 % 1 of 2; siim 1 % 2 of 4" in line
    assert "Heads that ended" not in (world.paths.results / "direct.md").read_text(encoding="utf-8")


def test_pages_name_the_machine_of_todays_trainings(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    world.fill()
    for method, device in (("alpha", "cpu: A, AVX2, 2 cores"), ("beta", "cpu: B, AVX512, 2 cores")):
        card(world, method, 1.0)
        path = world.paths.pretrain(method, 0) / "card.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts |= {"device": device, "commit": "0123456789abcdef", "versions": {"torch": "2.9"}}
        path.write_text(json.dumps(facts), encoding="utf-8")
    stale = json.loads(path.read_text(encoding="utf-8")) | {"fingerprint": "other", "device": "cpu: OLD"}
    (world.paths.pretrain("gamma", 0)).mkdir(parents=True)
    (world.paths.pretrain("gamma", 0) / "card.json").write_text(json.dumps(stale), encoding="utf-8")
    build_tables(world.plan)
    said = "cpu: A, AVX2, 2 cores, cpu: B, AVX512, 2 cores; torch 2.9; commit 0123456789ab."
    for page in (world.paths.leaderboard, world.paths.results / "cost.md"):
        assert said in page.read_text(encoding="utf-8") and "OLD" not in page.read_text(encoding="utf-8")


def test_one_seed_leads_to_no_rank_and_no_bold_and_the_page_says_why(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    monkeypatch.setattr("benchmarks.report.figures.draw", lambda *_: None)  # slow, and not looked at here
    world.fill()
    build_tables(world.plan)
    for page in (world.paths.leaderboard, world.paths.results / "probe.md"):
        text = page.read_text(encoding="utf-8")
        assert "ONE pre-training seed" in text and "Not ranked, and nothing bold: every column" in text
        assert "there is one pre-training seed" in text and "/ ? %" in text
        tables_ = [line for line in text.splitlines() if line.startswith("|")]
        assert not any("**" in line or re.search(r"\] \(\d", line) for line in tables_)


def test_a_row_that_lost_a_cell_has_no_standing(tmp_path, monkeypatch):
    """Before, a row that failed all of its hard cells moved to the first place."""
    world = make_world(tmp_path, monkeypatch, **THREE_SEEDS)
    monkeypatch.setattr("benchmarks.report.figures.draw", lambda *_: None)  # slow, and not looked at here
    world.fill()
    world.fail_evaluation("probe", "rsna", "alpha", "out of memory")
    build_tables(world.plan)
    rows = table(world.paths.leaderboard.read_text(encoding="utf-8"), "# Simulated study")
    names = list(rows)
    assert names[2:6] == ["Beta †", "*Without all cells*", "Alpha", "Gamma"] and rows["Alpha"][2] == ""
    assert rows["Alpha"][rows["method"].index("Probe: AUROC 100 %")] == "failed"


def test_a_control_that_cannot_do_a_task_is_no_rival_and_no_obstacle_in_the_headline(tmp_path, monkeypatch):
    """An ImageNet encoder has no text side: with it in the study no standing was ever bold. One that failed still forbids it."""
    from benchmarks.cells import compute
    from benchmarks.report.standing import standings

    for lost in (False, True):
        world = make_world(tmp_path / str(lost), monkeypatch, more=[("blind", "control")], **THREE_SEEDS)
        world.fill()
        if lost:
            world.fail_evaluation("probe", "rsna", "blind", "out of memory")
        found = standings(compute(world.plan), 0.95)
        assert "noise" in found.estimates and "blind" not in found.estimates
        assert found.above_controls.get("alpha", False) is not lost and found.bold("alpha") is not lost


def test_columns_of_two_metrics_are_not_averaged(tmp_path, monkeypatch):
    def metrics(self, protocol, source):
        found = [MetricSpec("auroc", "AUROC"), MetricSpec("average_precision", "Average precision")]
        return found if source.name == "rsna" else found[::-1]

    monkeypatch.setattr(Probe, "metrics", metrics)
    world = make_world(tmp_path, monkeypatch)
    monkeypatch.setattr("benchmarks.report.figures.draw", lambda *_: None)  # slow, and not looked at here
    world.fill()
    build_tables(world.plan)
    head = table(world.paths.leaderboard.read_text(encoding="utf-8"), "# Simulated study")["method"]
    assert {"Probe: AUROC 100 %", "Probe: Average precision 100 %"} <= set(head)


def test_table_prints_value_interval_and_rank(full):
    text = (full.paths.results / "probe.md").read_text(encoding="utf-8")
    rows = table(text, "## Protocol `plain`")
    assert rows["method"][0] == "rsna AUROC 1 %" and len(rows["method"]) == 4
    cells = pd.read_csv(full.paths.cells)
    for name, method in (("Alpha", "alpha"), ("Beta †", "beta"), ("Gamma", "gamma"), ("Constant", "constant")):
        for column, printed in zip(rows["method"], rows[name], strict=True):
            dataset, fraction = column.split()[0], int(column.split()[2])
            cell = cells[
                (cells["task"] == "probe") & (cells["method"] == method) & (cells["dataset"] == dataset)
                & (cells["fraction"] == fraction) & (cells["metric"] == "AUROC")
            ].iloc[0]  # fmt: skip
            numbers = [float(n) for n in re.findall(r"[\d.]+", printed)]
            expected = [100 * cell[c] for c in ("value", "ci_low", "ci_high")]
            np.testing.assert_allclose(numbers[:3], expected, atol=0.06)
            assert printed.startswith("**") == (cell["rank"] == 1)
            ranks = list(dict.fromkeys(int(cell[c]) for c in ("rank", "rank_high") if method != "constant"))
            assert numbers[3:] == ranks
    assert all(c.endswith("(1–2)") for c in rows["Alpha"])  # Beta is as good
    names = list(rows)
    assert names.index("*Controls*") == names.index("Gamma") + 1
    assert names[-2:] == ["*Smallest separable gap*", "*Variance: patients / draws / seeds*"]
    for shares in rows[names[-1]]:
        assert sum(map(int, re.findall(r"\d+", shares))) == pytest.approx(100, abs=1)
    assert all(re.fullmatch(r"[\d.]+ \(2 of 3 pairs\)", gap) for gap in rows["*Smallest separable gap*"])
    for said in (
        "the metric is averaged twice",
        "nobody 1999",
        "2 at 1 %, 1 at 100 %",
        "Pre-training seeds: 3",
        "rsna 120 (Edema ",
    ):
        assert said in text
    assert "Average precision" in text


def test_task_csv_scales_between_chance_and_a_perfect_score(full):
    table_ = pd.read_csv(full.paths.results / "probe.csv")
    column = table_[
        (table_["dataset"] == "rsna") & (table_["metric"] == "AUROC") & (table_["fraction"] == 100)
    ].set_index("method")
    assert column.loc["constant", "scaled"] == 0
    assert set(column["floor"]) == {0.5} and set(column["floor_of"]) == {"chance"}
    expected = (column.loc["alpha", "value"] - 0.5) / 0.5
    assert column.loc["alpha", "scaled"] == pytest.approx(expected, abs=1e-5)
    assert "seconds" not in table_


def test_published_values_are_not_printed_beside_simulated_ones(full):
    for page in (full.paths.leaderboard, full.paths.results / "probe.md"):
        text = page.read_text(encoding="utf-8")
        assert "does not set `published: true`" in text and "G2D" not in text and "reported" not in text


def test_same_predictions_same_bytes_whatever_the_machine_s_speed(full):
    before = tree(full.study.results)
    for path in full.paths.work.rglob("seed*.parquet"):
        frame, meta = read_predictions(path)
        write_predictions(frame, path, {**meta, "seconds": 99.0})
    card(full, "alpha", 7.0)
    build_tables(full.plan)
    after = tree(full.study.results)
    assert {name for name in before if before[name] != after[name]} == {
        "simulated.html", "simulated/cells.csv", "simulated/cost.md",
    }  # fmt: skip


def test_figures_show_something(full):
    for task in full.study.tasks:
        pixels = matplotlib.image.imread(full.paths.results / "figures" / f"{task}.png")[..., :3]
        colours = {tuple(c) for c in (pixels[::2, ::2].reshape(-1, 3) * 255).round().astype(int)}
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # the first two methods


def test_cost_is_a_page_of_its_own(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    monkeypatch.setattr("benchmarks.report.figures.draw", lambda *_: None)  # slow, and not looked at here
    card(world, "alpha", 123.0)
    build_tables(world.plan)
    rows = table((world.paths.results / "cost.md").read_text(encoding="utf-8"), "# Pre-training cost")
    assert rows["Alpha"] == ["cnn", "1 of 1", "123.0", "8.0", "500", "1.50", "2.00", "2.00", "3.50"]
    assert rows["Beta"][:3] == ["cnn", "0 of 1", "pending"]
    assert "123" not in world.paths.leaderboard.read_text(encoding="utf-8")


def test_failures_are_printed_and_do_not_stop_the_tables(tmp_path, monkeypatch):
    world = make_world(tmp_path, monkeypatch)
    monkeypatch.setattr("benchmarks.report.figures.draw", lambda *_: None)  # slow, and not looked at here
    for method in ("alpha", "gamma", "noise"):
        world.predict("probe", "rsna", method)
    world.fail_evaluation("probe", "rsna", "beta", "ValueError: the loss is NaN at step 7")
    build_tables(world.plan)
    text = (world.paths.results / "probe.md").read_text(encoding="utf-8")
    cell = table(text, "## Protocol `plain`")["Beta †"][0]
    mark = re.fullmatch(r"failed \[(\w+)\]", cell)
    assert mark and f"- [{mark[1]}] failed: ValueError: the loss is NaN at step 7" in text
    board = table(world.paths.leaderboard.read_text(encoding="utf-8"), "# Simulated study")
    assert board["Beta †"][board["method"].index("Probe: AUROC 100 %")] == "failed/pending"


def test_letters_go_on_after_z():
    assert [letter(k) for k in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]


def test_curves_over_the_share_of_the_pairs(tmp_path, monkeypatch):
    half = {"method": "alpha", "pairs": 50, "title": "Alpha, half"}
    changed = {"method": "alpha", "pairs": 25, "components": {"extra": False}}
    world = make_world(tmp_path, monkeypatch, methods={"variants": {"alpha-50": half, "alpha-other": changed}})
    world.fill()
    results = compute(world.plan)
    assert [[row.name for row in group] for group in on_shares(results.blocks)] == [["alpha-50", "alpha"]]
    assert figures(["probe"], world.plan.blocks) == ["probe", "pairs"]
    drawn = pairs.figure(results)
    # Two tasks measure AUROC on the same films: a panel says which one it is of.
    assert [ax.get_title(loc="left").split("\n")[0] for ax in drawn.axes if ax.axison] == ["Direct", "Probe", "Probe"]
    plt.close(drawn)
    build_tables(world.plan)
    text = world.paths.leaderboard.read_text(encoding="utf-8")
    figure = world.paths.results / "figures" / "pairs.png"
    page = world.paths.leaderboard.with_suffix(".html")
    assert "# Data efficiency" in text and "simulated/figures/pairs.png" in text
    assert "<h3>Data efficiency</h3>" in page.read_text(encoding="utf-8")
    pixels = matplotlib.image.imread(figure)[..., :3]
    assert (0x00, 0x72, 0xB2) in {tuple(c) for c in (pixels.reshape(-1, 3) * 255).round().astype(int)}
    for module in ("pairs", "web.page"):
        monkeypatch.setattr(f"benchmarks.report.{module}.on_shares", lambda _: [])
    build_tables(world.plan)
    assert not figure.exists() and "# Data efficiency" not in world.paths.leaderboard.read_text(encoding="utf-8")
    assert "Data efficiency" not in page.read_text(encoding="utf-8")


def test_what_a_part_brings_is_the_full_method_minus_the_same_without_it(tmp_path, monkeypatch):
    without = {"method": "alpha", "components": {"extra": False}, "title": "Alpha without extra"}
    smaller = without | {"pairs": 50}  # differs in more than a part: says nothing about it
    world = make_world(
        tmp_path, monkeypatch, methods={"variants": {"alpha-other": without, "alpha-50": smaller}}, **THREE_SEEDS
    )
    world.fill()
    results, level = compute(world.plan), world.plan.study.statistics.level
    assert [(full.name, row.name) for full, row in ablated(results.blocks)] == [("alpha", "alpha-other")]
    assert figures(["probe"], world.plan.blocks) == ["probe", "ablation", "pairs"], "half and whole without the part"
    for column in main_columns(results):
        gain = ablation.gains(results, column, level)["alpha-other"]
        full, row = column.estimates["alpha"], column.estimates["alpha-other"]
        assert gain.value == pytest.approx(full.value - row.value, abs=1e-12) and gain.low < gain.value < gain.high
        pool = statistics.Pool.of(e for n, e in column.estimates.items() if n.startswith(("alpha", "beta")))
        assert gain.told == (statistics.difference(full, row, pool).p <= 1 - level)  # one line: Holm adjusts nothing
    build_tables(world.plan)
    figure = world.paths.results / "figures" / "ablation.png"
    lines = table(world.paths.leaderboard.read_text(encoding="utf-8"), "# What each part brings")
    assert next(iter(lines)) == "without" and list(lines)[2:] == ["Alpha without extra"] and figure.exists()
    assert re.search(r"[+-]\d+\.\d\*{0,2} \[[+-]", lines["Alpha without extra"][1])
    assert "What each part brings" in world.paths.leaderboard.with_suffix(".html").read_text(encoding="utf-8")
    for page in ("ablation", "web.page"):
        monkeypatch.setattr(f"benchmarks.report.{page}.ablated", lambda _: [])
    build_tables(world.plan)
    assert not figure.exists() and "# What each part brings" not in world.paths.leaderboard.read_text(encoding="utf-8")
