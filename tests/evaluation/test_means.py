"""Means over images and ranks, against pandas."""

import numpy as np
import pandas as pd
import pytest
import torch

from linf.evaluation.means import TableMeans

ROWS, COLUMNS = 3, 4


def figures_of_images(images: int) -> pd.DataFrame:
    """Figures such as PSNR of some images: in each row a few are infinite, and a few are not a number."""
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.uniform(20, 40, (images * ROWS, COLUMNS)))
    table = table.mask(generator.random(table.shape) < 0.1).assign(row=np.arange(len(table)) % ROWS)
    table.loc[table["row"] == 1, 3] = np.nan
    table.loc[5, 0] = np.inf
    return table


def counted(table: pd.DataFrame) -> TableMeans:
    means = TableMeans(ROWS, COLUMNS)
    for line in table.to_numpy():
        means.update(int(line[-1]), torch.from_numpy(line[:-1]))
    return means


@pytest.mark.parametrize("split", [0, 7, 300])
def test_means_over_ranks_are_those_of_pandas(split: int) -> None:
    table = figures_of_images(100)
    means = counted(table[:split])
    means.merge_state(counted(table[split:]))
    images, found = means.compute()
    assert images.tolist() == [100] * ROWS
    expected = table.groupby("row").mean().to_numpy()
    assert np.isnan(expected[1, 3])
    assert np.isinf(expected[2, 0])
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric TableMeans was called before")
def test_without_images_there_is_no_mean() -> None:
    images, found = TableMeans(2, 2).compute()
    assert images.tolist() == [0, 0]
    assert found.isnan().all()
