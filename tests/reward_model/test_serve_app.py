"""The service over HTTP: requests, answers, and one sentence about every error."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from rubric_arm_lite.errors import BackendError, CheckpointError
from rubric_arm_lite.models import RefusedRequest
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.reward_model.serve.batcher import BatchedJudge, settings_of
from rubric_arm_lite.reward_model.serve.schema import MAX_TEXT, CompareBody, RubricBody, ScoreBody, WrittenRubric
from tests.judgements import any_text
from tests.pointwise_players import PointwiseSampler
from tests.reward_model.test_serve_security import error_of
from tests.serving import PAIR, RULE, Served, model, serving

OWN = "1. The response is short [Hard Rule]\n2. The response is kind [Principle]"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as s:
        yield s


def test_rubric(served: Served) -> None:
    answer = served.post("/v1/rubric", prompt="request 7").json()
    assert answer == {
        "state": "final",
        "rubric": {
            "text": RULE.format(7),
            "status": "ok",
            "criteria": [{"number": 1, "text": "The response is number 7", "kind": "hard_rule"}],
        },
        "unknown_words": [],
    }
    broken = served.post("/v1/rubric", prompt="broken").json()["rubric"]
    assert (broken["status"], broken["criteria"], broken["text"]) == ("malformed", [], "no rubric")


def test_compare_returns_the_verdict_of_the_model(served: Served) -> None:
    for body in (
        PAIR,
        {**PAIR, "rubric": OWN, "votes": 3},
        {**PAIR, "orders": "swapped"},
        {**PAIR, "orders": "original"},
    ):
        answer = served.post("/v1/compare", **body).json()
        verdict = model().compare(
            PAIR["prompt"],
            PAIR["response_a"],
            PAIR["response_b"],
            body.get("rubric"),
            body.get("votes", 1),
            body.get("orders", "both"),
        )
        assert (answer["winner"], answer["confidence"], answer["consistent"]) == ("A", 1.0, True)
        assert answer["rubric"]["text"] == verdict.rubric.text
        assert [j["text"] for j in answer["original"]] == [j.text for j in verdict.original]
        assert [j["text"] for j in answer["swapped"]] == [j.text for j in verdict.swapped]
        assert {j["winner"] for j in answer["original"] + answer["swapped"]} == {"A"}
        for shown, finding in zip(answer["findings"], verdict.findings, strict=True):
            assert [r["text"] for r in shown["response_b"]] == [r.text for r in finding.response_b]
    remark = answer["findings"][0]["response_a"][0]
    assert remark == {"text": "good one is met", "count": 1, "met": True}


def test_a_conversation_and_an_unusable_rubric(served: Served) -> None:
    turns = [{"role": "user", "content": "request"}, {"role": "assistant", "content": "yes"}]
    turns.append({"role": "user", "content": "number 5"})
    answer = served.post("/v1/compare", **{**PAIR, "prompt": turns}).json()
    assert answer["rubric"]["text"] == RULE.format(5)
    answer = served.post("/v1/compare", **{**PAIR, "prompt": "broken"}).json()
    assert (answer["winner"], answer["original"], answer["findings"]) == (None, [], [])
    assert answer["rubric"]["status"] == "malformed"


def test_score(served: Served) -> None:
    good = served.post("/v1/score", prompt="request 1", response="good one").json()
    poor = served.post("/v1/score", prompt="request 1", response="poor one").json()
    assert good["value"] == pytest.approx(-poor["value"])
    assert 0.5 < good["value"] < 1
    assert good["checks"][0]["p_true"] > good["checks"][0]["p_false"]


def test_score_justifies_as_the_judge_was_trained_unless_asked_otherwise() -> None:
    """A pointwise judge has learned to write before it answers, a pairwise one has not."""

    class Judge(PointwiseSampler):
        def control_tokens(self) -> list[str]:
            return []

    for kind, justify in (("pointwise", True), ("pairwise", False)):
        whole = RubricRewardModel(Judge(), model(reward={"judge": kind}).recipe)
        with serving(model=whole) as served:
            plain = served.post("/v1/score", prompt="p", response="good").json()
            asked = served.post("/v1/score", prompt="p", response="good", justify=justify).json()
            other = served.post("/v1/score", prompt="p", response="good", justify=not justify).json()
        assert plain == asked != other
        assert plain["text"] == whole.score("p", "good").text


def test_a_backend_without_probabilities_is_an_error() -> None:
    class Bare:
        """The same model without ``next_word_logprobs``."""

        def __init__(self, inner: Any) -> None:
            self.sample, self.fingerprint, self.prompt_tokens = inner.sample, inner.fingerprint, inner.prompt_tokens
            self.control_tokens = inner.control_tokens

    whole = model()
    bare = type(whole)(Bare(whole.model), whole.recipe)  # type: ignore[arg-type]
    with serving(model=bare) as served:
        reply = served.post("/v1/score", prompt="a", response="b")
        assert reply.status_code == 501
        assert "probabilities" in error_of(reply)


def test_a_pointwise_judge_compares_nothing() -> None:
    with serving(model=model(reward={"judge": "pointwise"})) as served:
        reply = served.post("/v1/compare", **PAIR)
        assert (reply.status_code, "or /v1/score" in error_of(reply)) == (501, True), reply.text
        assert served.post("/v1/rubric", prompt="request 1").status_code == 200
        assert served.post("/v1/score", prompt="request 1", response="good one").status_code == 200


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"prompt": None}, "`prompt` is null"),
        ({"prompt": 5}, "`prompt` is a number"),
        ({"prompt": ""}, "`prompt` is empty"),
        ({"prompt": []}, "empty list"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "End it with the user's turn"),
        ({"prompt": [{"role": "root", "content": "x"}]}, "has role"),
        ({"prompt": "x" * (MAX_TEXT + 1)}, "`prompt` has 100001 characters"),
        ({"prompt": [{"role": "user", "content": "x"}] * 101}, "101 turns"),
        ({"response_a": " \n"}, "`response_a` is blank. Give some text."),
        ({"response_a": 1}, "`response_a`: Input should be a valid string"),
        ({"response_a": ...}, "`response_a` is missing"),
        ({"response_b": "x" * (MAX_TEXT + 1)}, "`response_b`: String should have at most 100000 characters"),
        ({"votes": 0}, "`votes`: Input should be greater than or equal to 1"),
        ({"votes": 33}, "less than or equal to 32"),
        ({"votes": True}, "valid integer"),
        ({"votes": 1.5}, "valid integer"),
        ({"orders": "all"}, "'both', 'original' or 'swapped'"),
        ({"rubric": "be nice"}, "the request: the given rubric does not parse"),
        ({"preferred": "A"}, "`preferred` is not a field of this request"),
        ({"state": "warm-up"}, "state: warm-up is not served here. Use one of final."),
        ({"state": "../../etc"}, "not served here"),
    ],
)
def test_unusable_requests_get_one_sentence(served: Served, change: dict[str, Any], needle: str) -> None:
    body = {key: value for key, value in {**PAIR, **change}.items() if value is not ...}
    reply = served.client.post("/v1/compare", json=body)
    assert reply.status_code == 422
    assert needle in error_of(reply)
    assert "x" * 100 not in error_of(reply)


@pytest.mark.parametrize(
    ("content", "status", "needle"),
    [
        (b"", 422, "no body"),
        (b"{", 400, "not JSON"),
        (b"[1]", 422, "not a JSON object"),
        (b"null", 422, "body"),
        (b'"text"', 422, "not a JSON object"),
        (b"\xff\xfe{}", 400, "UTF-8"),
        (b'{"prompt": "\xff"}', 400, "UTF-8 at byte 12"),
        ('{"prompt": "a"}'.encode("utf-16-le"), 400, "bytes of zero"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"prompt": "a", "response_a": "\\ud800", "response_b": "b"}', 422, "`response_a` is not Unicode text"),
        (b'{"prompt": "\\ud800", "response_a": "a", "response_b": "b"}', 422, "half of a surrogate pair"),
        (b'{"prompt": "a", "response_a": "a", "response_b": "b", "\\ud800\\n": 1}', 422, "The name of a field is not"),
        (b'{"prompt": "a", "response_a": "a", "response_b": "b", "a\\nb": 1}', 422, "`a\\nb` is not a field"),
        (b'{"prompt": "a", "response_a": "a", "response_b": "b", "votes": NaN}', 422, "votes"),
    ],
)
def test_malformed_bodies(served: Served, content: bytes, status: int, needle: str) -> None:
    reply = served.client.post("/v1/compare", content=content, headers={"content-type": "application/json"})
    assert (reply.status_code, needle in error_of(reply)) == (status, True), reply.text


def test_unknown_paths_and_methods(served: Served) -> None:
    reply = served.client.get("/v2/compare")
    assert (reply.status_code, "/docs" in error_of(reply)) == (404, True)
    reply = served.client.get("/v1/compare")
    assert (reply.status_code, "method" in error_of(reply)) == (405, True)
    assert served.client.post("/v1/compare/", json=PAIR).status_code == 404
    assert served.client.get("/").status_code == 404  # the page is for play


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(a=any_text, b=any_text, prompt=any_text)
def test_any_text_is_answered_or_refused(served: Served, a: str, b: str, prompt: str) -> None:
    body = json.dumps({"prompt": prompt, "response_a": a, "response_b": b}).encode()  # surrogates as escapes
    reply = served.client.post("/v1/compare", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 422), reply.text
    assert reply.status_code == 200 or error_of(reply)


def test_texts_longer_than_the_context_fail_alone(served: Served) -> None:
    long = {**PAIR, "response_a": "good " + "word " * 2000}
    with ThreadPoolExecutor(8) as pool:
        bodies = [long if i == 3 else {**PAIR, "prompt": f"request {i}"} for i in range(8)]
        replies = list(pool.map(lambda body: served.client.post("/v1/compare", json=body), bodies))
    assert [reply.status_code for reply in replies] == [200, 200, 200, 422, 200, 200, 200, 200]
    assert "more than model.max_context (6000)" in error_of(replies[3])
    reply = served.client.post("/v1/rubric", json={"prompt": "word " * 2000})
    assert (reply.status_code, "the request:" in error_of(reply)) == (422, True)
    assert served.post("/v1/score", prompt="request", response="word " * 2000).status_code == 422


def test_64_clients_get_their_own_answers() -> None:
    wrong: list[str] = []

    def client(number: int) -> int:
        asked = 0
        with httpx.Client(base_url=served.url, timeout=30) as own:
            for turn in range(4):
                n = 1000 * number + turn
                good, poor = f"good {n}", f"poor {n}"
                a, b = (good, poor) if n % 2 else (poor, good)
                reply = own.post("/v1/compare", json={"prompt": f"request {n}", "response_a": a, "response_b": b})
                answer = reply.json()
                seen = [r["text"] for side in ("a", "b") for r in answer["findings"][0][f"response_{side}"]]
                ours = [f"{a} is {'met' if n % 2 else 'missed'}", f"{b} is {'missed' if n % 2 else 'met'}"]
                winner = "A" if n % 2 else "B"
                if answer["rubric"]["text"] != RULE.format(n) or answer["winner"] != winner or seen != ours:
                    wrong.append(reply.text)
                asked += 1
        return asked

    with serving(delay=0.002) as served, ThreadPoolExecutor(64) as pool:
        assert sum(pool.map(client, range(64))) == 64 * 4
        batches = [len(call.examples) for call in served.scripted.calls if call.adapter == "judge"]
    assert not wrong
    assert sum(batches) == 2 * 64 * 4
    assert len(batches) < 64 * 4 / 4  # judged together


def test_a_full_queue_and_a_slow_model() -> None:
    with serving(delay=0.6, seconds=0.9, queue=2, batch=1) as served, ThreadPoolExecutor(8) as pool:

        def ask(i: int) -> httpx.Response:
            return httpx.post(f"{served.url}v1/rubric", json={"prompt": f"request {i}"}, timeout=30)

        replies = list(pool.map(ask, range(8)))
        statuses = sorted(reply.status_code for reply in replies)
        assert set(statuses) == {200, 503, 504}, statuses
        full = next(reply for reply in replies if reply.status_code == 503)
        assert int(full.headers["retry-after"]) >= 1
        assert "waiting already" in error_of(full)
        late = next(reply for reply in replies if reply.status_code == 504)
        assert "within 0.9 seconds" in error_of(late)
        assert served.client.get("/healthz").json()["waiting"] == 0


def test_a_client_that_leaves_is_dropped_from_the_queue() -> None:
    with serving(delay=0.5, batch=1) as served:
        first = threading.Thread(target=lambda: served.post("/v1/rubric", prompt="request 1"))
        first.start()
        time.sleep(0.2)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}v1/rubric", json={"prompt": "request 666"}, timeout=0.1)
        first.join()
        time.sleep(0.2)
        assert not [prompt for prompt in served.scripted.prompts("rubric") if "666" in prompt]
        assert served.batcher.waiting == 0


def test_one_failing_request_does_not_fail_its_neighbors(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[tuple[Exception, int, list[int]]] = [
        (RuntimeError("secret poison text"), 500, [200, 200]),
        (RefusedRequest("/v1/x", 400, "too much", "Shorten it."), 502, [200, 200]),
        (BackendError("The server is gone."), 502, [502, 502]),
    ]
    for failure, status, others in failures:
        with serving(window=0.3, batch=3) as served, ThreadPoolExecutor(3) as pool:
            served.scripted.failure = failure
            prompts = ["request 1", "poison", "request 2"]
            bodies = [{"prompt": prompt} for prompt in prompts]
            replies = list(pool.map(lambda body: served.client.post("/v1/rubric", json=body), bodies))
        assert [reply.status_code for reply in replies] == [others[0], status, others[1]]
        assert "secret" not in error_of(replies[1])
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 1
    assert "RuntimeError" in logged[0] and "serving.py" in logged[0] and "secret" not in logged[0]


def test_half_a_surrogate_pair_from_a_model_is_escaped() -> None:
    odd = model()
    odd.model.script = lambda adapter, example, i: "\ud800 <script>"  # type: ignore[attr-defined]
    with serving(model=odd) as served:
        reply = served.post("/v1/rubric", prompt="request")
        assert reply.status_code == 200
        assert reply.json()["rubric"]["text"] == "\ud800 <script>"


def test_about_health_docs(served: Served) -> None:
    about = served.client.get("/v1/about").json()
    assert (about["name"], about["states"], about["state"], about["examples"]) == (
        "test run",
        ["final"],
        "final",
        False,
    )
    assert served.client.get("/healthz").json()["status"] == "ok"
    document = served.client.get("/openapi.json").json()
    assert {"/v1/rubric", "/v1/compare", "/v1/score", "/healthz"} <= document["paths"].keys()
    body = document["components"]["schemas"]["CompareBody"]["properties"]
    assert body["votes"]["maximum"] == 32
    docs = served.client.get("/docs").text
    for name in ("/v1/compare", "response_a", "votes", "1 to 32"):
        assert name in docs
    assert "http" not in docs.replace("http://127.0.0.1:8000", "").replace("over HTTP", "")  # nothing from elsewhere


def test_only_requests_that_one_call_can_answer_share_a_batch() -> None:
    pair = CompareBody(**PAIR)
    others: list[dict[str, Any]] = [{"votes": 3}, {"orders": "original"}, {"state": "final"}]
    bodies = [
        RubricBody(prompt="request 1"),
        RubricBody(prompt="request 1", state="warm-up"),
        ScoreBody(prompt="request 1", response="good"),
        ScoreBody(prompt="request 1", response="good", justify=True),
        pair,
        *(pair.model_copy(update=change) for change in others),
    ]
    assert len({settings_of(body) for body in bodies}) == len(bodies)
    changes = {"prompt": "request 2", "response_a": "b", "response_b": "a", "rubric": OWN}
    assert settings_of(pair) == settings_of(pair.model_copy(update=changes))


def test_a_missing_state_is_an_error_of_its_requests_only(tmp_path: Path) -> None:
    for role in ("rubric", "judge"):
        (tmp_path / "adapters" / role).mkdir(parents=True)
    judge = BatchedJudge(model(), "final", tmp_path)
    gone = RubricBody(prompt="request 1", state="state-000007")
    assert [type(answer) for answer in judge.answer([gone, gone])] == [CheckpointError] * 2
    for state in (None, "final"):
        answer = judge.answer([RubricBody(prompt="request 1", state=state)])[0]
        assert isinstance(answer, WrittenRubric) and answer.state == "final"
