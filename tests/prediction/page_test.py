"""The demo's page: what it answers, through gradio's own client, and in a browser where there is one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from blob_model import Network, around, blob, predictor
from PIL import Image

from lmkd.core.errors import UserError
from lmkd.prediction import page

# gradio leaves event loops and sockets to the garbage collector, so it runs in a process of its own: serves two models,
# asks itself through its client, tells what came, and goes on serving until its input ends.
SERVER = """
import json, sys
from blob_model import around, predictor
from gradio_client import Client, handle_file
from lmkd.prediction import images, page
models = {"teacher": predictor(boxes=[around(150, 120)]), "student": predictor(boxes=[around(150, 120), around(60, 60)])}
built = page.build(models)
_, url, _ = built.launch(server_name="127.0.0.1", share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False)
client = Client(url, verbose=False)
answers = {}
for name in models:
    drawn, told = client.predict(handle_file(sys.argv[1]), name, False, api_name="/look")
    answers[name] = (told, images.read(drawn).image[120, 150].tolist())
print(json.dumps({"url": url, "answers": answers}), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "face.png"
    Image.fromarray(blob(150.0, 120.0)).save(path)
    return path


@pytest.fixture(scope="module")
def served(picture):
    """What the server's process told of itself, while it serves."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the page needs gradio (lmkd[demo])")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    command = [sys.executable, "-W", "ignore", "-c", SERVER, str(picture)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        line = next((line for line in process.stdout if line.startswith("{")), "")
        if line:
            yield json.loads(line)
        _, errors = process.communicate(timeout=300)
    assert line, errors


def test_an_answer_has_the_points_and_a_line(picture):
    drawn, told = page.answer(predictor(boxes=[around(150, 120)]), str(picture))
    assert drawn.shape == (300, 400, 3) and tuple(drawn[120, 150]) == (255, 225, 0) and told.startswith("1 face; ")
    network = Network()
    _, told = page.answer(predictor(network=network), str(picture), whole=True)
    assert (
        told.startswith("1 face; ") and (network.seen[0][0][[0, -1]] == 0).all()
    )  # the square about a picture wider than high


def test_what_cannot_be_answered_is_told(picture, tmp_path):
    assert page.answer(predictor(), None) == (None, "")
    drawn, told = page.answer(predictor(), str(picture))
    assert told.startswith("no face found") and drawn.shape == (300, 400, 3)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    nothing, why = page.answer(predictor(), str(tmp_path / "bad.png"))
    assert nothing is None and why.startswith("cannot be read as a picture")


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"lmkd\[demo\]"):
        page.build({"one": predictor()})


def test_the_page_answers_gradios_client(served):
    told, pixel = served["answers"]["teacher"]
    assert told.startswith("1 face; ") and pixel == [255, 225, 0]  # the dot at the blob
    assert served["answers"]["student"][0].startswith("2 faces; ")


def test_the_page_in_a_browser(served, picture):
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium here")
    reads = "() => [...document.querySelectorAll('textarea')].some(t => t.value.startsWith('%s'))"
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab, asked = browser.new_page(), []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(served["url"])
        tab.set_input_files("input[type=file]", str(picture))
        tab.wait_for_function(reads % "2 faces; ")
        tab.get_by_label("teacher").check()
        tab.wait_for_function(reads % "1 face; ")
        browser.close()
    elsewhere = [url for url in asked if not url.startswith((served["url"], "data:", "blob:"))]
    assert asked and elsewhere == []  # the page works without a network, and no picture leaves the machine
