"""The demo's web page: a picture or the camera in, points out, a switch between models. Needs gradio (`lmkd[demo]`).

page = build({"teacher": predictor, "student": other})
page.launch(server_name="127.0.0.1")
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from lmkd.core.errors import UserError
from lmkd.prediction import drawing, images
from lmkd.prediction.detectors import Whole

SHOWN_PX = 1600
ABOUT = """# Facial landmarks
Drop a picture or take one with the camera; switch between models to compare them. Pictures stay on this machine."""


def build(predictors: Mapping[str, Any]) -> Any:
    """Returns the page (`gradio.Blocks`), ready to be launched.

    Args:
      predictors: the models (`lmkd.predictor.Predictor`) by the names that people see; the last one is chosen at first.

    Raises:
      UserError: gradio is not installed.
    """
    gradio = _gradio()
    names = list(predictors)

    def look(path: str | None, name: str, whole: bool) -> tuple[Any, str]:
        return answer(predictors[name], path, whole=whole)

    with gradio.Blocks(title="lmkd", analytics_enabled=False) as page:
        gradio.Markdown(ABOUT)
        with gradio.Row():
            with gradio.Column():
                given = gradio.Image(
                    type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], label="Picture", height=420
                )
                model = gradio.Radio(names, value=names[-1], label="Model")
                whole = gradio.Checkbox(label="The picture is one face: do not look for faces")
            with gradio.Column():
                # Without gradio's button that shares a picture with the world.
                buttons = ["download", "fullscreen"]
                drawn = gradio.Image(label="Points", interactive=False, format="png", height=420, buttons=buttons)
                told = gradio.Textbox(label="Found", interactive=False, lines=2)
        changes = [given.change, model.change, whole.change]
        gradio.on(changes, look, [given, model, whole], [drawn, told], api_name="look", trigger_mode="always_last")
    return page


def answer(predictor: Any, path: str | None, *, whole: bool = False) -> tuple[np.ndarray | None, str]:
    """Returns the picture of a file with the points drawn in, uint8 RGB [H, W, 3], and a line about it.

    Args:
      predictor: the model, a `lmkd.predictor.Predictor`.
      path: of the picture; None is no picture yet.
      whole: take the picture for one face.
    """
    if path is None:
        return None, ""
    try:
        picture = images.read(path)
    except UserError as error:
        return None, str(error).removeprefix(f"{path}: ")
    begun = time.perf_counter()
    if whole:
        predictor = dataclasses.replace(predictor, detector=Whole(predictor.model.crop_scale))
    found = predictor(picture.image)
    milliseconds = 1000 * (time.perf_counter() - begun)
    count = len(found.landmarks_px)
    told = f"{count} face{'s' * (count > 1)}" if count else "no face found: tick the box to take the picture for one"
    drawn = drawing.draw(picture.image, found.landmarks_px, predictor.scheme, longest_px=SHOWN_PX)
    return drawn, "; ".join([f"{told}; {milliseconds:.0f} ms (a model's first picture also compiles it)", *picture.notes])


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it would ask its makers' server at import
    try:
        import gradio
    except ImportError as error:
        raise UserError("the demo's page needs gradio: pip install 'lmkd[demo]'") from error
    return gradio
