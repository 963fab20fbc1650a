"""Loads CLIP models that daug wrote and compares embeddings with daug's own.

    load_clip.py transformers FOLDER EXPECTED
    load_clip.py open_clip WEIGHTS CONFIG EXPECTED

EXPECTED (safetensors): pixels, ids, image, text. Exit status 0 when they agree, 77 when a package is missing.
"""
import json
import sys

try:
    import torch
    from safetensors.torch import load_file

    library = __import__(sys.argv[1])
except (ImportError, OSError) as error:
    print(error)
    sys.exit(77)


def transformers_embeddings(folder, pixels, ids):
    from transformers import CLIPModel

    model, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    model.eval()
    image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return image, model.text_projection(model.text_model(input_ids=ids).pooler_output)


def open_clip_embeddings(weights, config, pixels, ids):
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    with open(config) as file:
        settings = json.load(file)
    model = CLIP(settings["embed_dim"], CLIPVisionCfg(**settings["vision_cfg"]), CLIPTextCfg(**settings["text_cfg"]),
                 quick_gelu=settings["quick_gelu"])
    model.load_state_dict(load_file(weights), strict=True)
    model.eval()
    return model.encode_image(pixels), model.encode_text(ids)


expected = load_file(sys.argv[-1])
embeddings = transformers_embeddings if sys.argv[1] == "transformers" else open_clip_embeddings
with torch.no_grad():
    found = embeddings(*sys.argv[2:-1], expected["pixels"], expected["ids"])
worst = max(float((a - b).abs().max()) for a, b in zip(found, (expected["image"], expected["text"])))
print(f"{sys.argv[1]} {library.__version__}: largest difference {worst:.3g}")
sys.exit(0 if worst < 1e-5 else 1)
