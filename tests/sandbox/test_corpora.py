"""Hostile code of every class, at the levels of this machine: it reaches nothing, and the next call is exact."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sandbox import Limits, Observation, ToolRequest
from sandbox.lanes.confined import ConfinedLane
from sandbox.messages import clean
from tests.sandbox import attack_classes
from tests.sandbox.attack_site import CANARY, Site, check_probes, descendants
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.machine import lane_of, noise

FOLDER = Path(__file__).parent / "corpora"
IMAGE = noise(96, 64)
TURNED = IMAGE.rotate(90, expand=True).tobytes()
CHECK = ToolRequest("result = image.rotate(90, expand=True)", [IMAGE], episode="check")
LIMITS = Limits(wall_s=0.5, memory_mb=192)


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


ADVERSARIAL = read("adversarial.jsonl")
BENIGN = read("benign.jsonl")

#: The corpus expects the result's memory to be sealed and mapped; ours is copied, so a kept mapping is harmless.
COPIED = {"ch_keep_writable_map": {"ok"}}


SLOW_FULL, SLOW_CONFINED = (pytest.param(level, marks=pytest.mark.slow) for level in ("full", "confined"))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    place = Site()
    yield place
    place.close()


@pytest.fixture(scope="module", params=["full", SLOW_CONFINED, "syscall"])
def lane(request: pytest.FixtureRequest) -> Iterator[ConfinedLane]:
    made = lane_of(request.param, LIMITS)
    yield made
    made.close()


def settle(lane: ConfinedLane) -> int:
    """Number of the lane's processes once the ended ones are gone; only ready workers stay."""
    root = lane._pool._workers._process.pid
    deadline = time.monotonic() + 60
    while (n := len(descendants(root))) > 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    return n


def check_others(lane: ConfinedLane, beside: Observation) -> None:
    """Check that calls beside and after an attack are exact, and no process stays; a busy machine may delay calls."""
    after = [lane.run([CHECK])[0] for _ in range(3 if beside.status == "timeout" else 1)]
    assert any(check.status == "ok" for check in after), after
    for check in (beside, *after):
        assert check.status in ("ok", "timeout"), check
        assert check.image is None or check.image.tobytes() == TURNED
    assert settle(lane) <= 6


@pytest.mark.parametrize("entry", ADVERSARIAL, ids=lambda entry: entry["id"])
def test_hostile_code_reaches_nothing(entry: dict[str, Any], lane: ConfinedLane, site: Site) -> None:
    attack = ToolRequest(site.fill(entry["code"]), [IMAGE], episode="attack")
    observation, beside = lane.run([attack, CHECK])
    assert site.complaints(observation) == []
    shown = observation.__class__(**{**vars(observation), "text": clean(observation.text, LIMITS.text_chars)})
    assert check_probes(entry["expect"]["probes"], shown, site) == []
    allowed = {{"protocol": "crash"}.get(outcome, outcome) for outcome in entry["expect"]["outcome"]}
    allowed |= COPIED.get(entry["id"], set()) | ({"timeout"} if allowed != {"ok"} else set())  # the machine may be busy
    assert observation.status in allowed, observation
    assert observation.level == lane.level
    check_others(lane, beside)


@pytest.mark.parametrize("lane", [SLOW_FULL, SLOW_CONFINED, "syscall"], indirect=True)  # the filter alone must hold
@pytest.mark.parametrize(("family", "code"), ATTACKS, ids=[f"{family}-{n}" for n, (family, _) in enumerate(ATTACKS)])
def test_our_own_attacks_reach_nothing(family: str, code: str, lane: ConfinedLane, site: Site) -> None:
    observation, beside = lane.run([ToolRequest(site.fill(code), [IMAGE], episode="attack"), CHECK])
    assert site.complaints(observation) == []
    assert not [line for line in observation.text.splitlines() if line.startswith("REACHED")], (family, observation)
    assert observation.wall_s < 3
    check_others(lane, beside)


@pytest.mark.parametrize("lane", [SLOW_FULL, "syscall"], indirect=True)
@pytest.mark.parametrize("family", sorted({family for family, _ in attack_classes.ATTACKS}))
def test_attacks_made_by_class_reach_nothing(family: str, lane: ConfinedLane, site: Site) -> None:
    codes = [code for kind, code in attack_classes.ATTACKS if kind == family]
    requests = [ToolRequest(site.fill(code), [IMAGE], episode="attack") for code in codes]
    for code, observation in zip(codes, lane.run(requests), strict=True):
        assert site.complaints(observation) == [], code
        assert "REACHED" not in observation.text.split(), (code, observation)
        assert observation.wall_s < 3, code
        shown = clean(observation.text, LIMITS.text_chars)
        assert not any(token in shown for token in ("<|", "\x1b", "\ud800", "<tool_call>", "</tool_response>")), code
    check_others(lane, lane.run([CHECK])[0])


def test_there_are_enough_attacks() -> None:
    assert len({code for _, code in attack_classes.ATTACKS}) >= 350
    for _, code in attack_classes.ATTACKS:
        compile(code, "attack", "exec")


@pytest.mark.parametrize("entry", BENIGN, ids=lambda entry: entry["id"])
def test_benign_code_works(entry: dict[str, Any], benign_lane: ConfinedLane) -> None:
    given, expected = entry["input"], entry["expect"]
    image = noise(given["w"], given["h"])
    (observation,) = benign_lane.run([ToolRequest(entry["code"], [image])])
    assert observation.status in expected["outcome"], observation
    assert observation.image is not None
    assert list(observation.image.size) == expected["size"]
    assert (expected["stdout_contains"] or "") in observation.text


@pytest.fixture(scope="module")
def benign_lane() -> Iterator[ConfinedLane]:
    made = lane_of("syscall", Limits(wall_s=20))
    yield made
    made.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_control_a_plain_process_of_nobody_reaches_the_site(site: Site) -> None:
    """Without confinement the secrets can be read and the listeners reached: the attacks do not fail by accident."""
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "check": True}
    shown = subprocess.run(["cat", site.folder / "secret.txt"], capture_output=True, text=True, **nobody)
    assert shown.stdout == CANARY
    script = site.fill("exec 3<>/dev/tcp/127.0.0.1/@TCP@; echo x >/dev/udp/127.0.0.1/@UDP@")
    subprocess.run(["bash", "-c", script], **nobody)
    found = site.complaints(lane_free_observation())
    assert found == ["it connected by TCP", "it sent a datagram"]


def lane_free_observation() -> Observation:
    return Observation("ok", image=Image.new("RGB", (1, 1)))
