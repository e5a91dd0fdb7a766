"""Train an adapter in an ordinary PyTorch loop: python examples/plain_training_loop.py [FOLDER] [STEPS]

The tiny model, which knows objects only, learns the groups (vehicle, building, plant …) of the drawn scenes. For your
own data, replace `write_scenes` by the paths of a COCO file and its folder of images, and `groups` by its categories;
for the official model, build_model("tiny") by build_model("large", checkpoint="facebook/sam3").
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from sam3.model.sam3_image_processor import Sam3Processor

import sam3_hyperet as hy
from sam3_hyperet.scenes.dataset import write_scenes


def main(folder: Path, steps: int = 100) -> list[float]:
    """Train, save `folder/adapter.safetensors`, and segment one image; returns the loss of every step."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = hy.build_model("tiny").to(device)
    hy.inject(model, hy.HyperETConfig(scheme="B+prompt", geometry="lorentz", gate="prompt"))
    print(hy.set_stage(model, 1))  # freezes the base

    scenes = write_scenes(folder / "scenes", images=64, seed=0)
    images = hy.read_coco(scenes.annotations, scenes.image_folder, tree=scenes.concepts)
    groups = [category for category in images.categories if category.granularity == "group"]
    sampler = hy.PromptSampler(groups, num_positives=2, num_negatives=2)
    dataset = hy.ConceptPrompts(images, hy.resolution(model), sampler)
    batches = hy.training_batches(dataset, batch_size=4, device=device)

    loss = hy.GroundingLoss(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=4e-3, weight_decay=0.0)
    hy.set_training_mode(model)  # what is frozen stays in evaluation mode
    losses = []
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        total = loss(model, batch, model(batch))["loss"]
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(total.item())
        if step % 10 == 0 or step == steps:
            print(f"step {step}: loss {losses[-1]:.1f}")

    model.eval()
    hy.save_adapter(model, folder / "adapter.safetensors")
    processor = Sam3Processor(model, resolution=hy.resolution(model), device=device)  # the same model, unchanged
    path = sorted(scenes.image_folder.iterdir())[0]
    with Image.open(path) as image:
        found = processor.set_text_prompt("vehicle", processor.set_image(image))
    print(f"vehicle in {path}: {len(found['scores'])} masks")
    return losses


if __name__ == "__main__":
    main(Path([*sys.argv[1:], "runs/plain"][0]), *map(int, sys.argv[2:3]))
