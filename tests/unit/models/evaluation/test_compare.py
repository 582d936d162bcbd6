"""Folders of methods' pictures in one table, against the real pictures of the same names."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from core.errors import ConfigurationError
from models.evaluation.compare import Comparison, compare, table
from models.evaluation.published import TASKS
from tests.training import write_balls


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures, and what two methods made of them: blurred a little, and a lot, under another ending."""
    folder = tmp_path_factory.mktemp("compared")
    write_balls(folder / "data")
    for name, radius in (("near", 1), ("far", 5)):
        (folder / name).mkdir()
        for file in (folder / "data").glob("??.png"):
            Image.open(file).filter(ImageFilter.GaussianBlur(radius)).save(folder / name / f"{file.stem}.bmp")
    return folder


def comparison(folder: Path, *methods: str) -> Comparison:
    return Comparison(tuple(folder / m for m in methods), folder / "data", folder, train_steps=4)


def test_the_nearer_method_is_better_by_every_measure_of_pairs(folders: Path) -> None:
    figures = compare(comparison(folders, "near", "far"), "cpu", lambda _: None)
    headers, rows = table(figures)
    assert headers[:4] == ("method", "PSNR (dB)", "SSIM", "perceptual distance")
    assert [row[0] for row in rows] == ["near", "far"]
    near, far = ([float(cell) for cell in row[1:4]] for row in rows)
    assert near[0] > far[0]
    assert near[1] > far[1]
    assert near[2] < far[2]
    assert {f.pictures for f in figures} == {12}


def test_the_real_pictures_themselves_are_perfect(folders: Path) -> None:
    values = {f.name: f.value for f in compare(comparison(folders, "data"), "cpu", lambda _: None)}
    assert values["SSIM"] == 1
    assert values["Fréchet distance"] == pytest.approx(0, abs=1e-4)
    assert (values["precision"], values["recall"]) == (1, 1)


def test_pictures_that_lack_or_differ_in_size_are_named(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "few" / "00.png")
    told = comparison(folders, "near")
    with pytest.raises(ConfigurationError, match=r"few: lacks 11 of 12 pictures, 0\d first"):
        compare(Comparison((folders / "near", tmp_path / "few"), told.data, folders), "cpu", lambda _: None)
    (tmp_path / "large").mkdir()
    for number in range(5):
        Image.new("RGB", (40, 32)).save(tmp_path / "large" / f"{number:02}.png")
    with pytest.raises(ConfigurationError, match="is 40×32; 32×32 is compared"):
        compare(Comparison((tmp_path / "large",), told.data, folders, train_steps=4), "cpu", lambda _: None)
    Image.new("RGB", (32, 32)).save(tmp_path / "other.png")
    with pytest.raises(ConfigurationError, match="none of its pictures has the name"):
        compare(Comparison((tmp_path,), told.data, folders), "cpu", lambda _: None)


def test_too_few_pictures_are_refused_before_a_network_is_trained(folders: Path, tmp_path: Path) -> None:
    told = Comparison((folders / "near",), folders / "data", tmp_path / "out", limit=4, train_steps=4)
    with pytest.raises(ConfigurationError, match="4 pictures are compared with 4; distances need 5"):
        compare(told, "cpu", lambda _: None)
    assert not (tmp_path / "out").exists()


def test_published_rows_name_their_network_and_all_six_methods() -> None:
    told = " ".join(row[0] for published in TASKS.values() for row in published.rows)
    for method in ("SR3", "LaMa", "CoModGAN", "RegionWise", "DeepFill v2", "EdgeConnect"):
        assert method in told
    for published in TASKS.values():
        assert all(len(row) == len(published.columns) for row in published.rows)
        assert any("Inception-v3" in column for column in published.columns)
