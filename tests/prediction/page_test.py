"""The demo's page: what it answers, through gradio's own client, and in a browser where there is one."""

import shutil

import pytest
from blob_model import Network, around, blob, predictor
from PIL import Image

from lmkd.prediction import images, page

# gradio and what it stands on warn of themselves; warnings of ours are errors in the tests that do without it.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "face.png"
    Image.fromarray(blob(150.0, 120.0)).save(path)
    return path


@pytest.fixture(scope="module")
def served():
    pytest.importorskip("gradio", reason="the page needs gradio (lmkd[demo])")
    one = predictor(boxes=[around(150, 120)])
    models = {"teacher": one, "student": predictor(boxes=[around(150, 120), around(60, 60)], network=Network())}
    built = page.build(models)
    _, url, _ = built.launch(server_name="127.0.0.1", share=False, quiet=True, prevent_thread_lock=True)
    yield url
    built.close()


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


def test_the_page_answers_gradios_client(served, picture):
    client = pytest.importorskip("gradio_client").Client(served, verbose=False)
    handle = pytest.importorskip("gradio_client").handle_file(str(picture))
    for model, count in (("teacher", "1 face;"), ("student", "2 faces;")):
        drawn, told = client.predict(handle, model, False, api_name="/look")
        assert told.startswith(count)
    # The place of the blob's dot in the picture that came back.
    assert tuple(images.read(drawn).image[120, 150]) == (255, 225, 0)
    client.close()


def test_the_page_in_a_browser(served, picture):
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        asked = []
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(served)
        tab.set_input_files("input[type=file]", str(picture))
        told = tab.get_by_label("Found")
        tab.wait_for_function("() => [...document.querySelectorAll('textarea')].some(t => t.value.startsWith('2 faces'))")
        tab.get_by_label("teacher").check()
        tab.wait_for_function("() => [...document.querySelectorAll('textarea')].some(t => t.value.startsWith('1 face;'))")
        assert told.input_value().startswith("1 face;")
        source = tab.locator("img").last.get_attribute("src")
        assert source and source.startswith(served)
        browser.close()
    elsewhere = [url for url in asked if not url.startswith((served, "data:", "blob:"))]
    assert elsewhere == []  # pictures stay on this machine, and the page works without a network
