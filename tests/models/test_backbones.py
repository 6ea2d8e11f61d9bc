"""Backbones against published counts and insightface's layout."""

import pytest
import torch
from insightface_iresnet import BLOCKS, insightface_layout

from facelib.models import create_model


def on_paper(name: str, embedding_size: int = 512):
    """The model without memory for its numbers: enough to count and name them."""
    with torch.device("meta"):
        return create_model(name, embedding_size)


@pytest.mark.parametrize(
    "name, millions", [("iresnet18", 24.03), ("iresnet34", 34.14), ("iresnet50", 43.59), ("iresnet100", 65.16)]
)
def test_iresnets_have_the_published_numbers_of_parameters(name, millions):
    count = sum(parameter.numel() for parameter in on_paper(name).parameters())
    assert round(count / 1e6, 2) == millions
    if name == "iresnet50":
        assert count == 43_590_848


def test_efficientnet_b3_has_the_published_number_of_parameters_with_its_classifier_exchanged():
    """12,233,232 with 1000 classes (torchvision and timm); its last features are 1536."""
    count = sum(parameter.numel() for parameter in on_paper("efficientnet_b3").parameters())
    assert count == 12_233_232 - (1536 + 1) * 1000 + (1536 + 1) * 512 == 11_483_176


@pytest.mark.parametrize("name", BLOCKS)
def test_iresnets_have_insightfaces_tensors_by_name_and_shape(name):
    tensors = {key: tuple(tensor.shape) for key, tensor in on_paper(name).state_dict().items()}
    assert tensors == insightface_layout(BLOCKS[name])


def test_iresnet18_computes_what_insightfaces_does(state, expected, crops):
    model = create_model("iresnet18", 8).eval()
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        found = model((crops.float() - 127.5) / 127.5)
    assert expected.std() > 0.1  # a network that has died out would agree with anything
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_new_iresnet_embeds_an_untrained_batch_at_unit_variance(crops):
    """The last batch norm's scale is fixed at 1: every embedded coordinate has mean 0, variance 1 over a batch."""
    model = create_model("iresnet18_025", 8).train()
    embeddings = model((crops.float() - 127.5) / 127.5)
    assert embeddings.mean(0).abs().max() < 1e-3
    assert torch.allclose(embeddings.var(0, correction=0), torch.ones(8), atol=0.01)
    assert not model.features.weight.requires_grad and model.features.bias.requires_grad


@pytest.mark.parametrize("name", ["iresnet18_025", "mobilenetv3_small_050", "resnet18", "vit_tiny_patch16_224"])
def test_a_backbone_maps_faces_to_the_asked_size_and_is_trained_throughout(name):
    model = create_model(name, 24)
    embeddings = model(torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)))
    assert embeddings.shape == (2, 24) and embeddings.dtype == torch.float32
    assert create_model(name, 512)(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
    embeddings.pow(2).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "wrong, meant", [("iresnet5O", "iresnet50"), ("efficientnet-b3", "efficientnet_b3"), ("IResnet18", "iresnet18"),
     ("efficientnet_b3.ra2_in1", "efficientnet_b3.ra2_in1k"), ("EFFICIENTNET_B3", "efficientnet_b3")]
)  # fmt: skip
def test_an_unknown_backbone_is_refused_with_near_matches(wrong, meant):
    with pytest.raises(ValueError, match=f"{wrong}.*{meant}"):
        create_model(wrong)


@pytest.mark.parametrize("name", ["test_convnext3", "test_vit", "crossvit_9_240"])
def test_a_timm_model_of_any_input_size_of_its_own_takes_crops(name):
    assert create_model(name, 8).eval()(torch.zeros(2, 3, 112, 112)).shape == (2, 8)


@pytest.mark.parametrize("name", ["coatnet_0_224", "hrnet_w18_small"])
def test_a_timm_model_that_does_not_take_crops_is_refused_by_name_when_it_is_built(name):
    with pytest.raises(ValueError, match=f"{name} can't be built for 112x112 images"):
        create_model(name)


def test_a_name_near_to_nothing_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="iresnet18.*iresnet50.*timm"):
        create_model("???")
