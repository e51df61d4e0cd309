"""Cache of image embeddings on disk, one safetensors file per picture, for frozen encoders.

The folder's name is a digest of the encoder's weights and of the preprocessing. Therefore a changed
encoder or resize finds no entries instead of wrong ones. Embeddings are float16: 2 MiB per picture
at SAM's size.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from unspoken.compute.tensor_files import write_tensors
from unspoken.model.sam.checkpoint import state_sha256
from unspoken.model.sam.input_frame import PREPROCESSING
from unspoken.model.sam.semantic_sam import SemanticSam


class KeptEmbeddings:
    """Encodes each picture only once and reads its embedding from disk later."""

    def __init__(self, root: Path, model: SemanticSam) -> None:
        encoder = {n: t for n, t in model.state_dict().items() if n.startswith("image_encoder.")}
        digest = hashlib.sha256(f"{state_sha256(encoder)} {PREPROCESSING}".encode()).hexdigest()
        self._folder = root / digest[:32]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._model = model

    @torch.no_grad()
    def embed(self, images: Sequence[Tensor], keys: Sequence[str]) -> Tensor:
        """Return embeddings of (3, h, w) pictures: (B, C, h, h); only new ones are encoded."""
        rows: list[Tensor] = []
        for image, key in zip(images, keys, strict=True):
            path = self._path(key, image)
            if not path.exists():
                embedding = self._model.embed_images([image])[0].half().cpu().contiguous()
                write_tensors(path, {"image_embedding": embedding})
            rows.append(load_file(path)["image_embedding"].float())
        return torch.stack(rows).to(self._model.device)

    def _path(self, key: str, image: Tensor) -> Path:
        """Return the file of a picture, by key and content: two sources may share a key."""
        digest = hashlib.sha256(key.encode() + image.numpy().tobytes()).hexdigest()
        folder = self._folder / digest[:2]
        folder.mkdir(exist_ok=True)
        return folder / f"{digest}.safetensors"
