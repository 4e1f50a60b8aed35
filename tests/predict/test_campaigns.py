"""Long tests of `make reliability`: kills at random moments of a run, and a server at its limit for minutes."""

import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bcgan import artifacts, runs
from bcgan.models import weights
from bcgan.predict.predict import predict
from bcgan.slides.files import find_images
from tests.conftest import EXPERIMENT
from tests.digest import digest
from tests.predict.conftest import count_verdicts

KILLS = int(os.environ.get("BCGAN_KILLS", "0"))
PATCHES = int(os.environ.get("BCGAN_PATCHES", "0"))
SOAK_SECONDS = float(os.environ.get("BCGAN_SOAK", "0"))
GROWTH = 150  # mebibytes that a server, or a prediction, may grow by once it is warm


def _outcome(root: Path) -> dict[str, str]:
    """The results that must not depend on kills: the weights of every network, and the metrics."""
    digests = {
        str(path.relative_to(root)): digest(weights.load_model(path).variables)
        for path in sorted(root.glob("*/*.keras"))
    }
    return digests | {"metrics": json.dumps(runs.read_json(root / "evaluate" / "metrics.json"), sort_keys=True)}


def _damaged(root: Path) -> list[str]:
    """Stages with a manifest whose outputs do not match it."""
    damaged = []
    for manifest in root.glob("*/manifest.json"):
        outputs = json.loads(manifest.read_text())["outputs"]
        if any(runs.hash_file(manifest.parent / name) != digest for name, digest in outputs.items()):
            damaged.append(manifest.parent.name)
    return damaged


@pytest.mark.skipif(not KILLS, reason="takes many minutes; BCGAN_KILLS=30 says how many kills")
@pytest.mark.timeout(0)
def test_a_run_killed_at_random_moments_ends_with_the_same_results(tmp_path, idc_folder):
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT.format(folder=idc_folder) + "profile: repro\n", "utf-8")
    command, root = [sys.executable, "-m", "bcgan", "run", "tiny.yaml"], tmp_path / "runs/tiny"
    began = time.monotonic()
    subprocess.run(command, check=True, cwd=tmp_path, stderr=subprocess.DEVNULL)
    duration, expected, draw = time.monotonic() - began, _outcome(root), random.Random(0)
    shutil.rmtree(root)
    kills, resumed_in = 0, set()
    while kills < KILLS:
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
            try:
                messages = running.communicate(timeout=draw.uniform(0, duration / 2))[1]
            except subprocess.TimeoutExpired:
                running.kill()
                kills += 1
                resumed_in |= {
                    path.parent.name for path in root.glob(f"*/{artifacts.STATE}")
                }  # none yet, if killed early
                assert not _damaged(root)
                continue
        assert running.returncode == 0, messages[-800:]
        assert _outcome(root) == expected
        shutil.rmtree(root)
    subprocess.run(command, check=True, cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert _outcome(root) == expected
    assert len(resumed_in) > 1, resumed_in


@pytest.mark.skipif(not SOAK_SECONDS, reason="takes many minutes; BCGAN_SOAK=600 says how many seconds")
@pytest.mark.timeout(0)
def test_a_server_at_its_limit_answers_correctly_in_flat_memory(model, idc_folder):
    """As many clients as slots get the offline probabilities, one more is told to retry; memory stays flat."""
    from fastapi.testclient import TestClient

    from bcgan.predict import serve

    client = TestClient(serve.make_app(model, concurrent=2))
    patches = [path.read_bytes() for path in sorted(idc_folder.rglob("*.png"))]
    expected = [serve.score_image(model, data, "image", None).rows[0].probability for data in patches]
    end, codes, lock, peaks = time.monotonic() + SOAK_SECONDS, {}, threading.Lock(), []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end:
            number = int(rng.integers(len(patches)))
            answer = client.post("/predict", content=patches[number])
            with lock:
                codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            if answer.status_code == 200:
                assert answer.json()["rows"][0]["probability"] == pytest.approx(expected[number], abs=1e-5)
            else:
                assert answer.headers["retry-after"]
                time.sleep(0.05)

    with ThreadPoolExecutor(3) as clients:
        list(clients.map(ask, range(3)))
    assert set(codes) == {200, 503}
    assert codes[200] > 10
    assert peaks[-1] - peaks[len(peaks) // 4] < GROWTH


@pytest.mark.skipif(not PATCHES, reason="takes many minutes; BCGAN_PATCHES=100000 says how many patches")
@pytest.mark.timeout(0)
def test_a_hundred_thousand_patches_are_predicted_in_flat_memory(model, idc_folder):
    """The same files again and again have the same rows, and the last tenth needs no more memory."""
    files, peaks, rows = find_images([str(idc_folder)]), [], {}

    class Rows(io.StringIO):
        """Discards every line after a comparison with the first line of the same file."""

        def write(self, line: str) -> int:
            row = json.loads(line)
            number = rows.setdefault("count", 0)
            rows["count"] += 1
            first = rows.setdefault(row["path"], row)
            assert row["verdict"] == first["verdict"]
            assert (row["probability"] is None) or row["probability"] == pytest.approx(first["probability"], abs=1e-5)
            if not number % (PATCHES // 10):
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return len(line)

    counts = predict(model, (files * -(-PATCHES // len(files)))[:PATCHES], Rows(), as_jsonl=True)
    assert count_verdicts(counts) == rows["count"] == PATCHES
    assert peaks[-1] - peaks[1] < GROWTH
