"""The page in a real browser: a person judges a pair, changes the rubric, judges again, flips the checkpoint.

Needs Chromium and its driver (Debian: ``apt-get install chromium chromium-driver``); skipped without them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.types import Rubric
from tests.judgements import write_judgement
from tests.players import recipe, sampler
from tests.scripted import Written
from tests.serving import Model, Served, judges, serving, writes

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no Chromium with chromedriver (apt-get install chromium chromium-driver)"
)

HOSTILE = "good <script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"><b>bold</b>"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Served, Any]]:
    """The page in a browser, over a judge that after the warm-up always prefers what it sees first."""
    from selenium import webdriver

    now = {"state": "final"}

    def judge(a: str, b: str, rubric: Rubric, index: int) -> Written:
        if now["state"] == "warm-up":
            return write_judgement(rubric, {"A": "fine", "B": "fine"}, "A")
        return judges(a, b, rubric, index)

    fields = {"evaluation": {"rubric_max_tokens": 100, "judge_max_tokens": 500}, "model": {"max_context": 6000}}
    model = RubricRewardModel(Model(sampler(judge, writes).script), recipe(**fields))
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    states = ("warm-up", "final")
    with serving(page=True, states=states, model=model, on_state=lambda state: now.update(state=state)) as served:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            browser.get(served.url)
            yield served, browser
            browser.save_screenshot(str(tmp_path / "page.png"))
        finally:
            browser.quit()


class Hands:
    """What a person does and sees."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        return str(self.all(selector)[0].text)

    def type(self, selector: str, text: str) -> None:
        field = self.all(selector)[0]
        field.clear()
        field.send_keys(text)

    def click(self, selector: str) -> None:
        self.all(selector)[0].click()

    def wait(self, condition: Any) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 15).until(lambda _: condition())

    def settled(self) -> bool:
        return self.browser.find_element("tag name", "body").get_attribute("aria-busy") == "false"


def test_a_person_judges_edits_and_flips(page: tuple[Served, Any], tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    served, browser = page
    hands = Hands(browser)
    hands.wait(lambda: hands.text("#name") == "test run")
    assert [option.text for option in Select(hands.all("#state")[0]).options] == ["after the warm-up", "final"]

    hands.click("#judge")  # nothing filled in
    assert not hands.all("#result")[0].is_displayed()

    hands.type("#prompt", "request 7")
    hands.type("#response_a", "poor one")
    hands.type("#response_b", HOSTILE)
    hands.all("#response_b")[0].send_keys(Keys.CONTROL, Keys.ENTER)
    hands.wait(lambda: hands.text("#winner") == "Response B is better")
    assert "2 of 2" in hands.text("#share")
    assert [(row.text) for row in hands.all("#orders > div")] == ["A shown first\nB", "B shown first\nB"]
    criterion = hands.all(".criterion textarea")[0]
    assert criterion.get_attribute("value") == "The response is number 7"

    # Texts of models are text: nothing in them runs, loads or becomes an element.
    cell = hands.all("tbody td")[1]
    assert "✓ met" in cell.text and "<script>" in cell.text and "<img src=x" in cell.text
    assert not hands.all("#result script, #result img, #result b")
    hands.click("summary")
    assert "<script>" in hands.text("details pre.text")
    assert browser.title == "test run · rubric-arm"

    criterion.clear()
    criterion.send_keys("The response is <i>kind</i>")
    assert "stale" in hands.all("#result")[0].get_attribute("class")
    hands.click("#add")
    browser.switch_to.active_element.send_keys("short")
    hands.click("#again")
    hands.wait(
        lambda: (
            len(hands.all("tbody tr")) == 2
            and hands.settled()
            and "stale" not in hands.all("#result")[0].get_attribute("class")
        )
    )
    asked = served.scripted.prompts("judge")[-1]
    assert "1. The response is <i>kind</i> [Hard Rule]\n2. The response short [Principle]" in asked
    assert "Your rubric" in hands.text("#origin")

    Select(hands.all("#state")[0]).select_by_value("warm-up")
    hands.wait(lambda: hands.text("#winner") == "No verdict")
    assert "when the order changes" in hands.text("#share")
    assert [(row.text) for row in hands.all("#orders > div")] == ["A shown first\nA", "B shown first\nB"]

    hands.click("#reset")
    hands.wait(lambda: len(hands.all("tbody tr")) == 1 and hands.settled())
    assert "Written by the model" in hands.text("#origin")

    hands.type("#prompt", "broken")
    hands.click("#judge")
    hands.wait(lambda: hands.all("#unusable")[0].is_displayed())
    assert hands.text("#unusable") == "no rubric"

    browser.execute_script("arguments[0].value = arguments[1]", hands.all("#response_a")[0], "word " * 2000)
    hands.click("#add")
    browser.switch_to.active_element.send_keys("short")
    hands.click("#again")
    hands.wait(lambda: "Shorten the texts" in hands.text("#problem"))

    # A refused request is a line in the browser's log; anything else there is a mistake of the page.
    logged = [entry for entry in browser.get_log("browser") if "422" not in entry["message"]]
    assert not logged


def test_a_phone_has_no_sideways_scrolling(page: tuple[Served, Any]) -> None:
    browser = page[1]
    hands = Hands(browser)
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    hands.wait(lambda: hands.text("#name") == "test run")
    hands.type("#prompt", "request 7")
    hands.type("#response_a", "good " + "verylongword" * 30)
    hands.type("#response_b", "poor")
    hands.click("#judge")
    hands.wait(lambda: hands.text("#winner") == "Response A is better")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
