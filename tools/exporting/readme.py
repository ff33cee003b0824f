"""README.md of an exported folder: what it is and how to load it, also without this repository; a test runs its program."""

from string import Template

from models.generator import Generator

TEXT = Template("""# $name

A generator for x$scale super-resolution in one diffusion step ([D3SR](https://arxiv.org/abs/2410.04224)), merged into one folder:
$origin, at the timestep T_L = $timestep, weights in $dtype. The base model was `$base`; its licence holds for these weights too.
`config.json` keeps how it was trained, under `merged_from`.

## With the D3SR repository

```
python test_d3sr.py -opt options/test.yml -i photo.jpg -o OUT --force_yml network_g.path=$name
```

restores pictures of any size (in tiles, bounded memory), transparent, grey and 16 bit ones too. In a program:
`models.generator.load_generator("$name")`.

## With diffusers alone

Run where `$name/` lies$condition. The picture is computed as a whole, so a large one needs much memory.

```python
$program```
$onnx$ncnn""")

PROGRAM = Template("""import json

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ${kinds}DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
$imports
folder = "$name"
config = json.load(open(f"{folder}/config.json"))
prompt = load_file(f"{folder}/generator.safetensors")["prompt_embedding"][None]
alpha_bar = DDPMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod[config["timestep"]]
unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32)
vae = $load

lr = torch.from_numpy(np.array(Image.open("photo.png").convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1
height, width = (side * config["scale"] for side in lr.shape[-2:])
lr_up = F.interpolate(lr, size=(height, width), mode="bicubic").clamp(-1, 1)
lr_up = F.pad(lr_up, (0, -width % $multiple, 0, -height % $multiple), mode="reflect")
with torch.no_grad():
    z = $encode
    noise_pred = unet(z, config["timestep"], encoder_hidden_states=prompt).sample
    z_hat = (z - (1 - alpha_bar).sqrt() * noise_pred) / alpha_bar.sqrt()  # Eq. 1
    sr = $decode[0, :, :height, :width]
Image.fromarray(((sr.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save("restored.png")
""")


def _of_diffusers(name: str, latents: str) -> dict[str, str]:
    return {
        "kinds": f"{name}, ",
        "load": f'{name}.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)',
        "encode": f"vae.encode(lr_up).{latents} * vae.config.scaling_factor",
        "decode": "vae.decode(z_hat / vae.config.scaling_factor).sample",
        "imports": "",
        "condition": "",
    }


AUTOENCODERS = {
    "AutoencoderKL": _of_diffusers("AutoencoderKL", "latent_dist.mode()"),
    "AutoencoderTiny": _of_diffusers("AutoencoderTiny", "latents"),
    "BlockTransform": {
        "kinds": "",
        "load": 'BlockTransform.from_pretrained(f"{folder}/vae")',
        "encode": "vae.encode(lr_up)",
        "decode": "vae.decode(z_hat)",
        "imports": "\nfrom models.block_transform import BlockTransform\n",
        "condition": ", with PYTHONPATH set to the D3SR repository, since diffusers has no block transform",
    },
}

ONNX = Template("""
## With onnxruntime alone

```
python $name/restore_onnx.py photo.jpg restored.png
```

restores 8 bit pictures of any size, in tiles; it needs `pip install onnxruntime numpy pillow` and is short enough to be read as an example.

`model.onnx`, float32: input `lr_up` (1, 3, H, W) in [-1, 1], any H and W: the picture already enlarged x$scale (bicubic with a = -0.75, no
antialiasing). Output `sr`, the same size, clamped to [-1, 1]. Inside, the picture goes on as in a mirror on all sides, up to multiples
of $multiple, and is cut again. It is computed as a whole, so feed large ones in overlapping tiles. The file's metadata (`d3sr.scale`,
`d3sr.size_multiple`) repeat these numbers. What test_d3sr.py does afterwards, `color_fix`, is not in it.
""")


NCNN = Template("""
## With ncnn

`unet.ncnn.param` and `unet.ncnn.bin` are the UNet in float32, folded as in the repository's models/fused.py: input `in0` is z_L, output
`out0` what Eq. 1 takes from the noise, in the decoder's own terms. With the D3SR repository and `pip install ncnn`:

```
python test_d3sr.py -opt options/test.yml -i photo.jpg -o OUT --force_yml network_g.path=$name network_g.runtime=ncnn
```
""")


def readme(name: str, generator: Generator, config: dict, dtype: str, with_onnx: bool, with_ncnn: bool) -> str:
    """The text.

    Args:
        name: of the folder.
        config: config.json of the generator that was merged.
        dtype: of the stored weights, as the options call it.
    """
    autoencoder = AUTOENCODERS[type(generator.autoencoder.model).__name__]
    multiple = generator.size_multiple
    origin = config.get("merged_from", config)
    trained = f"{origin['name']}, iteration {origin['iteration']}" if {"name", "iteration"} <= set(origin) else "a trained generator"
    return TEXT.substitute(
        name=name, scale=generator.scale, timestep=generator.timestep, origin=trained, base=config["base"], dtype=dtype,
        condition=autoencoder["condition"], program=PROGRAM.substitute(autoencoder, name=name, multiple=multiple),
        onnx=ONNX.substitute(name=name, multiple=multiple, scale=generator.scale) if with_onnx else "",
        ncnn=NCNN.substitute(name=name) if with_ncnn else "",
    )  # fmt: skip
