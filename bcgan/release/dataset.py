"""Write a released data set: PNG files, tensorflow-datasets, tables, a data card and Croissant metadata."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from bcgan import __version__, progress, runs
from bcgan.classifiers import CLASSIFIERS
from bcgan.predict.hub import license_fields
from bcgan.preprocess import tfds_records
from bcgan.preprocess.images import encode_png
from bcgan.release import privacy, tables
from bcgan.release.synthesis import SyntheticSet

TABLE, MANIFEST, AUDIT, CROISSANT, CARD = "patches.csv", "manifest.json", "audit.json", "croissant.json", "README.md"
USE = "Research use only. Not for diagnosis, nor for any decision about a patient."


class Identity(NamedTuple):
    """What a release is called and who is responsible for it."""

    name: str
    license_name: str  # an SPDX identifier or the address of a licence
    creator: str
    class_names: tuple[str, ...]  # in the order of their labels
    mpp: float | None  # microns per pixel, if they are known
    seed: int
    generator: dict[str, str]  # SHA-256 of the generator and of what filtered its patches, by file


def write(out: Path, identity: Identity, synthetic: SyntheticSet, audit: dict[str, Any], date: str) -> dict[str, Any]:
    """Write the folder of a release.

    Args:
        out: A folder that does not exist or is empty. It appears once it is complete.
        audit: The results of the audit, without names of patients.
        date: ISO 8601, of the release.

    Returns:
        The manifest.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    try:
        manifest = _write_files(part, identity, synthetic, audit, date)
        if out.exists():
            out.rmdir()
        part.chmod(0o755)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _write_files(
    folder: Path, identity: Identity, synthetic: SyntheticSet, audit: dict[str, Any], date: str
) -> dict[str, Any]:
    """Write all files of a release; return the manifest, which is the content of manifest.json.

    Args:
        audit: The results of the audit, without names of patients.
        date: ISO 8601, of the release.
    """
    table = _write_images(folder, identity, synthetic)
    table.drop(columns="role").to_csv(folder / TABLE, index=False, float_format="%.6g")
    columns = {"file": "file", "candidate": "candidate"}  # TFDS feature: column of the table
    tfds_records.write(folder / "tfds", synthetic.images, table, identity.class_names, columns)
    runs.write_json(folder / AUDIT, audit)
    (folder / CARD).write_text(data_card(identity, table, audit, date), "utf-8")
    (folder / CROISSANT).write_text(json.dumps(croissant(identity, table, folder / TABLE, date), indent=1), "utf-8")
    files = {
        path.relative_to(folder).as_posix(): runs.hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "what": "synthetic patches of tissue, made by a GAN", "use": USE, "name": identity.name,
        "licence": identity.license_name, "creator": identity.creator, "date": date, "bcgan": __version__,
        "seed": identity.seed, "generator": identity.generator, "classes": list(identity.class_names),
        "patches": len(table), "size": int(synthetic.images.shape[1]), "mpp": identity.mpp, "files": files,
    }  # fmt: skip
    runs.write_json(folder / MANIFEST, manifest)
    return manifest


def _write_images(folder: Path, identity: Identity, synthetic: SyntheticSet) -> pd.DataFrame:
    """Write images/<class>/<class>_<n>.png.

    Returns:
        A row for each file: file, class, label, candidate, confidence, sha256, and role, the split of TFDS: `train`.
    """
    rows, number = [], dict.fromkeys(range(len(identity.class_names)), 0)
    with progress.bar(len(synthetic.images), "png", "patch") as bar:
        for image, entry in zip(synthetic.images, synthetic.table.itertuples(), strict=True):
            name = identity.class_names[entry.label]
            number[entry.label] += 1
            file = f"images/{name}/{name}_{number[entry.label]:06d}.png"
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(image))
            rows.append({
                "file": file, "class": name, "label": entry.label, "candidate": entry.candidate,
                "confidence": entry.confidence, "sha256": runs.hash_file(path), "role": "train",
            })  # fmt: skip
            bar.update()
    return pd.DataFrame(rows)


def data_card(identity: Identity, table: pd.DataFrame, audit: dict[str, Any], date: str) -> str:
    """Return the data card as Markdown, with the YAML header that data hubs read; `table` is from `_write_images`."""
    counts = ", ".join(f"{count:,} {name}" for name, count in table["class"].value_counts(sort=False).items())
    header = (
        f"---\npretty_name: {json.dumps(identity.name)}\n{yaml.safe_dump(license_fields(identity.license_name))}"
        "task_categories: [image-classification]\ntags: [histopathology, synthetic, gan, breast]\n---\n"
    )
    scale = f"{identity.mpp:g} microns per pixel" if identity.mpp else "microns per pixel unknown"
    num_attempts = len(audit["earlier_attempts"]) + 1
    num_real = next(iter(audit["utility"]["networks"].values()))["real_patches"]
    tuned, tuning_text = tables.tuning(audit), ""
    if len(tuned):
        measured = audit["utility"]["tuning"]
        tuning_text = (
            f"\n{CLASSIFIERS[measured['network']].title}, trained on a few real patients and tested on "
            f"{measured['tested_patients']} others:\n\n{tables.as_markdown(tuned)}\n"
        )
    return f"""{header}
# {identity.name}

{len(table):,} synthetic patches of breast tissue stained with haematoxylin and eosin ({counts}), made by a generative
adversarial network. Every patch was drawn by a network. {USE}

| | |
|---|---|
| Made by | {identity.creator}, {date}, with bcgan {__version__}, seed {identity.seed} |
| Licence | {identity.license_name} |
| Patches | {audit["size"]} pixels a side, {scale} |
| Labels | The class that the generator was asked for, which a classifier of real patches confirmed |
| Generator | SHA-256 {identity.generator["generator.keras"]} |
| Trained on | {audit["members"]["patients"]} patients, {audit["members"]["patches"]:,} patches |

`images/` has the patches as PNG, `patches.csv` a row for each, `tfds/` the same for `tensorflow-datasets`
(`tfds.builder_from_directory("tfds").as_dataset(split="train")`), `croissant.json` the description for programs.

## Privacy

{audit["removed"]:,} of {audit["candidates"]:,} candidates were removed: relative to the patches of patients that the
generator has not seen, they came nearer to a training patch than 99 % of those patches do. {audit["repeats"]:,} more
were left out because they repeat another one: they are nearer to it than 99 % of as many training patches of the class
are to one another. The rest was attacked with patches of the {audit["members"]["patients"]} training patients and of
{audit["non_members"]["patients"]} unseen ones.
Features are those of {audit["features"]}. {audit["confidence_level"]:.0%} intervals are over patients. This is attempt
number {num_attempts} with this generator.

{tables.as_markdown(tables.privacy(audit))}

0.5 is chance for a ROC AUC, and for patches that are nearer to one set than to another. Such a result fails if it is
more than {privacy.MAX_SHARE - 0.5:.2f} from 0.5 and 0.5 is not in its interval, or if the interval reaches beyond
{privacy.MAX_UPPER_END:g}, as a leak cannot be excluded then. Rows without a limit are for information; the
discriminators are not released. **The audit is evidence, not a proof: an attack that is not in it may succeed, and no
differential privacy is claimed.**

## Utility

Networks were trained on these patches alone, and on {num_real:,} real patches, for as many steps, and tested on
real test patients.

{tables.as_markdown(tables.utility(audit))}
{tuning_text}"""


def croissant(identity: Identity, table: pd.DataFrame, table_path: Path, date: str) -> dict[str, Any]:
    """Return the data set's description in the Croissant format 1.0 of MLCommons (JSON-LD)."""
    fields = [("file", "sc:Text"), ("class", "sc:Text"), ("label", "sc:Integer"), ("sha256", "sc:Text")]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": identity.name,
        "description": f"{len(table):,} synthetic patches of stained breast tissue, made by a GAN. {USE}",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": identity.license_name,
        "citeAs": f"{identity.creator}: {identity.name}, {date}.",
        "creator": {"@type": "sc:Organization", "name": identity.creator},
        "datePublished": date,
        "version": "1.0.0",
        "url": "./",
        "distribution": [
            {
                "@type": "cr:FileObject", "@id": "table", "name": TABLE, "contentUrl": TABLE,
                "encodingFormat": "text/csv", "sha256": runs.hash_file(table_path),
            },
            {
                "@type": "cr:FileSet", "@id": "images", "name": "images", "encodingFormat": "image/png",
                "includes": "images/*/*.png",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet", "@id": "patches", "name": "patches",
                "field": [
                    {
                        "@type": "cr:Field", "@id": f"patches/{name}", "name": name, "dataType": kind,
                        "source": {"fileObject": {"@id": "table"}, "extract": {"column": name}},
                    }
                    for name, kind in fields
                ],
            }
        ],
    }  # fmt: skip


# The names that Croissant 1.0 uses.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {
    name: f"cr:{name}"
    for name in (
        "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format",
        "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
        "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )
}  # fmt: skip
