"""Names that settings, results and model cards had in earlier versions."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

CLASSIFIERS = {"efficientnet_lite": "efficientnet_lite0", "simclr": "efficientnet_lite0_simclr"}
REMOVED_CLASSIFIERS = {"student": "distillation gained nothing and was removed; leave it out"}
_MODEL = "classify.models.*."
SETTINGS = {
    "data.folds": "data.num_folds", "data.fold": "data.test_fold", "data.lists": "data.split_dir",
    "data.evaluate_on": "data.eval_sources",
    "data.limit": "data.max_patches_per_class, or data.subsample_fraction for a value below 1",
    "preprocess.smoothing": "preprocess.blur", "preprocess.stain": "preprocess.stain_normalization",
    "preprocess.audit.conflicting": "preprocess.audit.conflicting_labels",
    "gan.batch": "gan.batch_size", "gan.latent": "gan.latent_dim", "gan.width": "gan.base_channels",
    "gan.generator_rate": "gan.generator_learning_rate",
    "gan.discriminator_rate": "gan.discriminator_learning_rate", "gan.spectral": "gan.spectral_norm",
    "gan.critic": "gan.projected_discriminator_weight", "gan.late": "gan.projected_discriminator_3x3_steps",
    "gan.augment": "gan.diff_augment", "gan.on_collapse": "gan.on_mode_collapse", "gan.average": "gan.ema_decay",
    "gan.noise": "gan.latent_std", "gan.grid_every": "gan.sample_grid_interval",
    "translate.batch": "translate.batch_size", "translate.width": "translate.base_channels",
    "translate.rate": "translate.learning_rate", "translate.cycle": "translate.cycle_loss_weight",
    "translate.identity": "translate.identity_loss_weight", "translate.average": "translate.ema_decay",
    "*.checkpoint_every": "*.checkpoint_interval",
    "features.synthetic": "features.num_synthetic", "features.referee": "features.quality_filter",
    "features.referee.confidence": "features.quality_filter.min_confidence",
    "features.referee.quantile": "features.quality_filter.distance_quantile",
    "features.referee.steps": "features.quality_filter.steps",
    "features.maps": "features.saved_blocks", "features.density_threshold": "features.nuclear_od_threshold",
    "pretrain.patients": "pretrain.include_unlisted, true for all and false for train",
    "pretrain.batch": "pretrain.batch_size", "pretrain.rate": "pretrain.learning_rate",
    "pretrain.smallest": "pretrain.min_crop_scale", "*.colour_jitter": "*.color_jitter",
    f"{_MODEL}rate": f"{_MODEL}learning_rate", f"{_MODEL}synthetic": f"{_MODEL}synthetic_fraction",
    f"{_MODEL}selected": f"{_MODEL}filter_synthetic",
    f"{_MODEL}beside": f"{_MODEL}extra_features", f"{_MODEL}tuned": f"{_MODEL}finetune_extra_features",
    f"{_MODEL}enlarged": f"{_MODEL}input_size",
    "classify.batch": "classify.batch_size", "classify.crop": "classify.crop_size",
    "classify.average": "classify.ema_decay",
    "evaluate.ensemble": "evaluate.ensemble_models", "evaluate.views": "evaluate.tta_views",
    "evaluate.resamples": "evaluate.bootstrap_samples", "evaluate.confidence": "evaluate.confidence_level",
    "evaluate.probes": "evaluate.probe_seeds", "evaluate.explanations": "evaluate.num_explained_patches",
    "evaluate.gan_samples": "evaluate.num_gan_samples",
    "learning_curve.shares": "learning_curve.train_fractions", "learning_curve.steps": "learning_curve.train_steps",
    "learning_curve.checks": "learning_curve.num_validations",
    "learning_curve.synthetic": "learning_curve.synthetic_fraction",
    "learning_curve.made": "learning_curve.num_synthetic",
    "factors.network": "ablation.model", "factors.normalisation": "ablation.normalization",
    "factors.levels": "ablation.variants", "factors": "ablation", "factors.*": "ablation.*",
    "folds.networks": "cross_validation.models", "folds": "cross_validation", "folds.*": "cross_validation.*",
    "report.examples": "report.num_examples",
}  # fmt: skip
_WITHOUT_DISTILLATION = "distillation gained nothing and was removed; leave it out"
_WITHOUT_RELATIVISTIC = "the relativistic loss and its penalties repeated patches more and were removed; leave it out"
REMOVED_SETTINGS = {
    f"{_MODEL}shortcut": "name the classifier resnet34_identity for identity, or resnet34 for projection",
    f"{_MODEL}distillation_fraction": _WITHOUT_DISTILLATION, f"{_MODEL}taught": _WITHOUT_DISTILLATION,
    "classify.teachers": _WITHOUT_DISTILLATION,
    "learning_curve.translate_steps": "translations as augmentation did harm and were removed; leave it out",
    "gan.gradient_penalty_weight": _WITHOUT_RELATIVISTIC, "gan.gradient_penalty_interval": _WITHOUT_RELATIVISTIC,
}  # fmt: skip


def removal_note(key: str) -> str | None:
    """Return what to do about a setting that an earlier version had and this one lacks; `None` for other settings."""
    return next((note for pattern, note in REMOVED_SETTINGS.items() if fnmatchcase(key, pattern)), None)


def current_setting_name(key: str) -> str | None:
    """Return the current name of a setting, given its name in an earlier version; `None` if it never had another.

    Args:
        key: Such as `gan.batch` or `classify.models.cnn.rate`.
    """
    for old, new in SETTINGS.items():
        if fnmatchcase(key, old):
            stars = _matched_by_stars(key, old)
            return new.replace("*", stars) if stars else new
    return None


def _matched_by_stars(key: str, pattern: str) -> str:
    """Return the part of `key` that the pattern's only `*` stands for; empty if it has none."""
    head, star, tail = pattern.partition("*")
    return key[len(head) : len(key) - len(tail)] if star else ""


MODEL_FILES = {
    "referee.keras": "reference_cnn.keras", "referee.tflite": "reference_cnn.tflite",
    "selector.npz": "quality_filter.npz",
}  # fmt: skip
CARD = {
    "use": "intended_use", "views": "tta_views", "calls": "thresholds", "context": "spatial_context",
    "context_calls": "spatial_context_thresholds", "outlier": "ood_threshold", "trained": "training_data",
    "figures": "metrics", "litert": "litert_max_abs_error",
}  # fmt: skip
CARD_THRESHOLDS = {"threshold": "malignant", "abstain": "abstain_range"}


def model_file(folder: Path, name: str) -> Path:
    """Return the path of an exported model's file, by its earlier name if the folder has only that."""
    earlier = next((old for old, new in MODEL_FILES.items() if new == name), name)
    return folder / (earlier if not (folder / name).exists() and (folder / earlier).exists() else name)


def upgrade_card(card: dict[str, Any]) -> dict[str, Any]:
    """Return a model card with today's names; one that has them already comes back unchanged."""
    upgraded = {CARD.get(key, key): value for key, value in card.items() if key != "bfloat16"}
    for key in ("thresholds", "spatial_context_thresholds"):
        if isinstance(values := upgraded.get(key), dict):
            upgraded[key] = {CARD_THRESHOLDS.get(name, name): value for name, value in values.items()}
    if isinstance(digests := upgraded.get("sha256"), dict):
        upgraded["sha256"] = {MODEL_FILES.get(name, name): digest for name, digest in digests.items()}
    return upgraded
