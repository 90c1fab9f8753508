"""The fake CUDA device finds what a GPU would refuse, wait for, compute and hold."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.fake_cuda import FakeCuda, can_build_device_guard

pytestmark = pytest.mark.skipif(not can_build_device_guard(), reason="needs a C++ compiler")

GIB = 2**30


@pytest.fixture
def card() -> Iterator[FakeCuda]:
    with FakeCuda() as card, torch.inference_mode():
        card.reset("test")
        yield card


def on_device(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda:0")


def test_tensors_on_the_cpu_have_values_and_those_on_the_device_only_shapes(card: FakeCuda) -> None:
    assert (torch.ones(3) + 1).tolist() == [2.0, 2.0, 2.0]
    product = on_device(4, 8) @ on_device(8, 16)
    assert (product.shape, product.dtype, product.device) == ((4, 16), torch.float16, torch.device("cuda:0"))


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: bool(values.isfinite().all()),
        lambda values: values.cpu(),
        lambda values: values.tolist(),
        lambda values: values.nonzero(),
        lambda values: values[values > 0],
        lambda values: values[[0, 1]],
        lambda values: values.add_(torch.ones(8).to("cuda")),
        lambda values: torch.equal(values, values),
    ],
    ids=["item", "bool", "cpu", "tolist", "nonzero", "boolean index", "list as index", "upload", "equal"],
)
def test_the_host_waits_once_for(card: FakeCuda, wait: Callable[[Tensor], object]) -> None:
    wait(on_device(8, dtype=torch.float32))
    assert card.counts.waits_in("test") == 1, card.counts.describe_waits()


@pytest.mark.parametrize(
    "free",
    [
        lambda values: values.add_(torch.ones(8).to("cuda", non_blocking=True)),
        lambda values: values * torch.tensor(2.0),
        lambda values: values[1:] + values[-1],
        lambda values: torch.where(values > 0, values, 0.0),
    ],
    ids=["upload without blocking", "scalar of the CPU", "slices", "where"],
)
def test_the_host_does_not_wait_for(card: FakeCuda, free: Callable[[Tensor], object]) -> None:
    free(on_device(8, dtype=torch.float32))
    assert card.counts.waits_in("test") == 0, card.counts.describe_waits()


def test_a_wait_names_the_line_of_the_project_that_caused_it(card: FakeCuda) -> None:
    from shared.models.pixels import all_finite

    assert all_finite(on_device(8))
    ((_, wait),) = card.counts.waits
    assert wait.own.startswith("shared/models/pixels.py:")


@pytest.mark.parametrize(
    "mismatch",
    [
        lambda half, single: half @ single,
        lambda half, single: functional.linear(half, single),
        lambda half, single: functional.conv2d(half[None, None], single[None, None]),
        lambda half, single: functional.scaled_dot_product_attention(half[None, None], single[None, None], single[None, None]),
    ],
    ids=["mm", "linear", "convolution", "attention"],
)
def test_operands_of_two_types_are_refused(card: FakeCuda, mismatch: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="one type"):
        mismatch(on_device(8, 8), on_device(8, 8, dtype=torch.float32))


@pytest.mark.parametrize(
    "mismatch",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: functional.layer_norm(there, (8,), here[0]),
        lambda there, here: functional.scaled_dot_product_attention(there[None], here[None], here[None]),
    ],
    ids=["add", "cat", "norm", "attention"],
)
def test_operands_on_two_devices_are_refused(card: FakeCuda, mismatch: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        mismatch(on_device(8, 8), torch.ones(8, 8, dtype=torch.float16))


def test_values_that_the_host_has_sent_are_known_and_so_is_what_follows_from_them(card: FakeCuda) -> None:
    timesteps = torch.arange(900, 0, -100).to("cuda")
    found = (timesteps == timesteps[3]).nonzero()
    assert int(found[0]) == 3
    assert bool(timesteps[0] > 800)
    assert not bool(timesteps[1] > 800)
    assert (timesteps[2:4].float() / 2).tolist() == [350.0, 300.0]
    assert on_device(1).item() == 1.0, "unknown"
    assert card.counts.waits_in("test") == 7


def test_operations_are_counted_by_phase_and_type(card: FakeCuda) -> None:
    functional.linear(on_device(3, 16), on_device(32, 16), on_device(32))
    card.phase = "next"
    values = on_device(2, 4, 10, 8)
    functional.scaled_dot_product_attention(values, values, values)
    assert card.counts.flops == {("test", "float16"): 2 * 3 * 16 * 32, ("next", "float16"): 2 * 2 * 4 * 10 * 10 * 8 * 2}
    assert card.counts.attention == {("next", "flash"): 1}
    assert (card.counts.kernels["test"], card.counts.kernels["next"]) == (1, 1)


def test_memory_is_held_until_the_last_tensor_of_a_storage_is_gone(card: FakeCuda) -> None:
    large = on_device(2**20)
    view = large[10:]
    del large
    assert card.memory.allocated == 2**21
    del view
    gc.collect()
    assert (card.memory.allocated, card.memory.peak) == (0, 2**21)
    assert torch.cuda.mem_get_info() == (48 * GIB, 48 * GIB)


def test_an_enlarged_image_takes_no_memory_but_its_own(card: FakeCuda) -> None:
    image = on_device(1, 8, 64, 64)
    enlarged = functional.interpolate(image, scale_factor=2.0, mode="nearest")
    assert card.memory.peak == image.nbytes + enlarged.nbytes


def test_a_root_mean_square_norm_is_one_kernel(card: FakeCuda) -> None:
    functional.rms_norm(on_device(64, 96), (96,), on_device(96))
    assert card.counts.kernels["test"] == 1


def test_memory_beyond_the_budget_is_refused_as_torch_refuses_it(card: FakeCuda) -> None:
    card.memory.total = 2 * GIB
    held = on_device(GIB // 2)
    with pytest.raises(torch.OutOfMemoryError):
        on_device(GIB)
    assert card.memory.allocated == held.nbytes
    del held
    on_device(GIB)


def test_networks_move_to_the_device_and_back_and_tied_weights_stay_tied(card: FakeCuda) -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    network[1].weight = network[0].weight
    network.to("cuda", torch.float16)
    assert network[1].weight is network[0].weight
    assert card.memory.allocated == 3 * 512, "blocks of 512 bytes: one weight and two biases"
    assert network(on_device(2, 8)).device.type == "cuda"
    network.to("cpu")
    gc.collect()
    assert card.memory.allocated == 0
    assert card.counts.waits_in("test") == 0


def test_torch_is_as_before_afterwards() -> None:
    before = (nn.Module._apply, functional.scaled_dot_product_attention, torch.cuda.mem_get_info)
    with FakeCuda():
        assert functional.scaled_dot_product_attention is not before[1]
    assert (nn.Module._apply, functional.scaled_dot_product_attention, torch.cuda.mem_get_info) == before
    assert not torch.cuda.is_available()
