"""A local web page that shows models at work: drop a picture or use the camera, see the points, switch between models.

    python -m lmkd.demo [--model=PATH ...] [--port=7860] [--detector=cascade|PATH.onnx] [--which=best|latest]

Without --model it shows the model for real faces that comes with the package. A workdir gives all of its scored stages
(teachers, plain and distilled students). The page is served on this machine alone; it needs gradio: pip install 'lmkd[demo]'.
"""

from absl import flags

from lmkd import cli, pretrained

_MODEL = flags.DEFINE_multi_string(
    "model", [pretrained.DEFAULT], "A workdir, a stage's folder, one step's folder, or one that comes with lmkd; several times."
)
_WHICH = flags.DEFINE_string("which", "best", "best or latest checkpoint.")
_DETECTOR = flags.DEFINE_string("detector", "cascade", "cascade, whole, or the path of a YuNet model (.onnx).")
_PORT = flags.DEFINE_integer("port", 0, "Port of the page; 0 takes the first free one from 7860 on.", lower_bound=0)


def main() -> None:
    """The door's one call."""
    from lmkd import build, predictor
    from lmkd.configs import common
    from lmkd.prediction import page

    cli.quiet()
    build.prepare_device(common.get_config())
    found = predictor.named_models(_MODEL.value)
    predictors = {name: predictor.load(path, _WHICH.value, detector=_DETECTOR.value) for name, path in found.items()}
    built = page.build(predictors)
    _, url, _ = built.launch(
        server_name="127.0.0.1",
        server_port=_PORT.value or None,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
    )
    print(f"models: {', '.join(predictors)}\npage: {url}   (Ctrl-C ends it)", flush=True)
    built.block_thread()


def console() -> None:
    """Entry point."""
    cli.run(main)


if __name__ == "__main__":
    console()
