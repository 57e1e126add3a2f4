"""The report: complete and unfinished runs, hostile texts, the same bytes for the same numbers, well-formed markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe, recipe_hash
from rubric_arm_lite.report import figures, write_report
from rubric_arm_lite.report.examples import examples, marked_lines
from rubric_arm_lite.report.headline import SIDES, contrast, cross_play, cross_play_name, headline, points
from rubric_arm_lite.report.panels import MAX_POINTS, reward_panel, short_label, step_axis, thinned, warmup_panel
from rubric_arm_lite.report.read import STAGE_NAMES, EvaluationRow, read_run
from rubric_arm_lite.report.tables import Table, markdown_table, timing_table
from rubric_arm_lite.runs.directory import RunState
from rubric_arm_lite.training import stages as pipeline
from rubric_arm_lite.training.schedule import STAGES, scheduled_phases

PAIRS = 20
VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
HOSTILE = (
    '<script>alert(1)</script> ]]> --> </style></svg> "onload="x" {{ 7 * 7 }} {% raw %} $x^2$ &amp; | `` ``` '
    "\x00\x1b[31mred\x1b[0m \u202edesrever \ud800 \u2028line" + "W" * 5000
)

# --- a run directory, made by hand ----------------------------------------------------------------------------------


def values_of(accuracy: float, **more: float) -> dict[str, float]:
    return {
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.05,
        "accuracy_high": min(1.0, accuracy + 0.05),
        "accuracy_original": accuracy + 0.02,
        "accuracy_swapped": accuracy - 0.02,
        "accuracy_mixed": accuracy,
        "position_bias": 0.04,
        "consistency": 0.9,
        "unparsed": 0.01,
        "verdicts_for_a": 0.52,
        "format": 0.99,
        "rubric_usable": 1.0,
        "rubric_criteria": 3.0,
        "rubric_duplicates": 0.0,
        "rubric_hard_rules": 0.25,
        "rubric_words": 15.0,
        "principle_recall": accuracy - 0.2,
        "tokens_per_pair": 120.0,
        "pairs": float(PAIRS),
        "format_sampled": 0.9,
        **more,
    }


def rows_of(accuracy: float) -> list[dict[str, Any]]:
    right = round(accuracy * PAIRS)
    return [
        {
            "pair_id": f"p{i}",
            "original": float(i < right),
            "swapped": float(i < right),
            "original_winner": "A" if i < right else "B",
            "swapped_winner": "B" if i < right else None,
        }
        for i in range(PAIRS)
    ]


def showcase_of(name: str, text: str) -> list[dict[str, Any]]:
    return [
        {
            "pair_id": "p0",
            "prompt": f"Write about rivers. {text}",
            "response_a": f"calm water {text}",
            "response_b": f"loud water {text}",
            "preferred": "A",
            "rubric": f"1. The response is calm [Principle]\n2. The response is about {name} {text} [Principle]",
            "rubric_status": "ok",
            "judgement": f"--- Final Judgment ---\nWinner: Response A {text}",
            "winner": "A",
            "recall": 0.5,
        }
    ]


class Made:
    """Writes a synthetic run directory, stage by stage."""

    def __init__(self, path: Path, *overrides: str, text: str = "", seconds: float = 1.5) -> None:
        self.path, self.text, self.seconds = path, text, seconds
        path.mkdir(parents=True)
        self.recipe = load_recipe("testbed", ["evaluation.bootstrap=50", *overrides])
        self.stages: tuple[str, ...] = ()
        self.position = (0, 0)
        (path / "recipe.yaml").write_text(dump_recipe(self.recipe))
        self.commit()

    def commit(self, *stages: str) -> None:
        self.stages += stages
        state = RunState(recipe_hash(self.recipe), self.stages, None, self.position)
        (self.path / "state.json").write_text(state.dumps())

    def log(self, name: str, /, **row: Any) -> None:
        with (self.path / name).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def evaluate(self, name: str, accuracy: float, **more: float) -> None:
        values = values_of(accuracy, **more)
        self.log("metrics.jsonl", kind="evaluation", name=name, **values)
        folder = self.path / "evaluations"
        folder.mkdir(exist_ok=True)
        value = {
            "name": name,
            "values": values,
            "rows": rows_of(accuracy),
            "showcase": showcase_of(name, self.text),
        }
        (folder / f"{re.sub('[^a-z0-9]', '-', name)}.json").write_text(json.dumps(value))
        self.log("timings.jsonl", stage=f"evaluate {name}", seconds=self.seconds, tokens=1000)

    def start(self) -> Made:
        (self.path / "versions.json").write_text(json.dumps({"torch": "2.13", "git": None, "note": self.text}))
        oracle = {"true": 1.0, "hard_rule": 0.65, "generic": 0.75, "random": 0.66}
        (self.path / "data.json").write_text(json.dumps({"train_pairs": 64, "oracle": oracle, "likes": {"a": ["b"]}}))
        self.evaluate("base", 0.5)
        self.commit("base")
        return self

    def warm_up(self) -> Made:
        for role in ("rubric", "judge"):
            for step in (10, 20):
                self.log("metrics.jsonl", kind="warmup", role=role, step=step, loss=1 / step)
        self.evaluate("warm-up", 0.6)
        self.commit("warmup-rubric", "warmup-judge", "warmup")
        return self

    def alternate(self, phases: int | None = None, steps: int = 4) -> Made:
        for slot in scheduled_phases(self.recipe.schedule)[:phases]:
            for step in range(steps):
                for role in slot.roles:
                    self.step(slot.index, slot.label, role, step)
            self.evaluate(slot.label, 0.7 + 0.03 * slot.index)
            self.position = (slot.index + 1, 0)
            self.log("timings.jsonl", stage=slot.label, seconds=self.seconds, tokens=5000)
        self.commit(*(["alternating"] if phases is None else []))
        return self

    def step(self, slot: int, label: str, role: str, step: int) -> None:
        part = "format" if role == "judge" else "parsed"
        values = {"reward": 0.5, "reward/accuracy": 0.5, f"reward/{part}": 0.9, "reward/masked": 0.0, "kl": 0.01}
        values |= {"groups/informative": 0.8, "entropy": 0.3, "clip_ratio": 0.0, "parse/ok": 0.95, "verdicts/A": 0.5}
        if role == "judge":
            values["cache/hit_rate"] = 0.25
        self.log("metrics.jsonl", kind="step", slot=slot, phase=label, role=role, step=step, **values)

    def finish(self) -> Made:
        values = {}
        for judge, rubrics, accuracy in (
            ("warm-up", "warm-up", 0.6),
            ("trained", "warm-up", 0.65),
            ("warm-up", "trained", 0.8),
            ("trained", "trained", 0.9),
        ):
            name = cross_play_name(judge, rubrics)
            self.evaluate(f"cross-play: {name}", accuracy)
            values[name] = values_of(accuracy)
        (self.path / "cross_play.json").write_text(json.dumps(values))
        self.evaluate("final", 0.9, **{"voting@5": 0.95})
        self.commit("cross-play", "final")
        return self


def complete(path: Path, *overrides: str, **kwargs: Any) -> Made:
    return Made(path, *overrides, **kwargs).start().warm_up().alternate().finish()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A complete run, not to be changed, with its page and its text."""
    run = complete(tmp_path_factory.mktemp("whole") / "r").path
    return run, *report(run)


def remembered(draw: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called once for equal arguments."""
    drawn: dict[str, Any] = {}

    def look_up(*arguments: Any) -> Any:
        key = repr(arguments)
        if key not in drawn:
            drawn[key] = draw(*arguments)
        return drawn[key]

    return look_up


FIGURES = {name: remembered(getattr(figures, name)) for name in ("draw_panel", "draw_accuracy")}
"""They take most of a report's time, and most runs of these tests have the same ones."""


def report(path: Path) -> tuple[str, str]:
    """Page and text of a run; a figure that an earlier test had is not drawn again."""
    with pytest.MonkeyPatch.context() as changed:
        for name, draw in FIGURES.items():
            changed.setattr(figures, name, draw)
        return drawn_anew(path)


def drawn_anew(path: Path) -> tuple[str, str]:
    html, text = write_report(path)
    assert (html, text) == (path / "report.html", path / "report.md")
    return html.read_text("utf-8"), text.read_text("utf-8")


# --- reading the page -----------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects what a browser would see, and fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def without_timing(page: str) -> str:
    rest = re.sub(r'<section id="timing">.*?</section>', "", page, flags=re.DOTALL)
    assert rest != page
    return rest


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)


def section(page: str, name: str) -> str:
    match = re.search(rf'<section id="{name}">.*?</section>', page, flags=re.DOTALL)
    assert match is not None
    return Reader(match[0]).text


# --- a complete run -------------------------------------------------------------------------------------------------


def test_a_complete_run_tells_its_result(whole: tuple[Path, str, str]) -> None:
    _, page, text = whole
    lead = "Accuracy on held-out pairs went from 60.0% after the warm-up to 90.0% at the end (95% interval 85.0% to "
    lead += "95.0%)."
    assert lead in Reader(page).text
    assert lead in " ".join(text.split())
    assert "reaches 100.0% with the true rubrics" in Reader(page).text
    assert "not finished" not in page and "Not done yet" not in page
    assert "Against the warm-up (60.0%), in points: the trained judge alone +5.0" in section(page, "cross-play")
    assert "the trained rubrics alone +20.0" in section(page, "cross-play")
    for name in ("accuracy", "cross-play", "training", "learned", "evaluations", "timing", "reading"):
        assert section(page, name)
    assert "counts 0.5 in an accuracy" in section(page, "reading")
    assert "num_generations" in section(page, "reading")
    assert "voting@5" in section(page, "evaluations")


def test_the_page_is_well_formed_and_needs_nothing_else(whole: tuple[Path, str, str]) -> None:
    _, page, _ = whole
    read = Reader(page)
    assert len(read.ids) == len(set(read.ids))
    assert not {"script", "link", "img", "iframe", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on") or name == "src"]
    anchors = [value for name, value in read.attributes if name == "href"]
    assert anchors and all(value.removeprefix("#") in read.ids for value in anchors)
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"https?:", outside) and "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_every_picture_is_xml_with_words_for_those_who_do_not_see_it(whole: tuple[Path, str, str]) -> None:
    _, page, _ = whole
    pictures = svgs(page)
    assert len(pictures) >= 18
    for svg in pictures:
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 20
        assert root.get("viewBox") and root.get("width") is None
        assert "<style" not in svg and "metadata" not in svg
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'(?:url\(|href=")#([\w.-]+)', svg)) == ids
    assert page.count("<figcaption") == len(pictures) - 1  # the accuracy comes in two shapes under one caption


def test_pictures_take_their_colors_from_the_page(whole: tuple[Path, str, str]) -> None:
    _, page, _ = whole
    style = page[page.index("<style>") : page.index("</style>")]
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    used = set(re.findall(r"var\(--([\w-]+)\)", "".join(svgs(page))))
    assert {"ink", "muted", "judge", "rubric", "accent", "tint-judge"} <= used
    for name in used:
        assert f"--{name}:" in light
    for name in used - {"sans"}:
        assert f"--{name}:" in dark
    assert not re.findall(r"#[0-9a-f]{6}", "".join(svgs(page)))


# --- the same numbers, the same bytes -------------------------------------------------------------------------------


def test_only_the_timing_differs_between_equal_runs(tmp_path: Path) -> None:
    one = complete(tmp_path / "one", seconds=1.5).path
    other = complete(tmp_path / "deep" / "other-name", seconds=2.5).path
    (page, text), (page_2, text_2) = report(one), drawn_anew(other)
    assert page != page_2
    assert without_timing(page) == without_timing(page_2)
    assert text.split("## Timing")[0] == text_2.split("## Timing")[0]
    assert str(tmp_path) not in page + text and "other-name" not in page_2


def test_writing_twice_gives_the_same_bytes(whole: tuple[Path, str, str]) -> None:
    run, page, text = whole
    assert drawn_anew(run) == (page, text)
    assert not list(run.glob("*.part"))


def test_timings_of_a_stage_done_twice_are_added(tmp_path: Path) -> None:
    run = Made(tmp_path / "r").start()
    run.log("timings.jsonl", stage="judge 1", seconds=1.0, tokens=100)
    run.log("timings.jsonl", stage="judge 1", seconds=3.0, tokens=500)
    times = read_run(run.path).times
    assert times["judge 1"] == (4.0, 600.0)
    assert timing_table(times).rows[-2:] == (
        ("judge 1", "4.0", "73%", "600", "150"),
        ("total", "5.5", "100%", "1,600", "291"),
    )


# --- unfinished runs ------------------------------------------------------------------------------------------------


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    page, text = report(Made(tmp_path / "r").path)
    for words in (Reader(page).text, " ".join(text.split())):
        assert "Nothing has been evaluated yet." in words
        assert "evaluation of the base, warm-up of the rubric generator" in words
        assert "judge 1, rubric 1, judge 2, rubric 2, judge 3, rubric 3, cross-play, final evaluation" in words
    for name in ("accuracy", "cross-play", "training", "learned", "evaluations"):
        assert "Not done yet" in section(page, name)
    assert "Nothing has been timed yet." in section(page, "timing")


def test_a_run_in_the_middle_says_what_is_open(tmp_path: Path) -> None:
    page, text = report(Made(tmp_path / "r").start().warm_up().alternate(phases=3).path)
    assert "Not done yet: rubric 2, judge 3, rubric 3, cross-play, final evaluation." in Reader(page).text
    assert "from 60.0% after the warm-up to 76.0% after judge 2" in Reader(page).text
    assert "Not done yet" in section(page, "cross-play") and "## Cross-play" not in text
    assert "Continue the run: repeat its command with --resume." in " ".join(text.split())


def test_a_base_alone_is_reported_as_such(tmp_path: Path) -> None:
    page, _ = report(Made(tmp_path / "r").start().path)
    assert "Accuracy of the untrained base is 50.0%" in Reader(page).text


@pytest.mark.parametrize(
    "name",
    ["state.json", "recipe.yaml", "versions.json", "data.json", "metrics.jsonl", "timings.jsonl", "cross_play.json"],
)
def test_any_file_may_be_missing(tmp_path: Path, name: str) -> None:
    run = complete(tmp_path / "r").path
    (run / name).unlink()
    page, text = report(run)
    Reader(page)
    assert text.startswith("# ")


def test_evaluations_without_their_details(tmp_path: Path) -> None:
    run = complete(tmp_path / "r").path
    for file in (run / "evaluations").iterdir():
        file.unlink()
    page, text = report(run)
    assert "The change is +30.0 points." in Reader(page).text  # no interval without verdicts per pair
    assert "No prompts were kept" in section(page, "learned")
    assert "## One prompt" not in text


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    run = complete(tmp_path / "r").path
    before = report(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "evaluation", "name": "fin')
    assert report(run) == before


@pytest.mark.parametrize("order", ["judge_only", "rubric_only", "rubric_first", "simultaneous"])
def test_every_schedule_has_a_report(tmp_path: Path, order: str) -> None:
    page, text = report(complete(tmp_path / "r", f"schedule.order={order}").path)
    Reader(page)
    assert "## One prompt" in text
    prompts = examples(read_run(tmp_path / "r").phases)
    assert prompts[0].versions[0].phases[0] == "warm-up" and prompts[0].versions[-1].phases[-1] == "final"


def test_a_world_without_an_oracle(tmp_path: Path) -> None:
    run = complete(tmp_path / "r").path
    (run / "data.json").write_text(json.dumps({"train_pairs": 9}))
    page, _ = report(run)
    assert "ceiling" not in page


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "absent"])
def test_no_run_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"is not a run directory: it has no state\.json\. Give the folder"):
        write_report(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["state.json", "metrics.jsonl", "data.json", "timings.jsonl", "evaluations/final.json"]
)
@pytest.mark.parametrize("damage", ["{]\n", "[1]\n", "\xff\n"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    run = complete(tmp_path / "r").path
    (run / name).write_bytes(damage.encode("latin-1"))
    with pytest.raises(CheckpointError, match=re.escape(f"{run / name} is damaged")):
        write_report(run)


def test_a_recipe_of_another_version_is_shown_all_the_same(tmp_path: Path) -> None:
    run = complete(tmp_path / "r").path
    (run / "recipe.yaml").write_text("no_longer_a_field: <b>1</b>\n")
    page, _ = report(run)
    assert "no_longer_a_field: <b>1</b>" in section(page, "reading")


# --- hostile texts --------------------------------------------------------------------------------------------------


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    run = complete(tmp_path / "r", "description=<script>alert(2)</script>", text=HOSTILE).path
    page, text = report(run)
    read = Reader(page)
    assert not {"script", "b"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert "<script>alert(1)</script> ]]> --> </style></svg>" in section(page, "learned")
    assert "<script>alert(2)</script>" in read.text and "{{ 7 * 7 }} {% raw %}" in read.text
    for content in (page, text):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\ud800-\udfff]", content)
    assert max(map(len, text.split("\n"))) <= 100
    quoted = [line for line in text.split("\n") if "alert" in line or "WWWW" in line]
    assert quoted and all(line.startswith("    ") for line in quoted)


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    run = Made(tmp_path / "r").start().warm_up()
    run.evaluate("$x_2$ <b>\"'&|\n# x", 0.8)
    run.step(0, "<i>judge</i> 1", "judge", 0)
    run.log("metrics.jsonl", kind="step", slot=0, phase="$", role="judge", step=1, **{"reward": 0.5, "reward/<u>": 0.1})
    page, text = report(run.path)
    assert not {"b", "i", "u"} & set(Reader(page).tags)
    for svg in svgs(page):
        ET.fromstring(svg)
    assert not [line for line in text.split("\n") if line.startswith("# x")]


def test_values_that_are_no_numbers_are_not_shown(tmp_path: Path) -> None:
    run = complete(tmp_path / "r").path
    file = run / "metrics.jsonl"
    file.write_text(
        file.read_text()
        .replace('"verdicts_for_a": 0.52', '"verdicts_for_a": "<b>"')
        .replace('"consistency": 0.9', '"consistency": NaN')
    )
    page, _ = report(run)
    assert "b" not in Reader(page).tags and "nan" not in Reader(page).text.lower().split()


# --- the text for a terminal ----------------------------------------------------------------------------------------


def test_the_text_fits_a_terminal_and_ends_with_its_timings(whole: tuple[Path, str, str]) -> None:
    _, _, text = whole
    assert max(map(len, text.splitlines())) <= 100
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == ["# testbed", "## Evaluations", "## Cross-play", "## One prompt", "## Timing"]
    assert "Rubric after warm-up:" in text and "Rubric after final:" in text


def test_numbers_are_right_aligned() -> None:
    assert markdown_table(Table(("name", "n"), (("a", "1.0"), ("bcdef", "100.0")))).splitlines() == [
        "| name  |     n |",
        "| ----- | ----: |",
        "| a     |   1.0 |",
        "| bcdef | 100.0 |",
    ]


# --- sentences ------------------------------------------------------------------------------------------------------


def row(name: str, scores: list[float]) -> EvaluationRow:
    rows = tuple({"pair_id": str(i), "original": s, "swapped": s} for i, s in enumerate(scores))
    return EvaluationRow(name, {"accuracy": sum(scores) / len(scores)}, rows)


def test_a_contrast_is_paired() -> None:
    worse, better = row("a", [0, 0, 1, 1] * 10), row("b", [0.5, 0.5, 1, 1] * 10)
    gain = contrast([(1, better), (-1, worse)])
    assert gain.value == pytest.approx(0.25)
    assert gain.interval is not None and 0.15 < gain.interval[0] < 0.25 < gain.interval[1] < 0.35
    assert gain.clear
    same = contrast([(1, worse), (-1, worse)])
    assert (same.value, same.interval, same.clear) == (0.0, (0.0, 0.0), False)


def test_a_contrast_over_different_pairs_has_no_interval() -> None:
    gain = contrast([(1, row("a", [1, 1, 0])), (-1, row("b", [0, 1]))])
    assert gain.value == pytest.approx(2 / 3 - 1 / 2)
    assert gain.interval is None and not gain.clear


def test_a_change_within_chance_is_called_that(tmp_path: Path) -> None:
    run = Made(tmp_path / "r").start().warm_up()
    run.evaluate("judge 1", 0.65)
    assert "which chance alone could explain" in " ".join(headline(read_run(run.path)).details)


def test_an_interaction_is_named_only_if_it_is_clear(whole: tuple[Path, str, str]) -> None:
    combinations = cross_play(read_run(whole[0]))
    assert combinations is not None
    assert "Beyond the sum of the two: +5.0" in combinations.sentences[1]
    assert "may simply add up" in combinations.sentences[1]


def test_points_have_no_negative_zero() -> None:
    assert [points(value) for value in (0.1, -0.1, 0.0, -0.0, 1e-9, -1e-9)] == ["+10.0", "−10.0", *["0.0"] * 4]


def test_the_words_for_stages_and_sides_are_the_pipeline_s() -> None:
    assert tuple(STAGE_NAMES) == STAGES
    assert {cross_play_name(judge, rubrics) for judge in SIDES for rubrics in SIDES} == set(pipeline.CROSS_PLAY)


# --- pictures and differences ---------------------------------------------------------------------------------------


def test_a_role_s_line_is_broken_between_its_phases(whole: tuple[Path, str, str]) -> None:
    record = read_run(whole[0])
    panel = step_axis(record.steps, record.probes).roles("kl", "number")
    judge, rubric = panel.series
    assert [len(segment) for segment in judge.segments] == [4, 4, 4]
    assert [segment[0][0] for segment in judge.segments] == [0.5, 8.5, 16.5]
    assert [segment[0][0] for segment in rubric.segments] == [4.5, 12.5, 20.5]
    assert [band.label for band in panel.bands] == ["J1", "R1", "J2", "R2", "J3", "R3"]
    assert [series.name for series in reward_panel(record, "judge").series] == ["verdict right", "well-formed"]
    assert [(s.name, s.dashed) for s in reward_panel(record, "rubric").series] == [
        ("judge right", False),
        ("rubric parses", True),
    ]
    assert warmup_panel(record).series[0].segments == (((10.0, 0.1), (20.0, 0.05)),)


def test_pictures_are_described_in_words(whole: tuple[Path, str, str]) -> None:
    labels = [ET.fromstring(svg).get("aria-label", "") for svg in svgs(whole[1])]
    assert "KL to the warm-up copy. judge: 0.01 → 0.01; rubric generator: 0.01 → 0.01" in labels
    titles = [label.split(". ")[0] for label in labels[2:]]  # the accuracy comes first, in two shapes
    assert titles == [
        "Mean reward",
        "Parts of the judge's reward",
        "Parts of the rubric generator's reward",
        "Warm-up loss",
        "Informative groups",
        "KL to the warm-up copy",
        "Entropy",
        "Clipped tokens",
        "Samples that parse",
        "Well-formed judgements",
        "Consistency and position bias",
        "Verdicts for Response A",
        "Verdicts for Response A in training",
        "Principles named",
        "Shape of the rubrics",
        "Criteria per rubric",
        "Words per rubric",
        "Cache hit rate",
    ]


def test_probes_and_masked_samples_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    run = Made(tmp_path / "r", "schedule.until={metric: consistency, at_least: 0.9, every: 2}").start().warm_up()
    run.alternate()
    run.log("metrics.jsonl", kind="probe", slot=1, phase="rubric 1", step=1, consistency=0.8)
    run.log("metrics.jsonl", kind="step", slot=4, phase="judge 3", role="judge", step=4, **{"reward/masked": 0.5})
    page, _ = report(run.path)
    labels = [ET.fromstring(svg).get("aria-label", "") for svg in svgs(page)]
    assert "Probe. consistency: 80.0%" in labels
    assert any("masked: 0.0% → 50.0%" in label for label in labels)


def test_long_lines_are_thinned_to_means() -> None:
    line = [(float(i), float(i % 2)) for i in range(4 * MAX_POINTS)]
    points_left = thinned(line, MAX_POINTS)
    assert len(points_left) == MAX_POINTS
    assert points_left[0] == (1.5, 0.5) and points_left[-1] == (4 * MAX_POINTS - 2.5, 0.5)
    assert thinned(line[:3], 3) == tuple(line[:3])


@pytest.mark.parametrize(
    ("phase", "label"),
    [("judge 1", "J1"), ("rubric 12", "R12"), ("judge+rubric 2", "JR2"), ("warm-up", "W"), ("other 1", "othe")],
)
def test_short_labels(phase: str, label: str) -> None:
    assert short_label(phase) == label


def test_changed_words_are_marked() -> None:
    before = "1. The response is warm [Principle]\n2. The response rhymes [Hard Rule]"
    after = "1. The response is calm [Principle]"
    assert marked_lines(before, after) == [
        (("same", "1. The response is "), ("del", "warm"), ("ins", "calm"), ("same", " [Principle]")),
        (("del", "2. The response rhymes [Hard Rule]"),),
    ]
    assert marked_lines(None, after) == [(("same", after),)]


@given(st.lists(st.sampled_from(["a b c d", "a b x d", "", "z", "  q  r"])), st.lists(st.text("ab \n", max_size=12)))
def test_marks_lose_nothing(before: list[str], after: list[str]) -> None:
    old, new = "\n".join(before), "\n".join(after)
    lines = marked_lines(old, new)

    def kept(dropped: str) -> list[str]:
        return ["".join(t for m, t in line if m != dropped) for line in lines if any(m != dropped for m, _ in line)]

    # A line that was empty and is gone, or has come, has no text of its own on the other side.
    assert [line for line in kept("del") if line] == [line for line in new.split("\n") if line]
    assert [line for line in kept("ins") if line] == [line for line in old.split("\n") if line]


def test_equal_neighbors_share_a_column(tmp_path: Path) -> None:
    run = Made(tmp_path / "r").start().warm_up()
    for name in ("rubric 3", "final"):
        run.evaluate(name, 0.9)
        file = run.path / "evaluations" / f"{name.replace(' ', '-')}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"showcase": showcase_of("end", "")}))
    (example,) = examples(read_run(run.path).phases)
    assert [version.phases for version in example.versions] == [("warm-up",), ("rubric 3", "final")]
    assert [verdict.phase for verdict in example.verdicts] == ["base", "warm-up", "rubric 3", "final"]
    assert (example.verdicts[0].original, example.verdicts[0].swapped) == ("right", "right")


def test_an_unusable_rubric_is_called_that(tmp_path: Path) -> None:
    run = Made(tmp_path / "r").start().warm_up()
    file = run.path / "evaluations" / "warm-up.json"
    details = json.loads(file.read_text())
    details["showcase"][0] |= {
        "rubric": "",
        "rubric_status": "malformed",
        "judgement": "",
        "winner": None,
        "recall": None,
    }
    details["rows"][0] |= {"original_winner": None, "swapped_winner": None}
    file.write_text(json.dumps(details))
    page, text = report(run.path)
    assert "malformed: not shown to the judge" in section(page, "learned")
    assert "The rubric is malformed; nothing was judged." in text


def test_no_display_and_no_torch_are_needed(whole: tuple[Path, str, str]) -> None:
    run = whole[0]
    code = (
        "import sys; from rubric_arm_lite.report.render import write_report; "
        "assert 'matplotlib' not in sys.modules; "
        f"write_report({str(run)!r}); "
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- on a phone ------------------------------------------------------------------------------------------------------

CHROMIUM, DRIVER = (
    next(filter(None, map(shutil.which, names)), None)
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
)


def test_charts_and_tables_are_folded_behind_their_headings(whole: tuple[Path, str, str]) -> None:
    _, html, _ = whole
    folded = {
        re.sub("<.*?>", "", summary) for summary in re.findall(r'<details class="fold"><summary>(.*?)</summary>', html)
    }
    assert {"All evaluations", "Timing", "How to read this", "Rewards", "Learning signal"} <= folded
    assert not {title for title in folded if title.startswith(("Accuracy", "Cross-play", "What was learned"))}


@pytest.mark.skipif(None in (CHROMIUM, DRIVER), reason="no Chromium with chromedriver")
def test_a_phone_shows_a_short_page_that_does_not_scroll_sideways(whole: tuple[Path, str, str]) -> None:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def size(width: int) -> tuple[int, int]:
        """Width and height of the whole page on a screen of this width, in CSS pixels."""
        screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get((whole[0] / "report.html").as_uri())
        page = "document.documentElement"
        return tuple(browser.execute_script(f"return [{page}.scrollWidth, {page}.scrollHeight]"))

    def opened(element: str) -> bool:
        return bool(browser.execute_script("return document.querySelector(arguments[0]).checkVisibility()", element))

    try:
        width, height = size(390)
        assert width == 390
        assert height < 9000, "with every chart it is twice as long"
        assert opened("#accuracy figure") and not opened("#training svg") and not opened("#timing table")
        size(1200)
        assert opened("#training svg") and opened("#timing table"), "a wide page shows everything"
    finally:
        browser.quit()
