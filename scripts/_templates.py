"""The workflows that come with the pack: their files, in the order in which ComfyUI's template browser sorts them.

A template has the name of its file, so the names are for people. `workflows/api/` has the same graphs for scripts,
under short names. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "workflows"


@dataclass(frozen=True)
class Template:
    """One workflow.

    Args:
        api: the name of its file in `workflows/api/`, without the suffix.
        name: the name of its file in `workflows/`, without the suffix: what a user reads.
        title: the title on its thumbnail.
        subtitle: one line below the title.
        shows: what a thumbnail without a picture of ours shows: an image, an edit, a video, or a video with sound.
    """

    api: str
    name: str
    title: str
    subtitle: str
    shows: str = ""

    @property
    def path(self) -> Path:
        """The file for the browser."""
        return FOLDER / f"{self.name}.json"

    @property
    def api_path(self) -> Path:
        """The file for `POST /prompt`."""
        return FOLDER / "api" / f"{self.api}.json"

    @property
    def thumbnail(self) -> Path:
        """The picture beside it in the template browser."""
        return FOLDER / f"{self.name}.jpg"


TEMPLATES = (
    Template("chords_demo", "01 Start here, no download", "Start here", "no download, runs in seconds"),
    Template("chords_streaming", "02 Watch and accept (demo)", "Watch and accept", "each result as it arrives"),
    Template("chords_few_steps", "03 Few steps, two devices (demo)", "4 steps, 2 devices", "they share each call"),
    Template("chords_img2img", "04 Image to image (demo)", "Image to image", "same shapes, new colours"),
    Template("chords_inpaint", "05 Inpainting (demo)", "Inpainting", "a new half of a picture"),
    Template("sdo_blue_background", "06 SDO, blue background (demo)", "SDO: an objective", "a blue background"),
    Template("sdo_look_like", "07 SDO, like a picture (demo)", "SDO: like a picture", "near to the one you give"),
    Template("sdo_to_chords", "08 SDO, then CHORDS (demo)", "SDO, then CHORDS", "sample its noise in parallel"),
    Template("sdo_lora_blue_background", "09 SDO, train a LoRA (demo)", "SDO: train a LoRA", "blue, whatever the seed"),
    Template("sdo_lora_to_chords", "10 SDO LoRA, then CHORDS (demo)", "LoRA, then CHORDS", "sample it in parallel"),
    Template("sdxl", "11 SDXL", "SDXL", "text to image, 25 steps", "image"),
    Template("sd3.5_large", "12 SD 3.5 Large", "SD 3.5 Large", "text to image, 20 steps", "image"),
    Template("flux_dev", "13 FLUX.1 dev", "FLUX.1 dev", "text to image, 20 steps", "image"),
    Template("flux_2", "14 FLUX.2 dev", "FLUX.2 dev", "text to image, 20 steps", "image"),
    Template("qwen_image", "15 Qwen-Image", "Qwen-Image", "text to image, 20 steps", "image"),
    Template("qwen_image_edit", "16 Qwen-Image-Edit", "Qwen-Image-Edit", "two images into one, 40 steps", "edit"),
    Template("z_image", "17 Z-Image", "Z-Image", "text to image, 25 steps", "image"),
    Template("z_image_turbo", "18 Z-Image-Turbo, 8 steps", "Z-Image-Turbo", "text to image, 8 steps", "image"),
    Template("wan2.2_5b_video", "19 Wan 2.2 5B, text to video", "Wan 2.2 5B", "text to video, 20 steps", "video"),
    Template("wan2.2_14b_video", "20 Wan 2.2 14B, text to video", "Wan 2.2 14B", "text to video, 20 steps", "video"),
    Template(
        "wan2.2_14b_4_steps",
        "21 Wan 2.2 14B I2V, 4 steps",
        "Wan 2.2 14B",
        "image to video, 4 steps",
        "image to video",
    ),
    Template("hunyuan_video_1.5", "22 HunyuanVideo 1.5", "HunyuanVideo 1.5", "text to video, 20 steps", "video"),
    Template("ltx_2", "23 LTX-2, video with sound", "LTX-2", "text to video with sound", "video with sound"),
)

BY_API = {template.api: template for template in TEMPLATES}
