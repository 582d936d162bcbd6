"""A whole study as its people see it: `latentd preference` in Chromium, by keys, by touch, across a restart."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from latentd.child import die_with_parent
from latentd.preference.answers import read_answers
from tests.e2e.browser import open_page, serious
from tests.unit.latentd.preference.studies import COLOURS, make_study

PAIRS = 4
COLOUR = """(image) => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


@contextmanager
def studying(folder: Path, *options: str) -> Iterator[str]:
    """Run the command of a study until Ctrl-C; its address."""
    words = [sys.executable, "-m", "latentd", "preference", *COLOURS, "--port", "0", "-o", "answers.csv", *options]
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith(f"{PAIRS} pairs, "), said
        yield said.split()[-1]
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")


def begin(page: Page, name: str) -> None:
    page.fill("#participant", name)
    page.press("#participant", "Enter")


def ours(page: Page) -> str:
    """The side on which the green picture is, once both can be seen."""
    expect(page.locator("#left")).to_have_attribute("aria-disabled", "false")
    left = page.locator("#left img").evaluate(COLOUR)
    assert left in [list(colour) for colour in COLOURS.values()]
    return "left" if left == list(COLOURS["secret-ours"]) else "right"


def test_a_whole_study(browser: Browser, tmp_path: Path) -> None:
    make_study(tmp_path, PAIRS)
    answers = tmp_path / "answers.csv"
    with studying(tmp_path) as url, open_page(browser, url) as page:
        assert serious(page) == []
        begin(page, "anna")
        expect(page.locator("#question")).to_have_text("Which picture shows this better?")
        expect(page.locator("#question")).to_be_focused()
        for k in range(2):  # by keys, always ours
            expect(page.locator("#count")).to_have_text(f"{k + 1} of {PAIRS}")
            expect(page.locator("#prompt")).to_have_text(re.compile(r"thing \d"))
            page.keyboard.press("ArrowLeft" if ours(page) == "left" else "ArrowRight")
        expect(page.locator("#count")).to_have_text(f"3 of {PAIRS}")
        ours(page)
        assert serious(page) == []
        assert "secret" not in page.content()
        page.reload()
        expect(page.locator("#count")).to_have_text(f"3 of {PAIRS}")
    assert [answer.preferred for answer in read_answers(answers)] == ["a", "a"]
    with studying(tmp_path) as url, open_page(browser, url, has_touch=True) as page:
        page.set_viewport_size({"width": 390, "height": 780})
        begin(page, "anna")
        for k in range(2, PAIRS):
            expect(page.locator("#count")).to_have_text(f"{k + 1} of {PAIRS}")
            page.tap(f"#{ours(page)}")
        expect(page.get_by_role("heading", name="Thank you")).to_be_focused()
        page.tap("#another")
        begin(page, "ben")
        for k in range(PAIRS):
            expect(page.locator("#count")).to_have_text(f"{k + 1} of {PAIRS}")
            ours(page)
            page.tap("#left")
        expect(page.locator("#count")).to_have_text(f"{PAIRS} of {PAIRS}")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    found = read_answers(answers)
    assert [answer.participant for answer in found] == ["anna"] * PAIRS + ["ben"] * PAIRS
    assert [answer.preferred for answer in found] == ["a"] * PAIRS + [answer.left for answer in found[PAIRS:]]
    assert {answer.left for answer in found[PAIRS:]} == {"a", "b"}
    words = [sys.executable, "-m", "latentd", "preference", "report", str(answers)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    rows = [re.split(r"\s*[│┃]\s*", line.strip("│ ")) for line in done.stdout.splitlines() if "│" in line]
    assert [row[:4] for row in rows] == [
        ["anna", "4", "4", "100.0%"],
        ["ben", "4", "2", "50.0%"],
        ["all", "8", "6", "75.0%"],
    ]
    assert rows[0][4:6] == ["51.0% to 100.0%", "0.125"]


def test_pictures_are_seen_for_as_long_as_the_study_says(browser: Browser, tmp_path: Path) -> None:
    make_study(tmp_path, PAIRS)
    options = ("--task", "1", "--seconds", "8", "--given", "secret-theirs", "--question", "Which is it?")
    with studying(tmp_path, *options) as url, open_page(browser, url) as page:
        begin(page, "anna")
        expect(page.locator("#given img")).to_be_visible()
        expect(page.locator("#question")).to_have_text("Which is it?")
        page.keyboard.press("ArrowLeft")  # too early
        expect(page.locator("#left")).to_have_attribute("aria-disabled", "false")
        expect(page.locator("#left img")).not_to_be_visible()
        expect(page.locator("#count")).to_have_text(f"1 of {PAIRS}")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#count")).to_have_text(f"2 of {PAIRS}")
    [found] = read_answers(tmp_path / "answers.csv")
    assert (found.task, found.preferred) == (1, found.left)
    assert found.seconds >= 8
