"""The ViT against Hugging Face's, and the packed forward against crop by crop."""

import math

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from dinolab.errors import UserError
from dinolab.models.attention import BACKENDS, pack_runs
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.layers import Kept, draw_kept
from dinolab.models.vit import ViT, depth_rates
from dinolab.options import Model
from dinolab.recipes import load_config

DIM, DEPTH, HEADS, PATCH, SIZE = 48, 3, 4, 8, 40


def small(**changes) -> ViT:
    fields = {"dim": DIM, "depth": DEPTH, "heads": HEADS, "patch_size": PATCH, "layerscale": 0.5} | changes
    return ViT(Model(**fields), SIZE)


def to_huggingface(name: str) -> str:
    """Our (the published) parameter name -> Hugging Face's; joint matrices are dealt with by the caller."""
    if name in ("cls_token", "mask_token", "register_tokens"):
        return f"embeddings.{name}"
    for ours, theirs in (
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("blocks.", "encoder.layer."),
        ("attn.proj", "attention.o_proj"),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
        ("mlp.w3", "mlp.down_proj"),
    ):
        name = name.replace(ours, theirs)
    return name.replace("norm.", "layernorm.", 1) if name.startswith("norm.") else name


def copy_weights(vit: ViT, reference: nn.Module) -> None:
    weights = {}
    for name, tensor in vit.state_dict().items():
        if "attn.qkv" in name:
            prefix, kind = to_huggingface(name.split("attn.qkv")[0]), name.rsplit(".", 1)[1]
            for part, chunk in zip("qkv", tensor.chunk(3)):
                weights[f"{prefix}attention.{part}_proj.{kind}"] = chunk
        elif "mlp.w12" in name:
            for part, chunk in zip(("gate", "up"), tensor.chunk(2)):
                weights[to_huggingface(name).replace("w12", f"{part}_proj")] = chunk
        else:
            weights[to_huggingface(name)] = tensor
    reference.load_state_dict(weights)


def randomise(module: nn.Module) -> None:
    """Published initial values would hide mistakes: tokens near zero, biases zero."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.2)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("size", [(40, 40), (56, 24)])
def test_equals_hugging_face(registers: int, ffn: str, size: tuple[int, int]) -> None:
    vit = small(registers=registers, ffn=ffn, antialias=registers > 0)  # as each of the two was published
    randomise(vit)
    shared = {
        "hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "patch_size": PATCH,
        "image_size": SIZE, "use_swiglu_ffn": ffn == "swiglu", "attn_implementation": "eager",
    }  # fmt: skip
    reference = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **shared))
        if registers
        else Dinov2Model(Dinov2Config(**shared))
    )
    copy_weights(vit, reference)
    images = torch.randn(2, 3, *size)
    mask = torch.rand(2, (size[0] // PATCH) * (size[1] // PATCH)) < 0.3
    tokens = reference(images, bool_masked_pos=mask).last_hidden_state
    (ours,) = vit([images], [mask])
    torch.testing.assert_close(ours.cls, tokens[:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.registers, tokens[:, 1 : 1 + registers], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.patches.flatten(1, 2), tokens[:, 1 + registers :], atol=1e-4, rtol=0)

    weight = torch.randn_like(tokens)
    (tokens * weight).sum().backward()
    joined = torch.cat([ours.cls[:, None], ours.registers, ours.patches.flatten(1, 2)], dim=1)
    (joined * weight).sum().backward()
    theirs = dict(reference.named_parameters())
    for name, p in vit.named_parameters():
        prefix, kind = to_huggingface(name.rsplit(".", 2)[0]), name.rsplit(".", 1)[-1]
        if "attn.qkv" in name:
            grad = torch.cat(
                [theirs[f"{prefix.replace('attn', 'attention')}.{part}_proj.{kind}"].grad for part in "qkv"]
            )
        elif "mlp.w12" in name:
            grad = torch.cat([theirs[f"{prefix}.{part}_proj.{kind}"].grad for part in ("gate", "up")])
        else:
            grad = theirs[to_huggingface(name)].grad
        assert p.grad is not None and grad is not None
        torch.testing.assert_close(p.grad, grad, atol=1e-4 * max(1.0, float(grad.abs().max())), rtol=0)
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("size", [(40, 40), (40, 56), (96, 88), (16, 8)])
def test_positions_as_published_without_registers(size: tuple[int, int]) -> None:
    """Catmull-Rom's cousin with a = -0.75, sampled at (i + 0.5) * side / (n + 0.1) - 0.5, values going on beyond the border."""
    vit = small(antialias=False, interpolate_offset=0.1)
    randomise(vit)
    (h, w), side = (s // PATCH for s in size), SIZE // PATCH
    grid = vit.pos_embed[0, 1:].view(side, side, DIM).double()

    def kernel(x: float) -> float:
        x = abs(x)
        return 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    def samples(i: int, n: int) -> list[tuple[int, float]]:
        at = (i + 0.5) * side / (n + 0.1) - 0.5
        near = range(math.floor(at) - 1, math.floor(at) + 3)
        return [(min(max(j, 0), side - 1), kernel(at - j)) for j in near]

    def value(y: int, x: int) -> torch.Tensor:
        return sum(a * b * grid[j, k] for j, a in samples(y, h) for k, b in samples(x, w))

    patches = [value(y, x) for y in range(h) for x in range(w)] if (h, w) != (side, side) else list(grid.flatten(0, 1))
    expected = torch.stack([vit.pos_embed[0, 0].double(), *patches])
    torch.testing.assert_close(vit.positions(h, w)[0].double(), expected, atol=1e-6, rtol=0)
    vit.cfg.interpolate_offset = 0.0
    differ = (vit.positions(h, w)[0] - expected).abs().max() > 1e-3
    assert differ == ((h, w) != (side, side))


def test_an_offset_goes_without_the_filter() -> None:
    with pytest.raises(UserError, match=r"set model\.antialias=false too$"):
        load_config(None, ["model.interpolate_offset=0.1"])
    load_config(None, ["model.interpolate_offset=0.1", "model.antialias=false"])


def runs_of(vit: ViT) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    crops = [torch.randn(4, 3, 40, 40), torch.randn(6, 3, 16, 24)]
    return crops, [torch.rand(4, 25) < 0.4, None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_equals_crop_by_crop(backend: str) -> None:
    vit = small(registers=2)
    randomise(vit)
    vit.attention_backend = backend
    crops, masks = runs_of(vit)
    packed = vit(crops, masks)
    weights = [torch.randn_like(f.patches) for f in packed]

    def gradients(features) -> list[torch.Tensor]:
        loss = sum((f.patches * w).sum() + f.cls.sum() + f.registers.square().sum() for f, w in zip(features, weights))
        return list(torch.autograd.grad(loss, [*vit.parameters()], allow_unused=True))

    singles = [
        [vit([images[i : i + 1]], [None if mask is None else mask[i : i + 1]])[0] for i in range(len(images))]
        for images, mask in zip(crops, masks)
    ]
    joined = [type(each[0])(*(torch.cat(parts) for parts in zip(*each))) for each in singles]
    for a, b in zip(packed, joined):
        for x, y in zip(a, b):
            torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-5)
    for a, b in zip(gradients(packed), gradients(joined)):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


def factors(kept: Kept, tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The factor of each token in both branches, (2, tokens, 1): 0 where it is dropped."""
    both = torch.zeros(2, tokens, 1, dtype=dtype)
    both[0, kept.attn_rows], both[1, kept.mlp_rows] = kept.attn_scale.to(dtype), kept.mlp_scale.to(dtype)
    return both


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rates", ["uniform", "rising", "rounded"])
def test_stochastic_depth_equals_masking_by_multiplication(backend: str, rates: str) -> None:
    """The same kept crops, with the branch computed for all crops and multiplied by 0 or by one over the share kept."""
    vit = small(drop_path=0.4, drop_path_rates=rates).double().train()
    randomise(vit)
    vit.attention_backend = backend
    crops = [x.double() for x in runs_of(vit)[0]]

    torch.manual_seed(5)
    packed = vit(crops)

    torch.manual_seed(5)
    x, packing, grids = vit.pack(crops)
    for block, kept in zip(vit.blocks, draw_kept(packing, depth_rates(vit.cfg, DEPTH), rates == "rounded")):
        attention, mlp = (factors(kept, packing.tokens, x.dtype) if kept else torch.ones(2, 1, 1)).unbind()
        x = x + block.ls1(block.attn(block.norm1(x), packing, "math")) * attention
        x = x + block.ls2(block.mlp(block.norm2(x))) * mlp
    plain = vit.unpack(vit.norm(x), packing, grids)

    for a, b in zip(packed, plain):
        torch.testing.assert_close(a.cls, b.cls, atol=1e-10, rtol=0)
        torch.testing.assert_close(a.patches, b.patches, atol=1e-10, rtol=0)
    grads = [
        torch.autograd.grad(sum(f.patches.square().sum() for f in fs), [*vit.blocks.parameters()])
        for fs in (packed, plain)
    ]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("rounded", [False, True])
def test_draw_kept_keeps_whole_crops_of_every_run(rounded: bool) -> None:
    packing = pack_runs(((10, 5), (4, 3)), torch.device("cpu"))
    blocks = draw_kept(packing, [0.3] * 8, rounded)
    branches = [rows for kept in blocks for rows in (kept.attn_rows, kept.mlp_rows)]
    assert len(branches) == 16 and len({tuple(rows.tolist()) for rows in branches}) > 8  # each draws for itself
    for rows in branches:
        long = rows[:35].view(7, 5)
        assert (long % 5 == torch.arange(5)).all() and (long < 50).all()
        short = rows[35:].view(3, 3) - 50
        assert (short % 3 == torch.arange(3)).all() and (short >= 0).all()
        assert rows.unique().numel() == 44
    for kept in blocks:
        assert kept.packing.runs == ((7, 5), (3, 3)) and kept.packing.tokens == 44
        for scale in (kept.attn_scale, kept.mlp_scale):
            assert scale[:35].view(7, 5).std(1).max() == 0  # of 10 crops exactly 7
            assert scale[0].item() == pytest.approx(10 / 7) and scale[34].item() == pytest.approx(10 / 7)
            last = scale[-1].item()  # of 4 crops 3 or, in a fifth of the draws, 2
            assert last == pytest.approx(4 / 3) if rounded else last == 0 or last == pytest.approx(10 / 7)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.4])
def test_every_crop_is_dropped_as_often(rate: float) -> None:
    """Also of four crops at a rate of 0.1, which rounded would never drop one; and the mean of the factors is 1."""
    packing, draws = pack_runs(((10, 1), (4, 1), (1, 1)), torch.device("cpu")), 4000
    torch.manual_seed(0)
    both = torch.stack([factors(kept, 15) for kept in draw_kept(packing, [rate] * draws)])
    deviation = (rate * (1 - rate) / draws) ** 0.5
    torch.testing.assert_close((both > 0).float().mean(0), torch.full((2, 15, 1), 1 - rate), atol=5 * deviation, rtol=0)
    factor = torch.full((2, 15, 1), 1.0)
    torch.testing.assert_close(both.mean(0), factor, atol=5 * deviation / (1 - rate), rtol=0)


def test_rates_rise_with_depth_as_in_dino() -> None:
    cfg = load_config("dino_vits16").model
    rates = depth_rates(cfg, 12)
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.1, 12))
    kept = draw_kept(pack_runs(((128, 1),), torch.device("cpu")), rates)
    assert kept[0] is None and [k.packing.tokens for k in kept[1:]] == [math.ceil(128 * (1 - r)) for r in rates[1:]]
    assert depth_rates(load_config("dinov2_vits16").model, 12) == [0.3] * 12


def test_encoder_takes_any_size_and_explains_itself() -> None:
    encoder = BackboneEncoder(small(registers=2).eval())
    images = torch.randint(0, 256, (2, 3, 50, 33), dtype=torch.uint8)
    features = encoder(images)
    assert features.cls.shape == (2, DIM) and features.registers.shape == (2, 2, DIM)
    assert features.patches.shape == (2, 6, 4, DIM)  # the remainders of 2 and 1 pixels are not seen
    torch.testing.assert_close(encoder(images.float() / 255).cls, features.cls)
    first, last = encoder.layers(images, 2)
    torch.testing.assert_close(last.cls, features.cls)
    assert not torch.allclose(first.cls, last.cls)
    weights = encoder.attention(images)
    assert weights.shape == (2, HEADS, 27, 27)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 27))
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        encoder(images[0])
    with pytest.raises(UserError, match="smaller than a patch"):
        encoder(images[:, :, :4])


def test_attention_is_the_last_blocks_own() -> None:
    """Weights times values must give what the last attention layer computes."""
    vit = small().eval()
    randomise(vit)
    images = torch.randn(2, 3, 40, 40)
    x, packing, _ = vit.pack([images])
    for block in vit.blocks[:-1]:
        x = block(x, packing, "sdpa")
    last = vit.blocks[-1]
    y = packing.split(last.norm1(x))[0]
    *_, v = last.attn.split_heads(y)
    out = (vit.attention(images) @ v.transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(
        last.attn.proj(out).flatten(0, 1), last.attn(last.norm1(x), packing, "sdpa"), atol=1e-4, rtol=1e-4
    )


def test_bad_sizes_are_named() -> None:
    with pytest.raises(UserError, match=r"model\.heads"):
        small(heads=5)
    with pytest.raises(UserError, match=r"model\.patch_size"):
        small(patch_size=7)


def test_scaled_init_tells_positions_apart() -> None:
    vit = small(init="scaled")
    grid = vit.pos_embed[0, 1:]
    distance = torch.cdist(grid, grid) + torch.eye(len(grid)) * 100
    assert distance.min() > 0.5  # published: about 0.2
