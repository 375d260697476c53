"""Device and precision for machines that are only described; no torch."""

import sys
from types import SimpleNamespace

import pytest

from adslm_helpers.environment import device as device_module
from adslm_helpers.environment.device import (
    check_preset_fits,
    choose_device,
    configure_mps_environment,
    fitting_presets,
    memory_in_use,
    mps_environment,
    usable_memory,
)
from adslm_helpers.environment.machine import GIB, Probe
from adslm_helpers.errors import RecipeError, SetupError
from adslm_helpers.recipe import DpoRecipe, load_recipe

T4 = Probe("cuda", "Tesla T4", (7, 5), 14.56, torch="2.11.0+cu128", ram_gb=12.7)
V100 = Probe("cuda", "Tesla V100-SXM2-16GB", (7, 0), 15.77, torch="2.11.0", ram_gb=51)
P100 = Probe("cuda", "Tesla P100-PCIE-16GB", (6, 0), 15.9, torch="2.6.0", ram_gb=29)
L4 = Probe("cuda", "NVIDIA L4", (8, 9), 22.03, torch="2.11.0+cu128", ram_gb=53)
A100 = Probe("cuda", "NVIDIA A100-SXM4-40GB", (8, 0), 39.56, torch="2.11.0+cu128", ram_gb=83)
M1 = Probe("mps", "Apple M1", memory_gb=16.0, macos=(14, 5), torch="2.9.0", ram_gb=16.0)
M2 = Probe("mps", "Apple M2", memory_gb=8.0, macos=(15, 1), torch="2.9.0", ram_gb=8.0)
OLD_MAC = Probe("mps", "Apple M1", memory_gb=8.0, macos=(13, 6), torch="2.9.0", ram_gb=8.0)
OLD_TORCH = Probe("mps", "Apple M1", memory_gb=16.0, macos=(14, 5), torch="2.8.0", ram_gb=16.0)
CPU = Probe("cpu", "Intel(R) Xeon(R)", memory_gb=15.6, torch="2.13.0+cpu", ram_gb=15.6)


def numbers(plan):
    return plan.device, plan.dtype, plan.bf16, plan.fp16


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        # T4, V100: float16 AMP; never bfloat16 (emulated, slow) and never float16 weights (Qwen2 overflows to NaN).
        (T4, ("cuda", "float32", False, True)),
        (V100, ("cuda", "float32", False, True)),
        (P100, ("cuda", "float32", False, False)),
        (L4, ("cuda", "bfloat16", True, False)),
        (A100, ("cuda", "bfloat16", True, False)),
        (M1, ("mps", "float32", False, False)),
        (M2, ("mps", "float32", False, False)),
        (CPU, ("cpu", "float32", False, False)),
    ],
    ids=lambda value: value.name if isinstance(value, Probe) else None,
)
def test_precision_table(probe, expected):
    plan = choose_device(DpoRecipe(), probe)
    assert numbers(plan) == expected
    assert plan.reason_ja and plan.reason_en and plan.name == probe.name


def test_t4_preset_computes_4bit_layers_in_float16():
    assert choose_device(load_recipe("colab_t4"), T4).compute_dtype == "float16"
    assert choose_device(load_recipe("colab_l4"), L4).compute_dtype == "bfloat16"
    assert choose_device(load_recipe("cpu"), CPU).compute_dtype == "float32"


def test_mac_takes_bfloat16_only_when_float32_does_not_fit():
    recipe = load_recipe("apple_m1_16gb")
    assert choose_device(recipe, M1, float32_fits=True).dtype == "float32"
    assert choose_device(recipe, M1, float32_fits=False).dtype == "bfloat16"
    assert choose_device(recipe, M1).dtype == "float32"  # nobody counted: the preset's own need decides
    assert choose_device(recipe, M2).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("device", "probe", "usable"),
    [
        ("mps", M2, 5.33),
        ("mps", M1, 10.67),
        ("cuda", T4, 14.06),
        ("cpu", CPU, 14.1),
        ("cpu", Probe("cpu", "x", memory_gb=4), 3.5),
    ],
)
def test_the_system_keeps_its_share_of_the_memory(device, probe, usable):
    assert usable_memory(device, probe) == pytest.approx(usable, abs=0.01)
    assert choose_device(DpoRecipe(), probe).usable_gb == usable_memory(device, probe)


def test_unknown_memory_stays_unknown():
    assert usable_memory("cpu", Probe("cpu", "x")) is None


def test_what_apple_gpus_need_and_others_do_not():
    """Eval batches of 8, pinned memory, fused attention over padding and ever new shapes are what fails on a Mac."""
    mac = choose_device(DpoRecipe(), M1)
    assert (mac.attention, mac.pad_to_multiple_of, mac.pin_memory, mac.num_workers) == ("eager", 64, False, 0)
    assert mac.empty_cache_steps and mac.generation_batch == 16
    assert choose_device(DpoRecipe(), OLD_TORCH).generation_batch == 1  # left-padded batches are right from torch 2.9 on
    for probe in (T4, L4, CPU):
        plan = choose_device(DpoRecipe(), probe)
        assert (plan.attention, plan.pad_to_multiple_of, plan.empty_cache_steps) == ("sdpa", None, None)
        assert plan.pin_memory == (plan.device == "cuda")


def test_mac_without_bfloat16_stays_in_float32_and_says_so():
    plan = choose_device(load_recipe("apple_m1_16gb"), OLD_MAC)
    assert plan.dtype == "float32" and "macOS 14" in plan.reason_en


def test_no_plan_on_a_mac_ever_has_float16():
    for preset in ("tiny", "apple_m1_16gb", "apple_m2_8gb", "colab_t4"):  # colab_t4: 4-bit
        for probe in (M1, M2, OLD_MAC):
            assert "float16" not in choose_device(load_recipe(preset), probe).compute_dtype.replace("bfloat16", "")


def test_recipe_dtype_wins_and_sets_the_matching_flag():
    assert numbers(choose_device(DpoRecipe(dtype="float32"), L4)) == ("cuda", "float32", False, False)
    assert numbers(choose_device(DpoRecipe(dtype="float16"), T4)) == ("cuda", "float16", False, True)
    assert numbers(choose_device(DpoRecipe(dtype="bfloat16"), CPU)) == ("cpu", "bfloat16", False, False)
    slow = choose_device(DpoRecipe(dtype="bfloat16"), T4)
    assert slow.bf16 and "slow" in slow.reason_en


@pytest.mark.parametrize("probe", [CPU, M1], ids=["cpu", "mps"])
def test_float16_off_cuda_is_refused(probe):
    with pytest.raises(RecipeError, match="NaN"):
        choose_device(DpoRecipe(dtype="float16"), probe)
    with pytest.raises(RecipeError):  # the CPU beside a GPU is a CPU
        choose_device(DpoRecipe(dtype="float16", device="cpu"), T4)


def test_bfloat16_on_an_old_mac_is_refused_with_its_versions():
    with pytest.raises(RecipeError, match=r"macOS 13\.6"):
        choose_device(DpoRecipe(dtype="bfloat16"), OLD_MAC)
    with pytest.raises(RecipeError, match=r"torch 2\.5\.1"):
        choose_device(DpoRecipe(dtype="bfloat16"), Probe("mps", "Apple M1", memory_gb=16, macos=(14, 5), torch="2.5.1"))


@pytest.mark.parametrize(("wanted", "probe"), [("cuda", CPU), ("mps", T4), ("cuda", M1)])
def test_absent_device_is_refused_naming_what_is_there(wanted, probe):
    with pytest.raises(SetupError) as caught:
        choose_device(DpoRecipe(device=wanted), probe)
    assert probe.name in caught.value.ja and probe.name in caught.value.en and probe.torch in caught.value.en


def test_cpu_beside_a_gpu_reports_the_machines_memory():
    plan = choose_device(DpoRecipe(device="cpu"), T4)
    assert numbers(plan) == ("cpu", "float32", False, False)
    assert plan.memory_gb == 12.7 and plan.name == "CPU"


@pytest.mark.parametrize(
    ("preset", "probe"),
    [("tiny", CPU), ("cpu", CPU), ("colab_t4", T4), ("colab_l4", L4), ("apple_m1_16gb", M1), ("apple_m2_8gb", M2), ("cpu", T4)],
)
def test_presets_fit_the_machines_they_are_named_after(preset, probe):
    check_preset_fits(load_recipe(preset), probe)  # a machine reports less than its label: 14.56 GiB for "16 GB"


@pytest.mark.parametrize(
    ("preset", "probe", "instead"),
    [
        ("colab_l4", T4, "colab_t4"),
        ("apple_m1_16gb", M2, "apple_m2_8gb"),
        ("colab_t4", CPU, "cpu"),
        ("colab_t4", M1, "apple_m1_16gb"),
    ],
)
def test_preset_that_cannot_fit_names_the_nearest_that_does(preset, probe, instead):
    with pytest.raises(RecipeError) as caught:
        check_preset_fits(load_recipe(preset), probe)
    for text, arrow in ((caught.value.ja, "→"), (caught.value.en, "->")):
        assert repr(preset) in text and probe.name in text
        assert text.split(arrow)[1].split(":")[1].strip().startswith(instead)
    assert fitting_presets(probe)[0] == instead


def test_every_named_preset_really_fits():
    for probe in (T4, L4, M1, M2, CPU):
        names = fitting_presets(probe)
        assert "tiny" in names and "smoke" not in names
        for name in names:
            check_preset_fits(load_recipe(name), probe)


def test_forced_cpu_is_judged_by_the_machines_memory_not_the_gpus():
    with pytest.raises(RecipeError, match="needs device cuda"):
        check_preset_fits(load_recipe("colab_t4", device="cpu"), T4)
    with pytest.raises(RecipeError, match="6 GB of memory"):
        check_preset_fits(load_recipe("cpu"), Probe("cuda", "NVIDIA A100", (8, 0), 39.5, ram_gb=4.0))


def test_unknown_memory_is_no_reason_to_refuse():
    check_preset_fits(load_recipe("cpu"), Probe("cpu", "x"))


def test_memory_in_use_never_imports_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    used = memory_in_use()
    assert set(used) == {"process"} and 0 < used["process"] < 100
    assert "torch" not in sys.modules


def test_memory_in_use_reads_gib_and_leaves_an_untouched_gpu_alone(monkeypatch):
    cuda = SimpleNamespace(is_initialized=lambda: True, memory_allocated=lambda: 2 * GIB, max_memory_allocated=lambda: 3 * GIB)
    mps = SimpleNamespace(is_available=lambda: True)
    torch = SimpleNamespace(
        cuda=cuda, backends=SimpleNamespace(mps=mps), mps=SimpleNamespace(current_allocated_memory=lambda: GIB // 2)
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    used = memory_in_use()
    assert (used["cuda"], used["cuda_peak"], used["mps"]) == (2.0, 3.0, 0.5)
    cuda.is_initialized = lambda: False  # memory_allocated would now create a context on the GPU
    assert "cuda" not in memory_in_use()


@pytest.fixture
def apple(monkeypatch):
    """A Mac with an Apple chip and an empty environment, seen by this module alone; returns the environment."""
    modules = {name: module for name, module in sys.modules.items() if name != "torch"}
    monkeypatch.setattr(device_module, "sys", SimpleNamespace(platform="darwin", modules=modules))
    monkeypatch.setattr(device_module, "platform", SimpleNamespace(machine=lambda: "arm64"))
    monkeypatch.setattr(device_module, "os", SimpleNamespace(environ={}))
    return device_module.os.environ


def test_mps_settings_are_made_once(apple):
    settings = configure_mps_environment()
    assert (
        settings
        == apple
        == {
            "PYTORCH_ENABLE_MPS_FALLBACK": "1",
            "PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0",
            "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.9",
        }
    )
    assert configure_mps_environment() == {}
    assert mps_environment() == settings


def test_settings_that_came_too_late_are_seen_to_be_missing(apple):
    device_module.sys.modules["torch"] = SimpleNamespace()
    configure_mps_environment()
    assert set(mps_environment().values()) == {""}


def test_a_users_watermark_keeps_both_of_ours_out(apple):
    # high 0.8 from the user with our low 0.9: torch stops with "invalid low watermark ratio".
    apple["PYTORCH_MPS_HIGH_WATERMARK_RATIO"] = "0.8"
    assert configure_mps_environment() == {"PYTORCH_ENABLE_MPS_FALLBACK": "1"}
    assert apple["PYTORCH_MPS_HIGH_WATERMARK_RATIO"] == "0.8"


def test_mps_settings_come_too_late_once_torch_is_there(apple):
    device_module.sys.modules["torch"] = SimpleNamespace()
    assert configure_mps_environment() == {} and apple == {}


@pytest.mark.parametrize(("system", "chip"), [("linux", "aarch64"), ("darwin", "x86_64")])
def test_mps_settings_stay_off_other_machines(apple, system, chip):
    device_module.sys.platform, device_module.platform.machine = system, lambda: chip
    assert configure_mps_environment() == {} and apple == {}
