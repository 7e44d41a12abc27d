"""Every key of a config, with its default, unit and meaning. An experiment starts from here and changes what it must.

Lengths are text with a unit: "500 steps", "60 epochs" or "1e6 examples"; they become steps when the run is built, so that
an override of the batch size or the data counts.
"""

from ml_collections import ConfigDict

from lmkd.configs import variants


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the defaults; see `stage` for one stage's."""
    config = ConfigDict()
    config.seed = 0
    config.stages = ("student",)  # the stages to run, in order; defined under config.stage
    config.stage = ConfigDict({"student": stage()})
    config.scheme = ""  # see all data in this landmark scheme ("300w68", "inner51", ...); "" takes the data's own

    data = config.data = ConfigDict()
    data.data_dir = ""  # where prepared data sets lie; "" is TFDS's own folder
    data.train = ("the300w:train",)  # splits NAME[/CONFIG]:SPLIT, one after the other
    data.validation = ()  # watched while training and used to choose the best checkpoint; () chooses none
    data.test = ("the300w:full",)  # scored at the end, one row a split, never used to choose
    data.image_px = 256  # side of a crop
    data.crop = "landmarks"  # crop protocol: "landmarks" (tight box of the true points) or "rectangle" (the data set's)
    data.crop_scale = 1.25  # the crop's side, in longer sides of the box
    data.test_crops = ("landmarks",)  # crop protocols that the test splits are scored under
    data.on_unreadable = "error"  # a record whose image cannot be decoded: "error" stops, "skip" counts it and goes on
    data.threads = 2  # reading threads a host
    data.keep_decoded_mb = 1000.0  # memory for decoded training images a host; what fits is read and decoded once. 0: none
    data.manual_dirs = ConfigDict()  # data set -> folder of its published files, to prepare it when it is not yet
    data.manual_dirs.wflw = ""
    data.manual_dirs.the300w = ""
    data.manual_dirs.youtube_faces68 = ""
    data.manual_dirs.own_faces = ""
    data.partial = False  # accept incomplete published trees when preparing; the report says what is missing

    augment = config.augment = ConfigDict()
    augment.scale = 0.25  # the crop's side times U(1 - scale, 1 + scale)
    augment.rotation_deg = 30.0  # turned by U(-rotation, rotation) degrees ...
    augment.rotation_p = 0.6  # ... with this probability
    augment.shift = 0.0  # centre moved by U(-shift, shift) of the crop's side, on each axis
    augment.flip_p = 0.5  # probability of a mirror image
    augment.colour = 0.0  # strength of brightness, contrast, gamma and tint changes; 0 leaves colours alone
    augment.grey_p = 0.0  # probability of a grey image
    augment.blur_p = 0.0  # probability of a Gaussian blur
    augment.noise_p = 0.0  # probability of sensor noise
    augment.occlusion_p = 0.0  # probability of one rectangle over the face
    augment.occlusion_size = 0.4  # its longest side, in crop sides

    heatmap = config.heatmap = ConfigDict()
    heatmap.sigma_cells = 1.5  # sigma of the drawn Gaussian, in heatmap cells
    heatmap.decoder = "local_soft_argmax"  # a function of lmkd.ops.heatmaps, for stages that name none in model.decoder

    evaluation = config.evaluation = ConfigDict()
    evaluation.batch_size = 32  # faces, over all devices
    evaluation.flip_test = True  # average the heatmaps of the face and of its mirror image
    evaluation.normaliser = ""  # "inter_ocular", "inter_pupil", "box"; "" takes the scheme's default
    evaluation.thresholds = (0.08, 0.10)  # of failure rate and area under the CED, as fractions of the normaliser
    evaluation.quoted = False  # the report also shows the published figures of the data sets that were scored

    runtime = config.runtime = ConfigDict()
    runtime.dtype = "auto"  # compute type: "float32", "bfloat16", or "auto" (bfloat16 on accelerators)
    runtime.parallel = "pmap"  # the parallel map: "pmap", or "mesh" (jax.shard_map over a named mesh); results are equal
    runtime.compilation_cache = "auto"  # folder of compiled programs; "auto" is in the user's cache folder, "" for none
    runtime.stall_seconds = 1800.0  # a run that makes no step (nor save, nor validation) for so long ends itself; 0 never
    runtime.faces_in_report = True  # pictures of best, median and worst faces (--no_faces switches them off)

    ablation = config.ablation = ConfigDict()  # the comparison table over stages that name a row
    ablation.baseline = ""  # the row that the others are compared with; "" makes no table
    ablation.front = False  # also draw accuracy against MACs
    ablation.latency = False  # also measure one face's way through each row's network, on this machine
    ablation.robustness_faces = 0  # score each row under corruptions and attack on so many faces; 0 does not

    config.expected = ""  # what a user should see at the end, measured; printed beside the result
    return variants.finish(config, variant)


def stage() -> ConfigDict:
    """Returns the defaults of one stage: one network, trained by one recipe."""
    s = ConfigDict()
    s.seed = -1  # of first weights, order of faces and augmentation; -1 is config.seed
    s.row = ""  # the method's name in the ablation table; stages of one row are its seeds
    s.compared_with = ""  # the row that this one's gain is measured on; "" is ablation.baseline
    s.scored = True  # False: a phase that only prepares a later stage, so its points mean nothing
    s.teachers = ConfigDict()  # name -> a stage of this experiment or the folder of a trained model
    s.teacher_which = "best"  # the teachers' checkpoint: "best" or "latest"
    model = s.model = ConfigDict()
    model.backbone = "hrnet.HRNet"  # a module of lmkd.models
    model.backbone_options = ConfigDict(hrnet(width=18))  # its arguments
    model.head = "heads.V2"
    model.head_options = ConfigDict()
    model.heatmap_activation = "linear"  # "linear", or "softmax" over positions (for cross-entropy terms)
    model.decoder = ""  # heatmap -> point; "" is heatmap.decoder
    model.image_px = 0  # side of its input; 0 is data.image_px. Crops are cut at the largest of network and teachers
    model.sigma_cells = 0.0  # sigma of its targets; 0 is heatmap.sigma_cells
    model.colour = "rgb"  # "rgb", or "grey": one channel
    model.prune_from = ""  # a name in `teachers`: start from that network's channels of largest batch-norm scale
    model.start_from = ""  # a name in `teachers`: start from that network's weights of ...
    model.start_parts = ("backbone", "head")  # ... these parts
    model.frozen = ()  # parts that are not trained and run in evaluation mode: ("backbone",), ("head",)
    model.weights = ""  # published weights to start from: a .npz, .safetensors or .pth file
    model.weights_backbone_only = True  # take the backbone alone (ImageNet weights)

    s.terms = ConfigDict()  # name -> term(...); the objective is their weighted sum
    s.terms.heatmap = term("ground_truth.HeatmapMSE", scale=1000.0)

    optimizer = s.optimizer = ConfigDict()
    optimizer.name = "adamw"  # "adamw", "adam" or "sgd"
    optimizer.learning_rate = 1e-3  # for the whole batch, as it stands
    optimizer.weight_decay = 1e-4  # of kernels, never of norms and biases
    optimizer.momentum = 0.9  # SGD's momentum, Adam's b1
    optimizer.b2 = 0.999
    optimizer.clip_norm = 0.0  # largest gradient norm; 0 does not clip
    optimizer.schedule = "cosine"  # "cosine", "step" or "constant"
    optimizer.warmup = "0 steps"
    optimizer.boundaries = ()  # "step": lengths after which the rate is multiplied by ...
    optimizer.factor = 0.1  # ... this
    optimizer.final_fraction = 0.0  # "cosine" ends at this fraction of the rate
    optimizer.adapter_factor = 1.0  # adapters (their own group, clipped by itself) learn at this multiple of the rate

    critics = s.critics = ConfigDict()  # Adam for each critic; every critic is a group of its own
    critics.learning_rate = 4e-4
    critics.momentum = 0.5  # b1
    critics.b2 = 0.999
    critics.clip_norm = 10.0
    critics.steps = 1  # updates of the critics for one of the student
    critics.patience = "300 steps"  # a critic that has won or lost for so long is reported

    train = s.train = ConfigDict()
    train.splits = ()  # what this stage learns from; () is data.train
    train.unlabelled = ()  # further splits whose points only place the crop: teachers teach there, the truth does not
    train.length = "60 epochs"  # epochs are of both together
    train.batch_size = 16  # faces a step, over all devices and hosts
    train.micro_batches = 1  # gradient accumulation: the batch is worked through in this many parts
    train.ema_decay = 0.0  # average of the parameters that predicts; 0 keeps none
    train.norm_momentum = 0.9  # of running statistics: new = momentum * old + (1 - momentum) * batch's
    train.sync_norm = True  # batch norms use the whole batch's statistics; False: each device's
    train.smooth_points = 0.0  # train on points as an active shape model of this share of variance has them; 0: as annotated
    attacks = train.attacks = ConfigDict()  # train on attacked inputs too
    attacks.share = 0.0  # of the faces that are attacked; 0 leaves the attack out
    attacks.epsilon = 4.0  # largest change of a pixel, of 255
    attacks.steps = 2  # gradient steps of the attack: each costs about two thirds of a training step
    train.log_every = "50 steps"
    train.validate_every = "1 epochs"
    train.save_every = "1 epochs"
    train.on_save_error = "stop"  # a checkpoint that cannot be written: "stop", or "go_on" without it
    train.retries = 0  # after a NaN or infinite loss: go back to the last checkpoint so many times, each time with ...
    train.retry_rate = 0.5  # ... the learning rates times this
    train.shares_every = "500 steps"  # measure each term's share of the gradient (a step's time a term); "0 steps" never
    return s


def hrnet(
    *,
    width: int,
    modules: tuple[int, int, int] = (1, 4, 3),
    blocks: int = 4,
    stage1_width: int = 64,
    stage1_blocks: int = 4,
    stem_width: int = 64,
    upsample: str = "bilinear",
    all_outputs: bool = True,
    block: str = "basic",
    rematerialise: bool = False,
) -> dict:
    """Returns every option of `hrnet.HRNet`; the defaults are the published network's."""
    return dict(
        width=width,  # channels of the highest resolution; 2, 4, 8 times as many below
        modules=modules,  # fusion modules of stages 2, 3, 4
        blocks=blocks,  # basic blocks a branch a module
        stage1_width=stage1_width,  # narrow part of stage 1's bottlenecks; four times as many come out
        stage1_blocks=stage1_blocks,
        stem_width=stem_width,
        upsample=upsample,  # "bilinear" (landmark code) or "nearest" (pose code)
        all_outputs=all_outputs,  # False: only the highest resolution leaves the last module (all that head V1 reads)
        rematerialise=rematerialise,  # compute modules anew in the backward pass: less memory, more time (docs/performance.md)
        block=block,  # "basic", or "separable": depthwise and pointwise 3x3 convolutions in the fusion modules
    )


def published_hrnet(s: ConfigDict) -> None:
    """Makes a stage HRNetV2-W18 with the recipe of Sun et al. 2019 (arXiv 1908.07919, landmark code).

    60 epochs, batch 16, Adam 1e-4, divided by 10 at epochs 30 and 50, heatmap MSE over all pixels, rotation within 30 degrees
    with probability 0.6, scale within 25 %, flip. Deviations: points are centred to sub-pixel and decoded so (theirs are cut
    to whole pixels); the test averages with the mirrored crop; the mean leaves out points outside the crop; and the first
    weights are random unless model.weights names ImageNet's, which the published figures start from. Adam does not mind the
    loss's scale.
    """
    s.optimizer.name = "adam"
    s.optimizer.learning_rate = 1e-4
    s.optimizer.weight_decay = 0.0
    s.optimizer.schedule = "step"
    s.optimizer.boundaries = ("30 epochs", "50 epochs")
    s.train.norm_momentum = 0.99


def slim_hrnet(s: ConfigDict, width: int = 16) -> None:
    """Makes a stage the slim HRNet that trains on a laptop, with losses that start fast from empty maps.

    Points are read as `coordinates` trains them, by the mean of the whole map (docs/results.md has what that is worth).
    """
    s.model.backbone_options = ConfigDict(
        hrnet(width=width, modules=(1, 2, 1), blocks=2, stage1_width=16, stage1_blocks=2, stem_width=32)
    )
    s.model.head = "heads.V2"
    s.model.heatmap_activation, s.model.decoder = "softmax", "mean"
    s.terms = ConfigDict()
    s.terms.cross_entropy = term("ground_truth.PositionCrossEntropy")
    s.terms.coordinates = term("ground_truth.SoftArgmaxL1", weight=1.0)
    s.optimizer.learning_rate = 2e-3
    s.optimizer.warmup = "200 steps"
    s.optimizer.clip_norm = 5.0
    s.train.ema_decay = 0.998


def term(
    type_: str,
    *,
    weight: float = 1.0,
    teachers: tuple[str, ...] = (),
    begin: str = "0 steps",
    ramp: str = "0 steps",
    decay_every: str = "0 steps",
    decay_factor: float = 1.0,
    **options,
) -> ConfigDict:
    """Returns one term: `type_` is a class of lmkd.distill.terms, `options` its arguments.

    `teachers` are the stage's that it looks at, () for all. The weight is 0 before `begin` (critics rest until then), rises
    linearly over `ramp`, and stays, or is multiplied by `decay_factor` after every `decay_every` ("0 steps": never).
    """
    schedule = {"begin": begin, "ramp": ramp, "decay_every": decay_every, "decay_factor": decay_factor}
    return ConfigDict({"type": type_, "weight": weight, "teachers": teachers, "schedule": schedule, "options": options})


def at_px(config: ConfigDict, px: int) -> None:
    """Sets data.image_px; the Gaussians keep their share of the crop."""
    config.heatmap.sigma_cells *= px / config.data.image_px
    config.data.image_px = px
