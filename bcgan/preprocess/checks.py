"""Check that the images of a data set have the size and the scale that the settings say, and warn of mixed ones."""

import numpy as np
import pandas as pd

from bcgan import progress
from bcgan.data import usual_side
from bcgan.data.records import UNKNOWN
from bcgan.data.slide_names import slide_names
from bcgan.errors import InputError
from bcgan.settings import Data
from bcgan.slides.scale import SAME_SCALE


def check_patch_size(rows: pd.DataFrame, native: int | None, settings: Data) -> None:
    """Check that most patches of a data set have the size that its patches are said to have.

    Args:
        native: That size, pixels; `None` if images may have any.

    Raises:
        InputError: If more than half of the readable ones have another size: they would be cropped or padded.
    """
    readable = rows[rows["reason"] == ""]
    is_other = (readable[["width", "height"]] != native).all(axis=1)
    if native is None or is_other.sum() <= len(readable) / 2:
        return
    first = readable[is_other].iloc[0]
    remedy = "Set data.size and data.mpp as --size and --patch-mpp of the bcgan tile that cut them."
    raise InputError(
        f"data.dir: {is_other.sum()} of {len(readable)} patches do not have {native}x{native} pixels, the first, "
        f"{first['path']}, has {first['width']}x{first['height']}. "
        + (remedy if settings.name == "idc" else f"Give the data set {settings.name}, or set data.name.")
    )


def check_scales(rows: pd.DataFrame, settings: Data) -> None:
    """Check that the resolutions that files state agree with that of the data set, or, without one, with each other.

    Where `data.tile.mpp` is set and `data.mpp` is not, each image is brought to one scale by what it states.

    Args:
        rows: The columns image, path, mpp, stated_x and stated_y; NaN for what is not known.

    Raises:
        InputError: If they do not: `bcgan predict` would see these files at another scale than the trained model.
    """
    stating = rows[rows["stated_x"].notna()].drop_duplicates("image")
    is_rescaled = settings.tile is not None and settings.tile.mpp is not None
    if not len(stating) or (is_rescaled and stating["mpp"].isna().all()):
        return
    stated = stating[["stated_x", "stated_y"]].to_numpy(float)
    expected = np.where(stating["mpp"].notna().to_numpy()[:, None], stating[["mpp", "mpp"]].to_numpy(float), stated[0])
    is_other = np.abs(np.log(stated / expected)).max(axis=1) > np.log(SAME_SCALE)
    if not is_other.any():
        return
    outlier = stating[is_other].iloc[0]
    coarsest = f"{stated.max():.4g}"
    if np.isnan(outlier["mpp"]):
        raise InputError(
            f"data.dir: {outlier['path']} states {_mpp_text(outlier)} microns a pixel, {stating['path'].iloc[0]} "
            f"{_mpp_text(stating.iloc[0])}, and {is_other.sum()} of {len(stating)} differ so: they would be mixed. "
            f"Bring all to one scale (data.tile={{mpp: {coarsest}}} cuts larger images), or leave one of them out."
        )
    source = "data.mpp" if settings.mpp else f"the scale of {settings.name}"
    is_uniform = np.abs(np.log(stated / stated[0])).max() <= np.log(SAME_SCALE)
    remedy = "Leave out what has another scale, or correct what it states"
    if is_uniform and settings.name in ("idc", "patient_folder"):
        remedy = f"Set data.mpp={_mpp_text(outlier)}"
    if settings.name == "patient_folder":
        remedy += f", or leave data.mpp out and set data.tile={{mpp: {coarsest}}}, which rescales each"
    raise InputError(
        f"data.dir: {outlier['path']} states {_mpp_text(outlier)} microns a pixel, and {source} is "
        f"{outlier['mpp']:.4g} ({is_other.sum()} of {len(stating)} files differ so). {remedy}."
    )


def _mpp_text(row: pd.Series) -> str:
    x, y = (f"{row[column]:.4g}" for column in ("stated_x", "stated_y"))
    return x if x == y else f"{x}x{y}"


def warn_of_enlarged(index: pd.DataFrame, native: int | None, size: int) -> None:
    """Warn of patches that have fewer pixels than the experiment stores: enlarging them adds no detail."""
    shorter_sides = index[["width", "height"]].min(axis=1) if native is None else pd.Series(native, index.index)
    if count := int((shorter_sides < size).sum()):
        progress.log.warning(
            "preprocess: %d of %d patches are smaller than data.size=%d and were enlarged, the smallest from %d "
            "pixels; set data.size to the size that they have", count, len(index), size, shorter_sides.min(),
        )  # fmt: skip


def warn_of_slides_of_one_class(index: pd.DataFrame, settings: Data) -> None:
    """Warn of the slides of a data set as `warn_of_one_class` does; columns id, image, patient, label, x and y."""
    table = index[(index["image"] == index["id"]) & (index["x"] != UNKNOWN)]
    warn_of_one_class(table.assign(slide=slide_names(table, settings.classes)), settings.class_names, "preprocess")


def warn_of_one_class(table: pd.DataFrame, class_names: tuple[str, ...], command: str) -> None:
    """Warn if no slide has patches of two classes although patients do: the slides' names may state the class.

    Args:
        table: Columns patient, slide and label, a row for each patch.
        class_names: In the order of their labels.
        command: That is running, for the message.
    """
    mixed = table[table.groupby("patient")["label"].transform("nunique") > 1]
    slides = mixed.groupby(["patient", "slide"])["label"].agg(["nunique", "first", "size"])
    slides = slides[slides["size"] > 1].reset_index()
    is_pair = slides.groupby("patient")["first"].transform("nunique") > 1
    if (slides["nunique"] > 1).any() or not is_pair.any():
        return
    pair = slides[slides["patient"] == slides[is_pair]["patient"].iloc[0]].drop_duplicates("first").iloc[:2]
    first, second = (f"{row['slide']} ({class_names[row['first']]})" for _, row in pair.iterrows())
    progress.log.warning(
        "%s: no slide has patches of two classes, but %d patients have, such as in %s and %s. If these names "
        "state the class, neighboring patches reveal it: name the folders' classes in data.classes, or take the "
        "classes out of the names. If slides were labeled as a whole, nothing is wrong.",
        command, slides[is_pair]["patient"].nunique(), first, second,
    )  # fmt: skip


def warn_of_mixed_sizes(index: pd.DataFrame, size: int) -> None:
    """Warn of images whose shorter side is not that of most: resized to one size, they have another scale."""
    usual = usual_side(index)
    is_other = index[["width", "height"]].min(axis=1) != usual
    if is_other.any():
        first = index[is_other].iloc[0]
        progress.log.warning(
            "preprocess: %d of %d images do not have a shorter side of %d pixels, as most have (first: %s, %dx%d): "
            "resized to data.size=%d, they are at another scale. Bring all to one scale, or cut them with data.tile",
            is_other.sum(), len(index), usual, first["path"], first["width"], first["height"], size,
        )  # fmt: skip
