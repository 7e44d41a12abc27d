"""One process of a small pod: trains a tiny network through the real loop, scores it, and prints what it saw as JSON.

python pod_worker.py '{"folder": ..., "steps": 6, "coordinator": "127.0.0.1:1234", "processes": 2, "process": 0, ...}'
"""

import hashlib
import json
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_faces import SCHEME, Faces
from tiny_models import tiny

from lmkd.core.errors import UserError
from lmkd.data import pipeline, transforms
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.terms.ground_truth import HeatmapMSE
from lmkd.evaluation import evaluator
from lmkd.models import landmarker
from lmkd.training import hosts, loop, parallel
from lmkd.training.logs import read_metrics
from lmkd.training.shares import Trainer
from lmkd.training.state import Optimizers, create, inference_variables
from lmkd.training.step import StepOptions, make_train_step

SIDE, SCORED_FACES = 32, 11  # more faces than a round of four devices, and no multiple of it


def main(job: dict) -> None:
    if "largest_file_bytes" in job:  # as on a full disk: no file may grow further
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file_bytes"],) * 2)
    hosts.connect(job.get("coordinator", ""), processes=job.get("processes", 0), process=job.get("process", -1))
    model = tiny(True, parallel.AXIS, points=4)
    recipe = Recipe((WeightedTerm("heatmap", HeatmapMSE(), Schedule(1.0)),))
    optimizers = Optimizers(*[optax.sgd(0.5)] * 3)
    step = make_train_step(model, recipe, optimizers, lambda s: jnp.float32(1e-2), StepOptions(sigma_cells=1.0, ema_decay=0.9))
    trainer = Trainer(step, frozen={}, terms=recipe.names, kind=job.get("kind", "pmap"))
    variables = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3), jnp.uint8)))
    unreadable = pipeline.Unreadable("error")
    share = {"host": jax.process_index(), "hosts": jax.process_count()}
    make = transforms.MakeFace(SCHEME, SIDE, augmentation=transforms.Augmentation())
    iterator = pipeline.training_batches(Faces(10), make, batch_size=8, seed=1, unreadable=unreadable, **share)
    folder = Path(job["folder"])

    def train_step(state, batch):
        time.sleep(job.get("seconds_a_step", 0.0))
        return trainer(state, batch)

    state = loop.run(
        name="tiny", folder=folder, state=parallel.replicate(create(variables, optimizers, seed=0, ema=True)),
        train_step=train_step, iterator=iterator, validate=None, meta={"stage": "tiny"},
        options=loop.LoopOptions(
            total_steps=job["steps"], log_steps=job.get("log_steps", 1), validate_steps=10**9,
            save_steps=job.get("save_steps", 3), batch_size=8,
            stall_seconds=job.get("stall_seconds", 0.0), go_on_unsaved=job.get("go_on_unsaved", False),
        ),
    )  # fmt: skip
    iterator.close()
    rows = _scored(model, inference_variables(state), unreadable, share)
    leaves = [np.asarray(x) for x in jax.tree.leaves(parallel.on_this_host(inference_variables(state)))]
    told = {
        "losses": [row["loss"] for row in read_metrics(folder / "metrics.jsonl")],
        "keys": rows.keys,
        "predicted_px": rows.predicted_px.tolist(),
        "sum": float(sum(np.abs(x).sum() for x in leaves)),
        "sha256": hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest(),
    }
    sys.stderr.write(f"\nTOLD {json.dumps(told)}\n")


def _scored(model, variables, unreadable, share):
    mapped = parallel.map_predict(lambda variables, image: landmarker.predict(model, variables, image)[1:])

    def predict_batch(batch):
        return parallel.joined(mapped(variables, parallel.split_over_devices({"image": batch["image"]})["image"]))

    make = transforms.MakeFace(SCHEME, SIDE)
    batches = pipeline.evaluation_batches(Faces(SCORED_FACES), make, batch_size=8, unreadable=unreadable, **share)
    return evaluator.evaluate(predict_batch, batches, expected_faces=SCORED_FACES)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except loop.Interrupted as stopped:
        sys.stderr.write(f"{stopped}\n")
        sys.exit(128 + stopped.signal_number)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        hosts.leave(2)
