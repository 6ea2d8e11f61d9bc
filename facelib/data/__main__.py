"""python -m facelib.data SOURCE TARGET    # pack(SOURCE, TARGET)"""

import sys

import torch

from facelib.data.source import pack

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        packed = pack(*sys.argv[1:], device="cuda" if torch.cuda.is_available() else "cpu")
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{sys.argv[2]}: interrupted, nothing was left there.")
    print(f"{sys.argv[2]}: {len(packed):,} images of {len(packed.identities):,} identities")
