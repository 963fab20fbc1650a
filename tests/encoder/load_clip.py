"""CLIP models between daug and the libraries whose formats they are in.

    load_clip.py transformers FOLDER EXPECTED                   loads what daug wrote, and compares outputs
    load_clip.py open_clip WEIGHTS CONFIG EXPECTED
    load_clip.py transformers --write FOLDER EXPECTED           writes a model for daug to load, and its outputs
    load_clip.py open_clip --write WEIGHTS CONFIG [POOL_TYPE] EXPECTED

EXPECTED (safetensors): pixels, ids, image, text, logits (of every image and text). Exit status 0 when all is well, 77
when a package is missing.
"""
import json
import sys

try:
    import torch
    from safetensors.torch import load_file, save_file

    library = __import__(sys.argv[1])
except (ImportError, OSError) as error:
    print(error)
    sys.exit(77)


def transformers_embeddings(model, pixels, ids):
    image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return image, model.text_projection(model.text_model(input_ids=ids).pooler_output)


def transformers_model(folder):
    from transformers import CLIPModel

    model, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.float()  # newer versions keep the file's half precision


def transformers_write(folder):
    from transformers import CLIPConfig, CLIPModel

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu", "projection_dim": 6}
    model = CLIPModel(CLIPConfig(
        projection_dim=6,
        vision_config={**sizes, "hidden_size": 16, "intermediate_size": 24, "image_size": 12, "patch_size": 4},
        text_config={**sizes, "hidden_size": 8, "intermediate_size": 20, "vocab_size": 30, "bos_token_id": 28,
                     "max_position_embeddings": 9, "eos_token_id": 29, "pad_token_id": 29}))
    randomise(model)
    model.save_pretrained(folder)
    return model


def open_clip_embeddings(model, pixels, ids):
    return model.encode_image(pixels), model.encode_text(ids)


def open_clip_network(settings):
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    return CLIP(settings["embed_dim"], CLIPVisionCfg(**settings["vision_cfg"]), CLIPTextCfg(**settings["text_cfg"]),
                quick_gelu=settings["quick_gelu"])


def open_clip_model(weights, config):
    with open(config) as file:
        model = open_clip_network(json.load(file))
    model.load_state_dict(load_file(weights), strict=True)
    return model


def open_clip_write(weights, config, pool_type="tok"):
    settings = {"embed_dim": 6, "quick_gelu": True,
                "vision_cfg": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 12,
                               "pool_type": pool_type},
                "text_cfg": {"context_length": 9, "vocab_size": 30, "width": 8, "heads": 4, "layers": 3}}
    model = open_clip_network(settings)
    randomise(model)
    with open(config, "w") as file:
        json.dump(settings, file)
    save_file({key: value.clone().contiguous() for key, value in model.state_dict().items()}, weights)
    return model


def randomise(model):
    """Biases and gains take part too."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
        model.logit_scale.fill_(2.5)


def outputs(model, pixels, ids):
    model.eval()
    with torch.no_grad():
        image, text = globals()[sys.argv[1] + "_embeddings"](model, pixels, ids)
        unit = [rows / rows.norm(dim=1, keepdim=True) for rows in (image, text)]
        return {"image": image, "text": text, "logits": model.logit_scale.exp() * unit[0] @ unit[1].T}


if sys.argv[2] == "--write":
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 12, 12)
    ids = torch.tensor([[28, 3, 29, 29, 29, 29, 29, 29, 29], [28, 5, 4, 3, 12, 17, 8, 9, 29]])
    model = globals()[sys.argv[1] + "_write"](*sys.argv[3:-1])
    found = {key: value.contiguous() for key, value in outputs(model, pixels, ids).items()}
    save_file({"pixels": pixels, "ids": ids, **found}, sys.argv[-1])
    print(f"{sys.argv[1]} {library.__version__}: wrote a model")
    sys.exit(0)

expected = load_file(sys.argv[-1])
found = outputs(globals()[sys.argv[1] + "_model"](*sys.argv[2:-1]), expected["pixels"], expected["ids"])
worst = float(torch.stack([(value - expected[key]).abs().max() / (1 + expected[key].abs().max())
                           for key, value in found.items()]).max())
print(f"{sys.argv[1]} {library.__version__}: largest difference {worst:.3g}")
sys.exit(0 if worst < 1e-5 else 1)
