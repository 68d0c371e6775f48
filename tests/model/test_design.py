"""The products of a design, and what `Objective` promises of them."""

import math

import pytest
import torch

from lr_lightning.model import threads
from lr_lightning.model.design import Dense, as_design
from lr_lightning.model.losses import Outcomes
from lr_lightning.model.objective import logistic_hessian, logistic_loss
from lr_lightning.model.rows import Rows

SIZES = [(1, 1), (7, 3), (1000, 28), (70_000, 40), (300, 3000)]


def numbers(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found, expected, dtype, terms=1):
    tolerance = terms * (1e-13 if dtype == torch.float64 else 1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vectors", [None, 3])
def test_products_with_vectors(n, d, dtype, vectors):
    x, shape = numbers(n, d, dtype=dtype), () if vectors is None else (vectors,)
    w, r = numbers(d, *shape, seed=1), numbers(n, *shape, seed=2)
    design = as_design(x)
    for product_dtype in (torch.float64, torch.float32):
        z = design.matvec(w.to(product_dtype))
        assert z.dtype == product_dtype
        close(z, x.double() @ w.to(product_dtype).double(), product_dtype, terms=10)
        total = design.rmatvec(r.to(product_dtype))
        assert total.dtype == torch.float64
        close(total, x.double().T @ r.to(product_dtype).double(), product_dtype, terms=10)


def test_a_last_block_of_whole_groups_of_terms():
    """For which torch warned that it made an output smaller."""
    x, r = numbers(18_432 + 32 * 512, 28, dtype=torch.float32), numbers(18_432 + 32 * 512, seed=2, dtype=torch.float32)
    close(as_design(x).rmatvec(r), x.double().T @ r.double(), torch.float32)


@pytest.mark.parametrize("shift", [numbers(()), numbers(40_000, seed=3)], ids=["bias", "offset"])
def test_what_is_added_to_a_product(shift):
    x, w = numbers(40_000, 20), numbers(20, seed=1)
    close(as_design(x).matvec(w, shift), x @ w + shift, torch.float64, terms=10)


@pytest.mark.parametrize(("n", "d"), [(7, 3), (1000, 28), (50_000, 40), (300, 400)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("intercept", [False, True])
def test_sandwich(n, d, dtype, intercept):
    x, v = numbers(n, d, dtype=dtype), numbers(n, seed=1).abs().to(dtype)
    columns = torch.tensor([2, 0])
    for chosen, of_columns in ((x, None), (x[:, columns], columns)):
        full = torch.cat([chosen.double(), torch.ones(n, 1, dtype=torch.float64)], 1) if intercept else chosen.double()
        found = as_design(x).sandwich(v, of_columns, intercept=intercept)
        close(found, full.T @ (full * v.double()[:, None]), dtype, terms=10)
        close(as_design(chosen).square_sums(v), found.diagonal()[: chosen.shape[1]], dtype, terms=20)
        assert torch.equal(found, found.T)


def test_an_offset_is_added_to_the_logits():
    x, w, offset = numbers(500, 4), numbers(4, seed=1), numbers(500, seed=2)
    y, v, bias = (numbers(500, seed=3) > 0).double(), numbers(500, seed=4).abs(), torch.tensor(0.3, dtype=torch.float64)
    parameters = [w.requires_grad_(), bias.requires_grad_()]
    with_column = torch.cat([x, offset[:, None]], 1)  # an offset is a column whose coefficient is 1
    expected = logistic_loss(with_column, y, torch.cat([w, torch.ones(1)]), bias, v)
    found = logistic_loss(x, y, w, bias, v, offset)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    gradients = [torch.autograd.grad(value, parameters) for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    hessian = logistic_hessian(with_column, torch.cat([w, torch.ones(1)]), bias, v)
    rest = torch.tensor([0, 1, 2, 3, 5])
    torch.testing.assert_close(logistic_hessian(x, w, bias, v, offset), hessian[rest][:, rest], rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_table_laid_out_for_many_products_gives_the_same(weighted, offset, dtype):
    x = as_design(numbers(500, 7))
    small = x.for_many_products()
    assert type(small) is not type(x)
    y, w, bias = (numbers(500, seed=1) > 0).to(dtype), numbers(7, seed=2), numbers((), seed=3)
    v = numbers(500, seed=4).abs().to(dtype) if weighted else None
    o = numbers(500, seed=5).to(dtype) if offset else None
    before = [None if t is None else t.clone() for t in (y, w, bias, v, o)]
    for shift in (None, bias):
        for found, expected in zip(
            *(design.value_and_gradient(Outcomes(y, v, o), w, shift) for design in (small, x)), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    products = ([design.matvec(w, bias), design.rmatvec(y.double())] for design in (small, x))
    for found, expected in zip(*products, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for intercept in (False, True):
        found, expected = (design.sandwich(y.double(), intercept=intercept) for design in (small, x))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip((y, w, bias, v, o), before, strict=True))


@pytest.mark.parametrize("n", [50_001, 9])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_about_a_pivot(weighted, n):
    x, pivot = numbers(n, 7) + 100, torch.full((7,), 100.0, dtype=torch.float64)
    v = numbers(len(x), seed=1).abs() if weighted else None
    centred = (x - pivot) * (1 if v is None else v[:, None])
    expected = torch.stack([centred.sum(0), (centred * (x - pivot)).sum(0)])
    torch.testing.assert_close(as_design(x).sums_about(pivot, v), expected, rtol=1e-10, atol=1e-8)


# ---- what Objective promises ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")  # which gives them back
def test_no_result_depends_on_the_number_of_workers(monkeypatch):
    """The invariant: every block of rows leaves sums of its own."""
    x, v = numbers(200_000, 16, dtype=torch.float32), numbers(200_000, seed=1).abs().float()
    y, w = (numbers(200_000, seed=2) > 0).float(), numbers(16, seed=3)
    design = as_design(x)

    def results():
        yield from design.value_and_gradient(Outcomes(y, v), w)
        yield from (design.matvec(w.float()), design.matvec(w), design.rmatvec(v), design.rmatvec(v.double()))
        yield from (design.sandwich(v, intercept=True), design.sums_about(w, v.double()), design.sums_about(w, None))

    monkeypatch.setattr(threads, "_MAX_WORKERS", 4)
    torch.set_num_threads(4)
    several = list(results())
    monkeypatch.setattr(threads, "_MAX_WORKERS", 1)
    assert all(torch.equal(a, b) for a, b in zip(several, results(), strict=True))


def test_residuals_of_well_predicted_rows_keep_their_digits():
    """The invariant: s·σ(s z), with s = 1 − 2y; σ(z) − y would be 0 in float32 from z = 17 on."""
    x, y = torch.full((600_000, 1), 20.0), torch.ones(600_000)
    _, gradient, residual = Dense(x).value_and_gradient(Outcomes(y), torch.ones(1, dtype=torch.float64))
    expected = -600_000 / (1 + math.exp(20.0))
    assert residual.item() == pytest.approx(expected, rel=1e-5)
    assert gradient.item() == pytest.approx(20 * expected, rel=1e-5)


def test_sums_of_float32_have_few_terms(monkeypatch):
    """The invariant: 512 in a gradient, 4096 in a Hessian; in longer ones of equal terms the last are rounded away."""
    n = 2**21
    ones, v = torch.ones(n, 1), torch.full((n,), 0.1)
    exact = n * float(v[0])
    assert Dense(ones).rmatvec(v).item() == pytest.approx(exact, rel=2e-5)
    assert Dense(ones).sandwich(v).item() == pytest.approx(exact, rel=1.2e-4)
    assert Dense(ones).square_sums(v).item() == pytest.approx(exact, rel=1.2e-4)
    # The products that are summed in float32, and how many terms each has.
    terms = []
    for name, of in (("bmm", lambda a, b: a.shape[2]), ("mv", lambda a, b: a.shape[1])):
        product = getattr(torch, name)

        def counted(a, b, *, product=product, of=of, **options):
            terms.append(of(a, b))
            return product(a, b, **options)

        monkeypatch.setattr(torch, name, counted)
    x = numbers(60_000, 20, dtype=torch.float32)
    Dense(x).value_and_gradient(Outcomes(torch.ones(len(x))), numbers(20))
    assert terms
    assert max(terms) <= 512
    for of_hessian in (Dense(x).sandwich, Dense(x).square_sums):
        terms.clear()
        of_hessian(torch.ones(len(x)))
        assert terms
        assert max(terms) <= 4096


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_rows_of_batches_and_back(parts):
    batch = (numbers(10, 3), (numbers(10) > 0).double(), numbers(10).abs(), numbers(10, seed=1))[:parts]
    rows = Rows.of_batch(batch)
    assert all(a is b for a, b in zip(rows.as_batch(), batch, strict=True))
    part = rows.take(torch.tensor([4, 1]))
    assert all(torch.equal(a, b[[4, 1]]) for a, b in zip(part.as_batch(), batch, strict=True))
    design = rows._replace(x=as_design(rows.x)).take(slice(2, 5))
    assert torch.equal(design.design.dense(), batch[0][2:5])


def test_class_weights_multiply_sample_weights():
    rows = Rows(numbers(4, 1), torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert rows.weighted((1.0, 1.0)) is rows
    assert rows.weighted((2.0, 10.0)).weight.tolist() == [2, 20, 30, 8]
    assert rows._replace(weight=None).weighted((2.0, 10.0)).weight.tolist() == [2, 10, 10, 2]
    assert float(rows.total_weight) == 10
