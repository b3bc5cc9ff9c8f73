"""Every metric in one evaluation: all images together, and the same however it was shared out and interrupted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from torchmetrics.image.kid import poly_mmd

from helpers.commands import Command, finish
from helpers.evaluations import evaluation_settings, kill_between_images
from helpers.networks import write_network
from linf.errors import UsageError
from linf.evaluation.corpora import Corpora
from linf.images.read import read_image
from linf.metrics.corpus import FID, PatchFeatures, frechet_distance


@pytest.mark.slow
def test_fid_and_kid_are_of_all_images_and_survive_a_resume(
    command: Command, checkpoint: Path, photos: Path, inception: Path, tmp_path: Path
) -> None:
    given = evaluation_settings(
        checkpoint, photos, "metrics=fidelity", "data.test_scales=[2]", "temperatures=[0]"
    )
    for name in ("fid", "kid"):
        target = f"linf.metrics.corpus.{name.upper()}"
        given.append(f"+metrics.{name}={{_target_:{target},_partial_:true,patch:40,weights:{inception}}}")
    given += ["save_images=true", "callbacks.publish=null", f"hydra.run.dir={tmp_path}"]
    done = command("eval", *given)
    assert done.status == 0, done.err
    before = (tmp_path / "metrics.csv").read_bytes()
    table = pd.read_csv(tmp_path / "metrics.csv").set_index("system")
    assert f"FID on {photos.name} at ×2 is of 2 patches, too few" in done.out
    network, features = PatchFeatures(40, inception), {}
    for name in ("bicubic", "τ=0", "HR"):
        places = [tmp_path / "images" / photos.name / "x2" / path.stem for path in sorted(photos.iterdir())]
        seen = [torch.from_numpy(read_image(place / f"{name}.png")) for place in places]
        features[name] = torch.cat([network(image.permute(2, 0, 1)[None] / 255) for image in seen])
    for name in ("bicubic", "τ=0"):
        expected = frechet_distance(features[name], features["HR"])
        assert table.loc[name, "fid"] == pytest.approx(expected, rel=1e-3)
        mmd = poly_mmd(features["HR"].double(), features[name].double()).item()
        assert table.loc[name, "kid"] == pytest.approx(mmd, rel=1e-3)
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["metrics"][-2:] == ["fid", "kid"]
    assert "patches of 40×40 pixels" in about["conventions"]["fid"]
    assert "fid" not in pd.read_csv(tmp_path / "images.csv")

    files = sorted((tmp_path / "features").rglob("*.safetensors"))
    assert len(files) == 2, "FID and KID share them"
    files[0].unlink()
    done = command("eval", *given)
    assert done.status == 0, done.err
    assert "1 of 2 images, counting each scale, are finished" in done.out
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_features_that_cannot_be_read_or_written_are_told(inception: Path, tmp_path: Path) -> None:
    metrics, key = {"fid": FID(40, inception)}, ("set", "image", 2)
    corpora, features = Corpora(tmp_path, metrics), {"inception_40": {"HR": torch.zeros(1, 2048)}}
    assert not corpora.has(key)
    corpora.keep(key, features)
    assert corpora.has(key)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match="delete it, and the same command measures its image again"):
        corpora.sentences([key])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "features").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write to"):
        Corpora(tmp_path / "full", metrics).keep(key, features)


# Every metric


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Details that are as large as NIQE's two blocks."""
    folder = tmp_path_factory.mktemp("larger")
    for name, top in (("face", 0), ("suit", 250)):
        Image.fromarray(astronaut()[top : top + 112, 150:360]).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def every_metric(
    alexnet: Path,
    inception: Path,
    fetched: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """The settings of all metrics, with made-up weights but for those of NIQE."""
    vgg = write_network(tmp_path_factory.mktemp("vgg") / "vgg16.pth")
    files = dict.fromkeys(("lpips_alex", "ntire_diversity"), alexnet)
    files |= dict.fromkeys(("lpips_vgg", "dists"), vgg) | dict.fromkeys(("fid", "kid"), inception)
    files["niqe"] = fetched("niqe")
    small = ["metrics.fid.patch=96", "metrics.kid.patch=96", "samples=2"]
    one = ["data.test_scales=[2]", "temperatures=[0.8]", "callbacks.publish=null"]
    return ["metrics=all", *(f"metrics.{name}.weights={file}" for name, file in files.items()), *small, *one]


OF_IMAGES = (
    *("psnr_y", "psnr_rgb", "ssim", "lr_psnr", "nonfinite", "lpips_alex", "diversity", "detail"),
    *("lpips_vgg", "dists", "niqe", "self_ssim", "ntire_diversity"),
)


@pytest.mark.slow
def test_every_metric_is_the_same_on_two_ranks_and_after_a_kill(
    command: Command, checkpoint: Path, larger: Path, every_metric: list[str], tmp_path: Path
) -> None:
    given = evaluation_settings(checkpoint, larger, *every_metric)
    whole, killed, two = (tmp_path / name for name in ("whole", "killed", "two"))
    assert command("eval", *given, f"hydra.run.dir={whole}").status == 0
    # Costs are times.
    tables = {path.name: pd.read_csv(path) for path in whole.glob("*.csv") if path.name != "cost.csv"}
    assert {"metrics.csv", "images.csv", "deviations.csv", "distribution.csv", "calibration.csv"} <= set(
        tables
    )
    for name, metrics in (("images", OF_IMAGES), ("metrics", (*OF_IMAGES, "fid", "kid"))):
        assert np.isfinite(tables[f"{name}.csv"][list(metrics)]).all(axis=None)
    spread = tables["deviations.csv"]
    assert (spread[["psnr_y", "lpips_alex", "dists", "niqe", "self_ssim"]] > 0).all(axis=None)

    kill_between_images(killed, *given, f"hydra.run.dir={killed}", cwd=tmp_path)
    done = command("eval", *given, f"hydra.run.dir={killed}")
    assert done.status == 0, done.err
    assert "1 of 2 images, counting each scale, are finished in" in done.out
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"hydra.run.dir={two}"]
    done = finish(*given, *ranks, cwd=tmp_path, script="eval")
    assert done.status == 0, done.err
    assert len(list((two / "units").iterdir())) == 2
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(killed / name), table, rtol=0, atol=1e-9)
        pd.testing.assert_frame_equal(pd.read_csv(two / name), table, rtol=1e-6, atol=1e-6)
