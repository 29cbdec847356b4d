"""The model of the device against the figures that the M3ViT paper printed (its Table 4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgemtl.backends.fpga.design import Design, design_for, memories, resources, weight_half
from edgemtl.backends.fpga.device import FpgaOptions, MoeSchedule
from edgemtl.backends.fpga.encoder import Encoder
from edgemtl.backends.fpga.moe import expected_misses, run_experts, simulated_misses
from edgemtl.backends.fpga.placement import on_chip, outside_bytes
from edgemtl.backends.fpga.plan import Plan, make_plan
from edgemtl.backends.fpga.sweep import choose, plans
from edgemtl.backends.fpga.work import Array, Work
from edgemtl.errors import StageFailed

BOARD = FpgaOptions(dsp=1728, bram36=312, uram=96)
#: 12 heads of 128 lanes
PAPER_ARRAY = Array(12, 128)
TOKENS = {"pascal": 1025, "nyud": 1201}
WITHIN = 0.01
MIB = 2**20

#: row -> experts, schedule, memory MiB, then per data set latency in ms and energy in W.s
TABLE_4: dict[str, tuple[bool, MoeSchedule, float, dict[str, tuple[float, float]]]] = {
    "dense": (
        False,
        "reordered",
        4.828,
        {"pascal": (68.931, 0.689), "nyud": (84.418, 0.844)},
    ),
    "cached": (
        True,
        "cached",
        4.840,
        {"pascal": (637.478, 6.375), "nyud": (750.557, 7.506)},
    ),
    "reordered": (
        True,
        "reordered",
        4.840,
        {"pascal": (69.033, 0.690), "nyud": (84.538, 0.845)},
    ),
}
#: GPU rows: parameters and buffers of the encoder, 2 bytes each -> MiB; ms -> W.s at 295 W
GPU_ROWS = {
    "ResNet-18": (11_186_112, 21.336, {3.489: 1.029}),
    "ResNet-50": (23_561_152, 44.939, {7.270: 2.145}),
    "ViT-small": (22_050_432, 42.058, {10.381: 3.062, 7.110: 2.097}),
    "MoE": (43_383_168, 82.747, {25.239: 7.446, 27.760: 8.189}),
}
GPU_WATT = 295.0


def encoder(data: str, experts: bool = True) -> Encoder:
    moe = (16, 4, 384) if experts else (0, 0, 0)
    return Encoder(384, 12, 12, 1536, TOKENS[data], max(TOKENS.values()), *moe)


def paper_plan(data: str, experts: bool, schedule: MoeSchedule) -> Plan:
    works = encoder(data, experts).works()
    board = BOARD.model_copy(update={"moe_schedule": schedule})
    design = Design(PAPER_ARRAY, "ping-pong", weight_half(works, PAPER_ARRAY, 2), None, 0, 2)
    return make_plan(works, design, board)


@pytest.mark.parametrize("row", TABLE_4)
@pytest.mark.parametrize("data", TOKENS)
def test_latency_and_energy_of_table_4(row: str, data: str) -> None:
    experts, schedule, _, golden = TABLE_4[row]
    latency, energy = golden[data]
    plan = paper_plan(data, experts, schedule)
    assert plan.latency_ms == pytest.approx(latency, rel=WITHIN)
    assert plan.energy_j == pytest.approx(energy, rel=WITHIN)


@pytest.mark.parametrize("row", TABLE_4)
def test_memory_of_table_4(row: str) -> None:
    experts, schedule, memory, _ = TABLE_4[row]
    found = encoder("nyud", experts).memory_bytes(schedule) / MIB
    assert found == pytest.approx(memory, rel=WITHIN)


def test_resident_memory_is_the_paper_s_baseline() -> None:
    network = encoder("nyud")
    naive = network.memory_bytes("resident")
    assert naive / MIB == pytest.approx(11.610, rel=WITHIN)
    assert naive / network.memory_bytes("reordered") == pytest.approx(2.40, rel=WITHIN)


@pytest.mark.parametrize("row", GPU_ROWS)
def test_gpu_rows_are_two_bytes_a_parameter_and_295_watt(row: str) -> None:
    parameters, memory, energies = GPU_ROWS[row]
    assert 2 * parameters / MIB == pytest.approx(memory, rel=WITHIN)
    for latency_ms, energy in energies.items():
        assert latency_ms * GPU_WATT / 1e3 == pytest.approx(energy, rel=WITHIN)


@pytest.mark.parametrize(("data", "ratio"), [("pascal", 9.23), ("nyud", 8.88)])
def test_reordering_is_as_much_faster_as_the_paper_says(data: str, ratio: float) -> None:
    cached, reordered = (paper_plan(data, True, s) for s in ("cached", "reordered"))
    assert cached.latency_ms / reordered.latency_ms == pytest.approx(ratio, rel=WITHIN)


@pytest.mark.parametrize(("data", "more_ms"), [("pascal", 0.102), ("nyud", 0.120)])
def test_experts_cost_five_cycles_per_token_and_layer(data: str, more_ms: float) -> None:
    dense = paper_plan(data, False, "reordered")
    mixture = paper_plan(data, True, "reordered")
    # Two launches of the dense MLP against a gate and experts: the fill of one more layer.
    assert mixture.latency_ms - dense.latency_ms == pytest.approx(more_ms, abs=1e-3)


def test_the_paper_s_sizes_follow_from_the_shapes() -> None:
    network = encoder("nyud")
    assert network.expert_bytes == 591_360
    assert network.gate_bytes == 12_288
    works = encoder("pascal").works()
    assert sum(work.macs for work in works) / 1e9 == pytest.approx(31.79, rel=0.002)
    assert sum(w.macs for w in network.works()) / 1e9 == pytest.approx(39.19, rel=0.002)
    experts = [work for work in works if work.kind == "experts"]
    assert len(experts) == 6
    # 0.64 us per token and expert at 300 MHz
    assert experts[0].token_cycles(PAPER_ARRAY) == 192


def test_an_expert_queue_that_is_too_short_stalls() -> None:
    work = next(w for w in encoder("nyud").works() if w.kind == "experts")
    chosen = np.zeros((work.positions, 4), np.int64)
    chosen[:, 0] = np.arange(work.positions) % 2  # experts 0 and 1: half of the tokens each
    chosen[:, 1:] = [2, 3, 4]
    chosen[0, 3] = 15  # a single token
    chosen[1, 3] = 14
    run = run_experts(work, PAPER_ARRAY, BOARD.bytes_per_cycle, "reordered", chosen)
    load, one = work.weight_bytes / 16 / BOARD.bytes_per_cycle, 192
    # Expert 14 has one token, and expert 15 waits for its weights meanwhile.
    assert run.stalls == ((15, pytest.approx(load - one)),)
    assert run.loads == 7
    assert run.memory_bytes * 8 == work.weight_bytes


def test_even_routing_hides_every_load() -> None:
    work = next(w for w in encoder("pascal").works() if w.kind == "experts")
    run = run_experts(work, PAPER_ARRAY, BOARD.bytes_per_cycle, "reordered")
    assert run.stall_cycles == 0
    assert run.loads == 16


def test_the_closed_form_of_cache_misses_agrees_with_a_simulation() -> None:
    work = next(w for w in encoder("nyud").works() if w.kind == "experts")
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((work.positions, 16)), axis=1)[:, :4]
    hits_first = simulated_misses(chosen.tolist(), 4, "hits-first") / work.positions
    strict = simulated_misses(chosen.tolist(), 4, "lru") / work.positions
    assert expected_misses(work, 4) / work.positions == 3.0
    assert hits_first == pytest.approx(3.0, rel=0.02)
    assert strict == pytest.approx(3.32, rel=0.02)
    assert simulated_misses(chosen.tolist(), 16, "lru") == 16


def conv(name: str, source: str, outputs: int, reduction: int = 16, side: int = 8) -> Work:
    size = side * side
    return Work(
        name,
        "conv",
        size,
        reduction,
        outputs,
        9,
        (source,),
        name,
        (size * reduction,),
        size * outputs,
        9 * reduction * outputs,
    )


def test_cycles_count_whole_steps_of_the_array() -> None:
    full, ragged = conv("a", "x", 32), replace(conv("b", "x", 33), reduction=17)
    array = Array(16, 16)
    assert full.cycles(array) * array.macs_per_cycle == full.macs
    assert ragged.cycles(array) == 64 * 9 * 2 * 3
    depthwise = Work("d", "depthwise", 64, 1, 32, 9)
    assert depthwise.cycles(array) == 64 * 2
    assert depthwise.cycles(Array(16, 8)) == 64 * 2 * 2
    assert depthwise.macs == 64 * 9 * 32


def test_ping_pong_hides_what_a_single_buffer_waits_for() -> None:
    works = [conv("a", "x", 64), conv("b", "a", 64, 64), conv("c", "b", 64, 64)]
    array = Array(16, 16)
    cycles = {}
    for buffer in ("single", "ping-pong", "resident"):
        design = design_for(works, BOARD, array, buffer, 1 << 20)
        cycles[buffer] = make_plan(works, design, BOARD).cycles
    alone = sum(work.cycles(array) + 32 for work in works)
    weights = sum(work.weight_bytes for work in works) / BOARD.bytes_per_cycle
    assert cycles["resident"] == alone
    assert cycles["single"] == pytest.approx(alone + weights)
    first = works[0].weight_bytes / 4 / BOARD.bytes_per_cycle  # nothing to compute yet
    assert cycles["ping-pong"] == pytest.approx(alone + first)


def test_slow_memory_makes_layers_wait_for_weights() -> None:
    works = [conv("a", "x", 64), conv("b", "a", 64, 64, 1)]
    slow = BOARD.model_copy(update={"ddr_gb_per_s": 0.3})
    design = design_for(works, slow, Array(16, 16), "ping-pong", 1 << 20)
    plan = make_plan(works, design, slow)
    assert plan.layers[1].bound_by == "weights"
    assert plan.layers[1].stall_cycles > 0
    assert plan.ddr_bytes == sum(w.weight_bytes for w in works) + 64 * 16 + 64


def test_activations_that_do_not_fit_go_out_and_come_back() -> None:
    # a is read by b and by d, so three tensors live at once while c is computed.
    size = 64 * 16
    works = [conv(n, s, 16) for n, s in (("a", "x"), ("b", "a"), ("c", "b"))]
    last = replace(conv("d", "c", 16), inputs=("c", "a"), input_bytes=(size, size))
    works.append(last)
    assert outside_bytes(works, None) == [size, 0, 0, size]  # the picture, the result
    assert outside_bytes(works, 3 * size) == [size, 0, 0, size]
    assert outside_bytes(works, 2 * size) == [size, 0, size, 2 * size]
    assert sum(outside_bytes(works, 0)) == 9 * size  # everything, every time
    assert on_chip(works, 2 * size) == {"a": 0, "b": size}
    assert on_chip(works, 2 * size, outside={"a"}) == {"b": 0, "c": size}


def test_memories_count_port_widths() -> None:
    design = Design(Array(16, 16), "ping-pong", 256 * 100, 64 * 1024)
    weights, activations = memories(design)
    # 2048 bits a cycle are 29 ports of 72 bits; 200 words need one block each.
    assert (weights.bram36, weights.uram) == (29, 29)
    assert weights.size_bytes == 2 * 256 * 100
    assert (activations.bram36, activations.uram) == (2 * 8, 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rows": 64, "columns": 64}, "DSP"),
        ({"rows": 16, "columns": 16, "activation_buffer_kib": 64 * 1024}, "BRAM and URAM"),
        ({"rows": 16, "columns": 16, "weight_buffer_kib": 1}, "weight buffer"),
    ],
)
def test_a_design_that_does_not_fit_is_refused_by_its_resource(
    change: dict[str, int], named: str
) -> None:
    works = [conv("a", "x", 64, 64)]
    with pytest.raises(StageFailed, match=f"the design does not fit: {named}"):
        choose(works, BOARD.model_copy(update=change))


def test_a_board_without_ultra_ram_is_refused_by_its_block_ram() -> None:
    board = FpgaOptions(dsp=2520, bram36=10, uram=0, rows=32, columns=32)
    with pytest.raises(StageFailed, match="the design does not fit: BRAM: the weight buffer"):
        choose([conv("a", "x", 64, 64)], board)


def test_the_chosen_design_fits_and_none_that_fits_is_much_faster() -> None:
    works = [conv("a", "x", 64, 64, 40), conv("b", "a", 64, 64, 40)]
    taken, points = choose(works, BOARD)
    assert taken.resources.fits
    assert resources(taken.design, BOARD) == taken.resources
    fitting = [p for p in points if not p.refused]
    assert len(points) == len(list(plans(works, BOARD))) > len(fitting) > 0
    assert taken.latency_ms <= 1.01 * min(p.latency_ms for p in fitting)
    assert any(p.refused and p.latency_ms < taken.latency_ms for p in points)


def test_a_plan_says_that_it_is_modelled() -> None:
    taken, points = choose([conv("a", "x", 64)], BOARD)
    data = taken.to_dict()
    assert data["kind"] == points[0].to_dict()["kind"] == "modelled"
    assert sum(row["cycles"] for row in data["layers"]) == pytest.approx(data["cycles"])
