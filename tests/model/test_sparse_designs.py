"""Storages that leave zeros out, against the same features written out."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lr_lightning.errors import InputError
from lr_lightning.model import swept, threads
from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.csr import Csr
from lr_lightning.model.design import Dense, as_design
from lr_lightning.model.losses import Outcomes
from lr_lightning.model.standardization import moments
from lr_lightning.model.standardized import Standardized

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning"),
]


def numbers(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sparse(n, d, density=0.2, seed=0, dtype=torch.float64):
    kept = torch.rand(n, d, generator=torch.Generator().manual_seed(seed)) < density
    x = torch.where(kept, numbers(n, d, seed=seed), 0.0).to(dtype)
    return Csr.of(sp.csr_array(x.numpy())), x


def categories(n, levels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (n,), generator=generator) for size in levels]).int().T
    one_hot = [torch.nn.functional.one_hot(c.long(), size)[:, 1:] for c, size in zip(codes.T, levels, strict=True)]
    return Categories(codes, levels), torch.cat(one_hot, 1).double()


def side_by_side(n, seed=0):
    """Three storages, their features mixed."""
    generator = torch.Generator().manual_seed(seed)
    parts = [categories(n, [3, 5, 2], seed), sparse(n, 6, seed=seed + 1), (Dense(numbers(n, 3, seed=seed + 2)),) * 2]
    filled = torch.cat([parts[0][1], parts[1][1], parts[2][0].tensor], 1)
    order = torch.randperm(filled.shape[1], generator=generator)
    sizes = [part.shape[1] for part, _ in parts]
    whole = torch.empty_like(filled)
    whole[:, order] = filled
    return Columns([part for part, _ in parts], order.split(sizes)), whole


def standardized(n, seed=0):
    x, filled = side_by_side(n, seed)
    mean, scale = moments([(filled, None)])
    scale = torch.where(scale > 0, scale, 1.0)
    return x.standardized(mean, scale), (filled - mean) / scale


STORAGES = {
    "csr": lambda n, seed=0: sparse(n, 12, seed=seed),
    "dense rows of csr": lambda n, seed=0: sparse(n, 5, 0.9, seed=seed),
    "categories": lambda n, seed=0: categories(n, [4, 1, 7], seed),
    "columns": side_by_side,
    "standardized": standardized,
}


def close(found, expected):
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * (1 + largest))


@pytest.fixture(params=STORAGES)
def storage(request, monkeypatch):
    monkeypatch.setattr(swept, "_BLOCK", 64)  # many blocks
    monkeypatch.setattr(swept, "_BLOCK_OF_SUMS", 0)
    return STORAGES[request.param](203)


def test_products(storage):
    x, filled = storage
    n, d = filled.shape
    assert x.shape == (n, d)
    for shape in ((), (3,)):
        w, r = numbers(d, *shape, seed=1), numbers(n, *shape, seed=2)
        close(x.matvec(w), filled @ w)
        close(x.matvec(w, torch.tensor(0.5)), filled @ w + 0.5)
        close(x.rmatvec(r), filled.T @ r)
        assert x.matvec(w.float()).dtype == torch.float32
    w, offset = numbers(d, seed=1), numbers(n, seed=4)
    close(x.matvec(w, offset), filled @ w + offset)
    close(x.dense(torch.float64), filled)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("fill", [1, 1000])
def test_sandwich(storage, intercept, fill, monkeypatch):
    monkeypatch.setattr(swept, "_WORTH_FILLING", fill)
    x, filled = storage
    v = numbers(len(filled), seed=1).abs()
    for columns in (None, torch.tensor([3, 0, 2])):
        chosen = filled if columns is None else filled[:, columns]
        chosen = torch.nn.functional.pad(chosen, (0, int(intercept)), value=1.0)
        found = x.sandwich(v, columns, intercept=intercept)
        close(found, chosen.T @ (chosen * v[:, None]))
        assert torch.equal(found, found.T)
    close(x.square_sums(v), (filled.square() * v[:, None]).sum(0))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("y_dtype", [torch.float32, torch.float64])
def test_value_and_gradient(storage, weighted, y_dtype):
    x, filled = storage
    n, d = filled.shape
    y, w, b = (
        torch.rand(n, generator=torch.Generator().manual_seed(3)).to(y_dtype),
        numbers(d, seed=1),
        numbers((), seed=5),
    )
    v, offset = (numbers(n, seed=6).abs(), numbers(n, seed=7)) if weighted else (None, None)
    z, v_or_ones = filled @ w + b + (0 if offset is None else offset), torch.ones(n).double() if v is None else v
    r = v_or_ones * (torch.sigmoid(z) - y.double())
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y.double(), v_or_ones, reduction="sum")
    expected = loss, filled.T @ r, r.sum()
    for found, of_filled in zip(x.value_and_gradient(Outcomes(y, v, offset), w, b), expected, strict=True):
        close(found, of_filled)
    close(x.value_and_gradient(Outcomes(y, v, offset), w, b, with_gradient=False)[0], expected[0])


def test_statistics(storage):
    x, filled = storage
    n, d = filled.shape
    v, pivot = numbers(n, seed=1).abs(), numbers(d, seed=2)
    close(x.sums_about(pivot, v), Dense(filled).sums_about(pivot, v))
    close(x.sums_about(pivot, None), Dense(filled).sums_about(pivot, None))
    used = torch.rand(n) < 0.1
    close(x.bounds(), torch.stack([filled.amin(0), filled.amax(0)]))
    close(x.bounds(used), torch.stack([filled[used].amin(0), filled[used].amax(0)]))
    center, scale = numbers(d, seed=3), numbers(d, seed=4).abs() + 0.5
    close(x.square_norms(center, scale), ((filled - center) / scale).square().sum(1))
    close(x.square_norms(None, scale), (filled / scale).square().sum(1))
    close(x.gram(scale), (filled * scale) @ (filled * scale).T)
    for weight in (None, v):
        for found, of_filled in zip(moments([(x, weight)]), moments([(filled, weight)]), strict=True):
            close(found, of_filled)


def test_rows_and_columns(storage):
    x, filled = storage
    n, d = filled.shape
    rows, columns = torch.tensor([5, 5, 0, n - 1]), torch.tensor([4, 1, 3])
    for index in (rows, slice(3, 50), slice(None, None, 7), slice(n, None), torch.arange(n) % 3 == 0):
        close(x.take(index).dense(torch.float64), filled[index])
    close(x.columns(columns).dense(torch.float64), filled[:, columns])
    close(x.columns(columns).take(rows).matvec(numbers(3)), filled[rows][:, columns] @ numbers(3))
    center, scale = numbers(d, seed=3), numbers(d, seed=4).abs() + 0.5
    close(x.standardized(center, scale, rows).dense(), (filled[rows] - center) / scale)
    close(x.standardized(None, scale).dense(), filled / scale)
    assert x.to("cpu").shape == x.astype(torch.float64).shape == x.for_many_products().shape == (n, d)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_tables(data):
    """Of any shape: codes against one-hot, CSR against dense."""
    n, seed = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 2**16))
    levels = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    d = data.draw(st.integers(1, 6))
    codes, one_hot = categories(n, levels, seed)
    csr, filled = sparse(n, d, data.draw(st.sampled_from([0.0, 0.3, 1.0])), seed)
    x, filled = Columns([csr, codes]), torch.cat([filled, one_hot], 1)
    x, scale = x.standardized(numbers(filled.shape[1]), None), numbers(filled.shape[1], seed=9).abs() + 0.1
    filled = filled - numbers(filled.shape[1])
    y, w, v = (numbers(n, seed=seed) > 0).double(), numbers(filled.shape[1], seed=1), numbers(n, seed=2).abs()
    expected = Dense(filled).value_and_gradient(Outcomes(y, v), w)
    for found, of_filled in zip(x.value_and_gradient(Outcomes(y, v), w), expected, strict=True):
        close(found, of_filled)
    close(x.sandwich(v, intercept=True), Dense(filled).sandwich(v, intercept=True))
    close(x.square_norms(w, scale), Dense(filled).square_norms(w, scale))
    close(x.gram(scale), Dense(filled).gram(scale))
    rows = torch.from_numpy(np.random.default_rng(seed).integers(0, n, 5))
    close(x.take(rows).dense(), filled[rows])


def test_no_result_depends_on_the_number_of_workers(monkeypatch):
    monkeypatch.setattr(swept, "_BLOCK", 2**12)
    monkeypatch.setattr(threads, "_ELEMENTS_PER_WORKER", 2**12)
    x, filled = side_by_side(20_000)
    n, d = filled.shape
    y, v, w = (numbers(n) > 0).double(), numbers(n, seed=1).abs(), numbers(d, seed=2)

    def results():
        yield from x.value_and_gradient(Outcomes(y, v), w)
        yield from (x.matvec(w), x.rmatvec(v), x.sandwich(v, intercept=True))

    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_MAX_WORKERS", 4)
    torch.set_num_threads(4)
    try:
        several = list(results())
        monkeypatch.setattr(threads, "_MAX_WORKERS", 1)
        assert all(torch.equal(a, b) for a, b in zip(several, results(), strict=True))
    finally:
        torch.set_num_threads(before)


# ---- what becomes a sparse matrix -----------------------------------------------------------------------------------


def csr_tensor(crow, column, values, shape):
    return torch.sparse_csr_tensor(torch.tensor(crow), torch.tensor(column), torch.tensor(values), shape)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("of", ["array", "matrix"])
def test_layouts_of_scipy(kind, of):
    filled = sparse(7, 5)[1].numpy()
    x = getattr(sp, f"{kind}_{of}")(filled)
    close(Csr.of(x).dense(), torch.from_numpy(filled))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.bool_])
def test_dtypes(dtype):
    filled = (sparse(7, 5)[1].numpy() * 3).astype(dtype)
    x = Csr.of(sp.csr_array(filled))
    assert x.dtype == (torch.float32 if dtype == np.float32 else torch.float64)
    assert np.array_equal(x.dense().numpy(), filled.astype(float))
    tensor = torch.from_numpy(filled).to_sparse_csr()
    assert np.array_equal(as_design(tensor).dense().numpy(), filled.astype(float))


def test_csr_is_kept():
    x = sp.csr_array(sparse(7, 5)[1].numpy())
    assert Csr.of(x).value.data_ptr() == x.data.ctypes.data


def test_entries_of_one_place_are_summed():
    x = Csr.of(sp.csr_array(([1.0, 2.0, 4.0], [1, 1, 0], [0, 3]), shape=(1, 2)))
    assert x.dense().tolist() == [[4, 3]]
    x = as_design(csr_tensor([0, 3], [1, 1, 0], [1.0, 2.0, 4.0], (1, 2)))
    assert x.dense().tolist() == [[4, 3]]


def test_zeros_that_are_written_are_zeros():
    x = Csr.of(sp.csr_array(([0.0, 2.0, 3.0], [0, 1, 1], [0, 2, 3]), shape=(2, 2)))
    assert x.bounds().tolist() == [[0, 2], [0, 3]]


def test_wide_indices():
    x = sp.csr_array(sparse(7, 5)[1].numpy())
    wide = sp.csr_array(x.shape)
    wide.data, wide.indices, wide.indptr = x.data, x.indices.astype(np.int64), x.indptr.astype(np.int64)
    assert np.array_equal(Csr.of(wide).dense().numpy(), x.toarray())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0, 1], [-1], [1.0], (1, 2)), "an entry in column -1; columns run from 0 to 1"),
        (([0, 1], [2], [1.0], (1, 2)), "an entry in column 2; columns run from 0 to 1"),
        (([0, 2, 1], [0], [1.0], (2, 2)), "the row pointers of x"),
        (([0, 1], [0], [1j], (1, 2)), "must hold numbers, not torch.complex"),
    ],
)
def test_what_is_no_matrix_of_numbers(parts, message):
    with pytest.raises(InputError, match=message):
        Csr.of(csr_tensor(*parts))


def test_wrong_indices_of_scipy():
    x = sp.csr_array(([1.0], [0], [0, 1]), shape=(1, 2))
    x.indices[0] = 7
    with pytest.raises(InputError, match="an entry in column 7; columns run from 0 to 1"):
        Csr.of(x)


def test_large_means_keep_their_digits():
    """A column that is all there, far from 0: its deviation has the digits that a dense one has."""
    year = 2020 + numbers(5000, 1)
    mean, scale = moments([(Csr.of(sp.csr_array(year.numpy())), None)])
    torch.testing.assert_close(mean, year.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(scale, year.std(0, correction=0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [1.0, 0.1, 7e4])
@pytest.mark.parametrize("seed", range(4))
def test_a_column_without_zeros_is_constant_whatever_the_weights(value, seed):
    x = torch.full((200, 2), value, dtype=torch.float64)
    x[:, 1] += 1e-6 * value * numbers(200, seed=seed)
    weight = numbers(200, seed=seed + 1).abs()
    mean, scale = moments([(Csr.of(sp.csr_array(x.numpy())), weight)])
    deviation = ((weight @ (x[:, 1] - weight @ x[:, 1] / weight.sum()).square()) / weight.sum()).sqrt()
    assert scale[0] == 0
    assert mean[0] == value
    torch.testing.assert_close(scale[1], deviation, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(8))
def test_a_level_that_all_rows_of_some_weight_have_is_constant(seed):
    codes = torch.ones(2000, 1, dtype=torch.int32)
    codes[-50:] = 0
    weight = numbers(2000, seed=seed).abs()
    weight[-50:] = 0
    mean, scale = moments([(Categories(codes, [2]), weight)])
    assert scale.tolist() == [0.0]
    assert mean.tolist() == [1.0]


def test_empty_columns_are_constant():
    x = Csr.of(sp.csr_array(([1.0, 2.0, 2.0], [0, 2, 2], [0, 2, 3]), shape=(2, 4)))
    mean, scale = moments([(x, None)])
    assert mean.tolist() == [0.5, 0, 2, 0]
    assert scale.tolist() == [0.5, 0, 0, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", STORAGES)
def test_the_same_on_a_gpu(name):
    x, filled = STORAGES[name](1003)
    n, d = filled.shape
    y, w, v = (numbers(n) > 0).double(), numbers(d, seed=1), numbers(n, seed=2).abs()
    on_gpu = x.to("cuda")
    assert on_gpu.device.type == "cuda"
    found = on_gpu.value_and_gradient(Outcomes(y.cuda(), v.cuda()), w.cuda())
    for a, b in zip(found, x.value_and_gradient(Outcomes(y, v), w), strict=True):
        close(a.cpu(), b)
    close(on_gpu.sandwich(v.cuda()).cpu(), x.sandwich(v))
    columns, rows = torch.tensor([2, 0]), torch.tensor([7, 3, 3])
    close(on_gpu.columns(columns).take(rows).dense().cpu(), filled[rows][:, columns])
    close(on_gpu.bounds().cpu(), x.bounds())
    close(on_gpu.square_norms(w, None), x.square_norms(w, None))
    close(on_gpu.gram(w), x.gram(w))
    assert isinstance(x, Standardized) == isinstance(on_gpu, Standardized)


class LargestTensor(TorchDispatchMode):
    """Within, notes the most elements that the result of an operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_few_of_many_levels_are_filled_in_without_the_others():
    x, filled = categories(1000, [5000, 3])
    columns = torch.tensor([4000, 17, 5000])
    with LargestTensor() as largest:
        found = x.columns(columns).dense()
    close(found, filled[:, columns])
    assert largest.elements <= 10 * 1000
