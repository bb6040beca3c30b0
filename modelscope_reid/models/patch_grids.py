"""From a number of patches back to the size of the image that was cut into them.

In: how many patches a position embedding is for. Out: (height, width) and stride, or (rows, columns), for the sizes
that person crops have in the published code. Knows nothing of names, tensors or files.
"""

from __future__ import annotations

from modelscope_reid.errors import CheckpointError

PERSON_SIZE = (256, 128)
"""What a checkpoint with square positions (CLIP's own) is opened at: CLIP-ReID's (height, width)."""
SIZES = (
    (256, 128),
    (384, 128),
    (192, 96),
    (224, 112),
    (320, 160),
    (128, 64),
    (288, 144),
    (384, 192),
    (512, 256),
    (64, 32),
)
STRIDES = (16, 12)
PATCH_SIZE = 16


def patches_to_size(patches: int) -> tuple[tuple[int, int], int] | None:
    """Return ((height, width), stride) of the person crops that give this many 16x16 patches, or None."""
    for stride in STRIDES:
        for height, width in SIZES:
            if ((height - PATCH_SIZE) // stride + 1) * ((width - PATCH_SIZE) // stride + 1) == patches:
                return (height, width), stride
    return None


def grid_of(patches: int) -> tuple[int, int]:
    """Return (rows, columns) of a position embedding with this many patches: a known person size, or a square.

    Raises:
        CheckpointError: neither.
    """
    known = patches_to_size(patches)
    if known:
        (height, width), stride = known
        return (height - PATCH_SIZE) // stride + 1, (width - PATCH_SIZE) // stride + 1
    side = round(patches**0.5)
    if side * side != patches:
        raise CheckpointError(
            f"the position embedding has {patches} patches, which no known image size gives "
            f"({', '.join(f'{h}x{w}' for h, w in SIZES)}; stride 16 or 12; or a square). "
            "Put the weights into a model folder whose configuration.json states SIZE_TEST and STRIDE_SIZE."
        )
    return side, side


def size_and_stride(patches: int, patch_size: int) -> tuple[tuple[int, int], int]:
    """Return the person size that gives so many patches, else `PERSON_SIZE`, to which positions are resampled."""
    if patch_size != PATCH_SIZE:  # CLIP's ViT-B/32 and ViT-L/14: square crops, patches side by side
        return PERSON_SIZE, patch_size
    return patches_to_size(patches) or (PERSON_SIZE, PATCH_SIZE)
